package weirecho4_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/goweir/weir/adapters/weirecho4"
)

// discard is a writer that costs nothing.
type discard struct{ h http.Header }

func (w discard) Header() http.Header         { return w.h }
func (w discard) Write(p []byte) (int, error) { return len(p), nil }
func (w discard) WriteHeader(int)             {}

// serveOnce returns a function that serves one request of path by an Echo with
// mws. The request is a new one each time: it keeps its path values.
func serveOnce(path string, mws ...echo.MiddlewareFunc) func() {
	e := newEcho()
	e.Use(mws...)
	e.GET("/users", none)
	e.GET("/users/:id", none)
	r, w, blank := httptest.NewRequest("GET", path, nil), discard{http.Header{}}, new(http.Request)
	*blank = *r
	return func() {
		*r = *blank
		e.ServeHTTP(w, r)
	}
}

func none(c echo.Context) error { return c.NoContent(http.StatusNoContent) }

func BenchmarkWrap(b *testing.B) {
	for _, path := range []string{"/users", "/users/7"} {
		for _, bb := range []struct {
			name string
			mws  []echo.MiddlewareFunc
		}{
			{"alone", nil},
			{"weirecho4", []echo.MiddlewareFunc{weirecho4.Wrap(through)}},
			{"echo.WrapMiddleware", []echo.MiddlewareFunc{echo.WrapMiddleware(through)}},
		} {
			b.Run(bb.name+path, func(b *testing.B) {
				serve := serveOnce(path, bb.mws...)
				b.ReportAllocs()
				for b.Loop() {
					serve()
				}
			})
		}
	}
}
