package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	defaultQueueRecords = 4096
	defaultQueueBytes   = 64 << 20
	defaultQueueWait    = 10 * time.Millisecond
)

// A FullPolicy says what a full [Queue] does with a new record.
type FullPolicy uint8

const (
	DropNewest FullPolicy = iota // drop the new record; the default
	DropOldest                   // drop the records that wait longest until the new one fits
	Block                        // wait for room, at most AsyncOptions.Wait, then drop the new record
)

// AsyncOptions tunes [Async]. The zero value is what most callers should use.
type AsyncOptions struct {
	// Records and Bytes bound what waits for delivery, not counting the record
	// that is being delivered. Bytes counts captured bodies, headers and what
	// else a record holds. 0 means 4096 records and 64 MiB; below 0 nothing may
	// wait.
	Records int
	Bytes   int64

	// Full says what becomes of a record that does not fit.
	Full FullPolicy

	// Wait is how long Record waits for room with the policy Block. 0 means
	// 10 ms. The response may be held back for as long.
	Wait time.Duration

	// Observer is told what becomes of each record that the queue was offered;
	// nil costs nothing.
	Observer Observer

	// OnError is told of every error of the sink, on the goroutine that
	// delivers; nil ignores it. What the queue itself drops is only counted.
	OnError func(err error)
}

// QueueStats counts records since the queue was made. At any moment
// Offered = Delivered + Dropped() + Waiting.
type QueueStats struct {
	Offered   int64
	Delivered int64 // the sink took it and returned no error

	DroppedFull   int64 // no room, by the policy
	DroppedClosed int64 // offered after Close, or left over at its deadline
	DroppedFailed int64 // the sink returned an error or panicked

	Waiting      int   // for delivery, or being delivered
	WaitingBytes int64 // without the one being delivered
}

// Dropped returns the number of records that were dropped for any reason.
func (s QueueStats) Dropped() int64 { return s.DroppedFull + s.DroppedClosed + s.DroppedFailed }

// ErrDropped is what Record of a [Queue] returns, wrapped, for a record that it
// does not take.
var ErrDropped = errors.New("capture: record dropped")

var (
	errFull   = fmt.Errorf("%w: queue full", ErrDropped)
	errClosed = fmt.Errorf("%w: queue closed", ErrDropped)
)

// A Queue is a [Sink] that hands records to another one later. It must be closed
// for what waits to be delivered. Its methods are safe for concurrent use.
type Queue struct {
	sink Sink
	opts AsyncOptions

	mu      sync.Mutex
	ring    []queued // waiting records, from first on, around the end
	first   int
	n       int
	stats   QueueStats
	running bool          // a goroutine delivers
	closed  bool          // no new records
	room    chan struct{} // closed when there may be room; nil if nobody waits
	idle    chan struct{} // closed when nothing is left; nil if nobody waits
}

type queued struct {
	ctx  context.Context
	x    *Exchange
	size int64
}

// Async returns a queue in front of sink, so that a slow sink delays no
// response. It keeps the records it takes, with their share of the [Budget],
// until they are delivered: in order, one at a time, by a goroutine that lives
// while records wait. Call [Queue.Close] when the server has shut down.
//
// opts may be nil. Async panics if sink is nil.
func Async(sink Sink, opts *AsyncOptions) *Queue {
	if sink == nil {
		panic("capture: Async with a nil Sink")
	}
	q := &Queue{sink: sink}
	if opts != nil {
		q.opts = *opts
	}
	q.opts.Records = cmp.Or(q.opts.Records, defaultQueueRecords)
	q.opts.Bytes = cmp.Or(q.opts.Bytes, defaultQueueBytes)
	q.opts.Wait = cmp.Or(q.opts.Wait, defaultQueueWait)
	return q
}

// Record takes x for delivery. It returns at once, or with the policy [Block]
// after AsyncOptions.Wait at the latest or when ctx ends. The error is nil or
// wraps [ErrDropped].
func (q *Queue) Record(ctx context.Context, x *Exchange) error {
	in := queued{ctx, x, x.size()}
	oldest, err := q.put(in)
	for _, out := range oldest {
		q.observeDrop(out, DropFull)
	}
	switch err {
	case errFull:
		q.observeDrop(in, DropFull)
	case errClosed:
		q.observeDrop(in, DropClosed)
	}
	return err
}

// put adds a record and returns those it dropped for it.
func (q *Queue) put(in queued) (oldest []queued, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stats.Offered++
	if q.opts.Full == Block && !q.fitsLocked(in.size) && q.fitsEver(in.size) {
		// Counted as waiting, so that the sum is right meanwhile.
		q.stats.Waiting++
		q.waitLocked(in.ctx, in.size)
		q.stats.Waiting--
		defer q.signalIdleLocked()
	}
	switch {
	case q.closed:
		q.stats.DroppedClosed++
		return nil, errClosed
	case !q.fitsEver(in.size):
		q.stats.DroppedFull++
		return nil, errFull
	}
	for q.opts.Full == DropOldest && !q.fitsLocked(in.size) {
		oldest = q.dropLocked(oldest)
		q.stats.DroppedFull++
	}
	if !q.fitsLocked(in.size) {
		q.stats.DroppedFull++
		return nil, errFull
	}
	in.x.hold()
	q.pushLocked(in)
	q.stats.Waiting++
	if !q.running {
		q.running = true
		go q.run()
	}
	return oldest, nil
}

// Stats returns the counters, all of one moment.
func (q *Queue) Stats() QueueStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stats
}

// Close stops taking records and waits until those that wait are delivered. When
// ctx ends first it drops the rest, leaves the one that is being delivered to
// its sink, and returns ctx's error. A second call does the same again, so
// Close after an unfinished Close waits for that last record.
func (q *Queue) Close(ctx context.Context) error {
	dropped, err := q.close(ctx)
	for _, out := range dropped {
		q.observeDrop(out, DropClosed)
	}
	return err
}

func (q *Queue) close(ctx context.Context) (dropped []queued, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signalLocked(&q.room)
	for q.stats.Waiting > 0 {
		if q.idle == nil {
			q.idle = make(chan struct{})
		}
		idle := q.idle
		q.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
		}
		q.mu.Lock()
		if q.stats.Waiting == 0 || ctx.Err() == nil {
			continue
		}
		left := q.n
		for q.n > 0 {
			dropped = q.dropLocked(dropped)
			q.stats.DroppedClosed++
		}
		return dropped, fmt.Errorf("capture: closed with %d records undelivered: %w", left, context.Cause(ctx))
	}
	return nil, nil
}

// dropLocked drops the record that waits longest, and appends it to those that
// the observer is to be told of.
func (q *Queue) dropLocked(dropped []queued) []queued {
	out := q.popLocked()
	out.x.release()
	q.stats.Waiting--
	if q.opts.Observer == nil {
		return nil
	}
	return append(dropped, out)
}

func (q *Queue) observeDrop(out queued, reason DropReason) {
	if q.opts.Observer != nil {
		e := out.x.event(EventDropped)
		e.Drop = reason
		q.observe(out.ctx, e, q.Stats())
	}
}

func (q *Queue) observe(ctx context.Context, e Event, now QueueStats) {
	e.Waiting, e.WaitingBytes = now.Waiting, now.WaitingBytes
	q.opts.Observer.Observe(ctx, e)
}

// run delivers until nothing waits.
func (q *Queue) run() {
	finished := false
	defer func() {
		if !finished {
			go q.run() // the sink ended the goroutine; its record is accounted for
		}
	}()
	q.mu.Lock()
	for q.n > 0 {
		next := q.popLocked()
		q.mu.Unlock()
		q.deliver(next)
		q.mu.Lock()
	}
	q.running, finished = false, true
	q.mu.Unlock()
}

// deliver hands one record to the sink and counts what became of it, even if the
// sink panics or ends the goroutine.
func (q *Queue) deliver(next queued) {
	err := errors.New("capture: the sink ended its goroutine")
	start := time.Now()
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("capture: the sink panicked: %v", v)
		}
		took := time.Since(start)
		next.x.release()
		// First, so that when Close returns everybody was told of everything.
		if q.opts.Observer != nil {
			e := next.x.event(EventDelivered)
			if err != nil {
				e.Kind, e.Drop = EventDropped, DropFailed
			}
			e.Start, e.Duration = start, took
			now := q.Stats()
			now.Waiting-- // this one
			q.observe(next.ctx, e, now)
		}
		if err != nil && q.opts.OnError != nil {
			q.opts.OnError(err)
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		q.stats.Waiting--
		if err == nil {
			q.stats.Delivered++
		} else {
			q.stats.DroppedFailed++
		}
		q.signalIdleLocked()
	}()
	next.x.finish(next.ctx)
	err = q.sink.Record(next.ctx, next.x)
}

// waitLocked waits until a record of that size fits, or may wait no longer.
func (q *Queue) waitLocked(ctx context.Context, size int64) {
	timer := time.NewTimer(q.opts.Wait)
	defer timer.Stop()
	for !q.fitsLocked(size) && !q.closed {
		if q.room == nil {
			q.room = make(chan struct{})
		}
		room := q.room
		q.mu.Unlock()
		expired := false
		select {
		case <-room:
		case <-timer.C:
			expired = true
		case <-ctx.Done():
			expired = true
		}
		q.mu.Lock()
		if expired {
			return
		}
	}
}

// fitsEver reports whether a record of that size may wait at all.
func (q *Queue) fitsEver(size int64) bool {
	return q.opts.Records > 0 && size <= q.opts.Bytes
}

func (q *Queue) fitsLocked(size int64) bool {
	return q.n < q.opts.Records && q.stats.WaitingBytes+size <= q.opts.Bytes
}

func (q *Queue) pushLocked(in queued) {
	if q.n == len(q.ring) {
		grown := make([]queued, min(max(16, 2*q.n), q.opts.Records))
		copied := copy(grown, q.ring[q.first:])
		copy(grown[copied:], q.ring[:q.first])
		q.ring, q.first = grown, 0
	}
	q.ring[(q.first+q.n)%len(q.ring)] = in
	q.n++
	q.stats.WaitingBytes += in.size
}

func (q *Queue) popLocked() queued {
	out := q.ring[q.first]
	q.ring[q.first] = queued{}
	q.first = (q.first + 1) % len(q.ring)
	q.n--
	q.stats.WaitingBytes -= out.size
	q.signalLocked(&q.room)
	return out
}

// signalIdleLocked wakes Close when nothing is left.
func (q *Queue) signalIdleLocked() {
	if q.stats.Waiting == 0 {
		q.signalLocked(&q.idle)
	}
}

func (q *Queue) signalLocked(c *chan struct{}) {
	if *c != nil {
		close(*c)
		*c = nil
	}
}
