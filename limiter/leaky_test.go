package limiter_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

func leaky(window time.Duration, limit, burst int) limiter.Policy {
	p := per(window, limit, burst)
	p.Algorithm = limiter.LeakyBucket
	return p
}

// What comes at once passes at the pace of the policy; what is beyond Burst is
// refused until there is room for it.
func TestLeakyBucketShapes(t *testing.T) {
	const d = 100 * ms
	p := leaky(s, 10, 3)
	tests := []struct {
		name string
		run  func(t *testing.T, m *limiter.Memory)
	}{
		{"a queue of Burst", func(t *testing.T, m *limiter.Memory) {
			for i := range 3 {
				if r := allowed(t, m, of(p, 1)); r.Delay != time.Duration(i)*d || r.Remaining != 2-i || r.ResetAfter != time.Duration(i+1)*d {
					t.Fatalf("charge %d: %+v", i, r)
				}
			}
			if r := denied(t, m, of(p, 1)); r.RetryAfter != d || r.Delay != 0 {
				t.Fatalf("beyond Burst: %+v, want to retry in %v", r, d)
			}
			time.Sleep(d)
			if r := allowed(t, m, of(p, 1)); r.Delay != 2*d {
				t.Fatalf("delay %v, want %v", r.Delay, 2*d)
			}
		}},
		{"costs take as many turns", func(t *testing.T, m *limiter.Memory) {
			if r := allowed(t, m, of(p, 2)); r.Delay != 0 {
				t.Fatalf("the first is held for %v", r.Delay)
			}
			if r := allowed(t, m, of(p, 1)); r.Delay != 2*d {
				t.Fatalf("delay %v, want %v", r.Delay, 2*d)
			}
			if r := denied(t, m, of(p, 4)); r.RetryAfter != limiter.Never {
				t.Fatalf("more than Burst: %+v, want never", r)
			}
		}},
		{"MaxDelay bounds it further", func(t *testing.T, m *limiter.Memory) {
			allowed(t, m, of(p, 2))
			c := of(p, 1)
			c.MaxDelay = 2*d - 1
			if r := denied(t, m, c); r.RetryAfter != 1 {
				t.Fatalf("RetryAfter %v, want 1ns", r.RetryAfter)
			}
			c.MaxDelay = 2 * d
			if r := allowed(t, m, c); r.Delay != 2*d {
				t.Fatalf("delay %v, want %v", r.Delay, 2*d)
			}
			c.MaxDelay = time.Hour // and does not widen it
			denied(t, m, c)
		}},
		{"only the last gives its turn back", func(t *testing.T, m *limiter.Memory) {
			a, b := allowed(t, m, of(p, 1)), allowed(t, m, of(p, 1))
			refund(t, m, of(p, 1), &a)
			remaining(t, m, of(p, 0), 1)
			refund(t, m, of(p, 1), &b)
			remaining(t, m, of(p, 0), 2)
		}},
		{"a look takes nothing and is not held", func(t *testing.T, m *limiter.Memory) {
			allowed(t, m, of(p, 3))
			if r := allowed(t, m, of(p, 0)); r.Delay != 0 || r.RetryAfter != d || r.Remaining != 0 {
				t.Fatalf("look: %+v", r)
			}
		}},
		{"twice in one decision", func(t *testing.T, m *limiter.Memory) {
			rs := takeAll(t, m, of(p, 1), of(p, 2), of(limiter.PerHour("q", 1), 1))
			if rs[0].Delay != 0 || rs[1].Delay != d || rs[2].Delay != 0 {
				t.Fatalf("results %+v", rs)
			}
		}},
		{"reset", func(t *testing.T, m *limiter.Memory) {
			allowed(t, m, of(p, 3))
			if err := m.Reset(t.Context(), of(p, 0)); err != nil {
				t.Fatal(err)
			}
			if r := allowed(t, m, of(p, 1)); r.Delay != 0 || r.Remaining != 2 {
				t.Fatalf("after Reset: %+v", r)
			}
		}},
		{"apart from a TokenBucket of the same name", func(t *testing.T, m *limiter.Memory) {
			allowed(t, m, of(p, 3))
			remaining(t, m, of(per(s, 10, 3), 0), 3)
		}},
		{"Wait", func(t *testing.T, m *limiter.Memory) {
			start := time.Now()
			turns := make(chan int, 5)
			for i := range 5 { // 3 in order, 2 when there is room
				go func() {
					if err := limiter.Wait(t.Context(), m, of(p, 1)); err != nil {
						t.Error(err)
					}
					turns <- i
				}()
				time.Sleep(1)
			}
			for i := range 5 {
				if got := <-turns; i < 3 && got != i {
					t.Errorf("turn %d went to %d", i, got)
				}
			}
			if got := time.Since(start); got < 4*d || got > 4*d+10 {
				t.Errorf("five passed after %v, want %v", got, 4*d)
			}
		}},
		{"Wait with a deadline", func(t *testing.T, m *limiter.Memory) {
			allowed(t, m, of(p, 3))
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 3*d-1)
			defer cancel()
			if err := limiter.Wait(ctx, m, of(p, 1)); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 0 {
				t.Errorf("Wait = %v after %v, want that it fails at once", err, time.Since(start))
			}
			ctx, cancel = context.WithTimeout(t.Context(), 3*d+1)
			defer cancel()
			if err := limiter.Wait(ctx, m, of(p, 1)); err != nil || time.Since(start) != 3*d {
				t.Errorf("Wait = %v after %v, want success after %v", err, time.Since(start), 3*d)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) { tt.run(t, limiter.NewMemory(nil)) })
		})
	}
}

// The middleware holds requests until the last of their turns comes.
func TestMiddlewareHolds(t *testing.T) {
	slow, slower := leaky(s, 10, 5), leaky(s, 2, 3)
	slower.Name = "slower"
	for name, tt := range map[string]struct {
		rules limiter.Rules
		opts  *limiter.Options
		pace  time.Duration
	}{
		"one rule":            {limiter.Rules{{Policy: slow, Key: limiter.KeyGlobal}}, nil, 100 * ms},
		"without fields":      {limiter.Rules{{Policy: slow, Key: limiter.KeyGlobal}}, &limiter.Options{Headers: limiter.NoHeaders}, 100 * ms},
		"the longest":         {limiter.Rules{{Policy: slow, Key: limiter.KeyGlobal}, {Policy: slower, Key: limiter.KeyGlobal}}, nil, 500 * ms},
		"not for a shadow":    {limiter.Rules{{Policy: slow, Key: limiter.KeyGlobal}, {Policy: slower, Key: limiter.KeyGlobal, Shadow: true}}, nil, 100 * ms},
		"not for TokenBucket": {limiter.Rules{{Policy: limiter.PerSecond("p", 3), Key: limiter.KeyGlobal}}, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				start := time.Now()
				passed := make(chan time.Duration, 3)
				h := limiter.Middleware(limiter.NewMemory(nil), tt.rules, tt.opts)(http.HandlerFunc(
					func(http.ResponseWriter, *http.Request) { passed <- time.Since(start) }))
				for range 3 {
					go h.ServeHTTP(httptest.NewRecorder(), request(t))
				}
				for i := range 3 {
					if got, want := <-passed, time.Duration(i)*tt.pace; got != want {
						t.Errorf("request %d passed after %v, want %v", i, got, want)
					}
				}
			})
		})
	}
}

// A client that leaves while it is held gives back what it was charged by every
// rule, and the handler does not see the request.
func TestMiddlewareLetsGo(t *testing.T) {
	p, user := leaky(s, 1, 5), limiter.PerHour("user", 10)
	var statuses []int
	rules := limiter.Rules{
		{Policy: p, Key: limiter.KeyGlobal},
		{Policy: user, Key: limiter.KeyGlobal, RefundIf: func(status int) bool {
			statuses = append(statuses, status)
			return false
		}},
	}
	tests := []struct {
		name   string
		leave  func(context.Context) (context.Context, context.CancelFunc)
		status int
	}{
		{"client", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(300*ms, cancel)
			return ctx, cancel
		}, 499},
		{"deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 300*ms)
		}, http.StatusServiceUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				m, calls := limiter.NewMemory(nil), 0
				h := limiter.Middleware(m, rules, nil)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls++ }))
				h.ServeHTTP(httptest.NewRecorder(), request(t))
				statuses = nil
				ctx, cancel := tt.leave(t.Context())
				defer cancel()
				start := time.Now()
				w := httptest.NewRecorder()
				w.Code = 0
				h.ServeHTTP(w, request(t).WithContext(ctx))
				if got := time.Since(start); got != 300*ms || calls != 1 || w.Code != tt.status {
					t.Errorf("returned after %v with %d calls and status %d, want 300ms, 1 and %d", got, calls, w.Code, tt.status)
				}
				if len(statuses) > 0 {
					t.Errorf("RefundIf was asked about %v, though all was given back", statuses)
				}
				for _, p := range []limiter.Policy{p, user} {
					c := limiter.Charge{Policy: p, Key: key(t, limiter.KeyGlobal)}
					remaining(t, m, c, burstOf(p)-1)
				}
			})
		})
	}
}

func key(t *testing.T, f limiter.KeyFunc) string {
	t.Helper()
	k, err := f(request(t))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Many goroutines at once: exactly Burst are admitted, and each has a turn of
// its own.
func TestLeakyBucketUnderContention(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m, p := limiter.NewMemory(nil), leaky(s, 10, 100)
		var mu sync.Mutex
		var wg sync.WaitGroup
		turns := map[time.Duration]bool{}
		for range 64 {
			wg.Go(func() {
				for range 10 {
					if r := take(t, m, of(p, 1)); r.Allowed {
						mu.Lock()
						if turns[r.Delay] || r.Delay%(100*ms) != 0 || r.Delay >= 10*s {
							t.Errorf("a turn after %v", r.Delay)
						}
						turns[r.Delay] = true
						mu.Unlock()
					}
				}
			})
		}
		wg.Wait()
		if len(turns) != 100 {
			t.Errorf("%d were admitted, want 100", len(turns))
		}
	})
}
