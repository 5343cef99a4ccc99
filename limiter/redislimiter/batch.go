package redislimiter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
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

// share asks q together with what others ask at the same time.
func (l *Limiter) share(ctx context.Context, q *question) error {
	if err := l.lineOf(ctx, q).ask(ctx, q); err != nil {
		return err
	}
	return q.failed
}

// lineOf returns the line for q: on a cluster, that of the node which has its
// slot. It does not matter if that is known no better.
func (l *Limiter) lineOf(ctx context.Context, q *question) *line[*question] {
	if !l.cluster {
		return l.line
	}
	node, err := l.client.(*redis.ClusterClient).MasterForKey(ctx, q.entries[0].key)
	if err != nil {
		return l.line
	}
	addr := node.Options().Addr
	if found, ok := l.lines.Load(addr); ok {
		return found.(*line[*question])
	}
	found, _ := l.lines.LoadOrStore(addr, newLine(l.fly, l.giveBack, (*question).size))
	return found.(*line[*question])
}

// fly asks questions that share a flight: by one script call, or on a cluster by
// one for each slot, in one round trip.
func (l *Limiter) fly(ctx context.Context, qs []*question) error {
	if len(qs) == 1 {
		return l.ask(ctx, qs[0])
	}
	m := manifests.Get().(*manifest)
	defer manifests.Put(m)
	m.merge(qs)
	if l.cluster {
		l.askSlots(ctx, m.runs)
	} else {
		l.askEach(ctx, m.runs)
	}
	m.settle(qs)
	return nil
}

// askEach asks questions of one slot, of which some may be faulty: a key that
// holds something else is nobody's business but of those who ask for it.
func (l *Limiter) askEach(ctx context.Context, qs []*question) {
	l.failEach(ctx, qs, l.ask(ctx, qs...))
}

// failEach says why questions have not been answered together, or asks some of
// them again: nothing was decided if one of the keys was of the wrong type.
func (l *Limiter) failEach(ctx context.Context, qs []*question, err error) {
	if n := len(qs); n > 1 && errors.Is(err, ErrWrongType) {
		l.askEach(ctx, qs[:n/2])
		l.askEach(ctx, qs[n/2:])
		return
	}
	if err != nil && callers(ctx, err) && !errors.Is(err, ErrUnknown) {
		// The context is the flight's, not that of a caller.
		err = fmt.Errorf("redislimiter: %w: %w", ErrUnreachable, ctx.Err())
	}
	for _, q := range qs {
		q.failed = err
	}
}

// askSlots asks questions of any slots by a pipeline, with a call for each slot.
func (l *Limiter) askSlots(ctx context.Context, qs []*question) {
	qs = slices.Clone(qs)
	slices.SortStableFunc(qs, func(a, b *question) int { return cmp.Compare(a.slot, b.slot) })
	var parts [][]*question
	for len(qs) > 0 {
		n := 1
		for n < len(qs) && qs[n].slot == qs[0].slot {
			n++
		}
		parts, qs = append(parts, qs[:n]), qs[n:]
	}
	if len(parts) == 1 {
		l.askEach(ctx, parts[0])
		return
	}
	parts = l.pipeline(ctx, parts, false)
	if len(parts) > 0 {
		// The first one brings the script along.
		parts = l.pipeline(ctx, parts, true)
	}
	for _, part := range parts {
		l.askEach(ctx, part)
	}
}

// pipeline makes a call for each part, and returns those parts that were refused
// and may be asked again.
func (l *Limiter) pipeline(ctx context.Context, parts [][]*question, load bool) (again [][]*question) {
	pipe := l.client.Pipeline()
	calls, wants := make([]*call, len(parts)), make([]int, len(parts))
	for i, part := range parts {
		m := l.compose(part)
		m.args[0], m.args[1], m.args[2] = "evalsha", decideScript.sha, m.keys
		if load && i == 0 {
			m.args[0], m.args[1] = "eval", decideScript.text
		}
		calls[i], wants[i] = newCall(ctx, m.args), m.want
		_ = pipe.Process(ctx, calls[i]) // only queues
	}
	_, _ = pipe.Exec(ctx) // each call has its own error
	for i, part := range parts {
		c := calls[i]
		err := c.Err()
		switch {
		case err == nil:
			err = decode(c.Val(), wants[i], part)
		case redis.HasErrorPrefix(err, "NOSCRIPT") || redis.IsReadOnlyError(err):
			again = append(again, part)
			continue
		case c.sent || !callers(ctx, err):
			err = explain(err, c.sent)
		}
		l.failEach(ctx, part, err)
	}
	return again
}

// size returns how many charges the server must look at.
func (q *question) size() int { return len(q.entries) }

// A manifest says which questions of a flight are one: those that ask the same,
// if nobody asked about their keys in between. The server is then asked once, as
// many times, and the first of them are granted.
type manifest struct {
	runs []*question    // each the first of its kind
	run  []int          // of each question
	nth  []int          // of its run
	last map[string]int // key: the last run that asked about it
}

var manifests = sync.Pool{New: func() any { return &manifest{last: make(map[string]int)} }}

func (m *manifest) merge(qs []*question) {
	m.runs, m.run, m.nth = m.runs[:0], m.run[:0], m.nth[:0]
	clear(m.last)
	for _, q := range qs {
		i := m.find(q)
		if i < 0 {
			i = len(m.runs)
			m.runs = append(m.runs, q)
			q.times = 0
			for j := range q.entries {
				m.last[q.entries[j].key] = i
			}
		}
		m.run, m.nth = append(m.run, i), append(m.nth, m.runs[i].times)
		m.runs[i].times++
	}
}

// find returns the run that q belongs to, or -1.
func (m *manifest) find(q *question) int {
	i, ok := m.last[q.entries[0].key]
	if !ok || len(m.runs[i].entries) != len(q.entries) {
		return -1
	}
	for j := range q.entries {
		e, o := &q.entries[j], &m.runs[i].entries[j]
		if last, ok := m.last[e.key]; !ok || last != i || !e.same(o) {
			return -1
		}
	}
	return i
}

// same reports whether e and o ask the same. Events of a log are each their own.
func (e *entry) same(o *entry) bool {
	return e.key == o.key && e.price == o.price && e.most == o.most && e.size == o.size && e.mark == o.mark && e.kind == o.kind
}

// settle gives each question its own part of the answer to its run, as if it had
// been asked alone.
func (m *manifest) settle(qs []*question) {
	for i, q := range slices.Backward(qs) { // the first of a run last
		first := m.runs[m.run[i]]
		q.now, q.failed = first.now, first.failed
		granted, nth := first.granted, m.nth[i]
		later := max(0, granted-1-nth) // what came after it is not in its answer
		q.times, q.granted = 0, min(1, max(0, granted-nth))
		for j := range q.entries {
			e := &q.entries[j]
			e.answer = first.entries[j].answer
			switch taken := q.charged(j) * int64(later); e.kind {
			case bucket:
				e.answer[0] -= taken
			case fixedWindow, slidingWindow:
				e.answer[1] -= taken
			}
		}
	}
	clear(m.runs)
}

// giveBack refunds what was granted to callers who had left: they were told that
// it is not known, and will not use it.
func (l *Limiter) giveBack(qs []*question) {
	ctx, cancel := context.WithTimeout(context.Background(), undoTime)
	defer cancel()
	qs = slices.DeleteFunc(qs, func(q *question) bool { return q.failed != nil || q.granted == 0 })
	// What cannot be given back stays taken.
	if !l.cluster && len(qs) > 0 {
		_ = l.refund(ctx, refundsOf(qs...))
		return
	}
	for _, q := range qs {
		_ = l.refund(ctx, refundsOf(q))
	}
}
