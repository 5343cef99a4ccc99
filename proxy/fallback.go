package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/goweir/weir/internal/problem"
	"github.com/goweir/weir/internal/respwriter"
)

// A Reason is why a request was handed to the fallback.
type Reason uint8

const (
	_           Reason = iota
	Forced             // [Proxy.ForceFallback]
	NoUpstream         // all upstreams are down
	Open               // the breakers of all upstreams that are not down are open
	Busy               // Config.InFlight, and the wait for it
	Unreachable        // the upstream cannot be reached, or its answer is not valid
	Timeout            // a time limit passed
	Failed             // the upstream answered with 500, 502, 503 or 504
)

// String returns the reason in lower case, with hyphens, as a metric would have
// it.
func (r Reason) String() string {
	if int(r) < len(reasons) {
		return reasons[r]
	}
	return "unknown"
}

var reasons = [...]string{"unknown", "forced", "no-upstream", "open", "busy", "unreachable", "timeout", "failed"}

// A Cause says why a fallback was called.
type Cause struct {
	_ [0]func() // keyed literals only: fields will be added

	Reason     Reason
	Status     int           // of the answer there would be without a fallback
	Upstream   string        // the latest that was asked; empty if none was
	RetryAfter time.Duration // when to come again; 0 if unknown

	// Sent is whether an upstream may have got the request, and so may have done
	// what it asks for.
	Sent bool

	// Err is what went wrong, for the log. It must not be shown to clients.
	Err error

	clientIdle time.Duration // Timeouts.ClientIdle, for the ready-made fallbacks
}

type causeKey struct{}

// CauseFrom returns why a fallback was called with a request that has this
// context. It is not ok outside of a fallback.
func CauseFrom(ctx context.Context) (cause Cause, ok bool) {
	c, ok := ctx.Value(causeKey{}).(*Cause)
	if !ok {
		return Cause{}, false
	}
	return *c, true
}

// Problem answers as a Proxy without a fallback does, by the Cause in r's
// context, and with 503 if there is none. A fallback that has nothing better
// calls it.
func Problem(w http.ResponseWriter, r *http.Request) {
	cause, ok := CauseFrom(r.Context())
	if !ok {
		cause.Status = http.StatusServiceUnavailable
	}
	cause.write(w)
}

func (c *Cause) write(w http.ResponseWriter) {
	if c.RetryAfter > 0 {
		setRetryAfter(w.Header(), c.RetryAfter)
	}
	d := details[c.Status]
	if c.Reason == Failed {
		d.Detail = "The upstream server failed."
	}
	d.Status = c.Status
	problem.Write(w, d)
}

// FixedAnswer returns a fallback that always answers alike: a page that says
// what is going on, an empty list. It panics if the status is not one of a final
// response, 200 to 599. Header and body are not copied, and must not change.
func FixedAnswer(status int, header http.Header, body []byte) http.Handler {
	if status < 200 || status > 599 {
		panic("proxy: FixedAnswer needs a status from 200 to 599")
	}
	length := []string{strconv.Itoa(len(body))}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		for name, values := range header {
			h[http.CanonicalHeaderKey(name)] = append([]string(nil), values...)
		}
		if status != http.StatusNoContent && status != http.StatusNotModified {
			h["Content-Length"] = length
		}
		w.WriteHeader(status)
		if r.Method != http.MethodHead && len(body) > 0 {
			writePatiently(w, r, body)
		}
	})
}

// writePatiently writes the body of a fallback's answer. The client has as long
// for each part of it as for one of an upstream's.
func writePatiently(w http.ResponseWriter, r *http.Request, body []byte) {
	c, ok := r.Context().Value(causeKey{}).(*Cause)
	if !ok || c.clientIdle == 0 {
		w.Write(body)
		return
	}
	rc := http.NewResponseController(innermost(w))
	for part := range slices.Chunk(body, mediumBuffer) {
		rc.SetWriteDeadline(time.Now().Add(c.clientIdle))
		if _, err := w.Write(part); err != nil {
			return
		}
	}
}

// ForceFallback sends all requests that come from now on to Config.Fallback, and
// back to the upstreams when it is called with false. Requests under way are not
// disturbed. Without a Fallback the answer is 503. It is safe for concurrent use.
func (p *Proxy) ForceFallback(on bool) { p.forced.Store(on) }

// FallbackForced reports what ForceFallback was called with last.
func (p *Proxy) FallbackForced() bool { return p.forced.Load() }

// serveForced answers a request because of ForceFallback.
func (p *Proxy) serveForced(w http.ResponseWriter, r *http.Request, start time.Time) {
	v := verdict{side: SideServer, phase: PhaseCheck, status: http.StatusServiceUnavailable, reason: Forced}
	v.result = OutcomeFailed
	if p.cfg.Fallback != nil {
		v.result = OutcomeAborted // unless it returns
	}
	defer func() {
		if v.result == OutcomeAborted {
			// Panics again before this returns, as in exchange.serve.
			if cause := recover(); cause != nil {
				defer panic(cause)
				if cause != http.ErrAbortHandler {
					v.result, v.err = OutcomePanic, fmt.Errorf("panic: %v", cause)
				}
			}
		}
		p.observeRequest(r, start, v)
	}()
	p.fallBack(w, r, &Cause{Reason: Forced, Status: v.status}, &v.status)
	if p.cfg.Fallback != nil {
		v.result = OutcomeFallback
	}
}

// fallBack answers r in place of an upstream. Nothing but informational
// responses was sent so far. status is set to that of its answer, 0 if there was
// none.
func (p *Proxy) fallBack(w http.ResponseWriter, r *http.Request, cause *Cause, status *int) {
	if p.cfg.Fallback == nil {
		cause.write(w)
		return
	}
	if o := p.cfg.Observer; o != nil {
		o.Observe(r.Context(), Event{Kind: EventFallback, Route: r.Pattern, Upstream: cause.Upstream, Reason: cause.Reason,
			Status: cause.Status, Start: time.Now(), Err: cause.Err})
	}
	spoil(r)
	cause.clientIdle = p.cfg.Timeouts.ClientIdle
	var answer respwriter.Writer
	returned := false
	defer func() {
		answer.Finish(returned)
		*status = answer.Status()
		if !returned && answer.Status() != 0 && !answer.Hijacked() {
			breakOff(w, r, true)
		}
	}()
	p.cfg.Fallback.ServeHTTP(answer.Wrap(w, respwriter.NoHooks{}), r.WithContext(context.WithValue(r.Context(), causeKey{}, cause)))
	returned = true
}

// usedBody is the body of a request of which an upstream has read a part.
type usedBody struct{}

var errUsed = errors.New("proxy: an upstream has read from the body of the request")

func (usedBody) Read([]byte) (int, error) { return 0, errUsed }
func (usedBody) Close() error             { return nil }

var _ io.ReadCloser = usedBody{}

// mayRepeat reports whether r, which another Proxy has handed on in its
// fallback, can be sent without the danger that it is executed twice.
func mayRepeat(r *http.Request, c *Cause) bool {
	_, used := r.Body.(usedBody)
	return !used && (!c.Sent || isIdempotent(r))
}

// isIdempotent reports whether a request can be executed twice as well as once:
// by its method, RFC 9110 section 9.2.2, or because the upstream is asked to see
// to it.
func isIdempotent(r *http.Request) bool {
	switch r.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return r.Header.Get("Idempotency-Key") != ""
}

// badStatus is an answer that is handed to the fallback.
type badStatus struct{ status int }

func (e *badStatus) Error() string { return "upstream answered with status " + strconv.Itoa(e.status) }

// cause says why status is the answer.
func (x *exchange) cause(status int, err error) *Cause {
	c := &Cause{Status: status, Upstream: x.upstreamName(), Sent: x.sent, Err: err}
	if u, ok := errors.AsType[*unavailable](err); ok {
		c.Reason, c.RetryAfter = u.reason, max(u.after, time.Second)
		return c
	}
	_, answered := errors.AsType[*badStatus](err)
	switch {
	case errors.Is(err, errShutdown):
		c.RetryAfter = retryAfter
	case answered:
		c.Reason = Failed
	case status == http.StatusGatewayTimeout:
		c.Reason = Timeout
	case status == http.StatusBadGateway:
		c.Reason = Unreachable
	}
	return c
}
