package redislimiter

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lanes is how many flights are in the air while all is well: one at the
	// server, one on its way. More would be emptier and cost more in sum.
	lanes = 2

	// crowd is how many questions are underway when nobody flies alone any more:
	// who comes then is one of many, and they all get on sooner together.
	crowd = 8

	// seats is how many charges share a flight; one question may take more. The
	// server does nothing else meanwhile, for about a millisecond.
	seats = 256

	// stalled is how long nobody boards until a further flight takes off: those
	// in the air may hang on a dead connection. It is longer than most round
	// trips, and short beside what callers are ready to wait.
	stalled = 10 * time.Millisecond

	// maxLanes bounds the flights of a server that hangs.
	maxLanes = 16

	// maxQueue bounds those who wait: 512 KiB beside what their callers take.
	maxQueue = 1 << 16

	// flightTime bounds a flight whose members have no deadlines of their own.
	flightTime = 3 * time.Second
)

// A line gathers the questions that the callers of this process have for one
// server, so that they share round trips and script calls.
//
// A caller who finds a free lane flies alone, in its own goroutine and with its
// own context: there is nothing to wait for, and no hand-over. Others queue, and
// whoever lands takes them along on the next flight, in the order in which they
// came. So the batches grow with the load by themselves, and no question waits
// for others to come.
//
// A flight of several is not bound to the context of one. A caller whose context
// ends leaves: one who queues still has asked nothing; of one in flight it is not
// known whether it was charged, and if the answer says so, forsaken is told.
type line[Q any] struct {
	// fly answers all questions, or returns why it could not. Those of one call
	// are in the order of arrival.
	fly func(ctx context.Context, qs []Q) error

	// forsaken gets those questions that were answered after their callers had
	// left. It is called by the goroutine of the flight.
	forsaken func(qs []Q)

	// size returns how many seats a question takes.
	size func(q Q) int

	mu       sync.Mutex
	flights  int
	underway int          // questions on those flights
	queue    []*ticket[Q] // those before head have boarded
	head     int
	gone     int         // of those who queue
	watch    *time.Timer // runs since the last boarding, if somebody queues
	tickets  sync.Pool
}

// A ticket is one who queues or flies.
type ticket[Q any] struct {
	q        Q
	size     int
	deadline time.Time // zero: none
	gone     bool      // from the queue; under line.mu
	state    atomic.Uint32
	landed   chan struct{} // holds one
	err      error         // set before landed
}

// States of a ticket.
const (
	notBoarded uint32 = iota
	inFlight
	hasLanded
	hasLeft
)

func newLine[Q any](fly func(context.Context, []Q) error, forsaken func([]Q), size func(Q) int) *line[Q] {
	return &line[Q]{fly: fly, forsaken: forsaken, size: size}
}

// ask returns when q is answered, or why it is not.
func (l *line[Q]) ask(ctx context.Context, q Q) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("redislimiter: %w", err)
	}
	l.mu.Lock()
	if l.flights < lanes && l.underway < crowd && l.waitingLocked() == 0 {
		l.flights++
		l.underway++
		l.mu.Unlock()
		return l.alone(ctx, q)
	}
	t, err := l.queueLocked(ctx, q)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-t.landed:
	case <-ctx.Done():
		switch l.leave(t) {
		case notBoarded:
			return fmt.Errorf("redislimiter: %w", ctx.Err())
		case inFlight:
			return fmt.Errorf("redislimiter: %w: %w", ErrUnknown, ctx.Err())
		}
		<-t.landed
	}
	err = t.err
	l.recycle(t)
	if p, ok := errors.AsType[*panicked](err); ok {
		panic(p)
	}
	return err
}

// alone flies q by itself and with its caller's context.
func (l *line[Q]) alone(ctx context.Context, q Q) error {
	defer func() {
		l.mu.Lock()
		l.underway--
		more := l.waitingLocked() > 0 && l.flights <= lanes
		if !more {
			l.flights--
		}
		l.mu.Unlock()
		if more {
			// The caller has its answer: others are none of its business.
			go l.serve()
		}
	}()
	return l.fly(ctx, []Q{q})
}

func (l *line[Q]) waitingLocked() int { return len(l.queue) - l.head - l.gone }

func (l *line[Q]) queueLocked(ctx context.Context, q Q) (*ticket[Q], error) {
	if len(l.queue)-l.head >= maxQueue {
		if l.gone == 0 {
			return nil, fmt.Errorf("redislimiter: %w", ErrCrowded)
		}
		l.sweepLocked()
	}
	t, _ := l.tickets.Get().(*ticket[Q])
	if t == nil {
		t = &ticket[Q]{landed: make(chan struct{}, 1)}
	}
	t.q, t.size = q, l.size(q)
	t.deadline, _ = ctx.Deadline()
	l.queue = append(l.queue, t)
	if l.waitingLocked() == 1 {
		l.watchLocked()
	}
	return t, nil
}

// sweepLocked forgets those who have left the queue.
func (l *line[Q]) sweepLocked() {
	kept := l.queue[:0]
	for _, t := range l.queue[l.head:] {
		if !t.gone {
			kept = append(kept, t)
		}
	}
	clear(l.queue[len(kept):])
	l.queue, l.head, l.gone = kept, 0, 0
}

// leave gives t up, unless it has landed, and returns where it was.
func (l *line[Q]) leave(t *ticket[Q]) uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.state.Load() == notBoarded {
		if !t.gone {
			t.gone = true
			l.gone++
			if l.waitingLocked() == 0 {
				l.sweepLocked() // or they would stay until somebody queues again
			}
		}
		return notBoarded
	}
	if t.state.CompareAndSwap(inFlight, hasLeft) {
		return inFlight
	}
	return hasLanded
}

// recycle keeps t for another; nobody else may hold it.
func (l *line[Q]) recycle(t *ticket[Q]) {
	var none Q
	t.q, t.err = none, nil
	t.state.Store(notBoarded)
	l.tickets.Put(t)
}

// watchLocked lets a further flight take off if nobody boards for a while.
func (l *line[Q]) watchLocked() {
	if l.watch == nil {
		l.watch = time.AfterFunc(stalled, l.relieve)
	} else {
		l.watch.Reset(stalled)
	}
}

func (l *line[Q]) relieve() {
	l.mu.Lock()
	fly := false
	switch {
	case l.waitingLocked() == 0:
	case l.flights < maxLanes:
		l.flights++
		fly = true
	default:
		l.watchLocked()
	}
	l.mu.Unlock()
	if fly {
		l.serve()
	}
}

// serve flies until nobody queues. It has a lane.
func (l *line[Q]) serve() {
	var (
		aboard []*ticket[Q]
		qs     []Q
	)
	for {
		start := time.Now()
		l.mu.Lock()
		aboard = l.boardLocked(start, aboard[:0])
		if len(aboard) == 0 {
			l.flights--
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()

		qs = qs[:0]
		for _, t := range aboard {
			qs = append(qs, t.q)
		}
		err := l.flight(deadline(start, aboard), qs)
		qs = qs[:0]
		l.mu.Lock()
		l.underway -= len(aboard)
		l.mu.Unlock()
		for _, t := range aboard {
			t.err = err
			if t.state.CompareAndSwap(inFlight, hasLanded) {
				t.landed <- struct{}{}
			} else if err == nil {
				qs = append(qs, t.q)
			}
		}
		if len(qs) > 0 {
			l.forsaken(qs)
		}
		clear(aboard)
		clear(qs[:cap(qs)])
		// Those who have just landed may be back in a moment: a flight that waits
		// for them, no longer than for its turn to run, is fuller.
		runtime.Gosched()

		// Another may have taken its place meanwhile.
		late := time.Since(start) > stalled
		l.mu.Lock()
		if late && l.flights > lanes {
			l.flights--
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
	}
}

// boardLocked moves the first of those who queue, as many as there are seats.
func (l *line[Q]) boardLocked(now time.Time, aboard []*ticket[Q]) []*ticket[Q] {
	for free := seats; l.head < len(l.queue); l.head++ {
		t := l.queue[l.head]
		switch {
		case t.gone:
			l.gone--
		case !t.deadline.IsZero() && now.After(t.deadline):
			t.gone = true // it has only not noticed yet
		default:
			if free -= t.size; free < 0 && len(aboard) > 0 {
				return l.boardedLocked(aboard)
			}
			t.state.Store(inFlight)
			aboard = append(aboard, t)
		}
		l.queue[l.head] = nil
	}
	return l.boardedLocked(aboard)
}

// boardedLocked tidies up after a boarding.
func (l *line[Q]) boardedLocked(aboard []*ticket[Q]) []*ticket[Q] {
	switch rest := len(l.queue) - l.head; {
	case rest == 0:
		l.queue, l.head = l.queue[:0], 0
	case l.head > rest:
		n := copy(l.queue, l.queue[l.head:])
		clear(l.queue[n:])
		l.queue, l.head = l.queue[:n], 0
	}
	if l.waitingLocked() > 0 {
		l.watchLocked()
	} else if l.watch != nil {
		l.watch.Stop()
	}
	l.underway += len(aboard)
	return aboard
}

// deadline returns when nobody of those aboard waits any more, at most
// flightTime after start.
func deadline[Q any](start time.Time, aboard []*ticket[Q]) time.Time {
	latest := start.Add(flightTime)
	var last time.Time
	for _, t := range aboard {
		if t.deadline.IsZero() {
			return latest
		}
		if t.deadline.After(last) {
			last = t.deadline
		}
	}
	if last.Before(latest) {
		return last
	}
	return latest
}

// flight calls fly for several. A panic becomes an error, which ask turns into
// one again in the goroutine of each member, where it would have been had it
// flown alone: nobody could recover it here.
func (l *line[Q]) flight(end time.Time, qs []Q) (err error) {
	ctx, cancel := context.WithDeadline(context.Background(), end)
	defer cancel()
	arrived := false
	defer func() {
		if !arrived {
			err = &panicked{recover(), debug.Stack()}
		}
	}()
	err = l.fly(ctx, qs)
	arrived = true
	return err
}

// panicked is a panic on a flight of several. Its value is nil if the goroutine
// was ended by runtime.Goexit.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string {
	return fmt.Sprintf("redislimiter: panic while the server was asked: %v\n\n%s", p.value, p.stack)
}

func (p *panicked) Unwrap() error {
	err, _ := p.value.(error)
	return err
}
