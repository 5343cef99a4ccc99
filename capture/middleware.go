package capture

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/goweir/weir/clientip"
)

// A Sink takes records. Record is called once for each exchange, after its
// handler has ended, and concurrently: by the goroutine that served the request,
// which the client may be waiting for. Most callers should put [Async] between.
//
// x is valid until Record returns; [Exchange.Clone] keeps it. ctx has the values
// of the request's context but is not cancelled with it. An error concerns the
// record alone and goes to Options.OnError. A panic is not caught; behind Async
// it is.
type Sink interface {
	Record(ctx context.Context, x *Exchange) error
}

// A SinkFunc is a function used as a [Sink].
type SinkFunc func(ctx context.Context, x *Exchange) error

func (f SinkFunc) Record(ctx context.Context, x *Exchange) error { return f(ctx, x) }

// Middleware records the exchanges that pass it, for sink. It changes nothing
// about them: the handler, the client and the server behave as without it. A
// panic of the handler passes with its value and its stack, after the record was
// made.
//
// opts may be nil. It is copied. Middleware panics if sink is nil, and with what
// opts.Validate returns.
func Middleware(sink Sink, opts *Options) func(http.Handler) http.Handler {
	if sink == nil {
		panic("capture: Middleware with a nil Sink")
	}
	m := &middleware{sink: sink, Options: opts.withDefaults()}
	if err := m.compile(); err != nil {
		panic(err)
	}
	m.refusals.limit = m.RefusalsPerSecond
	_, m.queued = sink.(*Queue)
	return func(next http.Handler) http.Handler {
		if next == nil {
			panic("capture: Middleware around a nil http.Handler")
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			m.serve(next, w, r)
		})
	}
}

type middleware struct {
	sink Sink
	Options
	redact   *redactor
	decoders map[string]Decoder
	refusals refusals
	queued   bool // the sink is a Queue, which finishes records and tells itself what it delivers
}

func (m *middleware) compile() error {
	var unreadable, undecodable error
	m.redact, unreadable = newRedactor(&m.Options)
	m.decoders, undecodable = decodersOf(m.Decoders)
	return errors.Join(unreadable, undecodable)
}

func (m *middleware) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	if m.Match != nil && !m.Match(r) {
		next.ServeHTTP(w, r)
		return
	}
	rec := m.start(r, w)
	rec.serve(next)
	if !rec.returned {
		// Reached only by panic(nil) under GODEBUG=panicnil=1, which recover
		// takes away without telling. runtime.Goexit does not come here.
		panic(nil)
	}
}

func (m *middleware) start(r *http.Request, w http.ResponseWriter) *recording {
	x := newRecord(m)
	x.Start = time.Now()
	x.Client = clientip.From(r)
	x.Proto, x.Method, x.Scheme, x.Host = r.Proto, r.Method, "http", r.Host
	if r.TLS != nil {
		x.Scheme = "https"
	}
	x.Path = m.redact.path(r.URL.EscapedPath())
	if r.URL.Opaque != "" {
		x.Path = m.redact.text(r.URL.Opaque)
	}
	x.Query = m.redact.query(r.URL.RawQuery)
	if len(r.RequestURI) > len(x.Path)+len(x.Query)+1<<10 {
		x.disown()
	}
	x.Request.Header = m.redact.appendHeader(x.record.fields[:0], r.Header, "")
	x.Request.Body.Declared = r.ContentLength
	if r.ContentLength == 0 && r.Header.Get("Content-Length") == "" {
		x.Request.Body.Declared = -1 // net/http says 0 for both
	}
	x.Request.Body.Type = m.redact.text(r.Header.Get("Content-Type"))
	x.Response.Body.Declared = -1

	x.record.request.codings = codings(r.Header)

	skip := decideRequest(r, m.decoders)
	if m.RequestBody != nil && skip.negotiable() {
		skip = m.RequestBody(r, skip)
	}

	rec := &recording{Context: r.Context(), m: m, inner: w, r: r, x: x}
	rec.live.recording = rec
	rec.request.data, rec.response.data = x.Request.Body.data, x.Response.Body.data
	rec.request.start(m.RequestCap, skip)
	// A shallow copy, because net/http looks at the Body of its own request to
	// tell whether it may answer without 100-continue, and must find its own.
	rec.r2 = r.WithContext(rec)
	if skip == SkipNoBody {
		rec.complete = true
	} else {
		rec.body = requestBody{r.Body, rec}
		rec.r2.Body = &rec.body
	}
	return rec
}

func (rec *recording) serve(next http.Handler) {
	defer rec.end()
	next.ServeHTTP(rec.writer.Wrap(rec.inner, rec), rec.r2)
	rec.settle() // calls hooks, whose panics are recorded like the handler's
	rec.returned = true
}

// finish makes the record of an exchange that has ended and offers it.
func (rec *recording) finish(cause any) {
	m, x := rec.m, rec.close(cause)
	defer x.release()
	x.record.ctx.parent = rec.Context
	ctx := &x.record.ctx
	kind := EventOffered
	switch {
	case m.Keep != nil && !m.Keep(x):
		kind = EventSampledOut
	case x.record.refused && !m.refusals.admit():
		kind = EventThinned
	}
	m.observe(ctx, x, kind)
	if kind == EventOffered {
		m.offer(ctx, x)
	}
}

func (m *middleware) offer(ctx context.Context, x *Exchange) {
	if !m.queued {
		x.finish(ctx)
	}
	if m.Observer != nil && !m.queued {
		e := x.event(EventDropped)
		e.Drop, e.Start = DropFailed, time.Now() // unless Record returns without an error
		defer func() {
			e.Duration, e.InUse = time.Since(e.Start), m.Budget.InUse()
			m.Observer.Observe(ctx, e)
		}()
		err := m.sink.Record(ctx, x)
		if err == nil {
			e.Kind, e.Drop = EventDelivered, ""
		}
		m.failed(err)
		return
	}
	m.failed(m.sink.Record(ctx, x))
}

func (m *middleware) failed(err error) {
	if err != nil && m.OnError != nil {
		m.OnError(err)
	}
}
