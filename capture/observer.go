package capture

import (
	"context"
	"strconv"
	"time"
)

// An Observer is told what becomes of exchanges and their records, for metrics
// and traces. It is called by many goroutines at once, with no lock held, by a
// [Middleware] on the way of the request: it should return soon. nil Observers
// cost nothing.
type Observer interface {
	Observe(ctx context.Context, e Event)
}

// An Event is something that happened to an exchange. Which fields are set is
// said at its Kind; fields may be added.
type Event struct {
	Kind    EventKind
	Route   string  // the exchange's
	Status  int     // the exchange's
	Outcome Outcome // the exchange's

	Part Part       // of [EventSkipped] and [EventTruncated]
	Skip SkipReason // of [EventSkipped] and [EventTruncated]
	Drop DropReason // of [EventDropped]

	// Start and Duration are those of the exchange, or of the call of the sink's
	// Record for [EventDelivered] and [EventDropped] with [DropFailed].
	Start    time.Time
	Duration time.Duration

	InUse        int64 // bytes of the Budget, in events of a Middleware
	Waiting      int   // records, in events of a Queue, as in QueueStats
	WaitingBytes int64 // in events of a Queue, as in QueueStats
}

// An EventKind says what happened.
//
// A [Middleware] tells exactly one of EventOffered, EventThinned and
// EventSampledOut of each exchange, and what is offered is later told to be
// delivered or dropped exactly once: by the [Queue] if the middleware's sink is
// one, which has an Observer of its own, and by the middleware otherwise. So, of
// the numbers of events, exchanges = offered + thinned + sampled out, and, when
// nothing waits, offered = delivered + dropped.
type EventKind uint8

const (
	EventOffered    EventKind = iota + 1 // the record was offered to the sink
	EventThinned                         // a refusal beyond Options.RefusalsPerSecond was not
	EventSampledOut                      // Options.Keep did without the record

	EventDelivered // the sink took a record and returned no error
	EventDropped   // a record was lost; Drop says why

	// EventSkipped says that nothing was captured of a body, EventTruncated that
	// only a beginning was; Part is whose, Skip is why. They are told before the
	// exchange's first event of those above, and once more before EventDelivered
	// if decoding or masking left out more.
	EventSkipped
	EventTruncated
)

var eventKinds = [...]string{"none", "offered", "thinned", "sampled_out", "delivered", "dropped", "skipped", "truncated"}

// String returns the kind in words, for logs and metric labels.
func (k EventKind) String() string {
	if int(k) < len(eventKinds) {
		return eventKinds[k]
	}
	return "EventKind(" + strconv.Itoa(int(k)) + ")"
}

// A Part is one of the two messages of an exchange.
type Part string

const (
	PartRequest  Part = "request"
	PartResponse Part = "response"
)

// A DropReason says why a record did not reach its sink.
type DropReason string

const (
	DropFull   DropReason = "full"   // the queue had no room, by its policy
	DropClosed DropReason = "closed" // the queue was closed, or its Close ran out of time
	DropFailed DropReason = "failed" // the sink returned an error or panicked
)

// event returns what events say of x.
func (x *Exchange) event(kind EventKind) Event {
	return Event{
		Kind: kind, Route: x.Route, Status: x.Status, Outcome: x.Outcome,
		Start: x.Start, Duration: x.Duration,
	}
}

// observe tells what became of an exchange that has ended, and of its bodies.
func (m *middleware) observe(ctx context.Context, x *Exchange, kind EventKind) {
	if m.Observer == nil {
		return
	}
	m.observeBody(ctx, x, PartRequest, &x.Request.Body)
	m.observeBody(ctx, x, PartResponse, &x.Response.Body)
	e := x.event(kind)
	e.InUse = m.Budget.InUse()
	m.Observer.Observe(ctx, e)
}

func (m *middleware) observeBody(ctx context.Context, x *Exchange, part Part, b *Body) {
	if b.Skipped == "" {
		return
	}
	e := x.event(EventSkipped)
	if b.Truncated {
		e.Kind = EventTruncated
	}
	e.Part, e.Skip, e.InUse = part, b.Skipped, m.Budget.InUse()
	m.Observer.Observe(ctx, e)
}
