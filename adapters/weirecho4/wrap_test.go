package weirecho4_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	echomiddleware "github.com/labstack/echo/v4/middleware"

	"github.com/goweir/weir/adapters/weirecho4"
)

// both runs f over HTTP/1.1 and HTTP/2.
func both(t *testing.T, f func(t *testing.T, serve serving)) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2"} {
		t.Run(proto, func(t *testing.T) { f(t, serveBy(proto)) })
	}
}

// TestRefusal: what is a refusal, and what has stopped being one.
func TestRefusal(t *testing.T) {
	const held = 16 << 10
	formatted := fmt.Sprintln(`{"message":"Too Many Requests"}`)
	tests := []struct {
		name  string
		write func(w http.ResponseWriter, r *http.Request)

		status int
		body   string // of the client
		header map[string]string
	}{
		{"written with a body", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.Header().Set("Content-Type", "text/x")
			w.Header().Set("Content-Length", "4")
			w.WriteHeader(429)
			io.WriteString(w, "slow")
		}, 429, formatted, map[string]string{"Retry-After": "7", "Content-Type": "application/json"}},
		{"http.Error", func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "slow", 429)
		}, 429, formatted, map[string]string{"Content-Type": "application/json"}},
		{"nothing copied", func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, struct{ io.Reader }{strings.NewReader("")})
			w.WriteHeader(429)
		}, 429, formatted, nil},
		{"only a status", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(429)
		}, 429, formatted, nil},
		{"a status without a name", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(499)
		}, 499, fmt.Sprintln(`{"message":""}`), nil},
		{"a body as long as is held back", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(429)
			for range held / 1024 {
				w.Write(big[:1024])
			}
		}, 429, formatted, nil},
		{"the first status counts", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(429)
			w.WriteHeader(503)
		}, 429, formatted, nil},
		{"after 103", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(103)
			w.WriteHeader(429)
		}, 429, formatted, nil},
		{"fields set too late", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Early", "1")
			w.WriteHeader(429)
			w.Header().Set("X-Late", "1")
		}, 429, formatted, map[string]string{"X-Early": "1", "X-Late": ""}},
		{"encoded", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "zstd")
			w.WriteHeader(429)
			w.Write([]byte("(not zstd)"))
		}, 429, formatted, map[string]string{"Content-Encoding": ""}},

		{"a body longer than is held back", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/x")
			w.Header().Set("Trailer", "X-Trailer")
			w.WriteHeader(429)
			w.Header().Set("X-Late", "1")
			w.Header().Set("X-Trailer", "1")
			for range held / 1024 {
				w.Write(big[:1024])
			}
			io.WriteString(w, "+")
		}, 429, string(big[:held]) + "+", map[string]string{"Content-Type": "text/x", "X-Late": "", "trailer X-Trailer": "1"}},
		{"copied, and longer than is held back", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(502)
			io.Copy(w, struct{ io.Reader }{bytes.NewReader(big)})
		}, 502, string(big), nil},
		{"flushed", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Early", "1")
			w.Header().Set("Trailer", "X-Trailer")
			w.WriteHeader(429)
			w.Header().Set("X-Late", "1")
			io.WriteString(w, "a")
			http.NewResponseController(w).Flush()
			io.WriteString(w, "b")
			w.Header().Set("X-Trailer", "1")
		}, 429, "ab", map[string]string{"X-Early": "1", "X-Late": "", "trailer X-Trailer": "1"}},
		{"flushed by the old way", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(429)
			w.(http.Flusher).Flush()
		}, 429, "", nil},
		{"200", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "fine")
		}, 200, "fine", nil},
		{"a status too late", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "fine")
			w.WriteHeader(429)
		}, 200, "fine", nil},
		{"302", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/")
			w.WriteHeader(302)
		}, 302, "", map[string]string{"Location": "/"}},
		{"nothing at all", func(w http.ResponseWriter, r *http.Request) {}, 200, "", nil},
	}
	both(t, func(t *testing.T, serve serving) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				e := newEcho()
				e.Use(wrap(func(http.Handler) http.Handler { return http.HandlerFunc(tt.write) }))
				s := serve(t, e)
				s.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				res, err := s.Client().Get(s.URL)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				body, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != tt.status || string(body) != tt.body {
					t.Errorf("%d with %d bytes (%.100q), %v; want %d with %d", res.StatusCode, len(body), body, err, tt.status, len(tt.body))
				}
				for name, want := range tt.header {
					h := res.Header
					if trailer, ok := strings.CutPrefix(name, "trailer "); ok {
						name, h = trailer, res.Trailer
					}
					if got := h.Get(name); got != want {
						t.Errorf("%s is %q, want %q", name, got, want)
					}
				}
			})
		}
	})
}

// TestRefusalThenNext: what was written before next is sent before what next
// writes.
func TestRefusalThenNext(t *testing.T) {
	e := newEcho()
	e.GET("/", func(c echo.Context) error {
		_, err := io.WriteString(c.Response(), " and the handler")
		return err
	}, wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(429)
			io.WriteString(w, "the middleware")
			next.ServeHTTP(w, r)
		})
	}))
	if got := get(t, serveBy("HTTP/1.1")(t, e), "/"); got.status != 429 || got.body != "the middleware and the handler" {
		t.Errorf("%d %q", got.status, got.body)
	}
}

// TestRefusalTooLate: where middleware of Echo outside has begun to answer, a
// refusal is what it is in net/http, more of the body.
func TestRefusalTooLate(t *testing.T) {
	e := newEcho()
	e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			io.WriteString(c.Response(), "begun, ")
			return next(c)
		}
	}, wrap(refuse))
	if got := get(t, serveBy("HTTP/1.1")(t, e), "/"); got.status != 200 || got.body != `begun, {"title":"slow down"}` {
		t.Errorf("%d %q", got.status, got.body)
	}
}

// TestRefusalKeepsOuterEncoding: a Content-Encoding that was set before the
// middleware ran is none of the refusal's.
func TestRefusalKeepsOuterEncoding(t *testing.T) {
	e := newEcho()
	e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			c.Response().Header().Set("Content-Encoding", "outer")
			return next(c)
		}
	})
	e.GET("/", text, wrap(refuse))
	e.GET("/encodes", text, wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "inner")
			w.WriteHeader(429)
		})
	}))
	for _, path := range []string{"/", "/encodes"} {
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if got := w.Header().Get("Content-Encoding"); w.Code != 429 || got != "outer" {
			t.Errorf("%s: %d with Content-Encoding %q", path, w.Code, got)
		}
	}
}

// TestRefusalWithinWrap: an outer middleware sees the answer that the error
// handler makes of an inner one's refusal.
func TestRefusalWithinWrap(t *testing.T) {
	both(t, func(t *testing.T, serve serving) {
		var saw record
		e := newEcho()
		e.Use(wrap(recorder(&saw)), wrap(refuse))
		got := get(t, serve(t, e), "/")
		if saw != (record{429, len(got.body), false}) || got.status != 429 || got.body == "" {
			t.Errorf("the client got %d with %d bytes, the recorder saw %v", got.status, len(got.body), saw)
		}
	})
}

// TestRefusedUpgrade: whoever refuses by the connection itself has it, with what
// was written before as net/http has it.
func TestRefusedUpgrade(t *testing.T) {
	refuse := func(early bool) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if early {
				w.WriteHeader(401)
				io.WriteString(w, "early, ")
			}
			conn, brw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			io.WriteString(brw, "HTTP/1.1 403 By Hand\r\nContent-Length: 2\r\n\r\nno")
			brw.Flush()
			conn.Close()
		})
	}
	raw := func(h http.Handler) string {
		conn, err := net.Dial("tcp", serveBy("HTTP/1.1")(t, h).Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		all, err := io.ReadAll(conn)
		if err != nil {
			t.Error(err)
		}
		// The date is another.
		return strings.Join(slices.DeleteFunc(strings.Split(string(all), "\r\n"), func(s string) bool { return strings.HasPrefix(s, "Date:") }), "\r\n")
	}
	for _, early := range []bool{false, true} {
		e := newEcho()
		e.Use(wrap(func(http.Handler) http.Handler { return refuse(early) }))
		if got, want := raw(e), raw(refuse(early)); got != want || !strings.Contains(got, "403 By Hand") || early != strings.Contains(got, "401 Unauthorized") {
			t.Errorf("%q, without Echo %q", got, want)
		}
	}
}

func TestSkipper(t *testing.T) {
	e := newEcho()
	var skipper echomiddleware.Skipper = func(c echo.Context) bool { return c.Path() == "/health" }
	e.Use(weirecho4.Wrap(refuse, func(echo.Context) bool { return false }, skipper))
	e.GET("/health", text)
	e.GET("/other", text)
	s := serveBy("HTTP/1.1")(t, e)
	for path, want := range map[string]int{"/health": 200, "/other": 429} {
		if got := get(t, s, path); got.status != want {
			t.Errorf("%s: %d, want %d", path, got.status, want)
		}
	}
}

// TestMiddlewareIsBuiltOnce: a middleware may keep its state in the handler it
// returns; Echo's own wrapping makes a new one for every request.
func TestMiddlewareIsBuiltOnce(t *testing.T) {
	onlyTwo := func(next http.Handler) http.Handler {
		left := make(chan struct{}, 2)
		left <- struct{}{}
		left <- struct{}{}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-left:
				next.ServeHTTP(w, r)
			default:
				w.WriteHeader(429)
			}
		})
	}
	trap(t, func(t *testing.T, wrap wrapping, serve serving) string {
		e := newEcho()
		e.Use(wrap(onlyTwo))
		e.GET("/", text)
		s := serve(t, e)
		var got []int
		for range 4 {
			got = append(got, get(t, s, "/").status)
		}
		if want := "[200 200 429 429]"; fmt.Sprint(got) != want {
			return fmt.Sprintf("%v, want %s", got, want)
		}
		return ""
	})
}

// TestContextValues: what the middleware puts into the context reaches Echo's
// handlers, and a holder brings back what they put into it.
func TestContextValues(t *testing.T) {
	type key struct{}
	var brought any
	e := newEcho()
	e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			err := next(c)
			brought = c.Get("user")
			return err
		}
	}, wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			holder := new(string)
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, holder)))
			w.Write([]byte(*holder))
		})
	}))
	e.GET("/", func(c echo.Context) error {
		*c.Request().Context().Value(key{}).(*string) = "held"
		c.Set("user", "ann")
		return nil
	})
	if got := get(t, serveBy("HTTP/1.1")(t, e), "/"); got.body != "held" || brought != "ann" {
		t.Errorf("%q, and %v in Echo's own store", got.body, brought)
	}
}

// TestInterfaces: what net/http's writers have and Echo's lack is there for the
// middleware and for the handlers, with the middleware's own writer between or
// without.
func TestInterfaces(t *testing.T) {
	look := func(w http.ResponseWriter) (lacks []string) {
		has := map[string]bool{}
		_, has["Flusher"] = w.(http.Flusher)
		_, has["FlushError"] = w.(interface{ FlushError() error })
		_, has["Hijacker"] = w.(http.Hijacker)
		_, has["ReaderFrom"] = w.(io.ReaderFrom)
		_, has["StringWriter"] = w.(io.StringWriter)
		_, has["Pusher"] = w.(http.Pusher)
		_, has["Unwrap"] = w.(interface{ Unwrap() http.ResponseWriter })
		for name, ok := range has {
			if !ok {
				lacks = append(lacks, name)
			}
		}
		if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			lacks = append(lacks, err.Error())
		}
		return lacks
	}
	both(t, func(t *testing.T, serve serving) {
		for _, mw := range []middleware{through, replacing} {
			var outer, inner []string
			e := newEcho()
			e.Use(wrap(func(next http.Handler) http.Handler {
				next = mw(next)
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					outer = look(w)
					next.ServeHTTP(w, r)
				})
			}))
			e.GET("/", func(c echo.Context) error {
				if c.Response().Status != http.StatusOK { // as in every Echo handler
					inner = append(inner, "Status")
				}
				return text(c)
			})
			if get(t, serve(t, e), "/"); len(outer)+len(inner) > 0 {
				t.Errorf("the middleware's writer lacks %v, the handler's %v", outer, inner)
			}
		}
	})
}

// TestFilesArriveWhole: io.Copy goes past Echo, and Echo knows the size.
func TestFilesArriveWhole(t *testing.T) {
	both(t, func(t *testing.T, serve serving) {
		for i := range 12 {
			n, mw := []int{0, 1, 511, 512, 513, len(big)}[i%6], []middleware{through, replacing}[i/6]
			var size, after int64
			var status int
			e := newEcho()
			e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
				return func(c echo.Context) error {
					r := c.Response()
					r.After(func() { after = r.Size })
					err := next(c)
					size, status = r.Size, r.Status
					return err
				}
			}, wrap(through), wrap(mw))
			e.GET("/", weirecho4.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(w, struct{ io.Reader }{bytes.NewReader(big[:n])})
			})))
			if got := get(t, serve(t, e), "/"); got.body != string(big[:n]) || int(size) != n || (n > 0 && int(after) != n) || status != 200 || got.err != nil {
				t.Errorf("of %d bytes %d arrived, size %d with status %d, %d after the last write; %v", n, len(got.body), size, status, after, got.err)
			}
		}
	})
}

// readFrom is net/http's writer, and counts what comes by ReadFrom.
type readFrom struct {
	http.ResponseWriter
	n int64
}

func (w *readFrom) ReadFrom(src io.Reader) (int64, error) {
	n, err := w.ResponseWriter.(io.ReaderFrom).ReadFrom(src)
	w.n += n
	return n, err
}

// TestReadFromReachesTheServer: with ReadFrom goes sendfile. Echo's own response
// has none.
func TestReadFromReachesTheServer(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, big, 0o600); err != nil {
		t.Fatal(err)
	}
	e := newEcho()
	serveFile := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, name) })
	e.GET("/mounted", weirecho4.Handler(serveFile), wrap(through))
	e.GET("/naive", echo.WrapHandler(serveFile))
	counts := make(chan int64, 1)
	s := serveBy("HTTP/1.1")(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rf := &readFrom{ResponseWriter: w}
		e.ServeHTTP(rf, r)
		counts <- rf.n
	}))
	for path, want := range map[string]int{"/mounted": len(big) - 512, "/naive": 0} {
		if got, fast := get(t, s, path), <-counts; len(got.body) != len(big) || int(fast) != want {
			t.Errorf("%s: %d bytes arrived, %d by ReadFrom, want %d", path, len(got.body), fast, want)
		}
	}
}

// TestEventsArriveOneByOne: what is flushed is there before the next is written.
func TestEventsArriveOneByOne(t *testing.T) {
	both(t, func(t *testing.T, serve serving) {
		seen := make(chan bool)
		e := newEcho()
		e.GET("/", func(c echo.Context) error {
			for i := range 3 {
				fmt.Fprintf(c.Response(), "data: %d\n", i)
				if err := http.NewResponseController(c.Response()).Flush(); err != nil {
					return err
				}
				<-seen
			}
			return nil
		}, wrap(replacing))
		s := serve(t, e)
		res, err := s.Client().Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		br := bufio.NewReader(res.Body)
		for i := range 3 {
			line, err := br.ReadString('\n')
			if want := fmt.Sprintf("data: %d\n", i); line != want || err != nil {
				t.Errorf("%q, %v, want %q", line, err, want)
			}
			seen <- true
		}
	})
}

// TestUpgrade: a connection that was taken over is left alone, though the
// handler returns an error; over HTTP/2 taking it over is refused.
func TestUpgrade(t *testing.T) {
	upgrade := func(mw middleware) (_ *echo.Echo, handled *int) {
		handled = new(int)
		e := newEcho()
		e.HTTPErrorHandler = func(err error, c echo.Context) {
			*handled++
			e.DefaultHTTPErrorHandler(err, c)
		}
		e.GET("/", func(c echo.Context) error {
			conn, brw, err := c.Response().Hijack()
			if err != nil {
				return echo.NewHTTPError(http.StatusUpgradeRequired, err.Error())
			}
			defer conn.Close()
			fmt.Fprintf(brw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			line, _ := brw.ReadString('\n')
			brw.WriteString(line)
			brw.Flush()
			return errors.New("the peer has gone")
		}, wrap(mw))
		return e, handled
	}
	for _, replaces := range []bool{false, true} {
		mw := func() middleware {
			if replaces {
				return replacing
			}
			return through
		}
		e, handled := upgrade(mw())
		ended := make(chan struct{})
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(ended)
			e.ServeHTTP(w, r)
		}))
		// Echo v4 answers the error on the connection all the same, in vain.
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
		s.Start()
		defer s.Close()
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nping\n")
		all, err := io.ReadAll(conn)
		conn.Close()
		<-ended
		if _, rest, _ := strings.Cut(string(all), "\r\n\r\n"); rest != "ping\n" || err != nil || *handled != 1 {
			t.Errorf("%q, %v; the error handler ran %d times", all, err, *handled)
		}

		e, _ = upgrade(mw())
		if got := get(t, serveBy("HTTP/2")(t, e), "/"); got.status != http.StatusUpgradeRequired {
			t.Errorf("HTTP/2: %+v", got)
		}
	}
}

// TestFormsComeBack: net/http removes the files of a form only if its own
// request has it.
func TestFormsComeBack(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	e := newEcho()
	e.POST("/", func(c echo.Context) error {
		if err := c.Request().ParseMultipartForm(1); err != nil {
			return err
		}
		if left, _ := os.ReadDir(os.TempDir()); len(left) == 0 {
			t.Error("the upload is no file while it is used")
		}
		return c.NoContent(204)
	}, wrap(through), wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(r.Context()))
		})
	}))
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, _ := form.CreateFormFile("file", "name")
	part.Write(big)
	form.Close()
	s := serveBy("HTTP/1.1")(t, e)
	res, err := s.Client().Post(s.URL, form.FormDataContentType(), &body)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	s.Close()
	if left, err := os.ReadDir(os.TempDir()); res.StatusCode != 204 || len(left) > 0 || err != nil {
		t.Errorf("%d, and %v are left, %v", res.StatusCode, left, err)
	}
}

// TestParsedFormsComeBack: nobody outside can read the body again.
func TestParsedFormsComeBack(t *testing.T) {
	var outside string
	e := newEcho()
	e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			err := next(c)
			outside = c.FormValue("name")
			return err
		}
	}, wrap(through), wrap(replacing))
	e.POST("/", func(c echo.Context) error { return c.String(200, c.FormValue("name")) })
	r := httptest.NewRequest("POST", "/", strings.NewReader("name=ann"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	if e.ServeHTTP(w, r); w.Body.String() != "ann" || outside != "ann" {
		t.Errorf("%q inside, %q outside", w.Body, outside)
	}
}

// TestInformationalIsSeen: what handlers send as 1xx passes every middleware on
// its way.
func TestInformationalIsSeen(t *testing.T) {
	both(t, func(t *testing.T, serve serving) {
		var seen []string
		hints := func(name string) middleware {
			return func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					next.ServeHTTP(&hinting{w, func(status int) { seen = append(seen, fmt.Sprint(name, status)) }}, r)
				})
			}
		}
		e := newEcho()
		e.Use(wrap(hints("outer ")), wrap(through), wrap(hints("inner ")))
		e.GET("/", weirecho4.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(103)
			w.WriteHeader(404)
		})))
		infos, got := hinted(t, serve(t, e))
		if want := "[inner 103 outer 103 inner 404 outer 404]"; fmt.Sprint(seen) != want || !slices.Equal(infos, []int{103}) || got != 404 {
			t.Errorf("seen %v, want %s; the client got %v and %d", seen, want, infos, got)
		}
	})
}

// hinting is a writer that tells of every status.
type hinting struct {
	http.ResponseWriter
	tell func(status int)
}

func (w *hinting) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *hinting) WriteHeader(status int) {
	w.tell(status)
	w.ResponseWriter.WriteHeader(status)
}

// TestTimeoutHandler: the client of http.TimeoutHandler has its answer in time,
// and what the handler does afterwards goes nowhere.
func TestTimeoutHandler(t *testing.T) {
	release := make(chan struct{})
	e := newEcho()
	e.GET("/", func(c echo.Context) error {
		<-release
		return c.String(200, "too late")
	}, wrap(func(next http.Handler) http.Handler { return http.TimeoutHandler(next, time.Millisecond, "timeout") }))
	s := serveBy("HTTP/1.1")(t, e)
	res, err := s.Client().Get(s.URL)
	close(release)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); res.StatusCode != 503 || string(body) != "timeout" || err != nil {
		t.Errorf("%d %q, %v", res.StatusCode, body, err)
	}
}

// TestNextAfterTheEnd does nothing: the context is another request's by then,
// also if the middleware panicked.
func TestNextAfterTheEnd(t *testing.T) {
	for _, panics := range []bool{false, true} {
		var late func()
		ran := false
		e := newEcho()
		e.GET("/", func(c echo.Context) error { ran = true; return nil }, swallow, wrap(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				late = func() { next.ServeHTTP(w, r) }
				if panics {
					panic("oops")
				}
			})
		}))
		e.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		if late(); ran {
			t.Errorf("the handler ran after Echo had the context back; the middleware panicked: %t", panics)
		}
	}
}

// TestWritingAfterTheEnd: what a middleware or a handler writes late reaches
// nobody. Echo's response is another request's by then.
func TestWritingAfterTheEnd(t *testing.T) {
	for _, panics := range []bool{false, true} {
		var late []http.ResponseWriter
		keeps := func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				late = append(late, w)
				next.ServeHTTP(w, r)
			})
		}
		refuses := func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				late = append(late, w)
				if panics {
					panic("oops")
				}
				w.WriteHeader(http.StatusTooManyRequests)
			})
		}
		e := newEcho()
		e.Use(swallow, wrap(keeps))
		e.GET("/refused", text, wrap(refuses))
		e.GET("/", weirecho4.Handler(refuses(nil)))
		for _, path := range []string{"/", "/refused"} {
			late = nil
			rec := httptest.NewRecorder()
			e.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
			want := fmt.Sprint(rec.Code, rec.Header(), rec.Flushed, rec.Body)
			for i, w := range late {
				w.Header().Set("X-Late", "1")
				w.WriteHeader(http.StatusEarlyHints)
				w.WriteHeader(http.StatusOK)
				_, err := w.Write([]byte("late"))
				_, err2 := io.WriteString(w, "late")
				_, err3 := io.Copy(w, strings.NewReader("late"))
				rc := http.NewResponseController(w)
				_, _, err4 := rc.Hijack()
				for _, err := range []error{err, err2, err3, err4, rc.Flush(), rc.SetWriteDeadline(time.Now()), w.(http.Pusher).Push("/late", nil)} {
					if err == nil {
						t.Errorf("%s, writer %d: something succeeded late", path, i)
					}
				}
			}
			if got := fmt.Sprint(rec.Code, rec.Header(), rec.Flushed, rec.Body); got != want || len(late) != 2 {
				t.Errorf("%s: %d writers changed\n%s\ninto\n%s", path, len(late), want, got)
			}
		}
	}
}

func TestPanics(t *testing.T) {
	foreign := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.Background()))
		})
	}
	for want, f := range map[string]func(){
		"weirecho4: Wrap needs a middleware, not nil": func() { weirecho4.Wrap(nil) },
		"weirecho4: Handler needs a handler, not nil": func() { weirecho4.Handler(nil) },
		"weirecho4: the middleware called next with a request whose context is not derived from that of its own": func() {
			e := newEcho()
			e.GET("/", text, wrap(foreign))
			e.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		},
	} {
		func() {
			defer func() {
				if v := recover(); v != want {
					t.Errorf("recovered %v, want %q", v, want)
				}
			}()
			f()
		}()
	}
}
