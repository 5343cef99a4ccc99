package weirecho4_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/goweir/weir/adapters/weirecho4"
)

// A middleware is net/http's kind, and a wrapping makes Echo's of it.
type (
	middleware = func(http.Handler) http.Handler
	wrapping   = func(middleware) echo.MiddlewareFunc
)

func wrap(mw middleware) echo.MiddlewareFunc { return weirecho4.Wrap(mw) }

// trap runs check, which says what is wrong, over HTTP/1.1 and HTTP/2: nothing
// may be wrong with Wrap, and something must be with Echo's own wrapping.
func trap(t *testing.T, check func(t *testing.T, wrap wrapping, serve serving) string) {
	t.Helper()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2"} {
		if wrong := check(t, wrap, serveBy(proto)); wrong != "" {
			t.Errorf("%s: %s", proto, wrong)
		}
		wrong := check(t, echo.WrapMiddleware, serveBy(proto))
		if wrong == "" {
			t.Errorf("%s: all is well with echo.WrapMiddleware; the trap is closed upstream", proto)
		}
		t.Logf("%s, with echo.WrapMiddleware: %s", proto, wrong)
	}
}

// A serving starts a server for h.
type serving func(t *testing.T, h http.Handler) *httptest.Server

func serveBy(proto string) serving {
	return func(t *testing.T, h http.Handler) *httptest.Server {
		t.Helper()
		s := httptest.NewUnstartedServer(h)
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
		if s.EnableHTTP2 = proto == "HTTP/2"; s.EnableHTTP2 {
			s.StartTLS()
		} else {
			s.Start()
		}
		t.Cleanup(s.Close)
		t.Cleanup(s.CloseClientConnections)
		return s
	}
}

func newEcho() *echo.Echo {
	e := echo.New()
	e.Logger.SetOutput(io.Discard)
	return e
}

// An answer is what a client got.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

func get(t *testing.T, s *httptest.Server, path string) answer {
	t.Helper()
	res, err := s.Client().Get(s.URL + path)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(body), err}
}

// A record is what a middleware saw.
type record struct {
	status, size int
	panicked     bool
}

func (r record) String() string {
	if r.panicked {
		return "a panic"
	}
	return fmt.Sprintf("status %d, %d bytes", r.status, r.size)
}

// recorder is a middleware as everybody writes it: it replaces the writer and
// reads status and size when next has returned.
func recorder(saw *record) middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			*saw = record{panicked: true}
			rec := &recording{ResponseWriter: w}
			next.ServeHTTP(rec, r)
			*saw = record{rec.status, rec.size, false}
		})
	}
}

type recording struct {
	http.ResponseWriter
	status, size int
}

func (w *recording) WriteHeader(status int) {
	if status >= 200 && w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recording) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.size += n
	return n, err
}

func (w *recording) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// refuse is a middleware that answers as a limiter does.
func refuse(http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusTooManyRequests)
		io.WriteString(w, `{"title":"slow down"}`)
	})
}

// replacing is a middleware that does nothing but by a writer of its own.
func replacing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&recording{ResponseWriter: w}, r)
	})
}

// through is a middleware that does nothing.
func through(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(w, r) })
}

var big = bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB

func text(c echo.Context) error { return c.String(http.StatusOK, "text") }
