package failover_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
)

const (
	ms     = time.Millisecond
	budget = failover.DefaultBudget
)

var errBroken = errors.New("broken")

// inTime runs f in a bubble, where time stands still unless everybody sleeps. A
// goroutine that is still there an hour later is a failure.
func inTime(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t)
		time.Sleep(time.Hour)
	})
}

// A fault is what a backend does before it decides; an error is its answer.
type fault func(ctx context.Context) error

func healthy(context.Context) error { return nil }
func broken(context.Context) error  { return errBroken }

// hangs until its context ends.
func hangs(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// after answers late, and does not look at its context.
func after(d time.Duration) fault {
	return func(context.Context) error {
		time.Sleep(d)
		return nil
	}
}

// A server is a backend with faults. It writes down when it was asked to take.
type server struct {
	limiter.Limiter
	mu      sync.Mutex
	fault   fault
	calls   []time.Time
	refunds int
	inside  int // calls that have not returned
	most    int
}

func newServer() *server { return &server{Limiter: limiter.NewMemory(nil), fault: healthy} }

// set says what happens to calls from now on.
func (s *server) set(f fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

func (s *server) asked() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

// counts returns how often a refund or a reset was asked for, and how many calls
// have not returned, now and at most.
func (s *server) counts() (refunds, inside, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refunds, s.inside, s.most
}

func (s *server) enter(ctx context.Context, take bool) error {
	s.mu.Lock()
	f := s.fault
	if take {
		s.calls = append(s.calls, time.Now())
	} else {
		s.refunds++
	}
	s.inside++
	s.most = max(s.most, s.inside)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.inside--
		s.mu.Unlock()
	}()
	return f(ctx)
}

func (s *server) Take(ctx context.Context, c limiter.Charge) (limiter.Result, error) {
	if err := s.enter(ctx, true); err != nil {
		return limiter.Result{}, err
	}
	return s.Limiter.Take(ctx, c)
}

func (s *server) TakeAll(ctx context.Context, cs []limiter.Charge) ([]limiter.Result, error) {
	if err := s.enter(ctx, true); err != nil {
		return nil, err
	}
	return s.Limiter.TakeAll(ctx, cs)
}

func (s *server) Refund(ctx context.Context, c limiter.Charge, r *limiter.Result) error {
	if err := s.enter(ctx, false); err != nil {
		return err
	}
	return s.Limiter.Refund(ctx, c, r)
}

func (s *server) Reset(ctx context.Context, c limiter.Charge) error {
	if err := s.enter(ctx, false); err != nil {
		return err
	}
	return s.Limiter.Reset(ctx, c)
}

// notebook is an Observer that writes down what it is told.
type notebook struct {
	mu     sync.Mutex
	events []limiter.Event
}

func (n *notebook) Observe(_ context.Context, e limiter.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
}

func (n *notebook) kinds() (kinds []limiter.EventKind) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

// day is a quota of which nothing comes back while a test runs.
func day(limit int) limiter.Policy { return limiter.PerDay("day", limit) }

func of(p limiter.Policy, cost int) limiter.Charge {
	return limiter.Charge{Policy: p, Key: "k", Cost: cost}
}

func take(t *testing.T, l limiter.Limiter, c limiter.Charge) limiter.Result {
	t.Helper()
	r, err := l.Take(t.Context(), c)
	if err != nil {
		t.Fatalf("Take(%+v): %v", c, err)
	}
	return r
}

// left returns how much of c's quota remains.
func left(t *testing.T, l limiter.Limiter, p limiter.Policy) int {
	t.Helper()
	return take(t, l, of(p, 0)).Remaining
}

// open makes the breaker open, by as many failures as that takes by default.
func open(t *testing.T, l limiter.Limiter, s *server) {
	t.Helper()
	s.set(broken)
	for range failover.DefaultFailures {
		l.Take(t.Context(), of(limiter.PerDay("other", 1), 1))
	}
	s.set(func(context.Context) error {
		t.Error("the backend was asked although the breaker is open")
		return errBroken
	})
}
