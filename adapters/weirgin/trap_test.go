package weirgin_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/goweir/weir/adapters/weirgin"
)

func TestTrapAdapters01_RefusalStopsGin(t *testing.T) {
	trap(t, func(t *testing.T, wrap wrapping, serve serving) string {
		ran, aborted := false, false
		e := newGin()
		e.Use(func(c *gin.Context) {
			c.Next()
			aborted = c.IsAborted() && len(c.Errors) == 0
		}, wrap(refuse))
		e.GET("/", func(c *gin.Context) {
			ran = true
			c.String(http.StatusOK, "SECRET")
		})
		got := get(t, serve(t, e), "/")
		if got.status != 429 || got.body != "slow down\n" || got.header.Get("Retry-After") != "7" || ran || !aborted {
			return fmt.Sprintf("%d %q, Retry-After %q; the handler ran: %t; aborted: %t", got.status, got.body, got.header.Get("Retry-After"), ran, aborted)
		}
		return ""
	})
}

type ctxKey struct{}

// TestTrapAdapters02_WriterAndRequestTravel: the handler has what the middleware
// passed on, and what stands outside has its own again, after a panic too.
func TestTrapAdapters02_WriterAndRequestTravel(t *testing.T) {
	trap(t, func(t *testing.T, wrap wrapping, serve serving) (wrong string) {
		var saw record
		closed := false
		mw := func(next http.Handler) http.Handler {
			h := recorder(&saw)(next)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				closed = false
				defer func() { closed = true }()
				h.ServeHTTP(&closing{w, &closed, t}, r.WithContext(context.WithValue(r.Context(), ctxKey{}, "here")))
			})
		}
		e := gin.New()
		e.ContextWithFallback = true
		e.Use(func(c *gin.Context) {
			w, r := c.Writer, c.Request
			defer func() {
				if c.Writer != w || c.Request != r {
					wrong += "writer or request were not restored; "
				}
				if recover() != nil {
					c.String(http.StatusInternalServerError, "recovered")
				}
			}()
			c.Next()
		}, wrap(mw))
		e.GET("/", func(c *gin.Context) {
			if c.Value(ctxKey{}) != "here" || c.Request.Context().Value(ctxKey{}) != "here" {
				wrong += "the handler does not see the value; "
			}
			c.String(http.StatusCreated, "text")
		})
		e.GET("/panic", func(*gin.Context) { panic("oh") })
		s := serve(t, e)
		if got := get(t, s, "/"); got.status != 201 || got.body != "text" || saw != (record{status: 201, size: 4}) {
			wrong += fmt.Sprintf("%d %q, seen as %v; ", got.status, got.body, saw)
		}
		if got := get(t, s, "/panic"); got.status != 500 || got.body != "recovered" || !saw.panicked {
			wrong += fmt.Sprintf("after a panic %d %q, seen as %v", got.status, got.body, saw)
		}
		return wrong
	})
}

// closing is the writer of a middleware that is finished with it on return.
type closing struct {
	http.ResponseWriter
	closed *bool
	t      *testing.T
}

func (w *closing) Write(p []byte) (int, error) {
	if *w.closed {
		return 0, errors.New("closed")
	}
	return w.ResponseWriter.Write(p)
}

func TestTrapAdapters03_WhatGinSendsOfItself(t *testing.T) {
	trap(t, func(t *testing.T, wrap wrapping, serve serving) (wrong string) {
		app := func(m gin.HandlerFunc) *gin.Engine {
			e := newGin()
			e.Use(m)
			e.GET("/empty", func(*gin.Context) {})
			e.GET("/status", func(c *gin.Context) { c.Status(204) })
			e.GET("/later", func(c *gin.Context) { c.Status(204) }, func(c *gin.Context) { c.AbortWithStatus(403) })
			e.POST("/post", text)
			return e
		}
		var saw record
		wrapped, bare := serve(t, app(wrap(recorder(&saw)))), serve(t, app(func(*gin.Context) {}))
		for path, want := range map[string]record{
			"/empty":   {status: 200},
			"/status":  {status: 204},
			"/later":   {status: 403},
			"/nowhere": {status: 404, size: len("404 page not found")},
			"/post":    {status: 405, size: len("405 method not allowed")},
		} {
			got, is := get(t, wrapped, path), get(t, bare, path)
			if saw != want {
				wrong += fmt.Sprintf("%s: seen as %v, is %v; ", path, saw, want)
			}
			if got.status != is.status || got.body != is.body || got.header.Get("Content-Type") != is.header.Get("Content-Type") || got.header.Get("Allow") != is.header.Get("Allow") {
				wrong += fmt.Sprintf("%s: %d %q with %v, without Wrap %d %q with %v; ", path, got.status, got.body, got.header, is.status, is.body, is.header)
			}
		}
		return wrong
	})
}

// TestTrapAdapters04_StoredIsNotSent: of the statuses that a handler of Gin sets
// only the last one counts, and an informational one none.
func TestTrapAdapters04_StoredIsNotSent(t *testing.T) {
	trap(t, func(t *testing.T, wrap wrapping, serve serving) (wrong string) {
		var saw record
		e := newGin()
		e.Use(wrap(recorder(&saw)))
		e.GET("/", func(c *gin.Context) {
			c.Status(204)
			c.Header("Link", "</a>")
			c.Writer.WriteHeader(http.StatusEarlyHints)
			if c.Writer.Written() || c.Writer.Status() != 204 {
				wrong += fmt.Sprintf("after 103 written: %t, status %d; ", c.Writer.Written(), c.Writer.Status())
			}
			c.String(http.StatusNotFound, "no")
		})
		got := get(t, serve(t, e), "/")
		if fmt.Sprint(got.infos) != "[103]" || got.status != 404 || got.body != "no" || saw != (record{infos: 1, status: 404, size: 2}) {
			wrong += fmt.Sprintf("client got %v, %d %q; seen as %v", got.infos, got.status, got.body, saw)
		}
		return wrong
	})
}

// TestTrapAdapters05_NoHijackerNoPanic is about HTTP/2, httptest.ResponseRecorder
// and every writer with no more than it needs.
func TestTrapAdapters05_NoHijackerNoPanic(t *testing.T) {
	trap(t, func(t *testing.T, wrap wrapping, serve serving) string {
		e := newGin()
		e.Use(wrap(through))
		e.GET("/hijack", func(c *gin.Context) {
			_, _, err := c.Writer.Hijack()
			if !errors.Is(err, http.ErrNotSupported) {
				t.Errorf("Hijack: %v", err)
			}
			c.String(http.StatusUpgradeRequired, "no")
		})
		e.GET("/notify", func(c *gin.Context) {
			select {
			case <-c.Writer.CloseNotify():
				t.Error("CloseNotify says that the client is gone")
			case <-time.After(time.Millisecond):
			}
			c.String(http.StatusOK, "no")
		})
		s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			e.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
		}))
		if got := get(t, s, "/hijack"); got.status != 426 || got.body != "no" {
			return fmt.Sprintf("Hijack: %d %q", got.status, got.body)
		}
		if got := get(t, s, "/notify"); got.status != 200 {
			return fmt.Sprintf("CloseNotify: %d %q", got.status, got.body)
		}
		return ""
	})
}

// TestTrapAdapters06_ContextIsNotKept: what a middleware does after it has
// returned does not reach a context that serves somebody else by then.
func TestTrapAdapters06_ContextIsNotKept(t *testing.T) {
	check := func(wrap wrapping) string {
		var late func()
		spy := httptest.NewRecorder()
		spy.Code = 0
		h := wrap(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				late = func() {
					next.ServeHTTP(spy, r)
					w.Header().Set("X-Late", "1")
					fmt.Fprint(w, "late")
				}
			})
		})
		rec := httptest.NewRecorder()
		c, _ := gin.CreateTestContext(rec)
		c.Request = httptest.NewRequest("GET", "/", nil)
		h(c)
		w, r := c.Writer, c.Request
		late()
		if c.Writer != w || c.Request != r || rec.Body.Len() > 0 || len(rec.Header()) > 0 || spy.Code > 0 {
			return fmt.Sprintf("replaced: %t; body %q, header %v; told %d", c.Writer != w || c.Request != r, rec.Body, rec.Header(), spy.Code)
		}
		return ""
	}
	if wrong := check(weirgin.Wrap); wrong != "" {
		t.Error(wrong)
	}
	wrong := check(naive)
	if wrong == "" {
		t.Error("all is well with the naive wrapping; the trap is closed upstream")
	}
	t.Logf("wrapped naively: %s", wrong)
}

// TestTrapAdapters10_RouteIsKnownAndWritersUnwrap: the middleware knows the route
// before it runs, and handlers reach the deadlines of the connection.
func TestTrapAdapters10_RouteIsKnownAndWritersUnwrap(t *testing.T) {
	trap(t, func(t *testing.T, wrap wrapping, serve serving) (wrong string) {
		var pattern, id, rest string
		e := newGin()
		e.Use(wrap(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				pattern, id, rest = r.Pattern, r.PathValue("id"), r.PathValue("rest")
				next.ServeHTTP(w, r)
			})
		}))
		e.GET("/api/users/:id/*rest", func(c *gin.Context) {
			if err := http.NewResponseController(c.Writer).SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
				wrong += err.Error()
			}
		})
		mux := http.NewServeMux()
		mux.Handle("/api/", e)
		s := serve(t, mux)
		if get(t, s, "/api/users/7/a/b"); pattern != "/api/users/:id/*rest" || id != "7" || rest != "/a/b" {
			wrong += fmt.Sprintf("pattern %q, id %q and rest %q of a route", pattern, id, rest)
		}
		if get(t, s, "/api/nowhere"); pattern != "/api/" {
			wrong += fmt.Sprintf("pattern %q where Gin has no route", pattern)
		}
		return wrong
	})
}
