package limiter

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/internal/problem"
	"github.com/goweir/weir/internal/respwriter"
)

// Middleware is [InFlightMiddleware] for f.
func (f *InFlight) Middleware(slot func(*http.Request) (Slot, error), opts *Options) func(http.Handler) http.Handler {
	return InFlightMiddleware(f, slot, opts)
}

// InFlightMiddleware returns a middleware that lets a request pass when it has
// got its slots from a, and gives them back when the response has ended: when the
// handler returns, panics or aborts, or, of a connection that was hijacked, when
// that is closed. What Hijack returns has all methods of a *net.TCPConn, a
// *net.UnixConn or a *tls.Conn, but is of another type.
//
// It panics if a is nil, if opts has an unknown value, or if slot is nil and a
// has a cap per key. slot says what a request asks for; nil is one slot, for
// every request. nil opts means the zero Options.
//
// A refusal is 503, or [Options.InFlightStatus], with Retry-After and a body of
// type application/problem+json (RFC 9457) that names the limit. With [Draft10]
// it has RateLimit fields too, in which the quota unit is "concurrent-requests";
// other responses have none, because what is free changes before they are read.
// If a fails, the answer is 503. If the client leaves while the request waits,
// the handler is not called, and the answer, for the records, is 499.
//
// Place it inside of [Middleware]: to be refused for the rate costs less than to
// wait for a slot first. What the rules took is given back for a request that
// gets none. A middleware between the two may replace the response writer, but its
// Header must be the same map, or be copied. An [http.TimeoutHandler] copies it
// only where it is in time: it belongs outside of both, or what was taken is not
// given back for a request that ends while it waits. A handler that goes on
// behind one inside of this middleware does so without a slot.
//
// slot is what a KeyFunc is in rules, and an error of it, or a Key of "" where a
// has a cap per key, is what [Options.Unkeyed] is about; SkipUnkeyed leaves out
// the cap per key alone.
//
// OnDecision gets a Decision with Rule -1 and no Charges, and Err saying why the
// request was refused; it is not told of clients that left while they waited.
func InFlightMiddleware(a Acquirer, slot func(*http.Request) (Slot, error), opts *Options) func(http.Handler) http.Handler {
	if a == nil {
		panic("limiter: InFlightMiddleware: the Acquirer is nil")
	}
	m := &inFlight{acquirer: a, slot: slot}
	m.own, _ = a.(*InFlight)
	if opts != nil {
		m.opts = *opts
	}
	if m.opts.InFlightStatus == 0 {
		m.opts.InFlightStatus = http.StatusServiceUnavailable
	}
	if m.opts.Headers > NoHeaders || m.opts.Unkeyed > SkipUnkeyed || !slices.Contains(inFlightStatuses[:], m.opts.InFlightStatus) {
		panic("limiter: InFlightMiddleware: unknown Headers, Unkeyed or InFlightStatus")
	}
	s := a.Snapshot()
	if slot == nil && s.MaxPerKey > 0 {
		panic("limiter: InFlightMiddleware: slot is nil, and there is a cap per key")
	}
	m.name, m.source = s.Name, s.Source
	m.refusal = problem.Prepare(problem.Details{
		Type:             problem.TemporaryReducedCapacity,
		Title:            reducedCapacity,
		Status:           m.opts.InFlightStatus,
		ViolatedPolicies: []string{m.name},
	})
	return func(next http.Handler) http.Handler { return &inFlightHandler{m, next} }
}

var inFlightStatuses = [...]int{http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusGatewayTimeout}

// inFlight is what all handlers of one call of InFlightMiddleware share.
type inFlight struct {
	acquirer Acquirer
	own      *InFlight // the same, if it is one
	slot     func(*http.Request) (Slot, error)
	opts     Options
	name     string
	source   Source
	refusal  *problem.Answer
}

type inFlightHandler struct {
	*inFlight
	next http.Handler
}

func (h *inFlightHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &occupant{m: h.inFlight, r: r}
	if h.opts.Observer != nil {
		x.start = time.Now()
	}
	d := Decision{Rule: -1, form: h.opts.Headers}
	s, err := x.ask(&d)
	if err == nil {
		err = x.acquire(&s)
	}
	if d.Allowed = err == nil; !d.Allowed {
		d.Err = err
		d.busy, _ = errors.AsType[*OverloadError](err)
		x.classify(&d)
	}
	// Before any hook: what was taken is given back even if one panics.
	if !d.Allowed {
		defer turnAway(w.Header())
	} else if x.holds {
		defer x.end()
	}
	if h.opts.Observer != nil {
		x.observe(&d, max(1, s.Weight))
	}
	left := err != nil && err == r.Context().Err()
	if h.opts.OnDecision != nil && !(left && err == context.Canceled) {
		h.opts.OnDecision(r, d.public())
	}
	switch {
	case !d.Allowed:
		x.refuse(w, &d, left)
	case x.holds:
		h.next.ServeHTTP(x.rw.Wrap(w, x), r)
		x.ended = true
	default:
		h.next.ServeHTTP(w, r)
	}
}

// An occupant is one request that has slots, or wants some.
type occupant struct {
	respwriter.NoHooks
	rw      respwriter.Writer
	m       *inFlight
	r       *http.Request
	start   time.Time // when it came, and later when it got its slots, if there is an Observer
	result  Outcome   // if there is an Observer
	n       int       // the same
	ended   bool      // the handler returned
	holds   bool      // slots were taken
	gone    atomic.Bool
	held    timedHeld // of an InFlight
	release func()    // of another Acquirer
}

// ask returns what the request asks for.
func (x *occupant) ask(d *Decision) (s Slot, err error) {
	if x.m.slot == nil {
		return s, nil
	}
	s, err = x.m.slot(x.r)
	if err == nil && s.Key == "" && x.m.acquirer.Snapshot().MaxPerKey > 0 {
		err = ErrNoKey
	}
	if err == nil {
		return s, nil
	}
	err = &KeyError{-1, x.m.name, err}
	if x.m.opts.Unkeyed == SkipUnkeyed {
		s.Key = ""
		// Having no key is no fault where it was chosen to mean nothing.
		if !errors.Is(err, ErrNoKey) {
			d.Err = err
		}
		return s, nil
	}
	return s, err
}

func (x *occupant) acquire(s *Slot) (err error) {
	if x.m.own != nil {
		x.held.from = x.m.own
		x.held.slots, err = x.m.own.acquire(x.r.Context(), s)
		if err == nil && x.m.own.gauge != nil {
			x.held.timed = timed{ctx: x.r.Context(), start: time.Now()}
		}
	} else {
		x.release, err = x.m.acquirer.Acquire(x.r.Context(), *s)
	}
	x.holds = err == nil
	return err
}

// classify says what became of a request that got no slot, and lets it pass
// without one where that is the caller's choice.
func (x *occupant) classify(d *Decision) {
	_, unkeyed := errors.AsType[*KeyError](d.Err)
	switch {
	case d.busy != nil:
		x.result = OutcomeDenied
	case unkeyed:
		x.result = OutcomeUnkeyed
	case d.Err == x.r.Context().Err():
		x.result = OutcomeLeft
	default:
		x.result = OutcomeFailed
		if d.Allowed = x.m.opts.OnError != nil && x.m.opts.OnError(x.r, d.Err); d.Allowed {
			x.result = OutcomeWaved
		}
	}
}

// refuse answers a request that got no slot.
func (x *occupant) refuse(w http.ResponseWriter, d *Decision, left bool) {
	h := w.Header()
	if x.result == OutcomeUnkeyed {
		warnUnkeyed(x.r, x.m.name, d.Err)
	}
	switch {
	case left && d.Err == context.Canceled:
		clientClosed.Write(w)
	case d.busy != nil && x.m.opts.OnLimit != nil:
		d.SetHeader(h)
		x.m.opts.OnLimit(w, x.r, d.public())
	case d.busy != nil || left:
		problem.Clear(h)
		d.SetHeader(h)
		if len(h[fieldRetryAfter]) == 0 {
			h.Set(fieldRetryAfter, "1")
		}
		x.m.refusal.WriteCleared(w)
	case x.result != OutcomeUnkeyed:
		h.Set(fieldRetryAfter, "1")
		undecided.Write(w)
	case errors.Is(d.Err, ErrNoKey):
		unkeyed.Write(w)
	default:
		keyless.Write(w)
	}
}

// Header implements [respwriter.Hooks].
func (x *occupant) Header(status int, _ http.Header) {
	if x.held.timed.ctx == nil {
		return
	}
	s := signOf(status)
	if x.r.Context().Err() == context.DeadlineExceeded {
		s = timedOut
	}
	x.held.timed.tell(x.m.own, s)
}

// end gives the slots back, unless there is a hijacked connection, which does
// that when it is closed.
func (x *occupant) end() {
	hijacked := x.rw.Hijacked()
	if !hijacked && !x.ended && x.r.Context().Err() == nil {
		x.held.timed = timed{} // how soon it panics says nothing
	}
	finish(&x.rw, x.r, x.ended)
	if !hijacked || !x.ended {
		x.giveBack()
	}
}

func (x *occupant) giveBack() {
	if x.gone.Swap(true) {
		return
	}
	if x.release != nil {
		x.release()
	} else {
		x.held.release()
	}
	if o := x.m.opts.Observer; o != nil {
		o.Observe(x.r.Context(), Event{
			Kind: EventRelease, Policy: x.m.name, Route: x.r.Pattern, Source: x.m.source,
			Start: x.start, Duration: time.Since(x.start), N: x.n,
		})
	}
}

// refusedMark is the key by which the header of a response says that no handler
// was called, so that the rules outside give back what they took. It is no name
// of a field and has no values, so it is never sent: not by net/http, and not by
// a middleware that copies the header before.
const refusedMark = "weir: refused"

func turnAway(h http.Header) { h[refusedMark] = nil }

func turnedAway(h http.Header) bool {
	if len(h) == 0 {
		return false // inlined, and so cheaper than looking
	}
	_, is := h[refusedMark]
	return is
}
