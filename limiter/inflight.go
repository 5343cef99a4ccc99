package limiter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/internal/fifo"
)

// A Slot is what a request asks of a limit on requests in flight.
type Slot struct {
	// Key says whose slots are counted, where there is a cap per key. "" is
	// nobody: then only the cap over all counts. [InFlightMiddleware] does not
	// let a request pass without a key if there is a cap per key.
	Key string

	// Weight is how many slots the request takes. 0 means 1; more than there
	// can ever be means all of them; negative is a fault.
	Weight int

	// Class is the priority: 0 is served first. It must be below
	// InFlightOptions.Classes.
	Class int
}

// An Acquirer hands out slots: [InFlight] those of this process. All methods are
// safe for concurrent use.
type Acquirer interface {
	// Acquire takes the slots of s, and waits for them if it must and may.
	// release gives them back; it may be called from any goroutine and more
	// than once. The error matches [ErrOverload] if there were none to be had,
	// and [ErrPolicy] if s is invalid; it is ctx.Err() if ctx ended first, and
	// anything else means that nobody could decide. With an error, release is
	// nil and nothing is taken.
	Acquire(ctx context.Context, s Slot) (release func(), err error)

	// Snapshot returns the state at one moment, for metrics and status pages.
	Snapshot() InFlightSnapshot
}

// An InFlightSnapshot is the state of an [Acquirer] at one moment.
type InFlightSnapshot struct {
	Name      string
	Source    Source // who hands out the slots
	Max       int    // the cap over all; 0: none
	Limit     int    // what it is at present, if it adapts; else Max
	MaxPerKey int    // 0: none
	InUse     int    // slots, of this process
	Waiting   int    // requests, of this process
	Keys      int    // with slots in use, or waiting
}

// InFlightOptions are the options of [NewInFlight].
type InFlightOptions struct {
	// Name names the limit in refusals, metrics and logs. "" means "in-flight".
	// Like that of a Policy it is sent to clients, and must be printable ASCII.
	Name string

	// Max is the cap on slots in use, over all keys. 0: none, which needs
	// MaxPerKey; negative is a fault.
	Max int

	// MaxPerKey is the cap on slots in use by each key. 0: none; negative is a
	// fault.
	MaxPerKey int

	// Queue is how many may wait when all slots are in use. 0: nobody; negative
	// is a fault. Every request that waits keeps its goroutine and connection:
	// most callers should let no more wait than are served in MaxWait.
	Queue int

	// QueuePerKey is how many of those may be of one key, so that none fills
	// the line alone. 0: half of Queue, at least one; negative is a fault. It
	// means nothing without MaxPerKey.
	QueuePerKey int

	// MaxWait is how long one may wait. 0 means 1 s; negative is a fault.
	MaxWait time.Duration

	// Classes is how many priority classes there are, 1 to 16. 0 means 1.
	Classes int

	// Adaptive makes Max a ceiling, and finds the cap below it by the latency.
	// nil: the cap is Max. It needs Max.
	Adaptive *AdaptiveOptions

	// Overloaded reports whether the process has too much to do for whatever
	// reason: then nobody gets a slot who has not one, unless nothing is in
	// flight. It is asked for every request, by many goroutines at once, and
	// should answer in less than a microsecond: see [NewLoadCheck]. nil: never.
	Overloaded func() bool
}

// maxClasses keeps what is done for each class cheap.
const maxClasses = 16

func (o *InFlightOptions) resolve() error {
	o.Name = cmp.Or(o.Name, "in-flight")
	var faults []error
	fault := func(field, format string, args ...any) {
		faults = append(faults, &PolicyError{o.Name, field, fmt.Sprintf(format, args...)})
	}
	if !printable(o.Name) {
		fault("Name", "has bytes that are not printable ASCII (0x20 to 0x7e)")
	}
	for _, f := range [...]struct {
		field string
		value int
		zero  string
	}{
		{"Max", o.Max, "no cap over all"}, {"MaxPerKey", o.MaxPerKey, "no cap per key"},
		{"Queue", o.Queue, "nobody waits"}, {"QueuePerKey", o.QueuePerKey, "half of Queue"},
	} {
		if f.value < 0 {
			fault(f.field, "is %d; allowed: 0 (%s) or more", f.value, f.zero)
		}
	}
	if o.Max == 0 && o.MaxPerKey == 0 && o.Adaptive == nil {
		fault("Max", "is 0, and so is MaxPerKey; one of them is needed")
	}
	if o.MaxWait < 0 {
		fault("MaxWait", "is %v; allowed: 0 (1s) or more", o.MaxWait)
	}
	if o.Classes < 0 || o.Classes > maxClasses {
		fault("Classes", "is %d; allowed: 0 (1) to %d", o.Classes, maxClasses)
	}
	if o.Adaptive != nil {
		a := *o.Adaptive
		o.Adaptive = &a
		if o.Max == 0 {
			fault("Max", "is 0; with Adaptive it is the ceiling: 1 or more")
		}
		a.resolve(o.Max, fault)
		*o.Adaptive = a
	}
	o.MaxWait = cmp.Or(o.MaxWait, time.Second)
	o.Classes = cmp.Or(o.Classes, 1)
	if o.QueuePerKey == 0 {
		o.QueuePerKey = max(1, o.Queue/2)
	}
	return errors.Join(faults...)
}

func (o *InFlightOptions) size() fifo.Size {
	s := fifo.Size{Slots: cmp.Or(o.Max, math.MaxInt), Length: o.Queue}
	if o.MaxPerKey > 0 {
		s.PerKey, s.LengthPerKey = o.MaxPerKey, o.QueuePerKey
	}
	return s
}

// InFlight bounds how many requests are under way at the same time in this
// process, in all and for each key. It has no goroutine and needs no Close; what
// is known of a key is forgotten when none of its requests is under way or waits.
//
// Who finds no slot free waits, within the bounds of Queue and MaxWait. The best
// class is served first, and within a class whoever came first; nobody
// overtakes the first, even if it needs more slots than are free and the next
// would fit. When the line is full, somebody of a better class takes the place
// of the last one of the worst.
//
// Who finds the slots of its key in use stands aside, with nothing of the slots
// of all, and nobody with another key waits behind it. It joins the line at its
// end when its key has slots for it. So a key with many requests has no more of
// them in the line than it may have under way.
//
// All methods are safe for concurrent use. A slot taken and given back costs two
// allocations; the time that it takes to grant one does not grow with the line.
type InFlight struct {
	name    string
	classes int
	line    *fifo.Line
	opts    atomic.Pointer[InFlightOptions] // resolved
	setting sync.Mutex                      // held by Set
	gauge   *adaptive                       // nil: the cap is Max
}

var _ Acquirer = (*InFlight)(nil)

// NewInFlight returns an InFlight with all slots free. The error joins every
// fault of opts; each is a [*PolicyError].
func NewInFlight(opts InFlightOptions) (*InFlight, error) {
	if err := opts.resolve(); err != nil {
		return nil, err
	}
	f := &InFlight{name: opts.Name, classes: opts.Classes}
	size := opts.size()
	if opts.Adaptive != nil {
		f.gauge = newAdaptive(opts.Adaptive, opts.Max)
		size.Slots = f.gauge.slots()
	}
	f.line = fifo.New(size, opts.Classes)
	f.opts.Store(&opts)
	return f, nil
}

// Set replaces the options, for a configuration that is read anew. Slots in use
// stay so, even if there are fewer now; who waits keeps its place and the time it
// has. Name, Classes, and whether there is Adaptive, must be those of before. The
// error joins every fault, and then nothing is changed.
func (f *InFlight) Set(opts InFlightOptions) error {
	err := opts.resolve()
	if opts.Name != f.name || opts.Classes != f.classes || (opts.Adaptive != nil) != (f.gauge != nil) {
		err = errors.Join(err, &PolicyError{f.name, "Set", "would change Name, Classes, or whether there is Adaptive; make a new InFlight for that"})
	}
	if err != nil {
		return err
	}
	f.setting.Lock()
	defer f.setting.Unlock()
	size := opts.size()
	if f.gauge == nil {
		f.line.Resize(size)
	} else {
		f.gauge.set(opts.Adaptive, opts.Max, func(slots int) {
			size.Slots = slots
			f.line.Resize(size)
		})
	}
	f.opts.Store(&opts)
	return nil
}

// Snapshot implements [Acquirer].
func (f *InFlight) Snapshot() InFlightSnapshot {
	o, s := f.opts.Load(), f.line.Stats()
	snapshot := InFlightSnapshot{
		Name: f.name, Source: SourceMemory, Max: o.Max, Limit: o.Max, MaxPerKey: o.MaxPerKey,
		InUse: s.InUse, Waiting: s.Waiting, Keys: s.Keys,
	}
	if f.gauge != nil {
		snapshot.Limit = s.Slots
	}
	return snapshot
}

// Acquire implements [Acquirer]. Call release as soon as nothing of the work is
// left, by defer, or a panic keeps the slots for ever:
//
//	release, err := downloads.Acquire(ctx, limiter.Slot{})
//	if err != nil {
//		return err
//	}
//	defer release()
//
// With Adaptive, the time until release is the latency, and a ctx that has ended
// by then a sign that it was too long.
func (f *InFlight) Acquire(ctx context.Context, s Slot) (release func(), err error) {
	h := new(held)
	if err := f.acquire(ctx, &s, h); err != nil {
		return nil, err
	}
	return h.release, nil
}

// held is what somebody has of an InFlight.
type held struct {
	from  *InFlight
	slots fifo.Held
	freed atomic.Bool
	timed timed // with Adaptive
}

func (f *InFlight) acquire(ctx context.Context, s *Slot, h *held) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o := f.opts.Load()
	r, err := o.request(s)
	if err != nil {
		return err
	}
	if o.Overloaded != nil && o.Overloaded() && f.line.Stats().InUse > 0 {
		return &OverloadError{Name: f.name, Reason: OverloadLoad, RetryAfter: time.Second}
	}
	if h.slots, err = f.line.Acquire(ctx, r); err != nil {
		if ended := ctx.Err(); ended != nil {
			return ended
		}
		return f.refusal(o, err)
	}
	h.from = f
	if f.gauge != nil {
		h.timed = timed{ctx: ctx, start: time.Now()}
	}
	return nil
}

// request returns what to ask the line for.
func (o *InFlightOptions) request(s *Slot) (fifo.Request, error) {
	if s.Weight < 0 {
		return fifo.Request{}, &PolicyError{o.Name, "Weight", fmt.Sprintf("is %d; allowed: 0 (1) or more", s.Weight)}
	}
	if s.Class < 0 || s.Class >= o.Classes {
		return fifo.Request{}, &PolicyError{o.Name, "Class", fmt.Sprintf("is %d; allowed: 0 to %d", s.Class, o.Classes-1)}
	}
	n := max(1, s.Weight)
	if o.Max > 0 {
		n = min(n, o.Max)
	}
	if o.MaxPerKey > 0 && s.Key != "" {
		n = min(n, o.MaxPerKey)
	}
	return fifo.Request{Key: s.Key, Class: s.Class, N: n, Wait: o.MaxWait}, nil
}

// refusal says why the line gave nothing.
func (f *InFlight) refusal(o *InFlightOptions, err error) error {
	// Who came too late for the line has a chance when those in it have gone.
	e := &OverloadError{Name: f.name, RetryAfter: time.Second}
	if o.Queue > 0 {
		e.RetryAfter = max(e.RetryAfter, o.MaxWait)
	}
	switch err {
	case fifo.ErrFull:
		e.Reason, e.Limit = OverloadFull, f.line.Stats().Slots
	case fifo.ErrKeyFull:
		e.Reason, e.Limit = OverloadKeyFull, o.MaxPerKey
	case fifo.ErrWaited:
		e.Reason, e.Limit = OverloadWait, f.line.Stats().Slots
	default:
		return err
	}
	return e
}

// release gives the slots back, once.
func (h *held) release() {
	if h.freed.Swap(true) {
		return
	}
	h.timed.end(h.from)
	h.from.line.Release(h.slots)
}
