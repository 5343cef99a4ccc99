package redislimiter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/internal/fifo"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
)

// DefaultLease is InFlightOptions.Lease if that is 0.
const DefaultLease = 10 * time.Second

// InFlightOptions are the options of [NewInFlight].
type InFlightOptions struct {
	// Max and MaxPerKey are caps over all processes with the same Name and
	// server; Queue, QueuePerKey, MaxWait and Overloaded are about this one.
	// There is no Adaptive. All processes should have the same caps: each
	// judges by its own. Up to Queue may wait for slots of this process, and as
	// many for those of others.
	limiter.InFlightOptions

	// Lease is how long the slots of a process that has died stay taken. It is
	// renewed three times in that time while the request is under way, so a
	// process that is stopped, or cut off from the server, for longer may see
	// its slots given to others, until it is back and takes them again. It must
	// be the same in all processes. 0 means DefaultLease; less than 1 s is a
	// fault.
	Lease time.Duration

	// WhenDown says who gets slots when the server does not answer: with Closed
	// nobody, with Open everybody whom Max and MaxPerKey let pass in this
	// process alone, with Local those whom their shares let pass: each divided by
	// Failover.Instances, rounded down, at least 1. Whoever got slots so is
	// made known to the server when it is back.
	WhenDown failover.Mode

	// Failover are the bounds of a call, as in package failover. Its Observer is
	// also told of leases that could not be renewed or given back
	// (limiter.EventFailure) or were renewed too late (limiter.EventLapse).
	Failover failover.Options
}

// InFlight bounds how many requests are under way at the same time in several
// processes together. Slots are leases on the server, each under an id of its
// own and judged by the server's clock; taking them is one round trip, and they
// are given back by a goroutine, many in one, so that nobody waits for that. The
// goroutine, which also renews the leases, ends when nothing is held; there is
// no Close, but a process that is about to end may wait for it: see
// [InFlight.Flush].
//
// While the server is healthy and nobody is stopped for longer than a lease, no
// more slots are in use than there are. When the server loses its data, those who
// hold slots take them again within a third of a lease, and until then others
// may have too many.
//
// Within a process whoever came first is first, as with [limiter.InFlight].
// Between processes nobody is: whoever finds slots free takes them, and who does
// not asks again, at first after 10 ms and then up to five times a second; for
// each key one request of a process does. So heavy requests may starve beside
// light ones of other processes.
//
// All keys of one InFlight are in one slot of a Redis Cluster.
type InFlight struct {
	opts  InFlightOptions
	line  *limiter.InFlight // of this process: nobody asks the server for whom it has no room
	slots *leasedSlots
	guard limiter.Limiter   // slots, behind failover
	share *limiter.InFlight // with failover.Local

	waiting      atomic.Int64 // for slots of other processes
	waitingSlots atomic.Int64

	mu     sync.Mutex
	askers map[string]*asker // by key
}

// An asker is the line of those of this process who wait for other processes:
// only the first of them asks the server.
type asker struct {
	line *fifo.Line
	n    int
}

var _ limiter.Acquirer = (*InFlight)(nil)

// NewInFlight returns an InFlight whose slots are on l's server, below l's Prefix,
// Slot and Secret, by l's clock. It does no I/O. The error joins every fault of
// opts. It panics if l is nil.
func NewInFlight(l *Limiter, opts InFlightOptions) (*InFlight, error) {
	if l == nil {
		panic("redislimiter: NewInFlight: the Limiter is nil")
	}
	name := cmp.Or(opts.Name, "in-flight")
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("redislimiter: NewInFlight: %q: "+format, append([]any{name}, args...)...))
	}
	if opts.Adaptive != nil {
		fault("Adaptive is set; allowed: nil, because what one process measures says nothing of the others")
		opts.Adaptive = nil
	}
	if opts.Lease != 0 && opts.Lease < time.Second {
		fault("Lease is %v; allowed: 0 (%v), or 1s and more", opts.Lease, DefaultLease)
	}
	if opts.WhenDown > failover.Local {
		fault("WhenDown is %v; allowed: Closed, Open, Local", opts.WhenDown)
	}
	if o := opts.Failover; o.Budget < 0 || o.Instances < 0 || o.Failures < 0 {
		fault("Failover has a negative number; allowed: 0 or more")
	}
	line, err := limiter.NewInFlight(opts.InFlightOptions)
	if err != nil {
		faults = append(faults, err)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	opts.Name = name
	opts.Lease = cmp.Or(opts.Lease, DefaultLease)
	opts.MaxWait = cmp.Or(opts.MaxWait, time.Second)
	opts.Failover.Instances = cmp.Or(opts.Failover.Instances, 1)

	f := &InFlight{opts: opts, line: line, askers: make(map[string]*asker)}
	f.slots = newLeasedSlots(l, name, opts.Max, opts.MaxPerKey, opts.Lease)
	f.slots.observer = opts.Failover.Observer
	// What stands in for the server are slots too, not a rate.
	f.guard = failover.New(f.slots, failover.Closed, &opts.Failover)
	if opts.WhenDown == failover.Local {
		o := opts.InFlightOptions
		o.Max, o.MaxPerKey = shareOf(o.Max, opts.Failover.Instances), shareOf(o.MaxPerKey, opts.Failover.Instances)
		if f.share, err = limiter.NewInFlight(o); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func shareOf(n, instances int) int {
	if n == 0 {
		return 0
	}
	return max(1, n/instances)
}

// Snapshot implements [limiter.Acquirer]. It is about this process.
func (f *InFlight) Snapshot() limiter.InFlightSnapshot {
	s := f.line.Snapshot()
	s.Source = limiter.SourceRedis
	s.Waiting += int(f.waiting.Load())
	s.InUse = max(0, s.InUse-int(f.waitingSlots.Load()))
	return s
}

// Acquire implements [limiter.Acquirer]. An error that matches
// [failover.ErrUnavailable] means that the server failed and WhenDown is Closed.
func (f *InFlight) Acquire(ctx context.Context, s limiter.Slot) (release func(), err error) {
	last := time.Now().Add(f.opts.MaxWait)
	back, err := f.line.Acquire(ctx, s)
	if err != nil {
		return nil, err
	}
	if f.opts.Max == 0 && s.Key == "" {
		return back, nil // nobody's slots are counted
	}
	c := f.slots.charge(s.Key, f.weight(&s))
	had, standIn, err := f.take(ctx, &s, c, last)
	if err != nil {
		back()
		return nil, err
	}
	if !had {
		// By another id, because whatever the server may still say of this one is
		// given back.
		c = f.slots.charge(s.Key, c.Cost)
	}
	f.slots.hold(c, had)
	var once sync.Once
	return func() {
		once.Do(func() {
			f.slots.giveBack(c)
			if standIn != nil {
				standIn()
			}
			back()
		})
	}, nil
}

// Flush waits until the server has heard of all slots that were given back
// before, or their leases have ended. If ctx ends first, it returns ctx.Err(), and
// the goroutine goes on. Call it before the process ends, after the last request:
// or else the slots that were given back last may stay taken until their leases
// end.
func (f *InFlight) Flush(ctx context.Context) error { return f.slots.flush(ctx) }

// weight returns how many slots s takes, as the line of this process counts.
func (f *InFlight) weight(s *limiter.Slot) int {
	n := max(1, s.Weight)
	if f.opts.Max > 0 {
		n = min(n, f.opts.Max)
	}
	if f.opts.MaxPerKey > 0 && s.Key != "" {
		n = min(n, f.opts.MaxPerKey)
	}
	return n
}

// take takes c, or slots of what stands in for the server, which standIn gives
// back. It reports whether it was the former.
func (f *InFlight) take(ctx context.Context, s *limiter.Slot, c limiter.Charge, last time.Time) (had bool, standIn func(), err error) {
	a := f.enter(s.Key)
	defer f.leave(s.Key, a)
	var r limiter.Result
	if a.line.Stats().InUse == 0 {
		// Nobody waits. Most find room at once, and need not wait until others
		// have asked.
		if r, err = f.guard.Take(ctx, c); err == nil && r.Allowed {
			return true, nil, nil
		} else if err != nil {
			standIn, err = f.without(ctx, s, last, err)
			return false, standIn, err
		}
	}
	if f.opts.Queue == 0 {
		return false, nil, f.refusal(limiter.OverloadFull, r)
	}
	if n := f.waiting.Add(1); n > int64(f.opts.Queue) {
		f.waiting.Add(-1)
		return false, nil, f.refusal(limiter.OverloadFull, r)
	}
	defer f.waiting.Add(-1)
	f.waitingSlots.Add(int64(c.Cost))
	defer f.waitingSlots.Add(-int64(c.Cost))

	first, err := a.line.Acquire(ctx, fifo.Request{Class: s.Class, N: 1, Wait: max(1, time.Until(last))})
	switch {
	case err == nil:
		defer a.line.Release(first)
	case ctx.Err() != nil:
		return false, nil, ctx.Err()
	default:
		return false, nil, f.refusal(limiter.OverloadWait, r)
	}
	for pause := soonest; ; pause = min(2*pause, latest) {
		changed := f.slots.changed() // before the question, so that nothing is missed
		if r, err = f.guard.Take(ctx, c); err == nil && r.Allowed {
			return true, nil, nil
		} else if err != nil {
			standIn, err = f.without(ctx, s, last, err)
			return false, standIn, err
		}
		left := time.Until(last)
		if left <= 0 {
			return false, nil, f.refusal(limiter.OverloadWait, r)
		}
		timer := time.NewTimer(min(left, pause-pause/4+rand.N(pause/2)))
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false, nil, ctx.Err()
		}
		timer.Stop()
	}
}

// When the first of a line asks again.
const (
	soonest = 10 * time.Millisecond
	latest  = 200 * time.Millisecond
)

// enter returns the line of a key.
func (f *InFlight) enter(key string) *asker {
	if f.opts.MaxPerKey == 0 {
		key = ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.askers[key]
	if a == nil {
		a = &asker{line: fifo.New(fifo.Size{Slots: 1, Length: max(1, f.opts.Queue)}, cmp.Or(f.opts.Classes, 1))}
		f.askers[key] = a
	}
	a.n++
	return a
}

func (f *InFlight) leave(key string, a *asker) {
	if f.opts.MaxPerKey == 0 {
		key = ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if a.n--; a.n == 0 {
		delete(f.askers, key)
	}
}

// without says who gets slots although the server said nothing.
func (f *InFlight) without(ctx context.Context, s *limiter.Slot, last time.Time, err error) (standIn func(), _ error) {
	switch {
	case !errors.Is(err, failover.ErrUnavailable) || f.opts.WhenDown == failover.Closed:
		return nil, err
	case f.opts.WhenDown == failover.Open:
		return nil, nil
	}
	// Slots that are free are had, even if the server's silence took all the time.
	within, cancel := context.WithTimeout(ctx, max(time.Millisecond, time.Until(last)))
	defer cancel()
	standIn, err = f.share.Acquire(within, *s)
	if err != nil && within.Err() != nil && ctx.Err() == nil {
		err = f.refusal(limiter.OverloadWait, limiter.Result{})
	}
	return standIn, err
}

// refusal says why there were no slots. r is what the server said last, if it was
// asked.
func (f *InFlight) refusal(reason limiter.OverloadReason, r limiter.Result) error {
	e := &limiter.OverloadError{Name: f.opts.Name, Reason: reason, Limit: r.Limit, RetryAfter: time.Second}
	if f.opts.Queue > 0 {
		e.RetryAfter = max(e.RetryAfter, f.opts.MaxWait)
	}
	if reason == limiter.OverloadFull && r.Remaining > 0 {
		e.Reason = limiter.OverloadKeyFull
	}
	return e
}
