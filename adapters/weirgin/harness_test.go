package weirgin_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/goweir/weir/adapters/weirgin"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	os.Exit(m.Run())
}

// A middleware is net/http's kind, and a wrapping makes Gin's of it.
type (
	middleware = func(http.Handler) http.Handler
	wrapping   = func(middleware) gin.HandlerFunc
)

// naive is a wrapping as it is often written.
func naive(mw middleware) gin.HandlerFunc {
	return func(c *gin.Context) {
		mw(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.Request = r
			c.Writer = &naiveWriter{c.Writer, w}
			c.Next()
		})).ServeHTTP(c.Writer, c.Request)
	}
}

type naiveWriter struct {
	gin.ResponseWriter
	w http.ResponseWriter
}

func (w *naiveWriter) WriteHeader(status int)      { w.w.WriteHeader(status) }
func (w *naiveWriter) Write(p []byte) (int, error) { return w.w.Write(p) }
func (w *naiveWriter) WriteString(s string) (int, error) {
	return io.WriteString(w.w, s)
}

// trap runs check, which says what is wrong, over HTTP/1.1 and HTTP/2: nothing
// may be wrong with Wrap, and something must be with the naive wrapping.
func trap(t *testing.T, check func(t *testing.T, wrap wrapping, serve serving) string) {
	t.Helper()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2"} {
		if wrong := check(t, weirgin.Wrap, serveBy(proto)); wrong != "" {
			t.Errorf("%s: %s", proto, wrong)
		}
		wrong := check(t, naive, serveBy(proto))
		if wrong == "" {
			t.Errorf("%s: all is well with the naive wrapping; the trap is closed upstream", proto)
		}
		t.Logf("%s, wrapped naively: %s", proto, wrong)
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

// both runs f over HTTP/1.1 and HTTP/2.
func both(t *testing.T, f func(t *testing.T, serve serving)) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2"} {
		t.Run(proto, func(t *testing.T) { f(t, serveBy(proto)) })
	}
}

// newGin returns an engine that recovers, as nearly all do.
func newGin() *gin.Engine {
	e := gin.New()
	e.HandleMethodNotAllowed = true
	e.ContextWithFallback = true
	e.Use(gin.RecoveryWithWriter(io.Discard))
	return e
}

// An answer is what a client got.
type answer struct {
	infos  []int
	status int
	header http.Header
	body   string
	err    error
}

func get(t *testing.T, s *httptest.Server, path string) answer { return do(t, s, "GET", path) }

func do(t *testing.T, s *httptest.Server, method, path string) (a answer) {
	t.Helper()
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(status int, _ textproto.MIMEHeader) error {
			a.infos = append(a.infos, status)
			return nil
		},
	}), method, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Client().Do(r)
	if err != nil {
		a.err = err
		return a
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	a.status, a.header, a.body, a.err = res.StatusCode, res.Header, string(body), err
	return a
}

// A record is what a middleware saw.
type record struct {
	infos        int
	status, size int
	panicked     bool
}

func (r record) String() string {
	if r.panicked {
		return "a panic"
	}
	return fmt.Sprintf("%d informational, status %d, %d bytes", r.infos, r.status, r.size)
}

// recorder is a middleware as everybody writes it: it replaces the writer and
// reads status and size when next has returned.
func recorder(saw *record) middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			*saw = record{panicked: true}
			rec := &recording{ResponseWriter: w}
			next.ServeHTTP(rec, r)
			*saw = rec.record
		})
	}
}

type recording struct {
	http.ResponseWriter
	record
}

func (w *recording) WriteHeader(status int) {
	if status < 200 {
		w.infos++
	} else if w.status == 0 {
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
		w.WriteHeader(http.StatusTooManyRequests)
		io.WriteString(w, "slow down\n")
	})
}

// through is a middleware that does nothing.
func through(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(w, r) })
}

func text(c *gin.Context) { c.String(http.StatusOK, "text") }
