package capture

import (
	"cmp"
	"context"
	"fmt"
	"sync"
)

const (
	defaultRingRecords = 500
	defaultRingBytes   = 32 << 20
)

// RingOptions tunes [NewRing]. The zero value is what most callers should use.
type RingOptions struct {
	// Records and Bytes bound what is kept. Bytes counts captured bodies, headers
	// and what else a record holds. 0 means 500 records and 32 MiB.
	Records int
	Bytes   int64
}

// A Ring is a [Sink] that keeps the last records in memory, for a page that
// shows what passes right now. It keeps clones, so what it holds counts against
// no [Budget] but its own bound. Its methods are safe for concurrent use, and
// Record waits for nobody who reads.
//
// Records are numbered from 1, without gaps. Who reads by [Ring.Next] follows
// the numbers at a pace of their own, has no buffer that could fill up, needs no
// end, and sees from the numbers what was lost in between.
type Ring struct {
	opts RingOptions

	mu    sync.Mutex
	kept  []ringEntry // the record with number n is at (n-1) % len
	next  int64       // the number of the next record
	n     int         // how many are kept: those before next
	bytes int64
	news  chan struct{} // closed when there is a new record; nil if nobody waits
}

type ringEntry struct {
	x    *Exchange
	size int64
}

// NewRing returns an empty ring. opts may be nil. NewRing panics if a bound is
// below 0.
func NewRing(opts *RingOptions) *Ring {
	r := &Ring{next: 1}
	if opts != nil {
		r.opts = *opts
	}
	if r.opts.Records < 0 || r.opts.Bytes < 0 {
		panic("capture: NewRing with a bound below 0")
	}
	r.opts.Records = cmp.Or(r.opts.Records, defaultRingRecords)
	r.opts.Bytes = cmp.Or(r.opts.Bytes, defaultRingBytes)
	r.kept = make([]ringEntry, r.opts.Records)
	return r
}

// Record keeps a clone of x, and forgets the oldest records if they do not fit
// beside it. A record larger than all the room there is is not kept: the error
// then wraps [ErrDropped].
func (r *Ring) Record(_ context.Context, x *Exchange) error {
	size := x.size()
	if size > r.opts.Bytes {
		return fmt.Errorf("%w: larger than the ring", ErrDropped)
	}
	x = x.Clone()
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.n == len(r.kept) || r.bytes+size > r.opts.Bytes {
		oldest := r.atLocked(r.next - int64(r.n))
		r.bytes -= oldest.size
		*oldest = ringEntry{}
		r.n--
	}
	*r.atLocked(r.next) = ringEntry{x, size}
	r.next++
	r.n++
	r.bytes += size
	if r.news != nil {
		close(r.news)
		r.news = nil
	}
	return nil
}

func (r *Ring) atLocked(number int64) *ringEntry {
	return &r.kept[(number-1)%int64(len(r.kept))]
}

// Last returns the number of the newest record, 0 if there was none.
func (r *Ring) Last() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next - 1
}

// Next returns the first record that is kept of those after the one with this
// number, and its number. It waits for one if there is none, until ctx ends,
// whose error it returns then. So this shows all that is kept and all that comes:
//
//	for n := int64(0); ; {
//		x, at, err := ring.Next(ctx, n)
//		if err != nil {
//			return err
//		}
//		show(x, at-n-1) // and how many were forgotten before it
//		n = at
//	}
//
// Begin with [Ring.Last] to see only what comes; a number that was not given yet,
// as one from before a restart, is taken for that. The record is shared: it must
// not be changed, and may be kept.
func (r *Ring) Next(ctx context.Context, after int64) (x *Exchange, number int64, err error) {
	for {
		r.mu.Lock()
		after = min(after, r.next-1)
		number = max(after+1, r.next-int64(r.n))
		if number < r.next {
			x = r.atLocked(number).x
			r.mu.Unlock()
			return x, number, nil
		}
		if r.news == nil {
			r.news = make(chan struct{})
		}
		news := r.news
		r.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return nil, after, context.Cause(ctx)
		}
	}
}
