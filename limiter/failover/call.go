package failover

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/limiter"
)

const (
	// mostLost is how many calls may go on although nobody waits for them. More
	// can come about by those that begin before it is reached.
	mostLost = 1000

	// giveBackTime is how long giving back a late grant may take: nobody waits
	// for it, but it must end.
	giveBackTime = time.Second
)

var (
	errBudget  = fmt.Errorf("%w: no answer within the budget", ErrUnavailable)
	errOpen    = fmt.Errorf("%w: the breaker is open", ErrUnavailable)
	errCrowded = fmt.Errorf("%w: too many calls hang in it", ErrUnavailable)
	errNothing = fmt.Errorf("%w: it ended the goroutine without an answer", ErrUnavailable)
)

// A call is one question to the backend. It owns all that it points to, because
// it may go on after its caller has left.
type call struct {
	do      func(*call, context.Context, limiter.Limiter) error
	charge  limiter.Charge
	charges []limiter.Charge // of TakeAll, in place of charge; else nil
	result  limiter.Result
	results []limiter.Result // of TakeAll, in place of result
	err     error
	crash   error // what it panicked with

	// over is set once: by the goroutine of the call, whose answer is then the
	// caller's, or by the caller that leaves, and the answer is nobody's.
	over     atomic.Bool
	answered chan struct{} // closed if it was the former; nil if nobody was asked
}

func (k *call) take(ctx context.Context, l limiter.Limiter) (err error) {
	k.result, err = l.Take(ctx, k.charge)
	return err
}

func (k *call) takeAll(ctx context.Context, l limiter.Limiter) (err error) {
	k.results, err = l.TakeAll(ctx, k.charges)
	return err
}

func (k *call) refund(ctx context.Context, l limiter.Limiter) error {
	return l.Refund(ctx, k.charge, &k.result)
}

func (k *call) reset(ctx context.Context, l limiter.Limiter) error {
	return l.Reset(ctx, k.charge)
}

func (k *call) asked() bool { return k.answered != nil }

// ask calls the backend and waits for the answer, for as long as the budget
// lasts. A failure is the backend's, err anything else that ended the call.
func (f *failover) ask(ctx context.Context, k *call) (failure, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if f.lost.Load() >= mostLost {
		return errCrowded, nil
	}
	report, probe := f.breaker.allow(ctx)
	if report == nil {
		return errOpen, nil
	}
	within := ctx
	if probe {
		within = context.WithoutCancel(ctx)
	}
	within, cancel := context.WithTimeoutCause(within, f.budget, errBudget)
	defer cancel()
	var start time.Time
	if f.observer != nil {
		start = time.Now()
	}
	k.answered = make(chan struct{})
	go f.run(within, k)
	select {
	case <-k.answered:
	case <-within.Done():
		if k.over.CompareAndSwap(false, true) {
			f.lost.Add(1)
			k = &call{err: errBudget} // the other is no longer ours
		} else {
			<-k.answered // just in time
		}
	}
	switch {
	case k.err == nil && k.crash == nil:
		report(k.sign())
		return nil, nil
	case errors.Is(k.err, limiter.ErrPolicy):
		report(errNoSign)
		return nil, k.err
	case !probe && k.crash == nil:
		if err := left(ctx, within); err != nil {
			report(errNoSign)
			return nil, err
		}
	}
	switch failure = k.err; {
	case k.crash != nil:
		failure = k.crash
	case errors.Is(failure, context.DeadlineExceeded):
		failure = errBudget // whoever noticed first
	}
	report(failure)
	if f.observer != nil {
		f.observer.Observe(ctx, limiter.Event{
			Kind: limiter.EventFailure, Start: start, Duration: time.Since(start), N: 1, Err: failure,
		})
	}
	if k.crash != nil {
		panic(k.crash)
	}
	return failure, ctx.Err() // nobody is to be charged for who has left
}

// left returns why a caller no longer waits, or nil if it was not the caller who
// ended the call.
func left(ctx, within context.Context) error {
	if context.Cause(within) == errBudget {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// A backend's own timer for ctx's deadline may be faster than ctx's.
	if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
		return context.DeadlineExceeded
	}
	return nil
}

// run is the goroutine of a call.
func (f *failover) run(ctx context.Context, k *call) {
	k.err = errNothing // until there is another
	defer func() {
		if v := recover(); v != nil {
			k.crash = fmt.Errorf("failover: the backend panicked: %v\n\n%s", v, debug.Stack())
		}
		if k.over.CompareAndSwap(false, true) {
			close(k.answered)
			return
		}
		f.giveBack(ctx, k)
		f.lost.Add(-1)
	}()
	k.err = k.do(k, ctx, f.backend)
}

// giveBack refunds what was granted after the caller had left. That units were
// lost, or how, would interest nobody any more.
func (f *failover) giveBack(ctx context.Context, k *call) {
	if k.err != nil || k.crash != nil {
		return
	}
	defer func() { _ = recover() }()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTime)
	defer cancel()
	if k.charges == nil {
		k.charges, k.results = []limiter.Charge{k.charge}, []limiter.Result{k.result}
	}
	for i := range k.results {
		if k.results[i].Receipt != (limiter.Receipt{}) {
			_ = f.backend.Refund(ctx, k.charges[i], &k.results[i])
		}
	}
}

// sign returns what an answer says about the backend: nil if it works.
func (k *call) sign() error {
	if k.charges == nil {
		if asked(&k.result) {
			return nil
		}
		return errNoSign
	}
	for i := range k.results {
		if asked(&k.results[i]) {
			return nil
		}
	}
	return errNoSign
}

// asked reports whether the backend must have been asked for r. What can never
// fit needs no asking.
func asked(r *limiter.Result) bool {
	return r.Source != limiter.SourceDenyCache && r.Source != limiter.SourceLease && r.RetryAfter != limiter.Never
}
