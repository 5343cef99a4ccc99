package limiter_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

// The tables are facts that the tests of other limiters state about token
// buckets. Where weir answers something else on purpose, the row says so.

const (
	ms = time.Millisecond
	s  = time.Second
)

func TestGCRAVectors(t *testing.T) {
	tests := []struct {
		name   string
		policy limiter.Policy
		steps  []struct {
			at, cost              time.Duration // cost: a number
			remaining, reset, try time.Duration // remaining: a number
		}
	}{
		{"1/s burst 5", per(s, 1, 5), []struct{ at, cost, remaining, reset, try time.Duration }{
			{0, 6, 5, 0, limiter.Never},
			{0, 1, 4, 1 * s, 0},
			{0, 1, 3, 2 * s, 0},
			{0, 1, 2, 3 * s, 0},
			{0, 1, 1, 4 * s, 0},
			{0, 1, 0, 5 * s, 0},
			{0, 1, 0, 5 * s, 1 * s},
			{3000 * ms, 1, 2, 3000 * ms, 0},
			{3100 * ms, 1, 1, 3900 * ms, 0},
			{4000 * ms, 1, 1, 4000 * ms, 0},
			{8000 * ms, 1, 4, 1000 * ms, 0},
			{9500 * ms, 1, 4, 1000 * ms, 0},
			{9500 * ms, 0, 4, 1000 * ms, 0},
			{9500 * ms, 2, 2, 3000 * ms, 0},
			{9500 * ms, 5, 2, 3000 * ms, 3000 * ms},
			{15000 * ms, 6, 5, 0, limiter.Never},
		}},
		{"10/s", per(s, 10, 10), []struct{ at, cost, remaining, reset, try time.Duration }{
			{0, 0, 10, 0, 0},
			{0, 1, 9, 100 * ms, 0},
			{0, 2, 7, 300 * ms, 0},
			{0, 7, 0, 1000 * ms, 0},
			{0, 1000, 0, 1000 * ms, limiter.Never}, // elsewhere: in 99 s, which is not true
		}},
		// A look at an empty quota says when one unit would fit.
		{"3/s burst 1", per(s, 3, 1), []struct{ at, cost, remaining, reset, try time.Duration }{
			{0, 1, 0, 333333334, 0},
			{0, 1, 0, 333333334, 333333334},
			{0, 0, 0, 333333334, 333333334},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				m, start := limiter.NewMemory(nil), time.Now()
				for i, st := range tt.steps {
					time.Sleep(time.Until(start.Add(st.at)))
					got := take(t, m, of(tt.policy, int(st.cost)))
					want := limiter.Result{
						Allowed: st.try == 0 || st.cost == 0, Limit: tt.policy.Limit, Remaining: int(st.remaining),
						RetryAfter: st.try, ResetAfter: st.reset, Source: limiter.SourceMemory, Receipt: got.Receipt,
					}
					if got != want {
						t.Errorf("step %d, at %v cost %d:\n got %+v\nwant %+v", i, st.at, st.cost, got, want)
					}
				}
			})
		})
	}
}

func TestAllowVectors(t *testing.T) {
	const d = 100 * ms
	type step struct {
		at   time.Duration // in d
		cost int
		ok   bool
	}
	tests := []struct {
		name   string
		policy limiter.Policy
		steps  []step
	}{
		{"burst 1", per(s, 10, 1), []step{
			{0, 1, true}, {0, 1, false}, {0, 1, false},
			{1, 1, true}, {1, 1, false}, {1, 1, false},
			{2, 2, false}, {2, 1, true}, {2, 1, false},
		}},
		{"burst 3", per(s, 10, 3), []step{
			{0, 2, true}, {0, 2, false}, {0, 1, true}, {0, 1, false},
			{1, 4, false}, {2, 1, true}, {3, 1, true}, {4, 1, true}, {4, 1, true}, {4, 1, false}, {4, 1, false},
			{9, 3, true}, {9, 0, true},
		}},
		{"10 in 13 s, burst 1", per(13*s, 10, 1), []step{{0, 1, true}, {0, 1, false}, {12, 1, false}, {13, 1, true}}},
		{"the slowest", per(1<<63-1, 1, 1), []step{{0, 1, true}, {0, 1, false}, {1 << 20, 1, false}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				m, start := limiter.NewMemory(nil), time.Now()
				for i, st := range tt.steps {
					time.Sleep(time.Until(start.Add(st.at * d)))
					if r := take(t, m, of(tt.policy, st.cost)); r.Allowed != st.ok {
						t.Errorf("step %d, at %v cost %d: %+v, want Allowed %v", i, st.at*d, st.cost, r, st.ok)
					}
				}
			})
		})
	}
}

func TestRetryAfterIsNeverLongerThanAUnit(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m := limiter.NewMemory(nil)
		for i := range 1000 {
			if r := take(t, m, of(per(ms, 1, 1), 1)); r.RetryAfter > ms {
				t.Fatalf("call %d: RetryAfter = %v, want at most 1ms", i, r.RetryAfter)
			}
			time.Sleep(7 * time.Microsecond)
		}
	})
}

// Reservations at 10/s, burst 2: each gets its turn in the order of arrival.
func TestReserveVectors(t *testing.T) {
	const d = 100 * ms
	p := per(s, 10, 2)
	reserve := func(t *testing.T, m *limiter.Memory, cost int, want time.Duration) *limiter.Result {
		t.Helper()
		c := of(p, cost)
		c.MaxDelay = time.Hour
		r := allowed(t, m, c)
		if r.Delay != want {
			t.Fatalf("Delay = %v, want %v", r.Delay, want)
		}
		return &r
	}
	tests := []struct {
		name string
		run  func(t *testing.T, m *limiter.Memory)
	}{
		{"in order", func(t *testing.T, m *limiter.Memory) {
			reserve(t, m, 2, 0)
			reserve(t, m, 2, 2*d)
			time.Sleep(3 * d)
			reserve(t, m, 2, d)
		}},
		{"the last gives up", func(t *testing.T, m *limiter.Memory) {
			reserve(t, m, 2, 0)
			r := reserve(t, m, 2, 2*d)
			time.Sleep(d)
			refund(t, m, of(p, 2), r)
			reserve(t, m, 2, d)
		}},
		{"the last two give up", func(t *testing.T, m *limiter.Memory) {
			reserve(t, m, 2, 0)
			r1 := reserve(t, m, 1, d)
			r2 := reserve(t, m, 1, 2*d)
			refund(t, m, of(p, 1), r2)
			refund(t, m, of(p, 1), r1)
			reserve(t, m, 1, d)
		}},
		{"whoever stands behind keeps the turn", func(t *testing.T, m *limiter.Memory) {
			reserve(t, m, 2, 0)
			r := reserve(t, m, 1, d)
			reserve(t, m, 1, 2*d)
			refund(t, m, of(p, 1), r)
			reserve(t, m, 1, 3*d)
		}},
		// Elsewhere a reservation is worth nothing once its time has come. A
		// refund gives back what time has not given back, also then.
		{"after its turn", func(t *testing.T, m *limiter.Memory) {
			reserve(t, m, 2, 0)
			r := reserve(t, m, 2, 2*d)
			time.Sleep(3 * d)
			refund(t, m, of(p, 2), r)
			reserve(t, m, 2, 0)
		}},
		{"when time has given all back", func(t *testing.T, m *limiter.Memory) {
			r := reserve(t, m, 2, 0)
			time.Sleep(2 * d)
			refund(t, m, of(p, 2), r)
			reserve(t, m, 2, 0)
			reserve(t, m, 1, d)
		}},
		{"not longer than MaxDelay", func(t *testing.T, m *limiter.Memory) {
			c := of(p, 2)
			c.MaxDelay = d
			allowed(t, m, c)
			c.Cost = 1
			if r := allowed(t, m, c); r.Delay != d {
				t.Fatalf("Delay = %v, want %v", r.Delay, d)
			}
			if r := denied(t, m, c); r.RetryAfter != d || r.Delay != 0 {
				t.Fatalf("denied with RetryAfter %v and Delay %v, want %v and 0", r.RetryAfter, r.Delay, d)
			}
			time.Sleep(d)
			allowed(t, m, c)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) { tt.run(t, limiter.NewMemory(nil)) })
		})
	}
}

func TestLongRun(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m, n := limiter.NewMemory(nil), 0
		for range 2501 { // the last one at 5 s
			if take(t, m, of(per(s, 100, 100), 1)).Allowed {
				n++
			}
			time.Sleep(2 * ms)
		}
		if ideal := 100 + 100*5; n > ideal+1 || float64(n) < 0.999*float64(ideal) {
			t.Errorf("admitted %d in 5 s, want %d", n, ideal)
		}
	})
}

func TestSimultaneous(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m := limiter.NewMemory(nil)
		var n atomic.Int64
		var wg sync.WaitGroup
		for range 15 {
			wg.Go(func() {
				if take(t, m, of(per(s, 1, 5), 1)).Allowed {
					n.Add(1)
				}
			})
		}
		wg.Wait()
		if n.Load() != 5 {
			t.Errorf("admitted %d, want 5", n.Load())
		}
	})
}

// A whole quota admits exactly its capacity at one instant, also where a unit
// is no whole number of nanoseconds.
func TestWholeBurstAtOneInstant(t *testing.T) {
	for _, p := range []limiter.Policy{
		per(s, 3, 0), per(s, 7, 0), per(time.Minute, 7, 0), per(s, 30, 0), per(s, 60, 60), per(s, 3, 10),
		per(13*s, 10, 4), per(time.Hour, 11, 1), per(s, 999_983, 1000), per(24*time.Hour, 86399, 0),
	} {
		inTime(t, func(t *testing.T) {
			m := limiter.NewMemory(nil)
			burst := max(p.Burst, 0)
			if burst == 0 {
				burst = p.Limit
			}
			remaining(t, m, of(p, 0), burst)
			for i := range burst {
				if r := allowed(t, m, of(p, 1)); r.Remaining != burst-1-i {
					t.Fatalf("%d/%v burst %d: after %d Remaining = %d", p.Limit, p.Window, p.Burst, i+1, r.Remaining)
				}
			}
			denied(t, m, of(p, 1))
		})
	}
}
