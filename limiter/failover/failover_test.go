package failover_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
	"github.com/goweir/weir/limiter/limitertest"
)

// A failover keeps the contract as its backend does, in every mode; and so does
// the memory that stands in for a dead backend.
func TestConforms(t *testing.T) {
	// The checks keep the machine busier than any budget for decisions allows.
	opts := &failover.Options{Budget: time.Minute}
	some := &limitertest.Options{Algorithms: []limiter.Algorithm{limiter.TokenBucket}}
	var all *limitertest.Options
	if testing.Short() {
		all = some
	}
	for mode, suite := range map[failover.Mode]*limitertest.Options{failover.Closed: some, failover.Open: some, failover.Local: all} {
		t.Run(mode.String(), func(t *testing.T) {
			limitertest.Run(t, func(*testing.T) limiter.Limiter {
				return failover.New(limiter.NewMemory(nil), mode, opts)
			}, suite)
		})
	}
	t.Run("stand-in", func(t *testing.T) {
		limitertest.Run(t, func(*testing.T) limiter.Limiter {
			s := newServer()
			s.set(broken)
			return unreset{failover.New(s, failover.Local, opts)}
		}, all)
	})
}

// unreset forgives that a Reset fails while the backend is away.
type unreset struct{ limiter.Limiter }

func (l unreset) Reset(ctx context.Context, c limiter.Charge) error {
	if err := l.Limiter.Reset(ctx, c); !errors.Is(err, failover.ErrUnavailable) {
		return errors.Join(errors.New("Reset did not say that the backend failed"), err)
	}
	return nil
}

func TestModes(t *testing.T) {
	p := limiter.PerDay("p", 10)
	for _, tt := range []struct {
		mode failover.Mode
		c    limiter.Charge
		want limiter.Result // Receipt and times aside
		err  error
	}{
		{failover.Closed, of(p, 1), limiter.Result{}, failover.ErrUnavailable},
		{failover.Closed, of(p, 11), limiter.Result{}, failover.ErrUnavailable},
		{failover.Open, of(p, 1), limiter.Result{Allowed: true, Limit: 10, Remaining: -1, Source: limiter.SourceFallback}, nil},
		{failover.Open, of(p, 10), limiter.Result{Allowed: true, Limit: 10, Remaining: -1, Source: limiter.SourceFallback}, nil},
		{failover.Open, of(p, 11), limiter.Result{Limit: 10, Remaining: -1, RetryAfter: limiter.Never, Source: limiter.SourceFallback}, nil},
		{failover.Open, of(limiter.PerDay("p", 0), 1), limiter.Result{Remaining: -1, RetryAfter: limiter.Never, Source: limiter.SourceFallback}, nil},
		{failover.Open, of(limiter.PerDay("p", 0), 0), limiter.Result{Remaining: -1, RetryAfter: limiter.Never, Source: limiter.SourceFallback}, nil},
		{failover.Open, of(limiter.Policy{Name: "p", Window: time.Hour, Burst: 8}, 1), limiter.Result{Remaining: -1, RetryAfter: limiter.Never, Source: limiter.SourceFallback}, nil},
		{failover.Local, of(p, 1), limiter.Result{Allowed: true, Limit: 10, Remaining: 1, Source: limiter.SourceFallback}, nil},
		{failover.Local, of(p, 9), limiter.Result{Allowed: true, Limit: 10, Remaining: 0, Source: limiter.SourceFallback}, nil},
		{failover.Local, of(p, 11), limiter.Result{Limit: 10, Remaining: 2, RetryAfter: limiter.Never, Source: limiter.SourceFallback}, nil},
		{failover.Local, of(limiter.PerDay("p", 0), 1), limiter.Result{RetryAfter: limiter.Never, Source: limiter.SourceFallback}, nil},
	} {
		inTime(t, func(t *testing.T) {
			s := newServer()
			s.set(broken)
			l := failover.New(s, tt.mode, &failover.Options{Instances: 4})
			for range 2 { // once because the call fails, once because the breaker is open
				r, err := l.Take(t.Context(), tt.c)
				if !errors.Is(err, tt.err) || (tt.err != nil) != errors.Is(err, errBroken) && len(s.asked()) == 1 {
					t.Errorf("%v: Take(%+v): error %v, want %v, because of %v", tt.mode, tt.c, err, tt.err, errBroken)
				}
				r.Receipt, r.ResetAfter, r.MoreAfter = limiter.Receipt{}, 0, 0
				if r != tt.want {
					t.Errorf("%v: Take(%+v)\n got %+v\nwant %+v", tt.mode, tt.c, r, tt.want)
				}
				rs, err := l.TakeAll(t.Context(), []limiter.Charge{tt.c})
				if tt.err != nil {
					if !errors.Is(err, tt.err) || rs != nil {
						t.Errorf("%v: TakeAll(%+v) = %+v, %v, want %v", tt.mode, tt.c, rs, err, tt.err)
					}
				} else if err != nil || len(rs) != 1 || rs[0].Source != limiter.SourceFallback || rs[0].Limit != tt.want.Limit {
					t.Errorf("%v: TakeAll(%+v) = %+v, %v", tt.mode, tt.c, rs, err)
				}
				l = failover.New(s, tt.mode, &failover.Options{Instances: 4})
				open(t, l, s)
			}
		})
	}
}

// An invalid charge is its caller's fault in every mode and every state, and the
// backend is not asked.
func TestInvalid(t *testing.T) {
	for _, mode := range []failover.Mode{failover.Closed, failover.Open, failover.Local} {
		inTime(t, func(t *testing.T) {
			s := newServer()
			l := failover.New(s, mode, nil)
			for range 2 {
				for _, c := range []limiter.Charge{
					of(limiter.Policy{}, 1), of(limiter.PerDay("p", -1), 1), of(day(1), -1),
					{Policy: day(1), Cost: 1, MaxDelay: -1},
				} {
					if r, err := l.Take(t.Context(), c); !errors.Is(err, limiter.ErrPolicy) {
						t.Errorf("%v: Take(%+v) = %+v, %v, want ErrPolicy", mode, c, r, err)
					}
					if r, err := l.TakeAll(t.Context(), []limiter.Charge{of(day(1), 1), c}); !errors.Is(err, limiter.ErrPolicy) {
						t.Errorf("%v: TakeAll(%+v) = %+v, %v, want ErrPolicy", mode, c, r, err)
					}
				}
				if n := len(s.asked()); n != 0 && n != failover.DefaultFailures {
					t.Errorf("%v: the backend was asked %d times", mode, n)
				}
				open(t, l, s)
			}
		})
	}
}

func TestNewPanics(t *testing.T) {
	for _, tt := range []struct {
		l    limiter.Limiter
		mode failover.Mode
		opts failover.Options
		want []string
	}{
		{nil, failover.Closed, failover.Options{}, []string{"the Limiter is nil"}},
		{newServer(), 3, failover.Options{}, []string{"Mode(3)", "Closed, Open, Local"}},
		{nil, 9, failover.Options{Budget: -1, Instances: -2, Failures: -3},
			[]string{"nil", "Mode(9)", "Budget is -1ns; allowed: 0 (50ms)", "Instances is -2", "Failures is -3; allowed: 0 (5)"}},
	} {
		func() {
			defer func() {
				err, _ := recover().(error)
				for _, want := range tt.want {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("New(%v, %v, %+v) panics with %v, want %q in it", tt.l, tt.mode, tt.opts, err, want)
					}
				}
			}()
			failover.New(tt.l, tt.mode, &tt.opts)
		}()
	}
}

func TestModeString(t *testing.T) {
	var zero failover.Mode
	for m, want := range map[failover.Mode]string{zero: "closed", failover.Open: "open", failover.Local: "local", 7: "Mode(7)"} {
		if got := m.String(); got != want {
			t.Errorf("String() = %q, want %q", got, want)
		}
	}
}

// Whoever wrote a Result gets it back, whoever decides by then.
func TestRefund(t *testing.T) {
	inTime(t, func(t *testing.T) {
		s, p := newServer(), day(10)
		l := failover.New(s, failover.Local, &failover.Options{Instances: 2})
		theirs := take(t, l, of(p, 3))
		open(t, l, s)
		ours := take(t, l, of(p, 2))
		if theirs.Source != limiter.SourceMemory || ours.Source != limiter.SourceFallback || left(t, l, p) != 3 {
			t.Fatalf("got %+v, then %+v, and %d left", theirs, ours, left(t, l, p))
		}

		// The backend is not asked, so the units are not lost yet.
		if err := l.Refund(t.Context(), of(p, 3), &theirs); !errors.Is(err, failover.ErrUnavailable) || theirs.Receipt == (limiter.Receipt{}) {
			t.Fatalf("Refund while the breaker is open: %v, %+v", err, theirs)
		}
		again := ours
		if err := l.Refund(t.Context(), of(p, 2), &ours); err != nil || ours.Receipt != (limiter.Receipt{}) || left(t, l, p) != 5 {
			t.Errorf("Refund of the fallback's: %v, %+v, %d left", err, ours, left(t, l, p))
		}
		ours = again

		s.set(healthy)
		time.Sleep(time.Second + 1)
		if err := l.Refund(t.Context(), of(p, 3), &theirs); err != nil || theirs.Receipt != (limiter.Receipt{}) {
			t.Errorf("Refund after the outage: %v, %+v", err, theirs)
		}
		if n := left(t, l, p); n != 10 {
			t.Errorf("%d left after the refund, want 10", n)
		}
		// The fallback's has nothing to do with the backend, which must not
		// gain units by it.
		take(t, l, of(p, 5))
		before, _, _ := s.counts()
		err := l.Refund(t.Context(), of(p, 2), &ours)
		if n, _, _ := s.counts(); err != nil || left(t, l, p) != 5 || n != before {
			t.Errorf("Refund of the fallback's after the outage: %v, %d left, asked %d times", err, left(t, l, p), n-before)
		}
	})
}

// A refund that may have been carried out is not tried again.
func TestRefundUnanswered(t *testing.T) {
	inTime(t, func(t *testing.T) {
		s, p := newServer(), day(10)
		l := failover.New(s, failover.Closed, nil)
		r := take(t, l, of(p, 4))
		s.set(after(80 * ms))
		if err := l.Refund(t.Context(), of(p, 4), &r); !errors.Is(err, failover.ErrUnavailable) || r.Receipt != (limiter.Receipt{}) {
			t.Errorf("Refund = %v, %+v", err, r)
		}
		time.Sleep(time.Second)
		s.set(healthy)
		for range 3 {
			err := l.Refund(t.Context(), of(p, 4), &r)
			if n, _, _ := s.counts(); err != nil || left(t, l, p) != 10 || n != 1 {
				t.Errorf("Refund = %v, %d left, asked %d times", err, left(t, l, p), n)
			}
		}
		if err := l.Refund(t.Context(), of(p, 4), nil); err != nil {
			t.Errorf("Refund of nil: %v", err)
		}
	})
}

func TestReset(t *testing.T) {
	inTime(t, func(t *testing.T) {
		s, p := newServer(), day(10)
		l := failover.New(s, failover.Local, nil)
		take(t, l, of(p, 7))
		open(t, l, s)
		take(t, l, of(p, 4))
		if err := l.Reset(t.Context(), of(p, 1)); !errors.Is(err, failover.ErrUnavailable) {
			t.Errorf("Reset while the breaker is open: %v", err)
		}
		if n := left(t, l, p); n != 10 {
			t.Errorf("%d left in memory, want 10", n)
		}
		take(t, l, of(p, 4))
		s.set(healthy)
		time.Sleep(time.Second + 1)
		if err := l.Reset(t.Context(), of(p, 1)); err != nil || left(t, l, p) != 10 {
			t.Errorf("Reset: %v, %d left", err, left(t, l, p))
		}
		open(t, l, s)
		if n := left(t, l, p); n != 10 {
			t.Errorf("%d left in memory, want 10", n)
		}
	})
}

// Wait waits in whatever decides.
func TestWait(t *testing.T) {
	p := limiter.PerSecond("p", 2)
	for _, tt := range []struct {
		mode failover.Mode
		took time.Duration
		err  error
	}{
		{failover.Closed, 0, failover.ErrUnavailable},
		{failover.Open, 0, nil},
		{failover.Local, 3 * time.Second, nil}, // one at once, and one a second
	} {
		inTime(t, func(t *testing.T) {
			s := newServer()
			s.set(broken)
			l := failover.New(s, tt.mode, &failover.Options{Instances: 2})
			start := time.Now()
			for range 4 {
				if err := limiter.Wait(t.Context(), l, of(p, 1)); !errors.Is(err, tt.err) {
					t.Errorf("%v: Wait: %v, want %v", tt.mode, err, tt.err)
				}
			}
			if took := time.Since(start); took != tt.took {
				t.Errorf("%v: took %v, want %v", tt.mode, took, tt.took)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*ms)
			defer cancel()
			if err := limiter.Wait(ctx, l, of(p, 1)); tt.mode == failover.Local && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v: Wait with too early a deadline: %v", tt.mode, err)
			}
		})
	}
}
