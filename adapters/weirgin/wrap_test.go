package weirgin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/goweir/weir/adapters/weirgin"
)

// TestNothingChanges runs handlers of all kinds with and without a middleware
// that does nothing: the client and a logger outside must not tell the
// difference.
func TestNothingChanges(t *testing.T) {
	handlers := map[string]gin.HandlerFunc{
		"text":             text,
		"empty":            func(*gin.Context) {},
		"status":           func(c *gin.Context) { c.Status(418) },
		"no content":       func(c *gin.Context) { c.Status(204); c.Writer.WriteHeaderNow() },
		"json":             func(c *gin.Context) { c.JSON(201, gin.H{"a": 1}) },
		"abort":            func(c *gin.Context) { c.AbortWithStatusJSON(403, gin.H{"no": true}) },
		"abort with error": func(c *gin.Context) { c.AbortWithError(502, errors.New("bad")) },
		"error only":       func(c *gin.Context) { c.Error(errors.New("bad")) },
		"error and status": func(c *gin.Context) { c.Status(400); c.Error(errors.New("bad")) },
		"panic":            func(*gin.Context) { panic("oh") },
		"two headers":      func(c *gin.Context) { c.Writer.WriteHeader(201); c.Writer.WriteHeader(202) },
		"too late":         func(c *gin.Context) { c.String(200, "a"); c.Status(500) },
		"redirect":         func(c *gin.Context) { c.Redirect(302, "/there") },
		"file":             func(c *gin.Context) { c.File("wrap_test.go") },
		"no file":          func(c *gin.Context) { c.File("nothing.go") },
		"reader":           func(c *gin.Context) { c.DataFromReader(200, 4, "x/y", strings.NewReader("text"), nil) },
		"big reader":       func(c *gin.Context) { io.Copy(c.Writer, bytes.NewReader(make([]byte, 100_000))) },
		"short reader":     func(c *gin.Context) { io.Copy(c.Writer, io.LimitReader(bytes.NewReader(make([]byte, 600)), 600)) },
		"hijack too late": func(c *gin.Context) {
			c.String(200, "a")
			_, _, err := c.Writer.Hijack()
			c.String(200, "%t", err != nil)
		},
		"failing reader":     func(c *gin.Context) { _, err := io.Copy(c.Writer, bad{}); c.String(502, "%v", err) },
		"flush":              func(c *gin.Context) { c.Writer.Flush(); c.Writer.WriteString("late") },
		"stream":             func(c *gin.Context) { c.Stream(func(w io.Writer) bool { io.WriteString(w, "x"); return false }) },
		"trailer":            func(c *gin.Context) { c.Header("Trailer", "X-Sum"); c.String(200, "a"); c.Header("X-Sum", "7") },
		"unannounced":        func(c *gin.Context) { c.String(200, "a"); c.Header(http.TrailerPrefix+"X-Sum", "7") },
		"http error":         func(c *gin.Context) { http.Error(c.Writer, "no", 500) },
		"query":              func(c *gin.Context) { c.String(200, c.Query("a")+c.Param("x")+c.FullPath()) },
		"request replaced":   func(c *gin.Context) { c.Request = c.Request.WithContext(context.Background()); c.String(200, "a") },
		"writer left behind": func(c *gin.Context) { c.Writer = &shouting{c.Writer}; c.String(200, "a") },
	}
	run := func(serve serving, m ...gin.HandlerFunc) (s *httptest.Server, logged chan string) {
		logged = make(chan string, 1)
		e := gin.New()
		e.HandleMethodNotAllowed = true
		e.Use(func(c *gin.Context) {
			c.Next()
			logged <- fmt.Sprintf("%d, %d bytes, written: %t, aborted: %t, errors: %v, %s", c.Writer.Status(), c.Writer.Size(), c.Writer.Written(), c.IsAborted(), c.Errors.Errors(), c.FullPath())
		}, func(c *gin.Context) {
			c.Next()
			if len(c.Errors) > 0 && !c.Writer.Written() {
				c.JSON(-1, gin.H{"errors": c.Errors.Errors()})
			}
		}, gin.RecoveryWithWriter(io.Discard))
		e.Use(m...)
		for name, h := range handlers {
			e.Handle("GET", "/"+strings.ReplaceAll(name, " ", "-"), h)
			e.Handle("HEAD", "/"+strings.ReplaceAll(name, " ", "-"), h)
		}
		e.NoRoute(func(c *gin.Context) {
			switch c.Request.URL.Path {
			case "/own-404":
				c.JSON(404, gin.H{"code": "PAGE_NOT_FOUND"})
			case "/own-error":
				c.Error(errors.New("nowhere"))
			case "/own-200":
				c.Status(200)
			case "/left":
				c.Writer = &shouting{c.Writer}
			}
		})
		s = serve(t, e)
		s.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		return s, logged
	}
	both(t, func(t *testing.T, serve serving) {
		bare, without := run(serve)
		wrapped, with := run(serve, weirgin.Wrap(through), weirgin.Wrap(through))
		// The one difference: without Wrap, Gin's own text is not written yet when
		// a logger looks.
		sooner := strings.NewReplacer("404, -1 bytes, written: false", "404, 18 bytes, written: true", "405, -1 bytes, written: false", "405, 22 bytes, written: true")
		paths := []string{"/nowhere", "/own-404", "/own-error", "/own-200", "/left"}
		for name := range handlers {
			paths = append(paths, "/"+strings.ReplaceAll(name, " ", "-")+"?a=b")
		}
		for _, path := range paths {
			for _, method := range []string{"GET", "HEAD", "POST"} {
				want, got := do(t, bare, method, path), do(t, wrapped, method, path)
				for _, a := range []*answer{&want, &got} {
					a.header.Del("Date")
				}
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%s %s: client got\n%.300v, without\n%.300v", method, path, got, want)
				}
				if got, want := <-with, sooner.Replace(<-without); got != want {
					t.Errorf("%s %s: logged %s, without %s", method, path, got, want)
				}
			}
		}
		want, got := do(t, bare, "GET", "/text/"), do(t, wrapped, "GET", "/text/")
		if got.status != want.status || got.status != 301 { // no handler runs
			t.Errorf("a redirect of Gin's: %d, without %d", got.status, want.status)
		}
	})
}

type bad struct{}

func (bad) Read([]byte) (int, error) { return 0, errors.New("bad") }

// shouting is a writer as handlers write them for Gin.
type shouting struct{ gin.ResponseWriter }

func (w *shouting) Write(p []byte) (int, error) { return w.ResponseWriter.Write(bytes.ToUpper(p)) }

func (w *shouting) WriteString(s string) (int, error) {
	return w.ResponseWriter.WriteString(strings.ToUpper(s))
}

// TestErrorsAreAnsweredInside: a middleware sees what another, that formats
// c.Errors, writes if that stands inside; outside it works as well, and the
// middleware is told what was known.
func TestErrorsAreAnsweredInside(t *testing.T) {
	format := func(c *gin.Context) {
		c.Next()
		if err := c.Errors.Last(); err != nil {
			c.JSON(http.StatusConflict, gin.H{"error": err.Error()})
		}
	}
	const body = `{"error":"taken"}`
	for name, c := range map[string]struct {
		inside bool
		want   record
	}{"inside": {true, record{status: 409, size: len(body)}}, "outside": {false, record{status: 200}}} {
		var saw record
		chain := []gin.HandlerFunc{format, weirgin.Wrap(recorder(&saw))}
		if c.inside {
			chain[0], chain[1] = chain[1], chain[0]
		}
		e := newGin()
		e.Use(chain...)
		e.GET("/", func(c *gin.Context) { c.Error(errors.New("taken")) })
		if got := get(t, serveBy("HTTP/1.1")(t, e), "/"); got.status != 409 || got.body != body || saw != c.want {
			t.Errorf("%s: %d %q, seen as %v, want %v", name, got.status, got.body, saw, c.want)
		}
	}
}

// TestMiddlewareAnswersAlone: what a middleware answers without next is what
// net/http would make of it, whatever Gin has in mind.
func TestMiddlewareAnswersAlone(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter)
		status int
		body   string
	}{
		"nothing":          {func(http.ResponseWriter) {}, 200, ""},
		"a body":           {func(w http.ResponseWriter) { io.WriteString(w, "a") }, 200, "a"},
		"404 with no body": {func(w http.ResponseWriter) { w.WriteHeader(404) }, 404, ""},
		"two headers":      {func(w http.ResponseWriter) { w.WriteHeader(401); w.WriteHeader(200) }, 401, ""},
		"flushed":          {func(w http.ResponseWriter) { w.(http.Flusher).Flush() }, 200, ""},
	} {
		answers := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.answer(w) })
		wrapped, mounted := newGin(), newGin()
		wrapped.Use(weirgin.Wrap(func(http.Handler) http.Handler { return answers }))
		wrapped.GET("/", func(*gin.Context) { t.Errorf("%s: the handler ran", name) })
		mounted.GET("/", weirgin.Handler(answers))
		mounted.NoRoute(weirgin.Handler(answers))
		for kind, e := range map[string]*gin.Engine{"Wrap": wrapped, "Handler": mounted} {
			s := serveBy("HTTP/1.1")(t, e)
			for _, path := range []string{"/", "/nowhere"} {
				if got := get(t, s, path); got.status != c.status || got.body != c.body {
					t.Errorf("%s, %s: %s is %d %q, want %d %q", kind, name, path, got.status, got.body, c.status, c.body)
				}
			}
		}
	}
}

// TestTimeoutHandler: the client has the answer in time, and no context serves
// two requests at once.
func TestTimeoutHandler(t *testing.T) {
	release := make(chan struct{})
	var started, running, overlapping atomic.Int32
	e := newGin()
	e.GET("/slow/:id", weirgin.Wrap(func(next http.Handler) http.Handler {
		return http.TimeoutHandler(next, 100*time.Millisecond, "too slow")
	}), func(c *gin.Context) {
		started.Add(1)
		running.Add(1)
		defer running.Add(-1)
		id := c.Param("id")
		<-release
		if c.Param("id") != id || c.Request.URL.Path != "/slow/"+id {
			overlapping.Add(1)
		}
		c.String(200, id)
	})
	e.GET("/fast/:id", func(c *gin.Context) { c.String(200, c.Param("id")) })
	s := serveBy("HTTP/1.1")(t, e)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			res, err := s.Client().Get(fmt.Sprintf("%s/slow/%d", s.URL, i))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			body := make([]byte, len("too slow"))
			if _, err := io.ReadFull(res.Body, body); res.StatusCode != 503 || string(body) != "too slow" {
				t.Errorf("%d %q, %v", res.StatusCode, body, err)
			}
			for j := range 20 {
				id := fmt.Sprintf("%d-%d", i, j)
				if got := get(t, s, "/fast/"+id); got.body != id {
					t.Errorf("%q instead of %q", got.body, id)
				}
			}
		})
	}
	wg.Wait()
	// On a busy machine one may come too late to start at all.
	if n := running.Load(); n == 0 || n != started.Load() {
		t.Errorf("%d of %d handlers run after all clients have their answers, want all", n, started.Load())
	}
	close(release)
	s.Close() // waits for them
	if overlapping.Load() > 0 {
		t.Errorf("%d handlers found another request in their context", overlapping.Load())
	}
}

// TestFormsAreKept: middleware outside can read the form, whose files the server
// removes.
func TestFormsAreKept(t *testing.T) {
	var file, field string
	e := newGin()
	e.MaxMultipartMemory = 1
	e.Use(func(c *gin.Context) {
		c.Next()
		field = c.Request.PostForm.Get("field")
	}, weirgin.Wrap(through))
	e.POST("/", func(c *gin.Context) {
		form, err := c.MultipartForm()
		if err != nil {
			t.Error(err)
			return
		}
		f, err := form.File["file"][0].Open()
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		if named, ok := f.(*os.File); ok {
			file = named.Name()
		}
	})
	s := serveBy("HTTP/1.1")(t, e)
	var body bytes.Buffer
	m := multipart.NewWriter(&body)
	m.WriteField("field", "value")
	part, _ := m.CreateFormFile("file", "name")
	part.Write(make([]byte, 100_000))
	m.Close()
	res, err := s.Client().Post(s.URL, m.FormDataContentType(), &body)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	s.Close()
	if field != "value" {
		t.Errorf("outside the field is %q", field)
	}
	if _, err := os.Stat(file); file == "" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("temporary file %q: %v, want it removed", file, err)
	}
}

func TestMisuse(t *testing.T) {
	recovered := func(f func()) (v any) {
		defer func() { v = recover() }()
		f()
		return nil
	}
	e := gin.New()
	e.GET("/twice", weirgin.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r)
			next.ServeHTTP(w, r)
		})
	}), text)
	e.GET("/foreign", weirgin.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.Background()))
		})
	}), text)
	serve := func(path string) func() {
		return func() { e.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)) }
	}
	for name, f := range map[string]func(){
		"no middleware":     func() { weirgin.Wrap(nil) },
		"no handler":        func() { weirgin.Handler(nil) },
		"nil from it":       func() { weirgin.Wrap(func(http.Handler) http.Handler { return nil }) },
		"next twice":        serve("/twice"),
		"a foreign context": serve("/foreign"),
	} {
		if v, _ := recovered(f).(string); !strings.HasPrefix(v, "weirgin: ") {
			t.Errorf("%s: panic %q", name, v)
		}
	}
}

// TestStateInsideTheMiddleware: a middleware that makes its state when it is
// given next is made once.
func TestStateInsideTheMiddleware(t *testing.T) {
	e := newGin()
	e.Use(weirgin.Wrap(func(next http.Handler) http.Handler {
		var left atomic.Int32
		left.Store(2)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if left.Add(-1) < 0 {
				w.WriteHeader(429)
				return
			}
			next.ServeHTTP(w, r)
		})
	}))
	e.GET("/", text)
	s := serveBy("HTTP/1.1")(t, e)
	for _, want := range []int{200, 200, 429} {
		if got := get(t, s, "/"); got.status != want {
			t.Errorf("%d, want %d", got.status, want)
		}
	}
}
