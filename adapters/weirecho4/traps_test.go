package weirecho4_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	echomiddleware "github.com/labstack/echo/v4/middleware"
)

// TestTrapAdapters02_WriterAndRequestComeBack: what the middleware hands on
// reaches the handler, and what Echo had is back afterwards, also when the
// handler returned an error or panicked.
func TestTrapAdapters02_WriterAndRequestComeBack(t *testing.T) {
	type key struct{}
	replace := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(&recording{ResponseWriter: w}, r.WithContext(context.WithValue(r.Context(), key{}, "mine")))
		})
	}
	trap(t, func(t *testing.T, wrap wrapping, serve serving) (wrong string) {
		e := newEcho()
		e.Use(echomiddleware.Recover(), func(next echo.HandlerFunc) echo.HandlerFunc {
			return func(c echo.Context) error {
				request, response := c.Request(), c.Response()
				defer func() {
					if c.Request() != request || c.Response() != response {
						wrong = fmt.Sprintf("%s: after the middleware Echo has its request or response", c.Path())
					}
				}()
				return next(c)
			}
		}, wrap(replace))
		check := func(c echo.Context) {
			w, found := http.ResponseWriter(c.Response()), false
			for w != nil && !found {
				_, found = w.(*recording)
				u, ok := w.(interface{ Unwrap() http.ResponseWriter })
				if w = nil; ok {
					w = u.Unwrap()
				}
			}
			if !found || c.Request().Context().Value(key{}) != "mine" {
				wrong = c.Path() + ": the middleware's writer or request does not reach the handler"
			}
		}
		e.GET("/returns", func(c echo.Context) error { check(c); return c.NoContent(204) })
		e.GET("/error", func(c echo.Context) error { check(c); return echo.ErrForbidden })
		e.GET("/panic", func(c echo.Context) error { check(c); panic("oops") })
		s := serve(t, e)
		for path, want := range map[string]int{"/returns": 204, "/error": 403, "/panic": 500} {
			if got := get(t, s, path); got.status != want {
				return fmt.Sprintf("%s: %d, want %d", path, got.status, want)
			}
		}
		return wrong
	})
}

// TestTrapAdapters03_UnroutedAnswersAreSeen: answers that no handler wrote.
func TestTrapAdapters03_UnroutedAnswersAreSeen(t *testing.T) {
	trap(t, func(t *testing.T, wrap wrapping, serve serving) string {
		var saw record
		e := newEcho()
		e.Use(wrap(recorder(&saw)))
		e.POST("/post", text)
		e.GET("/empty", func(echo.Context) error { return nil })
		s := serve(t, e)
		for path, want := range map[string]int{"/nowhere": 404, "/post": 405, "/empty": 200} {
			got := get(t, s, path)
			// Who sees no status takes it for 200, as net/http does.
			seen := saw
			if seen.status == 0 {
				seen.status = 200
			}
			if got.status != want || seen.status != want || seen.size != len(got.body) {
				return fmt.Sprintf("%s: the client got %d with %d bytes, the middleware saw %v", path, got.status, len(got.body), saw)
			}
		}
		return ""
	})
}

// TestTrapAdapters04_InformationalIsNotTheStatus: Echo's response stores the
// first status of all, and takes it for the one it sent.
func TestTrapAdapters04_InformationalIsNotTheStatus(t *testing.T) {
	hint := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</a>")
			w.WriteHeader(http.StatusEarlyHints)
			next.ServeHTTP(w, r)
		})
	}
	trap(t, func(t *testing.T, wrap wrapping, serve serving) string {
		for _, status := range []int{200, 201, 204, 404, 502} {
			logged := 0
			e := newEcho()
			e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
				return func(c echo.Context) error {
					err := next(c)
					logged = c.Response().Status
					return err
				}
			}, wrap(hint), wrap(replacing))
			e.GET("/", func(c echo.Context) error { return c.NoContent(status) })
			infos, got := hinted(t, serve(t, e))
			if !slices.Equal(infos, []int{103}) || got != status || logged != status {
				return fmt.Sprintf("103 and %d: the client got %v and %d, outside it was %d", status, infos, got, logged)
			}
		}
		return ""
	})
}

// hinted returns the informational statuses and the final one of a GET of /.
func hinted(t *testing.T, s *httptest.Server) (infos []int, status int) {
	t.Helper()
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			infos = append(infos, code)
			return nil
		},
	})
	r, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return infos, res.StatusCode
}

// TestTrapAdapters06_ContextIsNotUsedAfterwards: Echo gives the context to the
// next request as soon as the middleware has returned, so next must have ended
// by then.
func TestTrapAdapters06_ContextIsNotUsedAfterwards(t *testing.T) {
	trap(t, func(t *testing.T, wrap wrapping, serve serving) string {
		started, release := make(chan struct{}), make(chan struct{})
		returned, handled := make(chan struct{}), make(chan struct{})
		timeout := func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				go func() {
					defer close(handled)
					next.ServeHTTP(httptest.NewRecorder(), r)
				}()
				<-started
				http.Error(w, "too late", http.StatusServiceUnavailable)
			})
		}
		e := newEcho()
		e.GET("/", func(c echo.Context) error {
			close(started)
			<-release
			return nil
		}, wrap(timeout))
		s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(returned)
			e.ServeHTTP(w, r)
		}))
		status := make(chan int, 1)
		go func() {
			res, err := s.Client().Get(s.URL)
			if err != nil {
				status <- 0
				return
			}
			status <- res.StatusCode // before the body has ended
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}()
		if got := <-status; got != http.StatusServiceUnavailable {
			t.Errorf("the client got %d, want 503", got)
		}
		wrong := ""
		timer := time.NewTimer(100 * time.Millisecond)
		defer timer.Stop()
		select {
		case <-returned:
			wrong = "Echo has the context back while the handler uses it"
		case <-timer.C:
			// Or both, and then chance decides. An answer that was not flushed
			// comes after the return.
			select {
			case <-returned:
				wrong = "Echo has the context back while the handler uses it"
			default:
			}
		}
		close(release)
		<-handled
		<-returned
		return wrong
	})
}

// TestTrapAdapters07_ErrorsAreSeen: an error that a handler returns, and a panic
// that Echo's Recover makes one of, is what the middleware sees.
func TestTrapAdapters07_ErrorsAreSeen(t *testing.T) {
	trap(t, func(t *testing.T, wrap wrapping, serve serving) string {
		var saw record
		e := newEcho()
		e.Use(wrap(recorder(&saw)), echomiddleware.Recover())
		e.GET("/error", func(echo.Context) error { return errors.New("secret") })
		e.GET("/teapot", func(echo.Context) error { return echo.NewHTTPError(418, "short and stout") })
		e.GET("/panic", func(echo.Context) error { panic("oops") })
		s := serve(t, e)
		for path, want := range map[string]int{"/error": 500, "/teapot": 418, "/panic": 500} {
			got := get(t, s, path)
			if got.status != want || saw != (record{want, len(got.body), false}) {
				return fmt.Sprintf("%s: the client got %d with %d bytes, the middleware saw %v", path, got.status, len(got.body), saw)
			}
		}
		return ""
	})
}

// TestTrapAdapters08_ResponseIsRestored: middleware outside has the response it
// had, and so the status and size that went out, errors included.
func TestTrapAdapters08_ResponseIsRestored(t *testing.T) {
	trap(t, func(t *testing.T, wrap wrapping, serve serving) string {
		status, size, same := 0, int64(0), true
		e := newEcho()
		e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
			return func(c echo.Context) error {
				before := c.Response()
				err := next(c)
				same = c.Response() == before
				status, size = before.Status, before.Size
				return err
			}
		}, wrap(through))
		e.GET("/text", text)
		e.GET("/error", func(echo.Context) error { return echo.ErrForbidden })
		s := serve(t, e)
		for _, path := range []string{"/text", "/error", "/nowhere"} {
			if got := get(t, s, path); !same || got.status != status || len(got.body) != int(size) {
				return fmt.Sprintf("%s: the client got %d with %d bytes; outside it is %d with %d, and the same response: %t", path, got.status, len(got.body), status, size, same)
			}
		}
		return ""
	})
}

// TestTrapAdapters09_RefusalReachesTheErrorHandler: the application formats what
// a middleware refuses, and the fields of the refusal stay.
func TestTrapAdapters09_RefusalReachesTheErrorHandler(t *testing.T) {
	trap(t, func(t *testing.T, wrap wrapping, serve serving) string {
		handled, ran := 0, false
		e := newEcho()
		e.HTTPErrorHandler = func(err error, c echo.Context) {
			handled++
			c.JSON(err.(*echo.HTTPError).Code, map[string]string{"sorry": err.Error()})
		}
		e.Use(wrap(refuse))
		e.GET("/", func(c echo.Context) error { ran = true; return text(c) })
		got := get(t, serve(t, e), "/")
		want := `{"sorry":"code=429, message=Too Many Requests"}` + "\n"
		if got.status != 429 || got.body != want || got.header.Get("Content-Type") != "application/json" ||
			got.header.Get("Retry-After") != "7" || handled != 1 || ran {
			return fmt.Sprintf("%d %q as %q, Retry-After %q; handled %d times, the handler ran: %t",
				got.status, got.body, got.header.Get("Content-Type"), got.header.Get("Retry-After"), handled, ran)
		}
		return ""
	})
}

// TestTrapAdapters10_RouteIsKnown: the pattern and the path values are there
// before the middleware runs, and where no route was found the pattern of a mux
// in front of Echo stays.
func TestTrapAdapters10_RouteIsKnown(t *testing.T) {
	trap(t, func(t *testing.T, wrap wrapping, serve serving) string {
		var pattern, id string
		e := newEcho()
		e.Use(wrap(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				pattern, id = r.Pattern, r.PathValue("id")
				next.ServeHTTP(w, r)
			})
		}))
		e.GET("/api/users/:id", text)
		mux := http.NewServeMux()
		mux.Handle("/api/", e)
		s := serve(t, mux)
		if get(t, s, "/api/users/7"); pattern != "/api/users/:id" || id != "7" {
			return fmt.Sprintf("pattern %q and id %q of a route", pattern, id)
		}
		if get(t, s, "/api/nowhere"); pattern != "/api/" {
			return fmt.Sprintf("pattern %q where there is no route", pattern)
		}
		return ""
	})
}

// TestTrapCapture26_OuterRecordIsTrue: of two recorders the outer one sees what
// the inner one saw, and each its own writer.
func TestTrapCapture26_OuterRecordIsTrue(t *testing.T) {
	trap(t, func(t *testing.T, wrap wrapping, serve serving) string {
		var outer, inner record
		e := newEcho()
		e.Use(wrap(recorder(&outer)))
		e.GET("/", func(c echo.Context) error { return echo.ErrForbidden }, wrap(recorder(&inner)))
		e.GET("/late", text, func(next echo.HandlerFunc) echo.HandlerFunc {
			return func(c echo.Context) error {
				if err := next(c); err != nil {
					return err
				}
				_, err := io.WriteString(c.Response(), " and more") // behind the inner recorder's back
				return err
			}
		}, wrap(recorder(&inner)))
		s := serve(t, e)
		if got := get(t, s, "/"); inner != outer || outer.status != 403 || outer.size != len(got.body) {
			return fmt.Sprintf("the client got %d bytes, the inner recorder saw %v, the outer %v", len(got.body), inner, outer)
		}
		if get(t, s, "/late"); inner.size != len("text") || outer.size != len("text and more") {
			return fmt.Sprintf("of a late write the inner recorder saw %v, the outer %v", inner, outer)
		}
		return ""
	})
}

// TestTrapCapture27_ErrorHandlerIsRecordedOnce: the record is complete when the
// middleware returns, and the error handler, which does not look whether
// anything was sent, has not run twice.
func TestTrapCapture27_ErrorHandlerIsRecordedOnce(t *testing.T) {
	trap(t, func(t *testing.T, wrap wrapping, serve serving) string {
		var saw record
		handled := 0
		e := newEcho()
		e.HTTPErrorHandler = func(err error, c echo.Context) {
			handled++
			c.String(http.StatusConflict, "twice?")
		}
		e.Use(wrap(recorder(&saw)))
		e.GET("/", func(c echo.Context) error { return errors.New("no") }, wrap(through))
		got := get(t, serve(t, e), "/")
		if got.body != "twice?" || handled != 1 || saw != (record{409, len("twice?"), false}) {
			return fmt.Sprintf("the client got %d %q, the middleware saw %v, the error handler ran %d times", got.status, got.body, saw, handled)
		}
		return ""
	})
}
