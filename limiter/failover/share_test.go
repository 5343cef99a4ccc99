package failover_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
)

var algorithms = []limiter.Algorithm{
	limiter.TokenBucket, limiter.LeakyBucket, limiter.FixedWindow, limiter.SlidingWindow, limiter.SlidingLog,
}

// dead returns a failover whose breaker is open.
func dead(t *testing.T, instances int) limiter.Limiter {
	t.Helper()
	s := newServer()
	l := failover.New(s, failover.Local, &failover.Options{Instances: instances})
	open(t, l, s)
	s.set(broken)
	return l
}

func TestShare(t *testing.T) {
	for _, tt := range []struct {
		limit, burst, instances int
		wantLimit, wantBurst    int
	}{
		{10, 0, 0, 10, 10}, {10, 0, 1, 10, 10}, {10, 20, 1, 10, 20},
		{10, 0, 2, 5, 5}, {10, 20, 2, 5, 10}, {10, 0, 3, 3, 3}, {10, 5, 3, 3, 1}, {10, 2, 4, 2, 1},
		{3, 0, 4, 1, 1}, {1, 100, 4, 1, 25}, {100, 1, 4, 25, 1},
		{0, 0, 4, 0, 0}, {0, 8, 4, 0, 0},
	} {
		inTime(t, func(t *testing.T) {
			p := limiter.Policy{Name: "p", Limit: tt.limit, Burst: tt.burst, Window: time.Hour}
			l := dead(t, tt.instances)
			n := 0
			for take(t, l, of(p, 1)).Allowed {
				n++
			}
			if n != tt.wantBurst {
				t.Errorf("%+v: %d at once, want %d", tt, n, tt.wantBurst)
			}
			time.Sleep(time.Duration(max(1, tt.wantBurst)) * time.Hour)
			n = 0
			for range 2000 {
				if take(t, l, of(p, 1)).Allowed {
					n++
				}
				time.Sleep(time.Hour / 1000)
			}
			if want := tt.wantBurst + 2*tt.wantLimit; n > want || n < want-2 {
				t.Errorf("%+v: %d in two hours, want %d", tt, n, want)
			}
		})
	}
}

// For all algorithms the fallback answers as a Memory with the share would, but
// for the Limit, as long as no cost is above the share.
func TestShareIsMemory(t *testing.T) {
	for _, a := range algorithms {
		inTime(t, func(t *testing.T) {
			l, m := dead(t, 4), limiter.NewMemory(nil)
			whole := limiter.Policy{Name: "p", Algorithm: a, Limit: 43, Window: time.Second}
			share := whole
			share.Limit = 10
			if a == limiter.TokenBucket || a == limiter.LeakyBucket {
				whole.Burst, share.Burst = 23, 5
			}
			rnd := rand.New(rand.NewPCG(uint64(a), 27))
			type held struct {
				c              limiter.Charge
				ours, memories limiter.Result
			}
			var open []held
			for i := range 5000 {
				time.Sleep(time.Duration(rnd.Int64N(int64(100 * ms))))
				if len(open) > 0 && rnd.IntN(5) == 0 {
					h := open[rnd.IntN(len(open))]
					err := l.Refund(t.Context(), h.c, &h.ours)
					h.c.Policy = share
					if e := m.Refund(t.Context(), h.c, &h.memories); err != nil || e != nil {
						t.Fatal(err, e)
					}
					open = open[:0]
				}
				c := of(whole, rnd.IntN(4))
				if rnd.IntN(3) == 0 {
					c.MaxDelay = time.Duration(rnd.Int64N(int64(time.Second)))
				}
				got := take(t, l, c)
				own := got
				c.Policy = share
				want := take(t, m, c)
				c.Policy = whole
				open = append(open, held{c, own, want})
				want.Source, want.Limit, want.Receipt = limiter.SourceFallback, 43, got.Receipt
				if a == limiter.TokenBucket || a == limiter.LeakyBucket {
					want.MoreAfter = more(t, m, share, want)
				}
				if got != want {
					t.Fatalf("%v, step %d: Take(%+v)\n got %+v\nwant %+v", a, i, c, got, want)
				}
			}
		})
	}
}

// more returns when the state of key "k" will give one unit more than r says.
func more(t *testing.T, m limiter.Limiter, p limiter.Policy, r limiter.Result) time.Duration {
	t.Helper()
	if r.ResetAfter == 0 {
		return 0
	}
	c := of(p, r.Remaining+1)
	if next := take(t, m, c); !next.Allowed {
		return next.RetryAfter
	}
	t.Fatalf("%+v has more remaining", r)
	return 0
}

// A cost above the share takes all of it; one above the whole quota never fits.
// In one decision, the same quota counts as the sum.
func TestShareOfLargeCosts(t *testing.T) {
	for _, a := range algorithms {
		p := limiter.Policy{Name: "p", Algorithm: a, Limit: 10, Window: time.Hour}
		q := p
		q.Name = "q"
		on := func(key string, c limiter.Charge) limiter.Charge { c.Key = key; return c }
		for _, tt := range []struct {
			cs   []limiter.Charge
			want string // allowed, denied, never, for each charge
			left int    // of p's share, which is 3
		}{
			{[]limiter.Charge{of(p, 3)}, "a", 0},
			{[]limiter.Charge{of(p, 4)}, "a", 0},
			{[]limiter.Charge{of(p, 10)}, "a", 0},
			{[]limiter.Charge{of(p, 11)}, "n", 3},
			{[]limiter.Charge{of(p, 2), of(p, 2)}, "aa", 0},
			{[]limiter.Charge{of(p, 5), of(p, 5)}, "aa", 0},
			{[]limiter.Charge{of(p, 5), of(p, 5), of(p, 0)}, "aaa", 0},
			{[]limiter.Charge{of(p, 5), of(p, 6)}, "an", 3},
			{[]limiter.Charge{of(p, 5), of(q, 5), of(p, 5), of(p, 1)}, "aaan", 3},
			{[]limiter.Charge{of(p, 2), of(q, 9), on("other", of(p, 9))}, "aaa", 1},
			{[]limiter.Charge{of(p, 2), of(q, 11)}, "an", 3},
			{[]limiter.Charge{of(p, 1<<62), of(p, 1<<62)}, "nn", 3},
		} {
			inTime(t, func(t *testing.T) {
				l := dead(t, 3)
				var rs []limiter.Result
				if len(tt.cs) == 1 {
					rs = []limiter.Result{take(t, l, tt.cs[0])}
				} else {
					given := slices.Clone(tt.cs)
					var err error
					if rs, err = l.TakeAll(t.Context(), tt.cs); err != nil || !slices.Equal(tt.cs, given) {
						t.Fatalf("TakeAll(%+v): %v", given, err)
					}
				}
				var got strings.Builder
				for i, r := range rs {
					switch {
					case r.Allowed:
						got.WriteString("a")
					case r.RetryAfter == limiter.Never:
						got.WriteString("n")
					default:
						got.WriteString("d")
					}
					if tt.cs[i].Cost > 0 && r.Allowed && r.RetryAfter != 0 {
						t.Errorf("%v: TakeAll(%+v): result %d = %+v is allowed and says when to try again", a, tt.cs, i, r)
					}
				}
				if n := left(t, l, p); got.String() != tt.want || n != tt.left && a != limiter.LeakyBucket {
					t.Errorf("%v: TakeAll(%+v) = %q, %d left, want %q, %d", a, tt.cs, got.String(), n, tt.want, tt.left)
				}
				for i := range rs {
					if err := l.Refund(t.Context(), tt.cs[i], &rs[i]); err != nil {
						t.Error(err)
					}
				}
				if n := left(t, l, p); n > 3 || n < 3 && a != limiter.LeakyBucket && tt.want != "aaa" && tt.want != "aa" {
					t.Errorf("%v: %d left after refunds of %+v, want 3", a, n, tt.cs)
				}
			})
		}
	}
}

// A decision of mode Open about the same quota twice knows what can never fit.
func TestOpenAll(t *testing.T) {
	inTime(t, func(t *testing.T) {
		s := newServer()
		s.set(broken)
		l := failover.New(s, failover.Open, nil)
		p := day(10)
		rs, err := l.TakeAll(t.Context(), []limiter.Charge{of(p, 5), of(p, 5), of(p, 0), of(p, 1), of(limiter.PerDay("q", 10), 1)})
		var got []bool
		for _, r := range rs {
			got = append(got, r.Allowed)
		}
		if want := []bool{true, true, true, false, true}; err != nil || !slices.Equal(got, want) {
			t.Errorf("TakeAll = %+v, %v, want allowed: %v", rs, err, want)
		}
	})
}

// Four instances that lose their backend, are refused by it, or get its answers
// too late, together admit the limit in every window, and their bursts; at the
// switch one burst more.
func TestTrapLimiter27_FallbackToFullLimit(t *testing.T) {
	const instances = 4
	for name, f := range map[string]fault{"refuses": broken, "hangs": hangs, "late": after(budget + 10*ms)} {
		for _, a := range []limiter.Algorithm{limiter.TokenBucket, limiter.FixedWindow, limiter.SlidingLog} {
			for _, limit := range []int{2, 4, 10, 100} {
				inTime(t, func(t *testing.T) {
					s := newServer()
					var ls []limiter.Limiter
					for range instances {
						ls = append(ls, failover.New(s, failover.Local, &failover.Options{Instances: instances}))
					}
					p := limiter.Policy{Name: "p", Algorithm: a, Limit: limit, Window: time.Second}
					begin := time.Now()
					var at []time.Duration // when something was admitted
					flood := func(d time.Duration) {
						for until := time.Now().Add(d); time.Now().Before(until); time.Sleep(4 * ms) {
							for _, l := range ls {
								if take(t, l, of(p, 1)).Allowed {
									at = append(at, time.Since(begin))
								}
							}
						}
					}
					flood(3 * time.Second)
					s.set(f)
					down := time.Since(begin)
					flood(10 * time.Second)
					up := time.Since(begin)
					s.set(healthy)
					flood(3 * time.Second)

					bursts := 0 // what passes at once beside what comes in time
					if a == limiter.TokenBucket {
						bursts = max(limit, instances)
					}
					check := func(from, to time.Duration, most int) {
						if n := count(at, from, to); n > most {
							t.Errorf("%s, %v of %d: %d admitted from %v to %v, want at most %d", name, a, limit, n, from, to, most)
						}
					}
					// Nor is it a lock-out.
					if n, span := count(at, down, up), int((up-down)/time.Second); n < span*(limit/instances*instances)*3/4 || n < span {
						t.Errorf("%s, %v of %d: only %d admitted in an outage of %d windows", name, a, limit, n, span)
					}
					for from := time.Duration(0); from < 15*time.Second; from += 50 * ms {
						to := from + time.Second
						if a == limiter.FixedWindow {
							from = from.Truncate(time.Second) // as its windows are; a bubble begins at one
							to = from + time.Second
						}
						switch {
						case from > down+2*time.Second && to < up || to < down || from > up+3*time.Second:
							check(from, to, max(limit, instances)+bursts)
						default:
							check(from, to, max(limit, instances)+bursts+limit)
						}
						if a == limiter.FixedWindow {
							from += 950 * ms
						}
					}
				})
			}
		}
	}
}

func count(at []time.Duration, from, to time.Duration) int {
	i, _ := slices.BinarySearch(at, from)
	j, _ := slices.BinarySearch(at, to)
	return j - i
}

// A reply that comes too late takes nothing from the backend, so when it is in
// time again, nothing is missing there.
func TestLateRepliesCostNothing(t *testing.T) {
	inTime(t, func(t *testing.T) {
		s := newServer()
		l := failover.New(s, failover.Local, &failover.Options{Failures: 1 << 30})
		s.set(after(budget + 10*ms))
		for i := range 200 {
			c := of(day(100), 1)
			c.Key = fmt.Sprint(i % 3)
			take(t, l, c)
		}
		s.set(healthy)
		time.Sleep(time.Second)
		for i := range 3 {
			c := of(day(100), 0)
			c.Key = fmt.Sprint(i)
			if r := take(t, l, c); r.Source != limiter.SourceMemory || r.Remaining != 100 {
				t.Errorf("key %d: %+v, want all 100", i, r)
			}
		}
	})
}
