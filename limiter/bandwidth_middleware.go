package limiter

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/internal/respwriter"
)

// Middleware returns a middleware that paces the bodies of the requests that
// pass. Call it behind what refuses requests and inside what records them, so
// that the record's times are those of the client. The returned function may be
// called often; all of them draw on the same rates.
//
// A request that no limit applies to is passed on as it is. Of a paced one:
//
//   - Every byte arrives unchanged. What a Write hands over goes in slices, with
//     a wait before each that there is no room for. Flush, 1xx, trailers,
//     deadlines and Expect: 100-continue are as without the middleware. The body
//     of a HEAD is not paced, since none is sent.
//   - If the request's context ends during a wait (the client has left, say),
//     the wait ends at once and the Write returns the context's error, as every
//     Write after it does; with a deadline, as soon as it is sure to be missed.
//     As the handler meant to send more, the response is aborted when it returns
//     ([http.ErrAbortHandler]), so that nobody takes what came for the whole.
//   - A file that the handler sends by io.Copy or http.ServeContent goes by
//     sendfile, slice by slice; while nothing limits the response, in one piece.
//   - A request body is read first and paid for then, no more than a slice at a
//     time, so the client may still send what the kernel has room for. Bytes
//     that the handler leaves unread are net/http's to discard, unpaced.
//   - A connection that the handler takes over goes on drawing on the same
//     rates, by Write and, where Bodies includes requests, by Read, until it is
//     closed. What the handler gets is no *net.TCPConn; it has CloseWrite, and
//     NetConn returns the connection itself. Close and deadlines end its waits.
//
// net/http notices that a client leaves when the request has no body, or the
// body was read; until then a wait ends by its slice. A server's WriteTimeout
// must allow for the pace, for it counts the waits in.
func (b *Bandwidth) Middleware() func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler { return &bandwidthHandler{b, next} }
}

type bandwidthHandler struct {
	b    *Bandwidth
	next http.Handler
}

func (h *bandwidthHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b := h.b
	limits := b.limits.Load()
	who, err := b.identify(r, limits)
	switch {
	case err != nil:
		b.refuse(w, r, err)
	case who.limited(limits):
		b.begin(r, who).serve(w, h.next)
	default:
		h.next.ServeHTTP(w, r)
	}
}

// A bodyIdentity says which rates a body draws on.
type bodyIdentity struct {
	class      int
	key, route string // empty: none of these
}

func (b *Bandwidth) identify(r *http.Request, limits *BandwidthLimits) (who bodyIdentity, err error) {
	if limits.PerKey > 0 {
		key, err := b.opts.Key(r)
		if err == nil && key == "" {
			err = ErrNoKey
		}
		if err == nil {
			who.key = bounded(key)
		} else if b.opts.Unkeyed == RefuseUnkeyed {
			return who, err
		}
	}
	if limits.PerRoute > 0 && r.Pattern == "" && b.opts.Unkeyed == RefuseUnkeyed {
		return who, errNoPattern
	}
	if r.Pattern != "" && limits.ofRoute(r.Pattern) > 0 {
		who.route = r.Pattern
	}
	if len(limits.Classes) > 1 {
		name := b.opts.Class(r)
		for who.class < len(limits.Classes)-1 && limits.Classes[who.class].Name != name {
			who.class++
		}
	}
	return who, nil
}

func (who *bodyIdentity) limited(l *BandwidthLimits) bool {
	return l.PerResponse > 0 || l.Total > 0 || who.key != "" || who.route != "" ||
		len(l.Classes) > 0 && l.Classes[who.class].Max > 0
}

// refuse answers a request that lacks what its bytes would be counted by.
func (b *Bandwidth) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if b.opts.Observer != nil {
		kind := EventSent
		if b.opts.Bodies == RequestBodies {
			kind = EventReceived
		}
		b.opts.Observer.Observe(r.Context(), Event{Kind: kind, Route: r.Pattern, Result: OutcomeUnkeyed, Start: time.Now(), Err: err})
	}
	warnUnkeyed(r, "bandwidth", err)
	if err == ErrNoKey {
		unkeyed.Write(w)
	} else {
		keyless.Write(w)
	}
}

// A transfer is one request on its way through.
type transfer struct {
	respwriter.NoHooks
	rw         respwriter.Writer
	b          *Bandwidth
	r          *http.Request
	class      int
	key, route *sharer
	start      time.Time
	down, up   *pacedBody // nil: not paced
	body       uploadBody
	conn       *pacedConn // taken over by the handler
	returned   bool
	users      atomic.Int32 // the handler, and the connection that it took over
}

var _ respwriter.Pacer = (*transfer)(nil)

func (b *Bandwidth) begin(r *http.Request, who bodyIdentity) *transfer {
	t := &transfer{b: b, r: r, class: who.class, start: time.Now()}
	if who.key != "" {
		t.key = b.keys.enter(who.key)
	}
	if who.route != "" {
		t.route = b.routes.enter(who.route)
	}
	t.users.Store(1)
	if b.opts.Bodies != RequestBodies && r.Method != http.MethodHead {
		t.down = t.pace()
	}
	if b.opts.Bodies != ResponseBodies && r.Body != nil && r.Body != http.NoBody {
		t.up = t.pace()
	}
	return t
}

// pace begins to pace a body.
func (t *transfer) pace() *pacedBody {
	p := new(pacedBody)
	p.start(t.b, t.class, t.key, t.route)
	return p
}

func (t *transfer) serve(w http.ResponseWriter, next http.Handler) {
	r := t.r
	if t.up != nil {
		// A shallow copy, because net/http looks at the Body of its own request
		// to tell whether it may answer without 100-continue.
		r = t.r.WithContext(t.r.Context())
		t.body = uploadBody{r.Body, t.up, r.Context()}
		r.Body = &t.body
	}
	defer t.finish(r)
	next.ServeHTTP(t.rw.Wrap(w, t), r)
	t.returned = true
}

// finish is what happens when the handler has ended.
func (t *transfer) finish(inner *http.Request) {
	if inner != t.r {
		if t.r.Pattern != inner.Pattern {
			t.r.Pattern = inner.Pattern
		}
		if inner.MultipartForm != nil {
			t.r.MultipartForm = inner.MultipartForm // the server removes its files
		}
	}
	finish(&t.rw, t.r, t.returned)
	broken := t.returned && !t.rw.Hijacked() && t.down != nil && t.down.broken()
	if t.conn != nil && !t.returned {
		t.conn.closed.Do(t.conn.end) // after a panic nobody may be left who closes it
	}
	t.leave()
	if broken {
		panic(http.ErrAbortHandler)
	}
}

// leave ends the pacing if nobody is left to send or receive.
func (t *transfer) leave() {
	if t.users.Add(-1) > 0 {
		return
	}
	for _, p := range [...]*pacedBody{t.down, t.up} {
		if p != nil {
			p.release()
		}
	}
	if t.key != nil {
		t.b.keys.exit(t.key)
	}
	if t.route != nil {
		t.b.routes.exit(t.route)
	}
	if t.b.opts.Observer != nil {
		t.observe(t.down, EventSent)
		t.observe(t.up, EventReceived)
	}
}

func (t *transfer) observe(p *pacedBody, kind EventKind) {
	if p == nil {
		return
	}
	e := p.event(kind)
	e.Route, e.Start = t.r.Pattern, t.start
	if classes := t.b.limits.Load().Classes; len(classes) > 0 {
		e.Policy = classes[t.class].Name
	}
	t.b.opts.Observer.Observe(t.r.Context(), e)
}

// Header implements [respwriter.Hooks].
func (t *transfer) Header(_ int, h http.Header) {
	if t.b.opts.ExemptEvents && isEventStream(h.Get("Content-Type")) {
		t.exempt(&t.down)
	}
}

// exempt ends the pacing of a body before it has begun.
func (t *transfer) exempt(p **pacedBody) {
	if *p != nil {
		(*p).release()
		*p = nil
	}
}

// isEventStream reports whether a Content-Type is that of server-sent events.
func isEventStream(contentType string) bool {
	mediaType, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), "text/event-stream")
}

// Admit implements [respwriter.Pacer].
func (t *transfer) Admit(n int64) (int64, error) {
	if t.down == nil {
		return n, nil
	}
	return t.down.admit(t.r.Context(), n)
}

// Body implements [respwriter.Hooks].
func (t *transfer) Body(_ []byte, n int64, _ error) {
	if t.down != nil {
		t.down.spend(n)
	}
}

// An uploadBody is the request's Body as the handler sees it.
type uploadBody struct {
	io.ReadCloser
	paced *pacedBody
	ctx   context.Context
}

func (u *uploadBody) Read(b []byte) (int, error) {
	if most := u.paced.most(); int64(len(b)) > most {
		b = b[:most]
	}
	n, err := u.ReadCloser.Read(b)
	if paid := u.paced.pay(u.ctx, int64(n)); paid != nil {
		return n, paid // not an io.EOF: the handler is to notice
	}
	return n, err
}
