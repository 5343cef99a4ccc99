// Package failover says what happens to decisions when the backend of a
// [limiter.Limiter] fails: a server that is down, hangs, or answers too late.
//
//	backend, err := ...  // a Limiter whose state is on a server
//	l := failover.New(backend, failover.Local, &failover.Options{Instances: 4})
//
// Each call has a budget. If the backend has not answered by then, or answered
// with an error, the [Mode] decides. After some failures in a row a breaker
// stops asking the backend, so that callers do not wait for what will not come;
// then one call at a time asks again, a second after the last of them failed, and
// the first that is answered ends the outage. So a backend that is back is in use
// after a second and a budget, as long as somebody asks.
//
// # What is a failure
//
// A call that the budget ended, an error of the backend, a panic of it. Not a
// failure, and of no consequence to the breaker: a denial; an invalid charge
// ([limiter.ErrPolicy]); whatever happened after the caller's own context had
// ended, by cancellation or by a deadline shorter than the budget. Answers for
// which no backend was asked (from a deny cache or a lease, and to what can
// never fit) say nothing about it, neither good nor bad.
//
// # The budget
//
// Every call to the backend runs in a goroutine of its own, so the budget holds
// for backends that do not look at their context too, and for those that look at
// its deadline only. That costs about five microseconds of processor time, little
// beside a network; a [limiter.Memory] never fails and needs no failover. A backend should end its work when its context ends:
// calls that go on although nobody waits for them any more are counted, and
// while there are 1000 of them, the backend counts as failed without being
// asked.
//
// A caller that leaves is let go at once. The one exception is the call that
// asks whether a failed backend is back: it ends when that is known, within the
// budget, because callers that leave would else put off the answer for ever.
//
// What a backend grants too late belongs to nobody: the fallback does not count
// it, and it is given back to the backend in the background, as far as the
// backend still answers.
package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/limiter"
)

// Defaults of [Options].
const (
	DefaultBudget   = 50 * time.Millisecond
	DefaultFailures = 5
)

// A Mode says who decides when the backend does not.
type Mode uint8

const (
	// Closed lets nobody pass: decisions fail with [ErrUnavailable], and
	// [limiter.Middleware] answers 503. It is for limits that are a protection
	// against attacks, such as guessing passwords.
	Closed Mode = iota

	// Open lets everybody pass, uncounted: the Result has Source fallback and
	// Remaining -1, and clients get no RateLimit fields. What could never fit,
	// because its Cost is above the capacity or the Limit is 0, is refused as
	// ever. It is for limits that only keep order.
	Open

	// Local lets each instance hold its share of every quota in memory: Limit,
	// and Burst (0 counts as Limit), each divided by Options.Instances, rounded
	// down, at least 1; a Limit of 0 stays 0. A Cost above the share's capacity
	// takes the whole share, unless it is above the capacity of the quota. So
	// all instances together admit about as much as before, provided that each
	// gets its part of the traffic. Most callers should use it.
	//
	// In any Window, instances whose backend is away admit the larger of Limit
	// and Instances, and for bucket algorithms their shares of the Burst; when
	// an outage begins or ends, what the other side has admitted is not known
	// to this side, so up to one more burst passes at the switch.
	//
	// Results have Source fallback and the Limit of the whole quota, as that is
	// what holds for a client of all instances; Remaining and the times are
	// those of the share, as that is what this one can give. The memory is
	// bounded by [limiter.DefaultMaxBytes], empty at first, and kept between
	// outages.
	Local
)

var modes = [...]string{"closed", "open", "local"}

// String returns the mode in a word, for configurations and logs.
func (m Mode) String() string {
	if int(m) < len(modes) {
		return modes[m]
	}
	return "Mode(" + strconv.Itoa(int(m)) + ")"
}

// ErrUnavailable is what errors match by [errors.Is] when the backend failed and
// nothing stands in for it: those of all decisions in mode Closed, and those of
// Refund and Reset in every mode. They also match the error of the backend.
var ErrUnavailable = errors.New("failover: the backend is unavailable")

// Options are the options of [New].
type Options struct {
	// Budget is the longest that the backend may take for an answer, and so the
	// longest that a decision takes, but for scheduling. Have it well above the
	// slowest answer of a healthy backend. 0 means 50 ms; negative is a fault.
	Budget time.Duration

	// Instances is among how many a quota is shared in mode Local. When their
	// number changes, have it be the largest. 0 means 1: each instance holds
	// the whole quota. Negative is a fault.
	Instances int

	// Failures is how many failures in a row open the breaker. 0 means 5;
	// negative is a fault.
	Failures int

	// Observer is told of failures and of the breaker's changes, in their
	// order, and of evictions from the memory of mode Local. nil: nobody.
	Observer limiter.Observer
}

// New returns a Limiter that asks l, and does what mode says when l fails. nil
// means default options. It starts nothing and needs no Close.
//
// A Result says by its Source who decided; a Refund goes to whoever that was,
// also after the other has taken over. l must not itself give results with
// [limiter.SourceFallback]. A Refund for which the backend was not asked keeps
// its Receipt and may be tried again. Reset makes both sides whole, and fails
// if the backend does.
//
// If l panics, so does the call, after the breaker has counted it as a failure.
//
// New panics with all faults, joined, if l is nil, the mode unknown, or a number
// in opts negative.
func New(l limiter.Limiter, mode Mode, opts *Options) limiter.Limiter {
	var o Options
	if opts != nil {
		o = *opts
	}
	if err := o.check(l, mode); err != nil {
		panic(err)
	}
	f := &failover{
		backend:   l,
		mode:      mode,
		budget:    cmp.Or(o.Budget, DefaultBudget),
		instances: cmp.Or(o.Instances, 1),
		observer:  o.Observer,
		breaker:   newBreaker(cmp.Or(o.Failures, DefaultFailures), o.Observer),
	}
	if mode == Local {
		f.local = limiter.NewMemory(&limiter.MemoryOptions{Observer: o.Observer})
	}
	return f
}

func (o *Options) check(l limiter.Limiter, mode Mode) error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("failover: New: "+format, args...))
	}
	if l == nil {
		fault("the Limiter is nil")
	}
	if int(mode) >= len(modes) {
		fault("unknown mode %v; allowed: Closed, Open, Local", mode)
	}
	if o.Budget < 0 {
		fault("Budget is %v; allowed: 0 (%v) or more", o.Budget, DefaultBudget)
	}
	if o.Instances < 0 {
		fault("Instances is %d; allowed: 0 (the same as 1) or more", o.Instances)
	}
	if o.Failures < 0 {
		fault("Failures is %d; allowed: 0 (%d) or more", o.Failures, DefaultFailures)
	}
	return errors.Join(faults...)
}

type failover struct {
	backend   limiter.Limiter
	mode      Mode
	budget    time.Duration
	instances int
	observer  limiter.Observer
	breaker   *breaker
	local     *limiter.Memory // mode Local
	lost      atomic.Int64    // calls that go on although nobody waits
}

// Take implements [limiter.Limiter].
func (f *failover) Take(ctx context.Context, c limiter.Charge) (limiter.Result, error) {
	if err := c.Validate(); err != nil {
		return limiter.Result{}, err
	}
	k := &call{do: (*call).take, charge: c}
	failure, err := f.ask(ctx, k)
	switch {
	case err != nil:
		return limiter.Result{}, err
	case failure != nil:
		return f.standIn(ctx, c, failure)
	}
	return k.result, nil
}

// TakeAll implements [limiter.Limiter].
func (f *failover) TakeAll(ctx context.Context, cs []limiter.Charge) ([]limiter.Result, error) {
	for i := range cs {
		if err := cs[i].Validate(); err != nil {
			return nil, err
		}
	}
	// The caller may change cs while a call that it left goes on.
	k := &call{do: (*call).takeAll, charges: append(make([]limiter.Charge, 0, len(cs)), cs...)}
	failure, err := f.ask(ctx, k)
	switch {
	case err != nil:
		return nil, err
	case failure != nil:
		return f.standInAll(ctx, cs, failure)
	}
	return k.results, nil
}

// Refund implements [limiter.Limiter].
func (f *failover) Refund(ctx context.Context, c limiter.Charge, r *limiter.Result) error {
	if r == nil || r.Receipt == (limiter.Receipt{}) {
		return nil
	}
	if err := c.Validate(); err != nil {
		return err
	}
	if f.local != nil && r.Source == limiter.SourceFallback {
		return f.local.Refund(ctx, f.share(c, 0, 0), r)
	}
	k := &call{do: (*call).refund, charge: c, result: *r}
	failure, err := f.ask(ctx, k)
	if k.asked() {
		// Even if no answer came: it may have been given back.
		r.Receipt = limiter.Receipt{}
	}
	return outcome(failure, err)
}

// Reset implements [limiter.Limiter].
func (f *failover) Reset(ctx context.Context, c limiter.Charge) error {
	failure, err := f.ask(ctx, &call{do: (*call).reset, charge: c})
	if f.local != nil {
		err = errors.Join(err, f.local.Reset(ctx, f.share(c, 0, 0)))
	}
	return outcome(failure, err)
}

// outcome is the error of what has no fallback.
func outcome(failure, err error) error {
	if failure != nil {
		return unavailable(failure)
	}
	return err
}

func unavailable(failure error) error {
	if errors.Is(failure, ErrUnavailable) {
		return failure
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, failure)
}
