// Package weirecho uses net/http middleware and handlers in Echo v5, without
// what [echo.WrapMiddleware] and [echo.WrapHandler] get wrong.
//
// [Wrap] turns a func(http.Handler) http.Handler into an Echo middleware that
// refuses by an error, so that the application's own error handler writes the
// answer; that sees the true status and size of everything, errors included; and
// that leaves the context as it found it. [Handler] mounts an http.Handler that
// answers for itself: a proxy, a file server, a fallback.
//
// The package imports Echo and nothing else. It works with any middleware.
package weirecho

import (
	"context"
	"net/http"
	"sync"

	"github.com/labstack/echo/v5"
)

// Wrap returns mw as a middleware of Echo, for Use, groups and routes. It is
// skipped for requests of which one of skip says true; a Skipper of Echo's
// middleware package is such a function. Safe for concurrent use, like every
// middleware. Panics if mw is nil.
//
// mw is called once, by Wrap, and not once per request: what it keeps in the
// handler it returns is kept.
//
// A refusal is a status of 400 or more that mw writes without having called
// next. Its body is dropped, and it becomes an [echo.HTTPError] with its status;
// its header fields stay for the error handler to send along, except
// Content-Type, Content-Length and a Content-Encoding that mw has set. It is no
// refusal any more, and passes untouched, once mw flushes it, hijacks the
// connection, calls next, or has written more than 16 KiB; until then it is held
// back. What mw answers with a status below 400 passes untouched too.
//
// An error that comes back from next is given to the error handler at once, so
// that mw sees the answer it makes. Wrap then returns nil, because it has been
// dealt with; what stands further out finds status and size in the response.
// Wrap each middleware by itself: of two in one Wrap the outer would see the
// body that is dropped.
//
// mw gets the request with Pattern and path values set. Whatever request and
// writer it hands to next are the context's while next runs, and the former ones
// are again when it has ended, also by a panic. The writer has Flusher,
// FlushError, Hijacker, ReaderFrom, StringWriter, Pusher and Unwrap, and
// informational responses leave the final status alone (labstack/echo#3106).
//
// Echo reuses its contexts, so a middleware that returns before its next does,
// as [http.TimeoutHandler], is waited for. What is written later, by mw or by a
// handler of [Handler], goes nowhere.
//
// The first request writes a warning to [slog.Default], once per process, if the
// application's IPExtractor believes header fields of any peer. Its code is
// "echo-trusts-any-peer".
func Wrap(mw func(http.Handler) http.Handler, skip ...func(c *echo.Context) bool) echo.MiddlewareFunc {
	if mw == nil {
		panic("weirecho: Wrap needs a middleware, not nil")
	}
	h := mw(http.HandlerFunc(serveNext))
	var once sync.Once
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c *echo.Context) error {
			for _, skip := range skip {
				if skip(c) {
					return next(c)
				}
			}
			once.Do(func() { warn(c) })
			x := &exchange{Context: c.Request().Context(), c: c, next: next}
			return x.run(h)
		}
	}
}

// Handler returns h as a handler of Echo. It gets the request with Pattern and
// path values set, and a writer as described for [Wrap]; nothing it writes is
// rewritten. Panics if h is nil.
//
// When h ends by a panic with [http.ErrAbortHandler], or by any other after it
// began to answer, the connection (in HTTP/2 the stream) is broken off, so that
// the client cannot take what it got for complete, whoever recovers the panic.
// Wrapped middleware outside sees a panic with ErrAbortHandler then, even if what
// recovers stands between.
func Handler(h http.Handler) echo.HandlerFunc {
	if h == nil {
		panic("weirecho: Handler needs a handler, not nil")
	}
	return func(c *echo.Context) error {
		w := &writer{inner: c.Response()}
		r := routed(c)
		defer func() {
			v := recover()
			if v != nil && w.abort(v) {
				tell(r)
			}
			w.ended.Store(true)
			if v != nil {
				panic(v)
			}
		}()
		h.ServeHTTP(w, r)
		return nil
	}
}

// routed returns c's request after it has learnt its route. Outside of routing
// (Pre), and when no route was found, a pattern that somebody in front has set
// stays.
func routed(c *echo.Context) *http.Request {
	r := c.Request()
	if path := c.Path(); path != "" {
		r.Pattern = path
	}
	for _, v := range c.PathValues() {
		r.SetPathValue(v.Name, v.Value)
	}
	return r
}

// An exchange is one request on its way through one wrapped middleware. It is
// the context of the request that the middleware gets, by which serveNext, who
// is the same for all requests, finds it again.
type exchange struct {
	context.Context
	c    *echo.Context
	next echo.HandlerFunc

	outer refusal // what the middleware writes to

	running sync.Mutex // held while next runs
	ended   bool
	broken  bool // the answer was broken off by a Handler
	err     error
}

type exchangeKey struct{}

func (x *exchange) Value(key any) any {
	if key == (exchangeKey{}) {
		return x
	}
	return x.Context.Value(key)
}

// run serves the request by h, which is the middleware around serveNext.
func (x *exchange) run(h http.Handler) error {
	r := routed(x.c)
	x.outer.wrap(x.c.Response())
	defer func() {
		x.end()
		x.outer.end()
	}()
	h.ServeHTTP(&x.outer, r.WithContext(x))
	x.end()
	if x.err != nil {
		return x.err
	}
	return x.outer.err()
}

// end waits until next has returned, and keeps it from being called again: the
// context is about to serve another request.
func (x *exchange) end() {
	if !x.running.TryLock() {
		// The middleware has given up on next. What it told the client instead
		// need not wait.
		if r, err := echo.UnwrapResponse(&x.outer); err == nil && r.Committed {
			x.outer.FlushError()
		}
		x.running.Lock()
	}
	x.ended = true
	x.running.Unlock()
}

// serveNext is the next of every wrapped middleware.
func serveNext(w http.ResponseWriter, r *http.Request) {
	x, ok := r.Context().Value(exchangeKey{}).(*exchange)
	if !ok {
		panic("weirecho: the middleware called next with a request whose context is not derived from that of its own")
	}
	// Not a lock around state, but the mark of who has the context: one
	// goroutine at a time, and none after the end.
	x.running.Lock()
	defer x.running.Unlock()
	if x.ended {
		return
	}
	x.outer.pass()

	c := x.c
	request, response := c.Request(), c.Response()
	defer func() {
		keepForms(request, c.Request())
		c.SetRequest(request)
		c.SetResponse(response)
	}()
	c.SetRequest(r)
	if w == http.ResponseWriter(&x.outer) {
		c.SetResponse(w)
	} else {
		// A response of its own: the middleware may hold back what it is given,
		// and whether next has answered is next's business.
		inner := echo.NewResponse(w, c.Logger())
		inner.Status = http.StatusOK
		c.SetResponse(&writer{inner: inner})
	}
	if err := x.next(c); err != nil {
		if e := c.Echo(); e == nil { // a context made by hand, in a test
			x.err = err
		} else {
			e.HTTPErrorHandler(c, err)
		}
	}
	if x.broken {
		panic(http.ErrAbortHandler) // again, if somebody has recovered it
	}
}

// tell tells every wrapped middleware that r has passed that its answer was
// broken off.
func tell(r *http.Request) {
	x, ok := r.Context().Value(exchangeKey{}).(*exchange)
	for ok {
		x.broken = true
		x, ok = x.Context.Value(exchangeKey{}).(*exchange)
	}
}

// keepForms gives to what was parsed of from: net/http removes the files of the
// form that its own request holds, and nobody can read the body again.
func keepForms(to, from *http.Request) {
	if to.Form == nil {
		to.Form, to.PostForm = from.Form, from.PostForm
	}
	if to.MultipartForm == nil {
		to.MultipartForm = from.MultipartForm
	}
}
