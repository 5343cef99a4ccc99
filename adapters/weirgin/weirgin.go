// Package weirgin runs net/http middleware and handlers in Gin as if Gin were
// made for them.
//
// [Wrap] makes a gin.HandlerFunc of a middleware, [Handler] one of an
// http.Handler. Both give what they run net/http's own ways: a response header
// that is sent when it is written, informational responses, sendfile, deadlines
// and flushes with their errors, and an abort that the client sees. Both set
// Request.Pattern to c.FullPath ("/users/:id") and the path values to Gin's
// parameters; where Gin has found no route, they leave both as they are.
//
// The package knows nothing of weir and needs nothing of it: it works with every
// middleware of the form func(http.Handler) http.Handler.
package weirgin

import (
	"net/http"
	"sync"

	"github.com/gin-gonic/gin"
)

// Wrap returns mw as a middleware for Gin. It calls mw once, and panics if mw is
// nil or returns nil. What it returns may be used in several places, by many
// goroutines at once.
//
// When mw calls its next handler, the rest of Gin's chain runs, with c.Writer
// and c.Request made of what mw passed on: handlers see the values in the
// request's context, and mw sees what they write. Afterwards, also after a
// panic, both are what they were before. If mw does not call next, Wrap calls
// c.Abort, and mw's answer is the answer.
//
// What Gin sends of its own accord, mw sees too: the text of a 404 or a 405,
// which is written at once, and the status of a handler that writes nothing,
// which is not: middleware outside Wrap may still answer, as it may without
// Wrap. One that formats c.Errors belongs inside Wrap if mw is to see what it
// writes.
//
// Mw may change the request and the writer as it likes, if the new request's
// context descends from the old one's. It may run next in another goroutine, as
// http.TimeoutHandler does. If it returns before that has ended, its answer is
// flushed, and Wrap waits before it ends it: Gin uses its Context for another
// request then. Gin's chain runs once: a second call of next panics, and one
// after mw has returned does nothing.
//
// If mw or a handler panics with http.ErrAbortHandler, the connection, or the
// stream of HTTP/2, is broken before the panic goes on, so that no client takes
// half an answer for a whole one though gin.Recovery swallows the panic. If it
// has done so inside, the panic goes on for mw and all outside.
//
// A refusal adds nothing to c.Errors: the answer is written, and middleware that
// formats errors would write another behind it.
//
// Wrap and Handler warn once a process through slog's default logger if the
// engine believes every client about its address, which is Gin's default: see
// Engine.SetTrustedProxies. A middleware that Wrap runs is not concerned: it
// sees the RemoteAddr and header of the connection.
func Wrap(mw func(http.Handler) http.Handler) gin.HandlerFunc {
	if mw == nil {
		panic("weirgin: Wrap needs a middleware, not nil")
	}
	m := &middleware{}
	// Once, not once a request: many a middleware keeps its state in there.
	if m.handler = mw(http.HandlerFunc(m.next)); m.handler == nil {
		panic("weirgin: the middleware made a nil handler")
	}
	return m.serve
}

// Handler returns h as a handler for Gin, to be used as a route or with NoRoute.
// It panics if h is nil.
//
// What h writes reaches the client unchanged: an answer without a WriteHeader is
// 200, also where Gin would say 404, and one without a body stays so.
//
// If h panics, with http.ErrAbortHandler or after its header was sent, the
// connection, or the stream of HTTP/2, is broken before the panic goes on, as
// net/http does it: gin.Recovery would end the answer properly. Otherwise a
// panic is Gin's to answer.
func Handler(h http.Handler) gin.HandlerFunc {
	if h == nil {
		panic("weirgin: Handler needs a handler, not nil")
	}
	var looked sync.Once
	return func(c *gin.Context) {
		diagnoseTrust(&looked, c)
		mark(c)
		w := &plainWriter{}
		w.begin(c)
		defer func() {
			v := recover()
			w.end(c)
			if v != nil {
				if v == http.ErrAbortHandler || w.outer.Written() {
					w.abort()
				}
				panic(v)
			}
		}()
		h.ServeHTTP(w, c.Request)
		w.imply()
	}
}
