package limiter_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

// A client that sleeps for exactly RetryAfter is admitted, and a nanosecond
// earlier it is not.
func TestSleepingRetryAfterAdmitsInWindows(t *testing.T) {
	schedules := uint64(10_000)
	if testing.Short() {
		schedules = 1000
	}
	inTime(t, func(t *testing.T) {
		m := limiter.NewMemory(nil)
		for seed := range schedules {
			rnd := rand.New(rand.NewPCG(seed, 12))
			p := randomWindow(rnd, windowed[rnd.IntN(len(windowed))])
			c := limiter.Charge{Policy: p, Key: number(int(seed))}
			for range 5 {
				c.Cost = 1 + rnd.IntN(p.Limit)
				r := take(t, m, c)
				if r.Allowed {
					continue
				}
				time.Sleep(r.RetryAfter - 1)
				if early := denied(t, m, c); early.RetryAfter != 1 {
					t.Fatalf("seed %d: %v: RetryAfter a nanosecond early = %v", seed, p.Algorithm, early.RetryAfter)
				}
				time.Sleep(1)
				allowed(t, m, c)
			}
		}
	})
}

// A client that keeps its pace is never refused: the even pace of the Limit, or
// with a SlidingWindow of one unit less.
func TestPacedClientInWindows(t *testing.T) {
	for _, a := range windowed {
		inTime(t, func(t *testing.T) {
			m := limiter.NewMemory(nil)
			for seed := range uint64(200) {
				rnd := rand.New(rand.NewPCG(seed, 13))
				p := randomWindow(rnd, a)
				p.Limit = min(1+p.Limit, int(p.Window/100))
				n := time.Duration(p.Limit)
				if a == limiter.SlidingWindow {
					n--
				}
				c := limiter.Charge{Policy: p, Key: number(int(seed)), Cost: 1}
				time.Sleep(time.Duration(rnd.Int64N(int64(p.Window))))
				for range 300 {
					allowed(t, m, c)
					time.Sleep((p.Window+n-1)/n + time.Duration(rnd.Int64N(3)))
				}
			}
		})
	}
}

// Whatever the traffic: in any time up to Window, a SlidingWindow admits at
// most Limit + Limit*time/Window. That is its error, stated in its
// documentation.
func TestSlidingWindowError(t *testing.T) {
	schedules := uint64(1000)
	if testing.Short() {
		schedules = 100
	}
	most := 0.0
	for seed := range schedules {
		inTime(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 14))
			p := windows(s, 1+rnd.IntN(30), limiter.SlidingWindow)
			m := limiter.NewMemory(nil)
			var events []passed
			for len(events) < 100 {
				// Either greedy, as soon as one fits, or after a pause: bursts
				// at the end of one window, paced through the next.
				if rnd.IntN(20) == 0 {
					time.Sleep(time.Duration(rnd.Int64N(int64(2 * s))))
				}
				if r := take(t, m, of(p, 1)); r.Allowed {
					events = append(events, passed{time.Now().UnixNano(), 1})
				} else {
					time.Sleep(r.RetryAfter)
				}
			}
			for i, from := range events {
				for j, to := range events[i:] {
					d := to.at - from.at
					if d > int64(s) {
						break
					}
					n := j + 1
					if excess := int64(n-p.Limit) * int64(s); excess > int64(p.Limit)*d {
						t.Fatalf("seed %d: limit %d: %d units in %v", seed, p.Limit, n, time.Duration(d))
					}
					if d < int64(s) {
						most = max(most, float64(n)/float64(p.Limit))
					}
				}
			}
		})
	}
	t.Logf("at most %.2f times the Limit in one Window", most)
	if most > 2 {
		t.Errorf("%.2f times the Limit in one Window", most)
	}
}

// Extreme parameters neither wrap nor admit.
func TestExtremeWindows(t *testing.T) {
	const huge = 1<<63 - 1
	for _, a := range windowed {
		inTime(t, func(t *testing.T) {
			m := limiter.NewMemory(nil)
			for i, p := range []limiter.Policy{
				per(24*time.Hour, 1, 0), per(huge, 1, 0), per(time.Microsecond, huge, 0), per(huge, huge, 0), per(huge-1, 3, 0), per(1001, huge-1, 0),
			} {
				p.Algorithm = a
				charge := func(cost int) limiter.Charge {
					return limiter.Charge{Policy: p, Key: number(i), Cost: cost, MaxDelay: huge}
				}
				check := func(rs ...limiter.Result) {
					t.Helper()
					for _, r := range rs {
						if r.ResetAfter < 0 || r.RetryAfter < 0 || r.MoreAfter < 0 || r.Remaining < 0 || r.Remaining > p.Limit || r.Delay != 0 {
							t.Errorf("%v %d/%v: %+v", a, p.Limit, p.Window, r)
						}
					}
				}
				for _, cost := range []int{106_752, 1 << 40, 1 << 62, huge} {
					r := take(t, m, charge(cost))
					check(r)
					if r.Allowed != (cost <= p.Limit) || !r.Allowed && r.RetryAfter != limiter.Never {
						t.Errorf("%v %d/%v: cost %d: %+v", a, p.Limit, p.Window, cost, r)
					}
					if err := m.Reset(t.Context(), charge(0)); err != nil {
						t.Fatal(err)
					}
					if r := take(t, m, charge(0)); r.Remaining != p.Limit || r.ResetAfter != 0 {
						t.Errorf("%v %d/%v: after Reset %+v", a, p.Limit, p.Window, r)
					}
				}
				check(allowed(t, m, charge(p.Limit)))
				check(denied(t, m, charge(p.Limit)))
				check(takeAll(t, m, charge(p.Limit), charge(p.Limit), charge(p.Limit))...)
				time.Sleep(time.Hour)
				check(take(t, m, charge(0)), take(t, m, charge(p.Limit)), take(t, m, charge(1)))
			}
		})
	}
}

// A quota with another Window, or counted another way, is another quota.
func TestIdentityOfWindows(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m := limiter.NewMemory(nil)
		for _, a := range append(windowed, limiter.TokenBucket, limiter.LeakyBucket) {
			p := per(time.Hour, 10, 0)
			p.Algorithm = a
			remaining(t, m, of(p, 0), 10)
			allowed(t, m, of(p, 4))
			p.Limit = 20
			if p.Window++; a >= limiter.FixedWindow {
				remaining(t, m, of(p, 0), 20)
				p.Window--
				remaining(t, m, of(p, 0), 16)
			}
		}
	})
}

// All goroutines together get the Limit, to the unit; what is given back is
// there again, to the unit.
func TestWindowsUnderContention(t *testing.T) {
	for _, a := range windowed {
		inTime(t, func(t *testing.T) { // where no edge of a window comes between
			m := limiter.NewMemory(nil)
			p, other := per(time.Hour, 3000, 0), per(time.Hour, 1<<40, 0)
			p.Algorithm, other.Name = a, "other"
			var kept atomic.Int64
			var wg sync.WaitGroup
			for g := range 64 {
				wg.Go(func() {
					for i := range 100 {
						var r limiter.Result
						if g%2 == 0 {
							r = take(t, m, of(p, 1))
						} else {
							r = takeAll(t, m, of(p, 1), of(other, 1))[0]
						}
						switch {
						case !r.Allowed:
						case i%4 == 0:
							refund(t, m, of(p, 1), &r)
						default:
							kept.Add(1)
						}
					}
				})
			}
			wg.Wait()
			remaining(t, m, of(p, 0), 3000-int(kept.Load()))
		})
	}
}

func TestWindowsDoNotAllocate(t *testing.T) {
	for _, a := range windowed {
		m := limiter.NewMemory(nil)
		plenty, few := per(time.Hour, 1<<30, 0), per(time.Hour, 1, 0)
		plenty.Algorithm, few.Algorithm, few.Name = a, a, "few"
		all := []limiter.Charge{of(plenty, 1), of(few, 0), of(limiter.PerHour("q", 1<<40), 1)}
		var r limiter.Result
		for name, tt := range map[string]struct {
			want float64
			f    func()
		}{
			"allowed": {0, func() { allowed(t, m, of(plenty, 1)) }},
			"denied":  {0, func() { take(t, m, of(few, 1)) }},
			"look":    {0, func() { take(t, m, of(few, 0)) }},
			"refund": {0, func() {
				r = allowed(t, m, of(plenty, 1))
				refund(t, m, of(plenty, 1), &r)
			}},
			"TakeAll of 3": {1, func() { takeAll(t, m, all...) }},
		} {
			if got := testing.AllocsPerRun(100, tt.f); got != tt.want {
				t.Errorf("%v, %s: %v allocations, want %v", a, name, got, tt.want)
			}
		}
	}
}

// Of all that a SlidingLog admitted and that was not given back, there is never
// more than the Limit in any time of length Window.
func TestSlidingLogIsExact(t *testing.T) {
	schedules := uint64(500)
	if testing.Short() {
		schedules = 50
	}
	for seed := range schedules {
		inTime(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 15))
			p := windows(s, 1+rnd.IntN(40), limiter.SlidingLog)
			m := limiter.NewMemory(nil)
			var events []*passed
			results := map[*passed]*limiter.Result{}
			for len(events) < 300 {
				switch rnd.IntN(8) {
				case 0:
					time.Sleep(time.Duration(rnd.Int64N(int64(s) / 8)))
				case 1:
					if len(events) > 0 {
						e := events[rnd.IntN(len(events))]
						refund(t, m, of(p, int(e.units)), results[e])
						e.units = 0
					}
				default:
					cost := 1 + rnd.IntN(1+p.Limit/4)
					r := take(t, m, of(p, cost))
					if !r.Allowed {
						time.Sleep(r.RetryAfter)
						continue
					}
					e := &passed{time.Now().UnixNano(), int64(cost)}
					events, results[e] = append(events, e), &r
				}
			}
			for i, from := range events {
				sum := int64(0)
				for _, e := range events[i:] {
					if e.at >= from.at+int64(s) {
						break
					}
					sum += e.units
				}
				if sum > int64(p.Limit) {
					t.Fatalf("seed %d: %d units in one Window, limit %d", seed, sum, p.Limit)
				}
			}
		})
	}
}

// What Memory says about windows when it is full is what it says about buckets:
// under RefuseNew nobody comes back early, else the one whole soonest goes.
func TestWindowsInFullMemory(t *testing.T) {
	for _, a := range windowed {
		inTime(t, func(t *testing.T) {
			m := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 32 << 10, RefuseNew: true})
			victim := limiter.Charge{Policy: windows(time.Minute, 1, a), Key: "victim", Cost: 1}
			allowed(t, m, victim)
			time.Sleep(s)
			refused := fill(t, m, windows(time.Minute, 1, a), "flood", 5000)
			if st := m.Stats(); st.Evicted > 0 || st.Refused != uint64(refused) || refused < 3000 || st.Bytes > 32<<10 {
				t.Errorf("%v: stats %+v with %d refused", a, st, refused)
			}
			denied(t, m, victim)
			newcomer := victim
			newcomer.Key = "newcomer"
			r := denied(t, m, newcomer)
			if r.RetryAfter <= 0 || r.RetryAfter > 2*time.Minute || r.Remaining != 0 || r.Receipt != (limiter.Receipt{}) {
				t.Errorf("%v: newcomer: %+v, want a refusal with a time to retry", a, r)
			}
			time.Sleep(r.RetryAfter)
			allowed(t, m, newcomer)

			m = limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 32 << 10})
			if refused := fill(t, m, windows(time.Minute, 1, a), "flood", 5000); refused > 0 {
				t.Errorf("%v: %d newcomers refused", a, refused)
			}
			if st := m.Stats(); st.Evicted < 3000 || st.Refused > 0 || st.Bytes > 32<<10 {
				t.Errorf("%v: stats %+v, want most of 5000 evicted", a, st)
			}
		})
	}
}

// A Wait in windows tries again until it fits, and fails at once if that is too
// late.
func TestWaitInWindows(t *testing.T) {
	for _, a := range windowed {
		inTime(t, func(t *testing.T) {
			m, p := limiter.NewMemory(nil), windows(s, 2, a)
			start := time.Now()
			var wg sync.WaitGroup
			for range 6 {
				wg.Go(func() {
					if err := limiter.Wait(t.Context(), m, of(p, 1)); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if d := time.Since(start); d < 2*s || d > 4*s {
				t.Errorf("%v: six of 2/s passed after %v", a, d)
			}
			allowed := func() bool { return take(t, m, of(p, 1)).Allowed }
			for allowed() {
			}
			late := take(t, m, of(p, 2)).RetryAfter
			start = time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), late)
			defer cancel()
			if err := limiter.Wait(ctx, m, of(p, 2)); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 0 {
				t.Errorf("%v: Wait = %v after %v, want that it fails at once", a, err, time.Since(start))
			}
			ctx, cancel = context.WithTimeout(t.Context(), late+1)
			defer cancel()
			if err := limiter.Wait(ctx, m, of(p, 2)); err != nil || time.Since(start) != late {
				t.Errorf("%v: Wait = %v after %v, want success after %v", a, err, time.Since(start), late)
			}
			if err := limiter.Wait(ctx, m, of(p, 3)); !errors.Is(err, limiter.ErrNever) && ctx.Err() == nil {
				t.Errorf("%v: Wait for more than the Limit = %v", a, err)
			}
		})
	}
}

// The t of RateLimit is the time until there is more, not until all is back.
func TestHeaderOfWindows(t *testing.T) {
	for _, tt := range []struct {
		algorithm limiter.Algorithm
		want      []string // RateLimit of a request each 15 s
		retry     string
	}{
		{limiter.FixedWindow, []string{`"p";r=2;t=60`, `"p";r=1;t=45`, `"p";r=0;t=30`, `"p";r=0;t=15`, `"p";r=2;t=60`}, "15"},
		{limiter.SlidingWindow, []string{`"p";r=2;t=120`, `"p";r=1;t=75`, `"p";r=0;t=50`, `"p";r=0;t=35`, `"p";r=0;t=20`}, "35"},
		{limiter.SlidingLog, []string{`"p";r=2;t=60`, `"p";r=1;t=45`, `"p";r=0;t=30`, `"p";r=0;t=15`, `"p";r=0;t=15`}, "15"},
	} {
		inTime(t, func(t *testing.T) {
			rules := limiter.Rules{{Policy: windows(time.Minute, 3, tt.algorithm), Key: limiter.KeyGlobal}}
			h := limiter.Middleware(limiter.NewMemory(nil), rules, nil)(hello)
			for i, want := range tt.want {
				res := serve(h, request(t))
				if got := res.Header.Get("RateLimit"); got != want {
					t.Errorf("%v, request %d: RateLimit %s, want %s", tt.algorithm, i, got, want)
				}
				if got := res.Header.Get("RateLimit-Policy"); got != `"p";q=3;w=60` {
					t.Errorf("%v: RateLimit-Policy %s", tt.algorithm, got)
				}
				if got := res.Header.Get("Retry-After"); i == 3 && got != tt.retry {
					t.Errorf("%v, request %d: Retry-After %s, want %s", tt.algorithm, i, got, tt.retry)
				}
				time.Sleep(15 * s)
			}
		})
	}
}

// A receipt is worth nothing to the next state of its key, however many there
// have been in between.
func TestReceiptOfAnEarlierState(t *testing.T) {
	for _, a := range windowed {
		inTime(t, func(t *testing.T) {
			m := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 16 << 10})
			c := of(windows(time.Hour, 10, a), 1)
			old := allowed(t, m, c)
			for state := range 1<<14 + 2 {
				if err := m.Reset(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				allowed(t, m, c)
				r := old
				refund(t, m, c, &r)
				if r := take(t, m, of(c.Policy, 0)); r.Remaining != 9 {
					t.Fatalf("%v: state %d: %d remain, want 9", a, state+1, r.Remaining)
				}
			}
		})
	}
}
