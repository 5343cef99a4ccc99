package failover

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/goweir/weir/limiter"
)

// probePause is how long after a failure the breaker waits before it lets a call
// ask again.
const probePause = time.Second

// errNoSign is reported of a call that says nothing about the backend.
var errNoSign = errors.New("failover: no sign")

// A breaker is a gobreaker that tells an Observer of its changes while it holds
// no lock, in their order.
type breaker struct {
	inner    *gobreaker.TwoStepCircuitBreaker[struct{}]
	observer limiter.Observer
	halfOpen atomic.Bool

	mu      sync.Mutex
	changes []limiter.Event // not told yet
	telling bool            // somebody tells them
}

func newBreaker(failures int, observer limiter.Observer) *breaker {
	b := &breaker{observer: observer}
	b.inner = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests:   1,
		Timeout:       probePause,
		ReadyToTrip:   func(c gobreaker.Counts) bool { return int64(c.ConsecutiveFailures) >= int64(failures) },
		IsExcluded:    func(err error) bool { return err == errNoSign },
		OnStateChange: b.change,
	})
	return b
}

// allow returns what the outcome of a call must be reported to, or nil if the
// backend is not to be asked. A probe is the one call that a half-open breaker
// lets through.
func (b *breaker) allow(ctx context.Context) (report func(error), probe bool) {
	done, err := b.inner.Allow()
	if err != nil {
		return nil, false
	}
	probe = b.halfOpen.Load()
	if b.observer == nil {
		return done, probe
	}
	// The Observer is not told before: if it panicked, nobody would report, and
	// the breaker would wait for that for ever.
	return func(err error) {
		done(err)
		b.tell(ctx)
	}, probe
}

// change is called by the gobreaker under its lock.
func (b *breaker) change(_ string, _, to gobreaker.State) {
	b.halfOpen.Store(to == gobreaker.StateHalfOpen)
	if b.observer == nil {
		return
	}
	e := limiter.Event{Start: time.Now(), N: 1}
	switch to {
	case gobreaker.StateOpen:
		e.Kind = limiter.EventBreakerOpen
	case gobreaker.StateHalfOpen:
		e.Kind = limiter.EventBreakerHalfOpen
	default:
		e.Kind = limiter.EventBreakerClosed
	}
	b.mu.Lock()
	b.changes = append(b.changes, e)
	b.mu.Unlock()
}

// tell tells the Observer what has changed, unless somebody does already: who
// does goes on until there is nothing left, so that the order is kept.
func (b *breaker) tell(ctx context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.telling {
		return
	}
	b.telling = true
	defer func() { b.telling = false }()
	for len(b.changes) > 0 {
		changes := b.changes
		b.changes = nil
		b.observeUnlocked(ctx, changes)
	}
}

func (b *breaker) observeUnlocked(ctx context.Context, changes []limiter.Event) {
	b.mu.Unlock()
	defer b.mu.Lock()
	for _, e := range changes {
		b.observer.Observe(ctx, e)
	}
}
