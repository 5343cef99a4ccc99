package proxy

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/goweir/weir/internal/fifo"
)

// An Observer is told what happens, for metrics and traces. It is called by many
// goroutines at once, with no lock held, mostly on the way of a request: it
// should return soon. It must not panic: some of these goroutines are nobody
// else's, and the process would end. nil Observers cost nothing.
//
// ctx is the request's, with the values of middleware in front, such as the
// running span or the record of package capture; it may have ended. What is not
// about one request has [context.Background].
//
// An attempt is told of when it has ended. What must see its beginning too, or
// add to its header (a span, and traceparent), is a RoundTripper by
// Config.WrapTransport, which is called once per attempt with a context that has
// the same values; [AttemptFrom] tells it which one it is. Such a RoundTripper
// sees neither the wait before an attempt, nor what became of the request.
type Observer interface {
	Observe(ctx context.Context, e Event)
}

// An Event is something that happened. Which fields are set is said at its Kind;
// fields may be added. No field has a path, a user or an address of a client.
type Event struct {
	Kind     EventKind
	Route    string // the request's Pattern; empty if it is not about a request
	Upstream string // its Name, as in UpstreamState; empty if none was asked
	Result   Outcome
	Side     Side  // who is at fault; empty if nobody
	Phase    Phase // how far it had come when it failed; empty if it did not
	Status   int
	Reason   Reason // why there is no answer of the upstream's; 0 if there is
	Attempt  int    // from 1
	Trigger  Trigger
	State    BreakerState

	Start    time.Time
	Duration time.Duration

	// BytesUp and BytesDown are how much was read of the request's body by the
	// latest upstream, and of the answer's by the proxy; what was sent on, of a
	// tunnel.
	BytesUp, BytesDown int64

	Err error // not for clients
}

// An EventKind says what happened.
type EventKind uint8

const (
	// EventRequest is the end of a request, exactly one for each. Result, Side,
	// Phase and Reason say how it ended, Status what the client was sent: 499 if
	// it had left before the header, and 0 if there was none. Where the fallback
	// answered, Status is its own, and the other fields say why it was called.
	// Upstream, Attempt and Trigger are those of the latest attempt, if there was
	// one.
	EventRequest EventKind = iota + 1

	// EventAttempt is the header of an upstream's answer, with its Status, or the
	// end of an attempt to get one, with Err, Side and Phase. Start is when the
	// request was sent to Upstream. What becomes of the answer's body is told by
	// EventRequest.
	EventAttempt

	// EventFallback says that Config.Fallback was called, for Reason, and with
	// the Status that would have been the answer.
	EventFallback

	// EventNoBudget says that a request was not sent again, or not hedged, by
	// Retries.Budget alone. Trigger is what it would have been sent again for,
	// Attempt which attempt that would have been.
	EventNoBudget

	// EventWait is the end of a wait for a place at Upstream (Config.InFlight):
	// OutcomeOK if there was one, OutcomeRefused if too many waited already,
	// OutcomeTimeout after InFlight.Wait, OutcomeLeft if the request ended.
	EventWait

	// EventEjected says that Upstream is out of the choice (Config.Ejection), for
	// Duration. EventReturned is told with the first request that is sent to it
	// after that.
	EventEjected
	EventReturned

	// EventDown and EventUp say that [Proxy.CheckHealth] has found Upstream not
	// to answer well, for Err, and to do so again. When CheckHealth returns,
	// whatever is down is up.
	EventDown
	EventUp

	// EventBreaker says that the breaker of Upstream has changed to State.
	EventBreaker

	// EventTunnelOpen says that a request has become a tunnel to Upstream, and
	// EventTunnelClose that it is closed: BytesUp and BytesDown, how long it was
	// open, and, in Err, why the proxy closed it. Err is nil if the ends did.
	EventTunnelOpen
	EventTunnelClose
)

var eventKinds = [...]string{"none", "request", "attempt", "fallback", "no budget", "wait",
	"ejected", "returned", "down", "up", "breaker", "tunnel open", "tunnel close"}

// String returns the kind in words, for logs and metric labels.
func (k EventKind) String() string {
	if int(k) < len(eventKinds) {
		return eventKinds[k]
	}
	return "EventKind(" + strconv.Itoa(int(k)) + ")"
}

// An Outcome says how a request, an attempt, or a wait has ended.
type Outcome string

const (
	OutcomeOK       Outcome = "ok"       // an upstream answered, with whatever status; the whole answer was passed on
	OutcomeFailed   Outcome = "failed"   // there was no answer to pass on: the client was told by Status
	OutcomeAborted  Outcome = "aborted"  // the answer, or the tunnel, was broken off
	OutcomeLeft     Outcome = "left"     // the client left, or the connection to it broke
	OutcomeFallback Outcome = "fallback" // Config.Fallback answered, for Reason
	OutcomeRefused  Outcome = "refused"  // no upstream was to hear of it
	OutcomePanic    Outcome = "panic"    // code around the proxy panicked: a transport, a body, the fallback, a ResponseWriter
	OutcomeTimeout  Outcome = "timeout"  // of a wait
	OutcomeOutrun   Outcome = "outrun"   // of an attempt: the other one, by Retries.Hedge, was first
)

// A Side is who is at fault where something ended that did not end well.
type Side string

const (
	SideClient   Side = "client"   // it left, fell silent, or sent what cannot be accepted
	SideUpstream Side = "upstream" // it, or the way to it, failed, or none can be used
	SideServer   Side = "server"   // this process: a bound of its own, Shutdown, code around the proxy
)

// A Phase is how far a request had come. Those that package capture knows have
// the same names there.
type Phase string

const (
	PhaseCheck    Phase = "check"    // whether it may be sent on
	PhaseChoose   Phase = "choose"   // of an upstream, and waiting for a place there
	PhaseConnect  Phase = "connect"  // to the upstream, TLS included
	PhaseRequest  Phase = "request"  // the request's body was not read to its end
	PhaseWaiting  Phase = "waiting"  // for the header of the answer
	PhaseResponse Phase = "response" // the answer's body was under way
	PhaseTunnel   Phase = "tunnel"   // it was a tunnel
)

// A Trigger is why an attempt was made.
type Trigger string

const (
	TriggerFirst   Trigger = "first"   // it is the first
	TriggerConnect Trigger = "connect" // no connection could be made by the attempt before
	TriggerBroken  Trigger = "broken"  // no valid answer came to it
	TriggerStatus  Trigger = "status"  // its answer had one of Retries.Statuses
	TriggerHedge   Trigger = "hedge"   // its answer had not come after Retries.Hedge
)

// observedAt is the time where somebody is told of it, and zero otherwise.
func (p *Proxy) observedAt() time.Time {
	if p.cfg.Observer == nil {
		return time.Time{}
	}
	return time.Now()
}

// observe tells what is not about one request.
func (p *Proxy) observe(e Event) {
	if o := p.cfg.Observer; o != nil {
		o.Observe(context.Background(), e)
	}
}

// observeRefusal tells of a request of which no upstream was to hear.
func (p *Proxy) observeRefusal(r *http.Request, start time.Time, v verdict) {
	v.result, v.phase = OutcomeRefused, PhaseCheck
	p.observeRequest(r, start, v)
}

// observeRequest tells how a request has ended that was no exchange.
func (p *Proxy) observeRequest(r *http.Request, start time.Time, v verdict) {
	if o := p.cfg.Observer; o != nil {
		o.Observe(r.Context(), v.event(Event{Kind: EventRequest, Route: r.Pattern, Start: start, Duration: time.Since(start)}))
	}
}

// observe tells what is about the request. It must not be called without an
// Observer: what an Event needs may cost something.
func (x *exchange) observe(e Event) {
	e.Route = x.route
	x.proxy.cfg.Observer.Observe(x.in.Context(), e)
}

// observeAttempt tells how an attempt has ended, unless it was outrun.
func (x *exchange) observeAttempt(a attempt, res *http.Response, err error) {
	e := a.event(OutcomeOK, res, err)
	if err != nil {
		status := x.status(err)
		e.Result, e.Side, e.Phase = OutcomeFailed, x.side(status, err), x.phase(err)
		if status == statusClientClosed {
			e.Result = OutcomeLeft
		}
	}
	x.observe(e)
}

func (a *attempt) event(result Outcome, res *http.Response, err error) Event {
	e := Event{Kind: EventAttempt, Upstream: a.upstream.name, Attempt: a.number, Trigger: a.trigger,
		Result: result, Start: a.start, Duration: time.Since(a.start), Err: err}
	if res != nil {
		e.Status = res.StatusCode
	}
	return e
}

// observeWait tells how a wait for a place has ended.
func (x *exchange) observeWait(up *upstream, start time.Time, err error) {
	result := OutcomeOK
	switch {
	case err == fifo.ErrFull:
		result = OutcomeRefused
	case err == fifo.ErrWaited:
		result = OutcomeTimeout
	case err != nil:
		result = OutcomeLeft
	}
	x.observe(Event{Kind: EventWait, Upstream: up.name, Result: result, Start: start, Duration: time.Since(start)})
}

// observeEnd tells how the request has ended.
func (x *exchange) observeEnd(v *verdict) {
	e := v.event(Event{Kind: EventRequest, Upstream: x.upstreamName(), Start: x.start, Duration: time.Since(x.start)})
	e.Attempt, e.Trigger = x.attempt.number, x.attempt.trigger
	if x.tunneled() {
		e.BytesUp, e.BytesDown = x.tunnel.up.bytes.Load(), x.tunnel.down.bytes.Load()
	} else {
		e.BytesDown = x.body.bytes
		if x.upload != nil {
			e.BytesUp = x.upload.bytes.Load()
		}
	}
	x.observe(e)
}
