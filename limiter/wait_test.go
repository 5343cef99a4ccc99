package limiter_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

func TestWait(t *testing.T) {
	const d = 100 * ms
	p := per(s, 10, 3)
	// wait expects Wait to return err after a time.
	wait := func(t *testing.T, ctx context.Context, m limiter.Limiter, cost int, after time.Duration, want error) {
		t.Helper()
		start := time.Now()
		err := limiter.Wait(ctx, m, of(p, cost))
		if !errors.Is(err, want) || time.Since(start) != after {
			t.Errorf("Wait for %d = %v after %v, want %v after %v", cost, err, time.Since(start), want, after)
		}
	}
	tests := []struct {
		name string
		run  func(t *testing.T, m *limiter.Memory)
	}{
		{"cancelled before", func(t *testing.T, m *limiter.Memory) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			wait(t, ctx, m, 1, 0, context.Canceled)
			remaining(t, m, of(p, 0), 3)
		}},
		{"more than the capacity", func(t *testing.T, m *limiter.Memory) {
			wait(t, t.Context(), m, 4, 0, limiter.ErrNever)
			remaining(t, m, of(p, 0), 3)
		}},
		{"now, then later", func(t *testing.T, m *limiter.Memory) {
			wait(t, t.Context(), m, 2, 0, nil)
			wait(t, t.Context(), m, 3, 2*d, nil)
		}},
		{"nothing", func(t *testing.T, m *limiter.Memory) {
			wait(t, t.Context(), m, 3, 0, nil)
			wait(t, t.Context(), m, 0, 0, nil)
		}},
		{"cancelled while waiting", func(t *testing.T, m *limiter.Memory) {
			wait(t, t.Context(), m, 2, 0, nil)
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(d, cancel)
			wait(t, ctx, m, 3, d, context.Canceled)
			remaining(t, m, of(p, 0), 2) // 1 left, 1 came back in d, 3 given back
		}},
		{"the turn comes after the deadline", func(t *testing.T, m *limiter.Memory) {
			wait(t, t.Context(), m, 3, 0, nil)
			// Not d: of a deadline and a turn at one instant either may come first.
			ctx, cancel := context.WithTimeout(t.Context(), d+1)
			defer cancel()
			wait(t, ctx, m, 2, 0, context.DeadlineExceeded)
			wait(t, ctx, m, 1, d, nil) // and not a moment too late
		}},
		{"in the order of arrival", func(t *testing.T, m *limiter.Memory) {
			wait(t, t.Context(), m, 3, 0, nil)
			turns := make(chan int, 3)
			for i := range 3 {
				go func() {
					if err := limiter.Wait(t.Context(), m, of(p, 1)); err != nil {
						t.Error(err)
					}
					turns <- i
				}()
				time.Sleep(1) // so that they arrive in order
			}
			for i := range 3 {
				if got := <-turns; got != i {
					t.Errorf("turn %d went to %d", i, got)
				}
			}
		}},
		{"MaxDelay does not matter", func(t *testing.T, m *limiter.Memory) {
			c := of(p, 3)
			c.MaxDelay = 1
			start := time.Now()
			for range 2 {
				if err := limiter.Wait(t.Context(), m, c); err != nil {
					t.Error(err)
				}
			}
			if got := time.Since(start); got != 3*d {
				t.Errorf("took %v, want %v", got, 3*d)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) { tt.run(t, limiter.NewMemory(nil)) })
		})
	}
}

// A Memory without room gives no turns: Wait asks again.
func TestWaitForRoom(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 1 << 10, RefuseNew: true})
		fill(t, m, limiter.PerMinute("flood", 1), "", 100)
		start := time.Now()
		if err := limiter.Wait(t.Context(), m, of(per(s, 1, 0), 1)); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(start); got != time.Minute {
			t.Errorf("waited %v, want 1m until there is room", got)
		}
		fill(t, m, limiter.PerMinute("flood", 1), "", 100)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c := limiter.Charge{Policy: per(s, 1, 0), Key: "other", Cost: 1}
		if err := limiter.Wait(ctx, m, c); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait = %v, want that the deadline comes first", err)
		}
	})
}

func TestWaitFailures(t *testing.T) {
	broken := errors.New("broken")
	l := scripted{take: func(context.Context, limiter.Charge) (limiter.Result, error) { return limiter.Result{}, broken }}
	if err := limiter.Wait(t.Context(), l, of(per(s, 1, 0), 1)); err != broken {
		t.Errorf("Wait = %v, want the Limiter's error", err)
	}
	// Giving back goes on although the caller has left, but not for ever.
	inTime(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		refunds := 0
		l := scripted{
			take: func(context.Context, limiter.Charge) (limiter.Result, error) {
				return limiter.Result{Allowed: true, Delay: time.Minute}, nil
			},
			refund: func(ctx context.Context, c limiter.Charge, r *limiter.Result) error {
				refunds++
				deadline, ok := ctx.Deadline()
				if ctx.Err() != nil || !ok || time.Until(deadline) != time.Second {
					t.Errorf("Refund with %v, deadline %v %v", ctx.Err(), deadline, ok)
				}
				return broken
			},
		}
		if err := limiter.Wait(ctx, l, of(per(s, 1, 0), 1)); err != context.Canceled || refunds != 1 {
			t.Errorf("Wait = %v after %d refunds, want context.Canceled after 1", err, refunds)
		}
	})
}
