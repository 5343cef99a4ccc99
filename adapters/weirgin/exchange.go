package weirgin

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/gin-gonic/gin"
)

type middleware struct {
	handler http.Handler // around next
	looked  sync.Once    // at whom the engine trusts
}

// An exchange is one request on its way through a middleware. It is the context
// of the request that the middleware gets, and so next finds it again.
type exchange struct {
	context.Context
	m     *middleware
	plain plainWriter // the middleware's
	gin   ginWriter   // the handlers', once next was called

	mu     sync.Mutex   // held while Gin's handlers run
	c      *gin.Context // nil when serve has returned: it is another request's then
	called bool
}

func (x *exchange) Value(key any) any {
	if key == any(x.m) {
		return x
	}
	return x.Context.Value(key)
}

func (m *middleware) serve(c *gin.Context) {
	diagnoseTrust(&m.looked, c)
	mark(c)
	x := &exchange{Context: c.Request.Context(), m: m, c: c}
	x.plain.begin(c)
	x.gin = ginWriter{x: x, status: c.Writer.Status(), size: c.Writer.Size()}
	defer x.end()
	m.handler.ServeHTTP(&x.plain, c.Request.WithContext(x))
}

// mark gives the request the name and the parameters of its route. They are set
// on the request itself, as http.ServeMux does, for middleware around the engine
// to see.
func mark(c *gin.Context) {
	path, r := c.FullPath(), c.Request
	if path == "" || r.Pattern == path {
		return
	}
	r.Pattern = path
	for _, p := range c.Params {
		r.SetPathValue(p.Key, p.Value)
	}
}

// next is the handler that the middleware was given.
func (m *middleware) next(w http.ResponseWriter, r *http.Request) {
	x, ok := r.Context().Value(m).(*exchange)
	if !ok {
		panic("weirgin: the context of the request given to next does not descend from the one the middleware got")
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	c := x.c
	if c == nil {
		return
	}
	if x.called {
		panic("weirgin: next was called twice, and Gin's handlers can run only once")
	}
	x.called = true
	writer, request, status, known := c.Writer, c.Request, x.gin.status, len(c.Errors)
	x.gin.ResponseWriter = w
	c.Writer, c.Request = &x.gin, r
	defer func() {
		keepForms(request, c.Request)
		c.Writer, c.Request = writer, request
	}()
	c.Next()
	if swallowedAbort(c, known) {
		panic(http.ErrAbortHandler)
	}
	x.finish(status)
}

// swallowedAbort reports whether a gin.Recovery among the handlers has recovered
// an abort, and left nothing but an error in c.Errors, of which known are older.
func swallowedAbort(c *gin.Context, known int) bool {
	for _, err := range c.Errors[min(known, len(c.Errors)):] {
		if errors.Is(err, http.ErrAbortHandler) {
			return true
		}
	}
	return false
}

// finish tells the middleware what Gin sends when all handlers have returned.
// Status is what it was before the first of them.
func (x *exchange) finish(status int) {
	if x.gin.Written() {
		return
	}
	if text := ownText(x.c, status); text != "" && x.gin.status == status && len(x.c.Errors) == 0 {
		x.gin.Header()["Content-Type"] = []string{gin.MIMEPlain}
		// A writer that an inner middleware left in place would see it, too.
		x.c.Writer.WriteString(text)
		return
	}
	// Only told: a middleware outside, one that formats c.Errors say, may still
	// answer.
	x.plain.deferred.Store(true)
	x.gin.ResponseWriter.WriteHeader(x.gin.status)
}

// ownText returns what Gin answers when it has found no route.
func ownText(c *gin.Context, status int) string {
	if c.FullPath() == "" {
		switch status {
		case http.StatusNotFound:
			return "404 page not found"
		case http.StatusMethodNotAllowed:
			return "405 method not allowed"
		}
	}
	return ""
}

// keepForms gives to what handlers have parsed of from: to the server, which
// removes the temporary files, and to middleware outside, which cannot read the
// body again.
func keepForms(to, from *http.Request) {
	if to.Form == nil && from.Form != nil {
		to.Form, to.PostForm = from.Form, from.PostForm
	}
	if to.MultipartForm == nil && from.MultipartForm != nil {
		to.MultipartForm = from.MultipartForm
	}
}

// end runs when the middleware has returned or panics.
func (x *exchange) end() {
	v := recover()
	if !x.mu.TryLock() {
		if v == nil {
			x.plain.Flush()
		}
		x.mu.Lock()
	}
	c, called := x.c, x.called
	x.c = nil
	x.mu.Unlock()
	if v == nil && !called {
		x.plain.imply()
		c.Abort()
	}
	x.plain.end(c)
	if v != nil {
		if v == http.ErrAbortHandler {
			x.plain.abort()
		}
		panic(v)
	}
}
