package main_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/goweir/weir/benchmarks/floor"
	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/benchmarks/peer"
	"github.com/goweir/weir/limiter"
)

// The quotas of weir that correspond to peer.Plenty and peer.Few. Plenty gives
// back so little that no key is ever whole again: one that is whole may be
// dropped, which is quicker.
var policies = map[peer.Quota]limiter.Policy{
	peer.Plenty: {Name: "client", Limit: 1, Window: time.Second, Burst: 1 << 30},
	peer.Few:    limiter.PerDay("client", 1),
}

func weir(q peer.Quota) func(string) bool {
	m, ctx, p := limiter.NewMemory(nil), context.Background(), policies[q]
	return func(key string) bool {
		r, err := m.Take(ctx, limiter.Charge{Policy: p, Key: key, Cost: 1})
		return err == nil && r.Allowed
	}
}

func floorFor(keys int, q peer.Quota) func(string) bool {
	p := policies[q]
	t := floor.NewTable(keys, p.Limit, p.Window, max(p.Burst, p.Limit))
	return func(key string) bool {
		_, ok := t.Take(key)
		return ok
	}
}

// signature is the floor behind the signature of a Limiter, to tell what passing
// a charge and a result by value costs. It skips as much as the floor does.
type signature struct{ *floor.Table }

//go:noinline
func (s signature) Take(_ context.Context, c limiter.Charge) (r limiter.Result, err error) {
	ahead, ok := s.Table.Take(c.Key)
	r.Allowed = ok
	r.Limit = c.Policy.Limit
	r.ResetAfter = time.Duration(ahead)
	r.Source = limiter.SourceMemory
	return r, err
}

func floorLikeWeir(keys int, q peer.Quota) func(string) bool {
	p, ctx := policies[q], context.Background()
	s := signature{floor.NewTable(keys, p.Limit, p.Window, max(p.Burst, p.Limit))}
	return func(key string) bool {
		r, err := s.Take(ctx, limiter.Charge{Policy: p, Key: key, Cost: 1})
		return err == nil && r.Allowed
	}
}

// A workload is a sequence of keys, over and over.
type workload struct {
	name  string
	quota peer.Quota
	all   []string // every key there is
	draws []string // the sequence
}

func workloads() []workload {
	many, million := keys(10_000), keys(size(1_000_000))
	return []workload{
		{"hot key", peer.Plenty, many[:1], many[:1]},
		{"denied", peer.Few, many[:1], many[:1]},
		{"10,000 keys", peer.Plenty, many, many},
		{fmt.Sprintf("%d keys, Zipf", len(million)), peer.Plenty, million, zipf(million)},
	}
}

// warm sees every key once, so that what is measured are decisions about keys
// that are known.
func (w workload) warm(take func(string) bool) func(string) bool {
	for _, k := range w.all {
		take(k)
	}
	return take
}

// takes returns the workload's decisions by so many goroutines, each of which
// starts at another place.
func (w workload) takes(goroutines int, take func(string) bool) func(int) {
	return pace.Parallel(goroutines, func(worker, n int) {
		i := worker * 7919 % len(w.draws)
		for range n {
			take(w.draws[i])
			if i++; i == len(w.draws) {
				i = 0
			}
		}
	})
}

// everybody returns the decisions of weir, the floor and the peers about w, each
// warm.
func (w workload) everybody(t testing.TB) (names []string, takes []func(string) bool) {
	add := func(name string, take func(string) bool) {
		names, takes = append(names, name), append(takes, w.warm(take))
	}
	add("weir", weir(w.quota))
	add("floor", floorFor(len(w.all), w.quota))
	add("floor with room for a million", floorFor(1_000_000, w.quota))
	add("floor behind weir's signature", floorLikeWeir(len(w.all), w.quota))
	for _, d := range peer.Deciders {
		if d.Unkeyed && len(w.all) > 1 {
			continue
		}
		take, closer := d.New(w.quota)
		t.Cleanup(closer)
		add(d.Name, take)
	}
	return names, takes
}

// TestDecisions compares weir with the floor and with the peers, on one core and
// on all.
func TestDecisions(t *testing.T) {
	for _, w := range workloads() {
		t.Run(w.name, func(t *testing.T) {
			names, takes := w.everybody(t)
			for _, goroutines := range []int{1, runtime.GOMAXPROCS(0)} {
				var cases []pace.Case
				for i, take := range takes {
					cases = append(cases, pace.Case{Name: names[i], Run: w.takes(goroutines, take)})
				}
				title := fmt.Sprintf("%s, goroutines: %d", w.name, goroutines)
				compare(t, title, options(len(w.all) > 100_000), cases...)
			}
		})
	}
}

// TestHotKey compares 64 goroutines on one key with 64 on 10,000 keys: the hot
// key should keep at least half of the rate.
func TestHotKey(t *testing.T) {
	ws := workloads()
	hot, many := ws[0], ws[2]
	compare(t, "weir, 64 goroutines", options(false),
		pace.Case{Name: "10,000 keys", Run: many.takes(64, many.warm(weir(many.quota)))},
		pace.Case{Name: "hot key", Run: hot.takes(64, hot.warm(weir(hot.quota)))})
}

// TestTakeAll compares one decision about three charges with one about one.
func TestTakeAll(t *testing.T) {
	ctx := context.Background()
	draws := keys(10_000)
	charge := func(name, key string) limiter.Charge {
		p := policies[peer.Plenty]
		p.Name = name
		return limiter.Charge{Policy: p, Key: key, Cost: 1}
	}
	each := func(n int, f func(key string)) {
		for i := range n {
			f(draws[i%len(draws)])
		}
	}
	one, two, three, single := limiter.NewMemory(nil), limiter.NewMemory(nil), limiter.NewMemory(nil), limiter.NewMemory(nil)
	takeAll := func(m *limiter.Memory, count int) func(string) {
		var cs [3]limiter.Charge
		return func(key string) {
			cs = [3]limiter.Charge{charge("user", key), charge("route", "GET /items/{id}"), charge("global", "*")}
			m.TakeAll(ctx, cs[:count])
		}
	}
	compare(t, "TakeAll, 10,000 users", options(false),
		pace.Case{Name: "Take", Run: func(n int) { each(n, func(k string) { single.Take(ctx, charge("user", k)) }) }},
		pace.Case{Name: "TakeAll of 1", Run: func(n int) { each(n, takeAll(one, 1)) }},
		pace.Case{Name: "TakeAll of 2", Run: func(n int) { each(n, takeAll(two, 2)) }},
		pace.Case{Name: "TakeAll of 3", Run: func(n int) { each(n, takeAll(three, 3)) }})
	key, all := draws[0], takeAll(three, 3)
	if got := testing.AllocsPerRun(100, func() { all(key) }); got > 1 {
		t.Errorf("TakeAll of 3 charges allocates %v times, want 1", got)
	}
	if got := testing.AllocsPerRun(100, func() { single.Take(ctx, charge("user", key)) }); got > 0 {
		t.Errorf("Take allocates %v times, want 0", got)
	}
}

func BenchmarkDecision(b *testing.B) {
	for _, w := range workloads() {
		b.Run(w.name, func(b *testing.B) {
			names, takes := w.everybody(b)
			for i, take := range takes {
				b.Run(names[i]+"/serial", func(b *testing.B) {
					b.ReportAllocs()
					k := 0
					for b.Loop() {
						take(w.draws[k])
						if k++; k == len(w.draws) {
							k = 0
						}
					}
				})
				b.Run(names[i]+"/parallel", func(b *testing.B) {
					b.ReportAllocs()
					b.RunParallel(func(pb *testing.PB) {
						k := 0
						for pb.Next() {
							take(w.draws[k])
							if k++; k == len(w.draws) {
								k = 0
							}
						}
					})
				})
			}
		})
	}
}
