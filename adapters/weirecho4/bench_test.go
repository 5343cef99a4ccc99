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

// serveOnce returns a function that serves one request by an Echo with mws.
func serveOnce(mws ...echo.MiddlewareFunc) func() {
	e := newEcho()
	e.Use(mws...)
	e.GET("/users", func(c echo.Context) error { return c.NoContent(http.StatusNoContent) })
	r, w := httptest.NewRequest("GET", "/users", nil), discard{http.Header{}}
	return func() { e.ServeHTTP(w, r) }
}

// replacing replaces the writer, at the least cost.
func replacing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&recording{ResponseWriter: w}, r)
	})
}

// TestAllocations: what Wrap costs over Echo alone.
func TestAllocations(t *testing.T) {
	alone := testing.AllocsPerRun(1000, serveOnce())
	for name, tt := range map[string]struct {
		mw   middleware
		most float64
	}{
		"does nothing (1 is the chain Echo v4 builds)": {through, 3},
		"replaces the writer (1 of its own)":           {replacing, 5},
	} {
		if got := testing.AllocsPerRun(1000, serveOnce(weirecho4.Wrap(tt.mw))) - alone; got > tt.most {
			t.Errorf("a middleware that %s: %v allocations over Echo alone, want at most %v", name, got, tt.most)
		} else {
			t.Logf("a middleware that %s: %v allocations over Echo alone", name, got)
		}
	}
}

func BenchmarkWrap(b *testing.B) {
	for _, bb := range []struct {
		name string
		mws  []echo.MiddlewareFunc
	}{
		{"alone", nil},
		{"weirecho4", []echo.MiddlewareFunc{weirecho4.Wrap(through)}},
		{"echo.WrapMiddleware", []echo.MiddlewareFunc{echo.WrapMiddleware(through)}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			serve := serveOnce(bb.mws...)
			b.ReportAllocs()
			for b.Loop() {
				serve()
			}
		})
	}
}
