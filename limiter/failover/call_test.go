package failover_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
)

// However the backend fails to answer, a decision takes no longer than the
// budget, and once the breaker is open, no time.
func TestBudget(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault fault
		took  time.Duration
	}{
		{"refuses", broken, 0},
		{"hangs", hangs, budget},
		{"hangs and ignores its context", after(time.Minute), budget},
		{"answers late", after(budget + 1), budget},
		{"fails late", func(ctx context.Context) error { time.Sleep(70 * ms); return errBroken }, budget},
	} {
		for _, mode := range []failover.Mode{failover.Closed, failover.Open, failover.Local} {
			inTime(t, func(t *testing.T) {
				s := newServer()
				s.set(tt.fault)
				l := failover.New(s, mode, nil)
				for i := range 10 {
					start := time.Now()
					r, err := l.Take(t.Context(), of(day(100), 1))
					if (err == nil) == (mode == failover.Closed) || err == nil && r.Source != limiter.SourceFallback {
						t.Errorf("%s, %v: Take = %+v, %v", tt.name, mode, r, err)
					}
					want := tt.took
					if i >= failover.DefaultFailures {
						want = 0
					}
					if took := time.Since(start); took != want {
						t.Errorf("%s, %v: decision %d took %v, want %v", tt.name, mode, i, took, want)
					}
				}
				if n := len(s.asked()); n != failover.DefaultFailures {
					t.Errorf("%s, %v: the backend was asked %d times, want %d", tt.name, mode, n, failover.DefaultFailures)
				}
			})
		}
	}
}

// An answer within the budget is the backend's, also in the last moment.
func TestInTime(t *testing.T) {
	inTime(t, func(t *testing.T) {
		s := newServer()
		s.set(after(budget - 1))
		l := failover.New(s, failover.Local, nil)
		for i := range 20 {
			if r := take(t, l, of(day(10), 1)); r.Source != limiter.SourceMemory || r.Allowed != (i < 10) {
				t.Errorf("Take %d = %+v", i, r)
			}
		}
	})
}

// A grant that comes too late is the fallback's to count and not the backend's:
// each unit is counted once.
func TestLateReply(t *testing.T) {
	for _, all := range []bool{false, true} {
		inTime(t, func(t *testing.T) {
			s, p := newServer(), day(10)
			q := limiter.PerDay("other", 10)
			l := failover.New(s, failover.Local, nil)
			s.set(after(budget + ms))
			cs := []limiter.Charge{of(p, 3), of(q, 2)}
			if all {
				rs, err := l.TakeAll(t.Context(), cs)
				if err != nil || rs[0].Source != limiter.SourceFallback || rs[0].Remaining != 7 || rs[1].Remaining != 8 {
					t.Fatalf("TakeAll = %+v, %v", rs, err)
				}
				cs[0], cs[1] = limiter.Charge{}, limiter.Charge{} // they belong to the caller again
			} else if r := take(t, l, of(p, 3)); r.Source != limiter.SourceFallback || r.Remaining != 7 {
				t.Fatalf("Take = %+v", r)
			}
			if n := left(t, s.Limiter, p); n != 10 {
				t.Errorf("%d left in the backend before it answers, want 10", n)
			}
			time.Sleep(2 * ms) // it has answered; giving back takes it as long
			if n := left(t, s.Limiter, p); n != 7 {
				t.Errorf("%d left in the backend after it answered, want 7", n)
			}
			time.Sleep(time.Second)
			if n, m := left(t, s.Limiter, p), left(t, s.Limiter, q); n != 10 || m != 10 {
				t.Errorf("%d and %d left in the backend in the end, want 10", n, m)
			}
			open(t, l, s)
			if n := left(t, l, p); n != 7 {
				t.Errorf("%d left in the fallback, want 7", n)
			}
		})
	}
}

// Calls that hang for good do not pile up, whatever the breaker thinks.
func TestNoPileUp(t *testing.T) {
	inTime(t, func(t *testing.T) {
		s := newServer()
		release := make(chan struct{})
		s.set(func(context.Context) error { <-release; return nil })
		l := failover.New(s, failover.Open, &failover.Options{Failures: 1 << 30})
		const callers = 100
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for range 50 {
					take(t, l, of(day(1), 1))
				}
			})
		}
		wg.Wait()
		if _, inside, most := s.counts(); most < 1000 || most > 1000+callers || inside != most {
			t.Errorf("%d calls hang, %d at most, want 1000 or a few more", inside, most)
		}
		before := len(s.asked())
		start := time.Now()
		if r := take(t, l, of(day(1), 1)); r.Source != limiter.SourceFallback || time.Since(start) > 0 || len(s.asked()) != before {
			t.Errorf("Take = %+v after %v, asked %d times more", r, time.Since(start), len(s.asked())-before)
		}
		close(release)
		synctest.Wait()
		if r := take(t, l, of(day(1), 1)); r.Source != limiter.SourceMemory {
			t.Errorf("Take = %+v after all have returned", r)
		}
	})
}

// A storm of callers that leave says nothing about the backend.
func TestStorm(t *testing.T) {
	cancelled := func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(20*ms, cancel)
		return ctx, cancel
	}
	gone := func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		return ctx, cancel
	}
	hurried := func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, 20*ms)
	}
	for _, tt := range []struct {
		name  string
		leave func(context.Context) (context.Context, context.CancelFunc)
		fault fault
		want  error
	}{
		{"cancelled", cancelled, hangs, context.Canceled},
		{"cancelled, ignored", cancelled, after(30 * ms), context.Canceled},
		{"cancelled, failed", cancelled, func(ctx context.Context) error { <-ctx.Done(); return errBroken }, context.Canceled},
		{"gone before", gone, hangs, context.Canceled},
		{"deadline", hurried, hangs, context.DeadlineExceeded},
		{"deadline, ignored", hurried, after(30 * ms), context.DeadlineExceeded},
		// A socket's deadline may end before the context that it was taken from.
		{"deadline, of the socket", hurried, func(ctx context.Context) error {
			d, _ := ctx.Deadline()
			time.Sleep(time.Until(d))
			return os.ErrDeadlineExceeded
		}, context.DeadlineExceeded},
	} {
		inTime(t, func(t *testing.T) {
			var n notebook
			s := newServer()
			s.set(tt.fault)
			l := failover.New(s, failover.Closed, &failover.Options{Observer: &n})
			callers := 10_000
			if testing.Short() {
				callers = 2000
			}
			var wg sync.WaitGroup
			for i := range callers {
				wg.Go(func() {
					time.Sleep(time.Duration(i/500) * 35 * ms)
					ctx, cancel := tt.leave(t.Context())
					defer cancel()
					start := time.Now()
					if _, err := l.Take(ctx, of(day(1), 1)); !errors.Is(err, tt.want) || errors.Is(err, failover.ErrUnavailable) {
						t.Errorf("%s: Take: %v, want %v", tt.name, err, tt.want)
					}
					if took := time.Since(start); took > 20*ms {
						t.Errorf("%s: a caller left after 20ms and was held for %v", tt.name, took)
					}
				})
			}
			wg.Wait()
			time.Sleep(time.Minute)
			s.set(healthy)
			// What was granted too late has been given back.
			if r := take(t, l, of(day(1), 1)); !r.Allowed || r.Source != limiter.SourceMemory {
				t.Errorf("%s: after the storm: %+v", tt.name, r)
			}
			if k := n.kinds(); len(k) != 0 {
				t.Errorf("%s: the Observer was told of %v", tt.name, k)
			}
		})
	}
}

// A deadline that lies behind the budget is no excuse for the backend.
func TestLaterDeadline(t *testing.T) {
	inTime(t, func(t *testing.T) {
		s := newServer()
		s.set(hangs)
		l := failover.New(s, failover.Open, nil)
		for range failover.DefaultFailures + 3 {
			ctx, cancel := context.WithTimeout(t.Context(), budget+1)
			if r, err := l.Take(ctx, of(day(1), 1)); err != nil || r.Source != limiter.SourceFallback {
				t.Errorf("Take = %+v, %v", r, err)
			}
			cancel()
		}
		if n := len(s.asked()); n != failover.DefaultFailures {
			t.Errorf("the backend was asked %d times", n)
		}
	})
}

// Nor is a caller that leaves when the budget is over already.
func TestLeftTooLate(t *testing.T) {
	inTime(t, func(t *testing.T) {
		s := newServer()
		s.set(after(time.Second))
		l := failover.New(s, failover.Open, nil)
		for range failover.DefaultFailures + 3 {
			ctx := &mute{Context: t.Context()}
			time.AfterFunc(budget-1, ctx.end)
			if _, err := l.Take(ctx, of(day(1), 1)); err != nil && err != context.Canceled {
				t.Errorf("Take: %v", err)
			}
		}
		if n := len(s.asked()); n != failover.DefaultFailures {
			t.Errorf("the backend was asked %d times", n)
		}
	})
}

// mute is a context that ends without a word, so that what waits for its end
// hears of something else first.
type mute struct {
	context.Context
	ended atomic.Bool
}

func (*mute) Done() <-chan struct{} { return nil }
func (m *mute) end()                { m.ended.Store(true) }
func (m *mute) Err() error {
	if m.ended.Load() {
		return context.Canceled
	}
	return nil
}

// A panic reaches the caller, as it would without a goroutine between, and
// counts as a failure. When nobody waits any more it is a failure only.
func TestPanic(t *testing.T) {
	inTime(t, func(t *testing.T) {
		s := newServer()
		s.set(func(context.Context) error { panic("oops") })
		l := failover.New(s, failover.Open, nil)
		for range failover.DefaultFailures {
			func() {
				defer func() {
					err, _ := recover().(error)
					if err == nil || !strings.Contains(err.Error(), "oops") || !strings.Contains(err.Error(), "call_test.go") {
						t.Errorf("panic of %v, want that of the backend and where it was", err)
					}
				}()
				l.Take(t.Context(), of(day(1), 1))
				t.Error("no panic")
			}()
		}
		if r := take(t, l, of(day(1), 1)); r.Source != limiter.SourceFallback {
			t.Errorf("Take = %+v, want the breaker open", r)
		}
	})
	inTime(t, func(t *testing.T) {
		s := newServer()
		s.set(func(context.Context) error { time.Sleep(time.Second); panic("oops") })
		l := failover.New(s, failover.Open, nil)
		if r := take(t, l, of(day(1), 1)); r.Source != limiter.SourceFallback {
			t.Errorf("Take = %+v", r)
		}
		time.Sleep(time.Minute)
	})
	// A late grant that cannot be given back.
	inTime(t, func(t *testing.T) {
		s := newServer()
		s.set(after(60 * ms))
		l := failover.New(s, failover.Open, nil)
		take(t, l, of(day(1), 1))
		s.set(func(context.Context) error { panic("oops") })
		time.Sleep(time.Minute)
		if refunds, inside, _ := s.counts(); refunds != 1 || inside != 0 {
			t.Errorf("%d refunds, %d calls hang", refunds, inside)
		}
	})
	// A goroutine that ends is an answer too.
	inTime(t, func(t *testing.T) {
		s := newServer()
		s.set(func(context.Context) error { runtime.Goexit(); return nil })
		l := failover.New(s, failover.Open, nil)
		start := time.Now()
		if r := take(t, l, of(day(1), 1)); r.Source != limiter.SourceFallback || time.Since(start) > 0 {
			t.Errorf("Take = %+v after %v", r, time.Since(start))
		}
	})
}
