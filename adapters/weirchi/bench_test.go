package weirchi_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/go-chi/chi/v5"

	"github.com/goweir/weir/adapters/weirchi"
)

// discard is a writer that costs nothing.
type discard struct{ h http.Header }

func (w discard) Header() http.Header         { return w.h }
func (w discard) Write(p []byte) (int, error) { return len(p), nil }
func (w discard) WriteHeader(int)             {}

// serveOnce returns a function that serves one request, by chi with a middleware
// that does nothing, behind a Pattern or not. The request is a new one each time:
// it keeps its path values.
func serveOnce(path string, pattern bool) func() {
	r := chi.NewRouter()
	if pattern {
		r.Use(weirchi.Pattern(r))
	}
	r.Use(func(next http.Handler) http.Handler { return next })
	h := func(http.ResponseWriter, *http.Request) {}
	r.Get("/users", h)
	r.Get("/users/{id}", h)
	r.Route("/route/{tenant}", func(r chi.Router) { r.Get("/users/{id}", h) })
	w, req, blank := discard{http.Header{}}, httptest.NewRequest("GET", path, nil), new(http.Request)
	*blank = *req
	return func() {
		*req = *blank
		r.ServeHTTP(w, req)
	}
}

var benchPaths = []string{"/users", "/users/7", "/route/acme/users/7"}

func BenchmarkPattern(b *testing.B) {
	for _, path := range benchPaths {
		for _, pattern := range []bool{false, true} {
			name := "alone"
			if pattern {
				name = "weirchi"
			}
			b.Run(name+path, func(b *testing.B) {
				serve := serveOnce(path, pattern)
				b.ReportAllocs()
				for b.Loop() {
					serve()
				}
			})
		}
	}
}
