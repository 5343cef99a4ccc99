package redislimiter_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/redislimiter"
)

var algorithms = []limiter.Algorithm{
	limiter.TokenBucket, limiter.LeakyBucket, limiter.FixedWindow, limiter.SlidingWindow, limiter.SlidingLog,
}

// A trace is a random walk over a few quotas, decided by a Memory and by the
// scripts at the same time of the same clock, which is that of a bubble. Units
// are whole numbers of microseconds, and so are pauses: every Result is the
// same.
type trace struct {
	t        *testing.T
	rnd      func(n int) int
	mem, red limiter.Limiter
	key      string
	units    []time.Duration
	policies []limiter.Policy
	open     []taken
}

// A taken charge is open for a refund.
type taken struct {
	c        limiter.Charge
	mem, red limiter.Result
}

func (x *trace) policy(name string, a limiter.Algorithm) limiter.Policy {
	limit := []int{1, 2, 3, 7, 10, 60, 100, 999}[x.rnd(8)]
	p := limiter.Policy{Name: name, Algorithm: a, Limit: limit, Window: x.units[x.rnd(len(x.units))] * time.Duration(limit)}
	if a <= limiter.LeakyBucket {
		p.Burst = x.rnd(2) * (1 + x.rnd(2*limit))
	}
	return p
}

func (x *trace) charge() limiter.Charge {
	p := x.policies[x.rnd(len(x.policies))]
	c := limiter.Charge{Policy: p, Key: x.key, Cost: x.rnd(4)}
	if x.rnd(4) == 0 {
		c.Cost = x.rnd(max(p.Limit, p.Burst) + 2)
	}
	if x.rnd(4) == 0 {
		c.MaxDelay = x.some(3 * p.Window / time.Duration(p.Limit))
	}
	return c
}

// some returns a random number of microseconds up to d.
func (x *trace) some(d time.Duration) time.Duration {
	return time.Duration(x.rnd(int(d/time.Microsecond)+1)) * time.Microsecond
}

func (x *trace) walk(steps int) {
	for step := range steps {
		p := &x.policies[x.rnd(len(x.policies))]
		switch n := x.rnd(24); {
		case n < 6:
			time.Sleep(x.some(2 * p.Window / time.Duration(p.Limit)))
		case n == 6:
			time.Sleep(x.some(p.Window))
		case n == 7 && x.rnd(3) == 0:
			q := x.policy(p.Name, p.Algorithm)
			if p.Algorithm <= limiter.LeakyBucket {
				p.Window = p.Window / time.Duration(p.Limit) * time.Duration(q.Limit)
			}
			p.Limit, p.Burst = q.Limit, q.Burst
		case n == 8 && x.rnd(3) == 0:
			c := limiter.Charge{Policy: *p, Key: x.key}
			x.must(x.mem.Reset(x.t.Context(), c))
			x.must(x.red.Reset(x.t.Context(), c))
		case n < 13 && len(x.open) > 0:
			k := x.rnd(len(x.open))
			h := x.open[k]
			x.open = append(x.open[:k], x.open[k+1:]...)
			x.must(x.mem.Refund(x.t.Context(), h.c, &h.mem))
			x.must(x.red.Refund(x.t.Context(), h.c, &h.red))
		case n < 16:
			cs := make([]limiter.Charge, x.rnd(5))
			for i := range cs {
				cs[i] = x.charge()
			}
			want, err := x.mem.TakeAll(x.t.Context(), cs)
			x.must(err)
			got, err := x.red.TakeAll(x.t.Context(), cs)
			x.must(err)
			for i := range cs {
				x.same(step, cs[i], got[i], want[i])
			}
		default:
			c := x.charge()
			want, err := x.mem.Take(x.t.Context(), c)
			x.must(err)
			got, err := x.red.Take(x.t.Context(), c)
			x.must(err)
			x.same(step, c, got, want)
		}
	}
}

func (x *trace) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *trace) same(step int, c limiter.Charge, got, want limiter.Result) {
	x.t.Helper()
	if want.Receipt != (limiter.Receipt{}) {
		x.open = append(x.open, taken{c, want, got})
	}
	if (got.Receipt == limiter.Receipt{}) != (want.Receipt == limiter.Receipt{}) || got.Source != limiter.SourceRedis {
		x.t.Fatalf("%s, step %d: %+v\n got %+v\nwant %+v", x.key, step, c, got, want)
	}
	// Only parts of a sliding window may be no whole number of microseconds.
	up := func(d *time.Duration) {
		if *d != limiter.Never && c.Policy.Algorithm == limiter.SlidingWindow {
			*d = (*d + time.Microsecond - 1).Truncate(time.Microsecond)
		}
	}
	up(&want.RetryAfter)
	up(&want.MoreAfter)
	want.Source, want.Receipt = got.Source, got.Receipt
	if got != want {
		x.t.Fatalf("%s, step %d: %+v\n got %+v\nwant %+v", x.key, step, c, got, want)
	}
}

// compare walks over one quota of an algorithm, or one of each if it is none.
func compare(t *testing.T, c redis.UniversalClient, name string, rnd func(int) int, units []time.Duration, which []limiter.Algorithm, steps int) {
	synctest.Test(t, func(t *testing.T) {
		l, err := redislimiter.New(c, fresh(redislimiter.Options{ClientClock: true}))
		if err != nil {
			t.Fatal(err)
		}
		x := &trace{t: t, rnd: rnd, mem: limiter.NewMemory(nil), red: l, key: name, units: units}
		for i, a := range which {
			x.policies = append(x.policies, x.policy(fmt.Sprint("p", i), a))
		}
		x.walk(steps)
	})
}

// The embedded server expires nothing by itself, so units may be short although
// it does not know the clock of a bubble.
var (
	shortUnits = []time.Duration{1, 5, 1000, 250_000, 1_000_000, 60_000_000}
	longUnits  = []time.Duration{60_000_000, 3_600_000_000}
)

func init() {
	for _, us := range [][]time.Duration{shortUnits, longUnits} {
		for i := range us {
			us[i] *= time.Microsecond
		}
	}
}

func TestTraces(t *testing.T) {
	real := client(t, redistest.Start(t).Addr())
	embedded := client(t, miniredis.RunT(t).Addr())
	seeds := uint64(60)
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(seed, 20))
		for _, a := range algorithms {
			compare(t, real, fmt.Sprintf("%v, seed %d", a, seed), rnd.IntN, longUnits, []limiter.Algorithm{a}, 80)
			compare(t, embedded, fmt.Sprintf("%v, embedded, seed %d", a, seed), rnd.IntN, shortUnits, []limiter.Algorithm{a}, 80)
		}
		compare(t, real, fmt.Sprintf("all, seed %d", seed), rnd.IntN, longUnits, algorithms, 80)
	}
}
