package failover_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
)

// However many ask, a dead backend is asked Failures times and then at most once
// a second; when it is back, that is known within a second and the budget.
func TestProbes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault fault
		took  time.Duration // by a probe
	}{
		{"refuses", broken, 0},
		{"hangs", hangs, budget},
		{"hangs and ignores its context", after(time.Minute), budget},
	} {
		inTime(t, func(t *testing.T) {
			s := newServer()
			s.set(tt.fault)
			l := failover.New(s, failover.Local, nil)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			var back sync.Once
			var ended time.Time
			const callers, stagger, pause = 20, 20 * time.Microsecond, 5 * ms
			for i := range callers {
				wg.Go(func() {
					time.Sleep(time.Duration(i) * stagger)
					for ctx.Err() == nil {
						if r, err := l.Take(t.Context(), of(day(1), 1)); err != nil {
							t.Errorf("%s: Take: %v", tt.name, err)
						} else if r.Source != limiter.SourceFallback {
							back.Do(func() { ended = time.Now() })
						}
						time.Sleep(pause)
					}
				})
			}
			time.Sleep(60*time.Second + 500*ms)
			calls := slices.Clone(s.asked())
			s.set(healthy)
			resumed := time.Now()
			time.Sleep(5 * time.Second)
			cancel()
			wg.Wait()

			// Those that were under way when the breaker opened.
			first := 0
			for first < len(calls) && calls[first].Sub(calls[0]) <= time.Second/2 {
				first++
			}
			probes := calls[first:]
			if first < failover.DefaultFailures || tt.took == 0 && first > failover.DefaultFailures ||
				tt.took > 0 && calls[first-1].Sub(calls[0]) >= tt.took+callers*stagger {
				t.Errorf("%s: asked %d times before the breaker opened, the last after %v", tt.name, first, calls[first-1].Sub(calls[0]))
			}
			for i, at := range probes {
				before := calls[0]
				if i > 0 {
					before = probes[i-1]
				}
				if gap := at.Sub(before); gap <= time.Second+tt.took && i > 0 || gap <= time.Second {
					t.Errorf("%s: asked again after %v", tt.name, gap)
				}
			}
			// A pause of 1 s after the end of each, and the next caller a little later.
			if want := int(60500 * ms / (time.Second + tt.took + 2*ms)); len(probes) < want || len(probes) > 60 {
				t.Errorf("%s: %d probes in a minute, want %d to 60", tt.name, len(probes), want)
			}
			if took := ended.Sub(resumed); took <= 0 || took > time.Second+tt.took+2*pause {
				t.Errorf("%s: back after %v", tt.name, took)
			}
		})
	}
}

// Callers that leave can neither end a probe early nor put off the next: a
// backend that is back is found in the middle of a storm.
func TestProbeSurvivesItsCaller(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault fault
		back  bool
	}{
		{"answers", func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(30 * ms):
				return nil
			}
		}, true},
		{"hangs", hangs, false},
	} {
		inTime(t, func(t *testing.T) {
			s := newServer()
			l := failover.New(s, failover.Local, nil)
			open(t, l, s)
			calls := len(s.asked())
			s.set(tt.fault)
			time.Sleep(time.Second + 1)
			ctx, cancel := context.WithTimeout(t.Context(), 10*ms)
			defer cancel()
			start := time.Now()
			r, err := l.Take(ctx, of(day(10), 1))
			if tt.back && (err != nil || r.Source != limiter.SourceMemory) || !tt.back && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: the probe is answered %+v, %v", tt.name, r, err)
			}
			if took := time.Since(start); took > budget {
				t.Errorf("%s: the probe took %v", tt.name, took)
			}
			// Gone is gone: nobody asks for it.
			if _, err := l.Take(ctx, of(day(10), 1)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: Take with a context that has ended: %v", tt.name, err)
			}
			want := limiter.SourceFallback
			if tt.back {
				want = limiter.SourceMemory
			}
			if r := take(t, l, of(day(10), 1)); r.Source != want || r.Remaining != map[bool]int{true: 8, false: 9}[tt.back] {
				t.Errorf("%s: after the probe: %+v", tt.name, r)
			}
			if n := len(s.asked()) - calls; !tt.back && n != 1 {
				t.Errorf("%s: asked %d times", tt.name, n)
			}
		})
	}
}

// answering is a backend whose answers are made up.
type answering struct {
	limiter.Limiter
	answer func(c limiter.Charge) (limiter.Result, error)
}

func (a answering) Take(_ context.Context, c limiter.Charge) (limiter.Result, error) {
	return a.answer(c)
}

func (a answering) TakeAll(_ context.Context, cs []limiter.Charge) ([]limiter.Result, error) {
	var rs []limiter.Result
	for _, c := range cs {
		r, err := a.answer(c)
		if err != nil {
			return nil, err
		}
		rs = append(rs, r)
	}
	return rs, nil
}

// What is answered without asking the server neither hides its failures nor ends
// an outage, and does not take the place of a probe.
func TestNoSign(t *testing.T) {
	for _, tt := range []struct {
		name string
		r    limiter.Result
		err  error
	}{
		{"deny cache", limiter.Result{Source: limiter.SourceDenyCache, RetryAfter: 1}, nil},
		{"lease", limiter.Result{Allowed: true, Source: limiter.SourceLease}, nil},
		{"never", limiter.Result{Source: limiter.SourceRedis, RetryAfter: limiter.Never}, nil},
		{"invalid", limiter.Result{}, fmt.Errorf("not this one: %w", limiter.ErrPolicy)},
	} {
		for _, all := range []bool{false, true} {
			inTime(t, func(t *testing.T) {
				down := true
				l := failover.New(answering{answer: func(c limiter.Charge) (limiter.Result, error) {
					switch {
					case c.Key == "near":
						return tt.r, tt.err
					case down:
						return limiter.Result{}, errBroken
					}
					return limiter.Result{Allowed: true, Source: limiter.SourceRedis}, nil
				}}, failover.Open, nil)
				source := func(key string) limiter.Source {
					c := limiter.Charge{Policy: day(1), Key: key, Cost: 1}
					var r limiter.Result
					var err error
					if !all {
						r, err = l.Take(t.Context(), c)
					} else if rs, e := l.TakeAll(t.Context(), []limiter.Charge{c, c}); e != nil {
						err = e
					} else {
						r = rs[1]
					}
					if err != nil && !errors.Is(err, limiter.ErrPolicy) {
						t.Errorf("%s: %v", tt.name, err)
					}
					return r.Source
				}
				want := tt.r.Source
				for i := range failover.DefaultFailures {
					if got := source("near"); got != want {
						t.Errorf("%s: failure %d: Source %v, want %v", tt.name, i, got, want)
					}
					source("far")
				}
				if got := source("near"); got != limiter.SourceFallback {
					t.Errorf("%s: Source %v, want the breaker open", tt.name, got)
				}
				time.Sleep(time.Second + 1)
				for range 10 {
					if got := source("near"); got != want {
						t.Errorf("%s: half-open: Source %v, want %v", tt.name, got, want)
					}
				}
				if source("far"); source("near") != limiter.SourceFallback {
					t.Errorf("%s: the outage ended although the server is down", tt.name)
				}
				time.Sleep(time.Second + 1)
				down = false
				source("near")
				for range 3 {
					if got := source("far"); got != limiter.SourceRedis {
						t.Errorf("%s: Source %v, want the server's", tt.name, got)
					}
				}
			})
		}
	}
}

// Nor is there a sign in an answer to nothing.
func TestNoSignInNothing(t *testing.T) {
	inTime(t, func(t *testing.T) {
		s := newServer()
		l := failover.New(s, failover.Open, nil)
		open(t, l, s)
		for range 2 {
			s.set(healthy)
			if rs, err := l.TakeAll(t.Context(), nil); err != nil || len(rs) != 0 {
				t.Errorf("TakeAll of nothing = %+v, %v", rs, err)
			}
			r := limiter.Result{Allowed: true}
			if err := l.Refund(t.Context(), of(day(1), 1), &r); err != nil {
				t.Errorf("Refund of nothing: %v", err)
			}
			s.set(broken)
			if r := take(t, l, of(day(1), 1)); r.Source != limiter.SourceFallback {
				t.Errorf("Take = %+v", r)
			}
			before := len(s.asked())
			if take(t, l, of(day(1), 1)); len(s.asked()) != before {
				t.Error("the breaker is not open")
			}
			time.Sleep(time.Second + 1)
		}
	})
}

// While a probe is under way, others do not wait for it.
func TestOthersDoNotWait(t *testing.T) {
	inTime(t, func(t *testing.T) {
		s := newServer()
		l := failover.New(s, failover.Local, nil)
		open(t, l, s)
		calls := len(s.asked())
		s.set(hangs)
		time.Sleep(time.Second + 1)
		var wg sync.WaitGroup
		wg.Go(func() { take(t, l, of(day(1), 1)) })
		time.Sleep(budget / 2)
		for range 100 {
			start := time.Now()
			if r := take(t, l, of(day(1), 1)); r.Source != limiter.SourceFallback || time.Since(start) > 0 {
				t.Errorf("Take = %+v after %v", r, time.Since(start))
			}
		}
		wg.Wait()
		if n := len(s.asked()) - calls; n != 1 {
			t.Errorf("asked %d times, want once", n)
		}
	})
}

// Any answer between them makes failures not follow each other.
func TestFailuresInARow(t *testing.T) {
	inTime(t, func(t *testing.T) {
		s := newServer()
		l := failover.New(s, failover.Open, &failover.Options{Failures: 3})
		for i := range 30 {
			s.set(broken)
			if i%3 == 2 {
				s.set(healthy) // it denies: the quota is used up
			}
			r := take(t, l, of(day(1), 1))
			if want := i%3 != 2; want != (r.Source == limiter.SourceFallback) {
				t.Errorf("Take %d = %+v", i, r)
			}
		}
		if n := len(s.asked()); n != 30 {
			t.Errorf("asked %d times, want 30", n)
		}
		s.set(broken)
		for range 10 {
			take(t, l, of(day(1), 1))
		}
		if n := len(s.asked()); n != 33 {
			t.Errorf("asked %d times, want 33", n)
		}
	})
}

func TestObserver(t *testing.T) {
	inTime(t, func(t *testing.T) {
		var n notebook
		s := newServer()
		l := failover.New(s, failover.Open, &failover.Options{Failures: 2, Observer: &n})
		take(t, l, of(day(10), 1))
		start := time.Now()
		s.set(hangs)
		take(t, l, of(day(10), 1))
		s.set(broken)
		for range 3 {
			take(t, l, of(day(10), 1))
		}
		opened := time.Now()
		time.Sleep(time.Second + 1)
		take(t, l, of(day(10), 1))
		again := time.Now()
		time.Sleep(time.Second + 1)
		s.set(healthy)
		for range 3 {
			take(t, l, of(day(10), 1))
		}
		failure := limiter.Event{Kind: limiter.EventFailure, Start: opened, N: 1, Err: errBroken}
		change := func(k limiter.EventKind, at time.Time) limiter.Event { return limiter.Event{Kind: k, Start: at, N: 1} }
		want := []limiter.Event{
			{Kind: limiter.EventFailure, Start: start, Duration: budget, N: 1},
			change(limiter.EventBreakerOpen, opened), failure,
			change(limiter.EventBreakerHalfOpen, again), change(limiter.EventBreakerOpen, again), failure,
			change(limiter.EventBreakerHalfOpen, time.Now()), change(limiter.EventBreakerClosed, time.Now()),
		}
		want[5].Start = again
		if len(n.events) > 0 {
			if !errors.Is(n.events[0].Err, failover.ErrUnavailable) {
				t.Errorf("the error of the first failure is %v", n.events[0].Err)
			}
			want[0].Err = n.events[0].Err
		}
		if !slices.Equal(n.events, want) {
			t.Errorf("events\n got %+v\nwant %+v", n.events, want)
		}
	})
}

// The Observer is told one after the other, with no lock held: it may ask.
func TestObserverMayAsk(t *testing.T) {
	inTime(t, func(t *testing.T) {
		s := newServer()
		s.set(broken)
		var l limiter.Limiter
		var kinds []limiter.EventKind
		busy := false
		l = failover.New(s, failover.Open, &failover.Options{Observer: observing(func(e limiter.Event) {
			if e.Kind == limiter.EventFailure {
				return
			}
			if busy {
				t.Error("told of two changes at once")
			}
			busy = true
			time.Sleep(1200 * ms) // and so the next change is there before it has ended
			take(t, l, of(day(1), 1))
			kinds = append(kinds, e.Kind)
			busy = false
		})})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for i := range 10_000 {
					if i == 5000 {
						s.set(healthy)
					}
					l.Take(t.Context(), of(day(1), 1))
					time.Sleep(ms)
				}
			})
		}
		wg.Wait()
		want := []limiter.EventKind{
			limiter.EventBreakerOpen, limiter.EventBreakerHalfOpen, limiter.EventBreakerOpen,
			limiter.EventBreakerHalfOpen, limiter.EventBreakerOpen, limiter.EventBreakerHalfOpen, limiter.EventBreakerClosed,
		}
		if len(kinds) < 3 || !slices.Equal(kinds[:2], want[:2]) || kinds[len(kinds)-1] != limiter.EventBreakerClosed {
			t.Errorf("told of %v, want something like %v", kinds, want)
		}
		for i, k := range kinds[1:] {
			if (k == limiter.EventBreakerHalfOpen) != (kinds[i] == limiter.EventBreakerOpen) {
				t.Errorf("told of %v: %v after %v", kinds, k, kinds[i])
			}
		}
	})
}

// An Observer that panics does no lasting harm.
func TestObserverMayPanic(t *testing.T) {
	inTime(t, func(t *testing.T) {
		s := newServer()
		l := failover.New(s, failover.Open, &failover.Options{Failures: 1, Observer: observing(func(limiter.Event) { panic("oops") })})
		recovered := func() (panicked bool) {
			defer func() { panicked = recover() != nil }()
			take(t, l, of(day(10), 1))
			return
		}
		for range 3 {
			s.set(broken)
			if !recovered() {
				t.Error("the Observer was not told")
			}
			time.Sleep(time.Second + 1)
		}
		s.set(healthy)
		recovered()
		if r := take(t, l, of(day(10), 1)); r.Source != limiter.SourceMemory {
			t.Errorf("Take = %+v after the outage", r)
		}
	})
}

type observing func(limiter.Event)

func (o observing) Observe(_ context.Context, e limiter.Event) { o(e) }
