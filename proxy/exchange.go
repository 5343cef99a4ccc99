package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// An exchange is one request and its answer on the way through.
//
// It has a ReverseProxy of its own, so that hooks know their exchange without a
// context value, and is the ReverseProxy's transport: what ReverseProxy leaves
// open is closed between the two.
type exchange struct {
	proxy *Proxy
	path  string // escaped, below the upstream's base
	in    *http.Request
	w     http.ResponseWriter // as ReverseProxy sees it

	upstream *upstream   // of the latest attempt; nil before the first
	tried    []*upstream // by earlier ones
	ticket   *ticket     // nil without a breaker
	held     bool        // upstream counts this request
	pending  ending
	sent     bool // an upstream may have got the request
	fellBack bool
	hedged   bool
	flushes  atomic.Bool // FlushError is for the body alone
	answered int32       // the status that was passed on

	start   time.Time // zero without an Observer, as is attempt.start
	route   string    // the Pattern of in
	attempt attempt   // the latest
	verdict *verdict  // nil while there is nothing to say

	reverse   httputil.ReverseProxy
	answer    answer
	cancel    context.CancelCauseFunc // nil before RoundTrip
	trace     httptrace.ClientTrace
	informer  informer
	watch     watch
	body      body
	lender    lender
	forwarded forwarded
	upload    *upload // nil if the request has no body
	tunnel    *tunnel // nil if the request asks for no upgrade
	idle      error   // set by expire; to be read after watch.stop
}

var (
	errUpstreamIdle = errors.New("upstream left a body unmoved for too long")
	errClientIdle   = errors.New("client left a body unmoved for too long")
	errTotal        = errors.New("the exchange took longer than Timeouts.Total")
)

// lastFlush is how long a client may take to accept what is left to send when
// the upstream has broken off.
const lastFlush = time.Second

// past is a deadline that every deadline-bound call has missed.
var past = time.Unix(1, 0)

func (x *exchange) serve(w http.ResponseWriter) {
	x.w = w
	if x.tunnel != nil {
		x.tunnel.exchange = x
		x.w = x.tunnel.writer.Wrap(w, x.tunnel)
	}
	if x.proxy.cfg.FullDuplex && x.in.ProtoMajor == 1 && x.in.ContentLength != 0 {
		http.NewResponseController(innermost(w)).EnableFullDuplex()
	}
	x.watch.x = x
	x.answer = answer{x}
	// One by one: to assign a whole struct costs more while garbage is collected.
	x.reverse.Rewrite = unchanged
	x.reverse.Transport = x
	x.reverse.ErrorHandler = fail
	x.reverse.ErrorLog = x.proxy.discard // it has no context: see finish
	done := false
	defer func() {
		var cause any
		if !done {
			// Panics again before this returns: the stack that a server prints
			// still begins where it happened.
			if cause = recover(); cause != nil {
				defer panic(cause)
			}
		}
		// Before finish cuts an answer off, which over HTTP/2 cancels this context
		// as the client does when it leaves.
		gone := x.in.Context().Err()
		x.finish(done)
		x.conclude(done, cause, gone)
	}()
	x.reverse.ServeHTTP(&x.answer, x.in)
	if x.body.err != nil {
		// ReverseProxy panics only below an http.Server. Others, too, must be
		// able to tell half an answer from a whole one.
		panic(http.ErrAbortHandler)
	}
	done = true
}

// finish runs when ReverseProxy has returned (done) or panics.
func (x *exchange) finish(done bool) {
	x.watch.stop()
	x.release()
	if x.cancel != nil {
		x.cancel(nil)
	}
	if t := x.tunnel; t != nil {
		t.finish(x, done)
		if t.writer.Hijacked() {
			return
		}
	}
	if x.fellBack && !done {
		return // fallBack has broken off, if anything was sent
	}
	rc := http.NewResponseController(innermost(x.w))
	if !done && x.body.begun {
		breakOff(x.w, x.in, x.body.err != nil && x.idle != errClientIdle)
		if x.upload.unfinished() {
			// Only then: otherwise the only read is the server's own, and ending
			// it would look as if the client had left.
			x.upload.stop(rc)
		}
		return
	}
	limit := x.proxy.cfg.Timeouts.ClientIdle
	if limit == 0 {
		if !x.proxy.cfg.FullDuplex || !x.leftover() {
			return
		}
		// The server takes for granted that nobody reads the body any more, and
		// panics if the transport still does (golang/go#68560).
		limit = lastFlush
	}
	// When the handler has returned, the server may first read what is left of
	// the request's body, and then sends what is left in its buffers.
	write := time.Now().Add(limit)
	if x.leftover() && x.in.ProtoMajor == 1 {
		if x.upload != nil {
			x.upload.stop(rc)
		}
		closeAfterAnswer(innermost(x.w))
		if x.idle != errClientIdle {
			rc.SetReadDeadline(write)
			write = write.Add(limit)
		}
	}
	// Not by rc, whose error for a writer without deadlines costs allocations.
	if w, ok := innermost(x.w).(interface{ SetWriteDeadline(time.Time) error }); ok {
		w.SetWriteDeadline(write)
	}
}

// breakOff sees to it that a client takes what it got for a part of the answer.
// Something above may recover the panic and return, and the server would then
// end a chunked body properly: half an answer becomes a whole one
// (golang/go#28239 is of this kind). With its deadline missed the connection can
// only break, and an HTTP/2 stream is reset.
func breakOff(w http.ResponseWriter, r *http.Request, flush bool) {
	spoil(r)
	warnRecovery(r)
	rc := http.NewResponseController(innermost(w))
	if flush {
		// What came before the break is the client's, who may continue from
		// there.
		rc.SetWriteDeadline(time.Now().Add(lastFlush))
		http.NewResponseController(w).Flush()
	}
	// By way of what is around, which may record that it was not the client, and
	// below past whatever keeps a deadline for itself.
	http.NewResponseController(w).SetWriteDeadline(past)
	if !r.ProtoAtLeast(1, 1) && w.Header().Get("Content-Length") == "" {
		reset(rc)
	}
	rc.SetWriteDeadline(past)
}

// reset makes an end of the connection that is none of the answer: over HTTP/1.0
// an answer without a length ends where its connection is closed, be it by TCP or
// by TLS, so that neither must be closed in good order.
func reset(rc *http.ResponseController) {
	conn, _, err := rc.Hijack()
	if err != nil {
		return
	}
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // a *tls.Conn
		conn = t.NetConn()
	}
	if t, ok := conn.(interface{ SetLinger(int) error }); ok { // a *net.TCPConn
		t.SetLinger(0)
	}
	conn.Close()
}

// leftover reports whether a part of the request's body may not have been read.
// What a fallback does with a body that is its own is not known; it matters in
// full duplex only, where the server does not see to the rest.
func (x *exchange) leftover() bool {
	return x.upload.unfinished() ||
		x.fellBack && x.upload == nil && x.proxy.cfg.FullDuplex && x.in.ContentLength != 0
}

// closeAfterAnswer makes a server of HTTP/1 close the connection when it has
// sent the answer, even if the header is out already. It is for a request that
// was not read to its end: a read that missed its deadline has ended the
// context of the whole connection, and where the handler has enabled full
// duplex the server would read the rest of the body as the next request.
func closeAfterAnswer(w http.ResponseWriter) {
	// The one public way is to be a reader that has exceeded its limit.
	http.MaxBytesReader(w, io.NopCloser(strings.NewReader("x")), 0).Read(make([]byte, 1))
}

// expire is called by the watch when nothing has moved for too long. It must
// not call the watch, which is locked.
func (x *exchange) expire(t track, s side) {
	if s == upstreamSide {
		x.idle = errUpstreamIdle
		x.cancel(x.idle)
		return
	}
	x.idle = errClientIdle
	x.cancel(x.idle)
	// The handler, or the transport on its behalf, is in a call that waits for
	// the client: let it return.
	rc := http.NewResponseController(innermost(x.w))
	if t == requestTrack {
		rc.SetReadDeadline(past)
	} else {
		rc.SetWriteDeadline(past)
	}
}

// expireTotal is expire for all sides at once.
func (x *exchange) expireTotal(waits [2]side) {
	x.idle = errTotal
	x.cancel(x.idle)
	rc := http.NewResponseController(innermost(x.w))
	if waits[requestTrack] == clientSide {
		rc.SetReadDeadline(past)
	}
	if waits[answerTrack] == clientSide {
		// The client is not to blame, so by way of what is around first, as
		// breakOff does.
		http.NewResponseController(x.w).SetWriteDeadline(past)
		rc.SetWriteDeadline(past)
	}
}

// abandon ends a wait for the upstream when the client cannot be written to.
func (x *exchange) abandon() { x.cancel(nil) }

func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = u.Unwrap()
	}
}

// An answer is the ResponseWriter that ReverseProxy has. Without a closure of
// their own its hooks find their exchange by it.
type answer struct{ x *exchange }

func (a *answer) Unwrap() http.ResponseWriter { return a.x.w }

func (a *answer) Header() http.Header { return a.x.w.Header() }

func (a *answer) WriteHeader(status int) { a.x.w.WriteHeader(status) }

func (a *answer) Write(p []byte) (int, error) { return a.x.lender.write(a.x.w, p) }

// FlushError does nothing while the proxy's own flushes are made: ReverseProxy
// has a timer that calls it at any time.
func (a *answer) FlushError() error {
	if a.x.flushes.Load() {
		return nil
	}
	return http.NewResponseController(a.x.w).Flush()
}

// unchanged leaves the work to RoundTrip.
func unchanged(*httputil.ProxyRequest) {}

func fail(w http.ResponseWriter, _ *http.Request, err error) {
	x := w.(*answer).x
	x.fail(x.w, err)
}

// rewrite makes ReverseProxy's copy of the incoming request the outgoing one.
func (x *exchange) rewrite(out *http.Request) {
	if !x.proxy.cfg.PreserveHost {
		out.Host = ""
	}
	// ReverseProxy would announce the names and send no values.
	out.Trailer = nil
	if x.proxy.cfg.Query != QueryClean {
		out.URL.RawQuery = x.in.URL.RawQuery
	}
	x.forwarded.set(out.Header, x.in, x.proxy, x.w.Header())
}

// RoundTrip is called once by ReverseProxy.
func (x *exchange) RoundTrip(out *http.Request) (*http.Response, error) {
	x.rewrite(out)
	res, err := x.ask(out)
	free := &x.proxy.buffers
	x.lender.bufferPool = &free.small
	x.reverse.BufferPool = &x.lender
	if err == nil && x.body.src != nil {
		switch x.body.kind = kindOf(res); x.body.kind {
		case sized:
			if res.ContentLength > smallBuffer {
				x.lender.bufferPool = &free.medium
			}
		case chunks:
			// ReverseProxy would make a timer, for the flushes that are made here.
			res.ContentLength = 0
		}
		x.flushes.Store(x.body.kind != sized)
	}
	return res, err
}

// ask gets an answer, in as many attempts as it takes.
func (x *exchange) ask(out *http.Request) (*http.Response, error) {
	if x.proxy.cfg.Retries.Max > 0 {
		x.proxy.budget.earn(x.proxy.cfg.Retries.Budget)
	}
	if err := x.acquire(); err != nil {
		return nil, err
	}
	for {
		res, err := x.send(out)
		if x.proxy.cfg.Observer != nil {
			x.observeAttempt(x.attempt, res, err)
		}
		x.sent = x.sent || !isDialError(err)
		x.judge(res, err)
		if x.tryAgain(res, err) {
			if x.acquire() == nil {
				continue
			}
			// Nobody is left, and the outcome is that of the latest attempt.
			if err == nil {
				err = &badStatus{res.StatusCode}
			}
			return nil, err
		}
		if err == nil && x.proxy.cfg.Fallback != nil && failed(res.StatusCode) {
			res.Body.Close()
			x.body = body{}
			return nil, &badStatus{res.StatusCode}
		}
		if err == nil {
			x.answered = int32(res.StatusCode)
		}
		return res, err
	}
}

// isDialError reports whether no connection was made, so that the upstream
// cannot have heard of the request.
func isDialError(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// send is one attempt to get an answer from the upstream.
func (x *exchange) send(out *http.Request) (*http.Response, error) {
	// The context is made from the incoming request's, not from out's, to leave
	// ReverseProxy's trace hook behind: see informer.
	ctx, cancel := context.WithCancelCause(x.in.Context())
	trace := &x.trace
	x.attempt.upstream, x.attempt.number = x.upstream, len(x.tried)+1
	x.attempt.start = x.proxy.observedAt()
	if attempt := len(x.tried); attempt == 0 {
		x.attempt.trigger = TriggerFirst
		x.cancel = cancel
		trace.Got1xxResponse = x.got1xx
		if total := x.proxy.cfg.Timeouts.Total; total > 0 {
			x.watch.bound(total)
		}
	} else {
		if !x.watch.renew(func() { x.cancel = cancel }) {
			cancel(nil)
			return nil, x.idle
		}
		// What the attempts before were given they may still be reading.
		trace = &httptrace.ClientTrace{Got1xxResponse: func(status int, fields textproto.MIMEHeader) error {
			return x.relay(attempt, status, fields)
		}}
		x.informer.begin(attempt)
		ctx = x.attempt.context(ctx)
	}
	ctx = httptrace.WithClientTrace(ctx, trace)
	if len(x.tried) == 0 {
		// In place, which saves the copy: out is ReverseProxy's own.
		*out = *out.WithContext(ctx)
	} else {
		target := out.URL
		out = out.WithContext(ctx)
		out.URL = &url.URL{RawQuery: target.RawQuery, ForceQuery: target.ForceQuery}
	}
	if err := x.upstream.route(out.URL, x.path); err != nil {
		panic(err) // the path comes from EscapedPath, which unescapes
	}
	if out.Body != nil && out.Body != http.NoBody {
		u := &upload{src: out.Body, watch: &x.watch, reading: make(chan struct{}, 1)}
		if x.upload != nil {
			u.src, u.replay = x.upload.src, x.upload.replay
		} else if most := x.proxy.cfg.Retries.MaxBody; most > 0 && x.proxy.cfg.Retries.Max > 0 && isIdempotent(x.in) {
			u.replay = &replay{most: most}
		}
		x.upload = u
		out.Body = u
	}
	var res *http.Response
	var err error
	if x.mayHedge(out) {
		res, err = x.roundTripHedged(out, cancel)
	} else {
		res, err = x.proxy.transport.RoundTrip(out)
	}
	x.informer.settle()
	if err != nil {
		// The cause says more than "context canceled", if it is one of ours.
		switch cause := context.Cause(ctx); cause {
		case errUpstreamIdle, errClientIdle, errTotal:
			if !errors.Is(err, cause) {
				err = fmt.Errorf("%w: %w", cause, err)
			}
		}
		return nil, err
	}
	if res.Body == nil {
		res.Body = http.NoBody
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		if err := x.tunnel.accept(x.in.Context(), res); err != nil {
			return nil, err // after which the watch may have another attempt to see to
		}
		x.watch.stop()
		if x.idle != nil { // Total has passed just now, and ended ctx
			return nil, x.idle
		}
		return res, nil
	}
	if res.StatusCode < 200 || res.StatusCode > 999 {
		// WriteHeader panics on a status that has not three digits, and the
		// client would get no answer at all.
		res.Body.Close()
		return nil, fmt.Errorf("upstream answered with status %d", res.StatusCode)
	}
	if res.Body != http.NoBody {
		x.body = body{src: res.Body, x: x}
		res.Body = &x.body
	}
	return res, nil
}
