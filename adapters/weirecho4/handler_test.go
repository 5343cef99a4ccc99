package weirecho4_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	echomiddleware "github.com/labstack/echo/v4/middleware"

	"github.com/goweir/weir/adapters/weirecho4"
)

// swallow recovers every panic and makes an error of it, ErrAbortHandler too.
func swallow(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("recovered: %v", v)
			}
		}()
		return next(c)
	}
}

// TestHandlerAborts: an answer that is broken off is seen to be, by length, by
// chunks and by streams, whoever recovers, and inside a Wrap too.
func TestHandlerAborts(t *testing.T) {
	const size = 100_000
	sizes := []int{-1, 0, 1, size / 2, size}
	if testing.Short() {
		sizes = []int{-1, size / 2}
	}
	recoverers := map[string]echo.MiddlewareFunc{"Recover": echomiddleware.Recover(), "one that swallows": swallow}
	both(t, func(t *testing.T, serve serving) {
		naive := 0
		for name, recoverer := range recoverers {
			for _, length := range []bool{false, true} {
				for _, n := range sizes {
					for _, v := range []any{http.ErrAbortHandler, fmt.Errorf("of upstream: %w", http.ErrAbortHandler), "a bug"} {
						h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							if length {
								w.Header().Set("Content-Length", fmt.Sprint(size+1))
							}
							if n >= 0 {
								w.Write(make([]byte, n)) // Write(nil) is an answer too
								if n%2 == 0 {
									http.NewResponseController(w).Flush()
								}
							}
							panic(v)
						})
						e := newEcho()
						e.Use(recoverer, wrap(replacing))
						e.GET("/ours", weirecho4.Handler(h))
						e.GET("/naive", echo.WrapHandler(h))
						s := serve(t, e)
						got := get(t, s, "/ours")
						if n < 0 && v == "a bug" {
							// Nothing was answered, so whoever recovers may.
							if got.status != 500 {
								t.Errorf("%s, a bug before the answer: %+v", name, got)
							}
						} else if got.err == nil {
							t.Errorf("%s, length %t, %v after %d bytes: %d with %d bytes and a clean end", name, length, v, n, got.status, len(got.body))
						}
						if got := get(t, s, "/naive"); got.err == nil && n >= 0 {
							naive++
						}
						s.Close()
					}
				}
			}
		}
		t.Logf("clean ends with echo.WrapHandler: %d", naive)
		if naive == 0 {
			t.Error("with echo.WrapHandler no answer ends as if it were complete; the trap is closed upstream")
		}
	})
}

// TestAbortIsSeen: middleware outside does not take a broken answer for a whole
// one, though what recovers stands between.
func TestAbortIsSeen(t *testing.T) {
	both(t, func(t *testing.T, serve serving) {
		for _, recoverer := range []echo.MiddlewareFunc{echomiddleware.Recover(), swallow} {
			for _, v := range []any{http.ErrAbortHandler, "a bug"} {
				h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Write(big)
					panic(v)
				})
				var outer, inner record
				ended := make(chan struct{}, 1)
				e := newEcho()
				e.Use(wrap(recorder(&outer)), recoverer, wrap(recorder(&inner)), recoverer)
				e.GET("/", weirecho4.Handler(h))
				s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer func() { ended <- struct{}{} }()
					e.ServeHTTP(w, r)
				}))
				s.Client().Transport.(*http.Transport).DisableKeepAlives = true // and so retries
				got := get(t, s, "/")
				if <-ended; got.err == nil || !outer.panicked || !inner.panicked {
					t.Errorf("panic with %v: the client's error is %v; outside was seen %v, inside %v", v, got.err, outer, inner)
				}
			}
		}
	})
}

// TestHandlerIsNotRewritten: statuses and bodies that a Wrap would make errors
// of pass, whatever the middleware around, with their informational responses.
func TestHandlerIsNotRewritten(t *testing.T) {
	both(t, func(t *testing.T, serve serving) {
		for _, status := range []int{200, 201, 204, 304, 404, 429, 502} {
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Link", "</a>")
				w.WriteHeader(103)
				w.Header().Set("Content-Type", "text/x")
				w.Header().Set("Trailer", "X-Trailer")
				w.WriteHeader(status)
				io.WriteString(w, r.Pattern+r.PathValue("id"))
				w.Header().Set("X-Trailer", "1")
			})
			for _, mw := range []echo.MiddlewareFunc{echomiddleware.Recover(), wrap(through), wrap(replacing)} {
				e := newEcho()
				e.GET("/", weirecho4.Handler(h), mw)
				e.GET("/:id", weirecho4.Handler(h), mw)
				s := serve(t, e)
				if infos, got := hinted(t, s); !slices.Equal(infos, []int{103}) || got != status {
					t.Errorf("%v and %d, want 103 and %d", infos, got, status)
				}
				want := "/:id7"
				if status == 204 || status == 304 { // of 304 net/http sends no Content-Type either
					want = ""
				}
				if got := get(t, s, "/7"); got.status != status || got.body != want ||
					status != 304 && got.header.Get("Content-Type") != "text/x" {
					t.Errorf("%+v, want %d %q", got, status, want)
				}
			}
		}
	})
}

// TestHandlerStreamsAProxy: what httputil.ReverseProxy does by writer and
// controller works: events one by one, an upgrade, a length.
func TestHandlerStreamsAProxy(t *testing.T) {
	both(t, func(t *testing.T, serve serving) {
		next := make(chan struct{})
		up := serveBy("HTTP/1.1")(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/whole" {
				w.Write(big)
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			for range 3 {
				io.WriteString(w, "data: x\n")
				http.NewResponseController(w).Flush()
				<-next
			}
		}))
		target, err := url.Parse(up.URL)
		if err != nil {
			t.Fatal(err)
		}
		e := newEcho()
		e.Use(echomiddleware.Recover())
		e.GET("/*", weirecho4.Handler(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}), wrap(through))
		s := serve(t, e)
		if got := get(t, s, "/whole"); got.err != nil || got.body != string(big) {
			t.Errorf("%d bytes, %v", len(got.body), got.err)
		}
		res, err := s.Client().Get(s.URL + "/events")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		for range 3 {
			p := make([]byte, len("data: x\n"))
			if _, err := io.ReadFull(res.Body, p); err != nil {
				t.Fatal(err)
			}
			next <- struct{}{}
		}
	})
}

// TestHijackedIsNotAborted: a panic after a hijack is none of the connection's
// business.
func TestHijackedIsNotAborted(t *testing.T) {
	e := newEcho()
	e.Use(swallow)
	done := make(chan error, 1)
	e.GET("/", weirecho4.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			done <- err
			return
		}
		go func() {
			time.Sleep(10 * time.Millisecond)
			_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
			conn.Close()
			done <- err
		}()
		panic(http.ErrAbortHandler)
	})))
	got := get(t, serveBy("HTTP/1.1")(t, e), "/")
	if err := <-done; err != nil || got.body != "late" {
		t.Errorf("%v; the client got %+v", err, got)
	}
}

// TestHandlerWithServeMux: an http.ServeMux below has its own pattern.
func TestHandlerWithServeMux(t *testing.T) {
	var pattern, id string
	mux := http.NewServeMux()
	mux.HandleFunc("GET /files/{id}", func(w http.ResponseWriter, r *http.Request) { pattern, id = r.Pattern, r.PathValue("id") })
	e := newEcho()
	e.GET("/files/*", weirecho4.Handler(mux))
	if get(t, serveBy("HTTP/1.1")(t, e), "/files/7"); !strings.HasPrefix(pattern, "GET ") || id != "7" {
		t.Errorf("pattern %q, id %q", pattern, id)
	}
}
