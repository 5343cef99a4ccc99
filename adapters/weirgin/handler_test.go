package weirgin_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/goweir/weir/adapters/weirgin"
)

// embedding is a writer as it is usually written for Gin, in use outside.
type embedding struct {
	gin.ResponseWriter
	body bytes.Buffer
}

func (w *embedding) Write(p []byte) (int, error) {
	w.body.Write(p)
	return w.ResponseWriter.Write(p)
}

// mounts are the ways in which h gets into Gin, below gin.Recovery.
func mounts(h http.Handler) map[string]*gin.Engine {
	engines := map[string]*gin.Engine{}
	mount := func(name string, last gin.HandlerFunc, m ...gin.HandlerFunc) {
		e := newGin()
		e.Use(m...)
		e.Any("/*path", last)
		engines[name] = e
	}
	embed := func(c *gin.Context) { c.Writer = &embedding{ResponseWriter: c.Writer} }
	mount("Handler", weirgin.Handler(h))
	mount("Handler in Wrap", weirgin.Handler(h), weirgin.Wrap(through), weirgin.Wrap(recorder(new(record))))
	mount("Handler below another writer", weirgin.Handler(h), embed)
	mount("a middleware of its own", text, weirgin.Wrap(func(http.Handler) http.Handler { return h }))
	return engines
}

// TestAbortIsSeen: what a handler aborts breaks at the client although
// gin.Recovery swallows the panic; with gin.WrapH it looks whole.
func TestAbortIsSeen(t *testing.T) {
	aborts := map[string]http.HandlerFunc{
		"before the header": func(http.ResponseWriter, *http.Request) {},
		"after the header":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) },
		"in an unsent body": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "half") },
		"in a flushed body": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "half"); w.(http.Flusher).Flush() },
		"in a long body":    func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 100_000)) },
		"with Content-Length": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			io.WriteString(w, "half")
		},
	}
	both(t, func(t *testing.T, serve serving) {
		clean := 0
		for name, begin := range aborts {
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				begin(w, r)
				panic(http.ErrAbortHandler)
			})
			for way, e := range mounts(h) {
				if got := get(t, serve(t, e), "/"); got.err == nil {
					t.Errorf("%s, %s: a clean end: %d %q", way, name, got.status, got.body)
				}
			}
			e := newGin()
			e.Any("/*path", gin.WrapH(h))
			if got := get(t, serve(t, e), "/"); got.err == nil {
				clean++
			}
		}
		t.Logf("with gin.WrapH clean ends: %d of %d", clean, len(aborts))
		if clean == 0 {
			t.Error("with gin.WrapH all is well; the trap is closed upstream")
		}
	})
}

// TestAbortInsideRecovery: what gin.Recovery swallows inside is an abort to the
// middleware outside, and to the client.
func TestAbortInsideRecovery(t *testing.T) {
	both(t, func(t *testing.T, serve serving) {
		for name, last := range map[string]gin.HandlerFunc{
			"Handler": weirgin.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, "half")
				panic(http.ErrAbortHandler)
			})),
			"Gin's handler": func(c *gin.Context) {
				c.Writer.WriteString("half")
				panic(http.ErrAbortHandler)
			},
		} {
			var outer, inner record
			recovery := gin.RecoveryWithWriter(io.Discard)
			e := gin.New()
			e.Use(recovery, weirgin.Wrap(recorder(&outer)), recovery, weirgin.Wrap(recorder(&inner)), recovery)
			e.GET("/", last)
			s := serve(t, e)
			got := get(t, s, "/")
			s.Close() // the client may be done before the handler is
			if got.err == nil || !outer.panicked || !inner.panicked {
				t.Errorf("%s: client got %d %q, %v; seen as %v and %v", name, got.status, got.body, got.err, outer, inner)
			}
		}
	})
}

// TestOtherPanics are Gin's to answer as long as nothing was sent.
func TestOtherPanics(t *testing.T) {
	both(t, func(t *testing.T, serve serving) {
		e := newGin()
		e.GET("/early", weirgin.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oh") })))
		e.GET("/late", weirgin.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "half")
			panic("oh")
		})))
		s := serve(t, e)
		if got := get(t, s, "/early"); got.status != 500 || got.err != nil {
			t.Errorf("a panic before the header: %d, %v; want 500", got.status, got.err)
		}
		if got := get(t, s, "/late"); got.err == nil {
			t.Errorf("a panic after it: a clean end: %d %q", got.status, got.body)
		}
	})
}

// TestConnectionSurvivesAbortAfterAll: an answer that was whole has arrived, and
// its connection is not left with the deadline of the abort.
func TestConnectionSurvivesAbortAfterAll(t *testing.T) {
	e := newGin()
	e.GET("/abort", weirgin.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "4")
		io.WriteString(w, "text")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})))
	e.GET("/", text)
	s := serveBy("HTTP/1.1")(t, e)
	for range 3 {
		if got := get(t, s, "/abort"); got.body != "text" || got.err != nil {
			t.Errorf("%q, %v", got.body, got.err)
		}
		if got := get(t, s, "/"); got.body != "text" || got.err != nil {
			t.Errorf("afterwards %q, %v", got.body, got.err)
		}
	}
}

func TestInformational(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a>")
		w.WriteHeader(103)
		w.WriteHeader(103)
		w.WriteHeader(404)
		io.WriteString(w, "no")
	})
	both(t, func(t *testing.T, serve serving) {
		for way, e := range mounts(h) {
			if got := get(t, serve(t, e), "/"); fmt.Sprint(got.infos) != "[103 103]" || got.status != 404 || got.body != "no" {
				t.Errorf("%s: %v, then %d %q", way, got.infos, got.status, got.body)
			}
		}
	})
}

// TestStreamsAsItIsWritten: a flush reaches the client while the handler runs,
// and its error the handler.
func TestStreamsAsItIsWritten(t *testing.T) {
	both(t, func(t *testing.T, serve serving) {
		step, failed := make(chan bool), make(chan bool, 1)
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			for range 2 {
				io.WriteString(w, "data: x\n\n")
				if err := rc.Flush(); err != nil {
					t.Error(err)
				}
				<-step
			}
			rc.SetWriteDeadline(time.Unix(1, 0))
			w.Write(make([]byte, 1<<20))
			failed <- rc.Flush() != nil
		})
		for way, e := range mounts(h) {
			s := serve(t, e)
			res, err := s.Client().Get(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			br := bufio.NewReader(res.Body)
			for range 2 {
				if line, err := br.ReadString('\n'); line != "data: x\n" {
					t.Errorf("%s: %q, %v", way, line, err)
				}
				br.ReadString('\n')
				step <- true
			}
			// A writer written for Gin has no FlushError.
			if !<-failed && way != "Handler below another writer" {
				t.Errorf("%s: Flush returned nil after the deadline", way)
			}
			res.Body.Close()
		}
	})
}

// holding is a writer for Gin that sends nothing before the end.
type holding struct {
	gin.ResponseWriter
	body bytes.Buffer
}

func (w *holding) Write(p []byte) (int, error)       { return w.body.Write(p) }
func (w *holding) WriteString(s string) (int, error) { return w.body.WriteString(s) }
func (w *holding) WriteHeaderNow()                   {}
func (w *holding) Flush()                            {}

// TestOtherWritersAreNotPassedBy: what a writer outside holds back stays there.
func TestOtherWritersAreNotPassedBy(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.Copy(w, strings.NewReader("one"))
		w.(http.Flusher).Flush()
		io.WriteString(w, "two")
		http.NewResponseController(w).Flush()
	})
	for way, chain := range map[string][]gin.HandlerFunc{
		"Handler":         {weirgin.Handler(h)},
		"Handler in Wrap": {weirgin.Wrap(through), weirgin.Handler(h)},
		"in Wrap": {weirgin.Wrap(through), func(c *gin.Context) {
			c.Writer.WriteString("one")
			c.Writer.Flush()
			c.Writer.WriteString("two")
		}},
	} {
		e := newGin()
		e.Use(func(c *gin.Context) {
			w := &holding{ResponseWriter: c.Writer}
			c.Writer = w
			c.Next()
			w.ResponseWriter.WriteHeader(418)
			w.ResponseWriter.WriteString(strings.ToUpper(w.body.String()))
		})
		e.GET("/", chain...)
		if got := get(t, serveBy("HTTP/1.1")(t, e), "/"); got.status != 418 || got.body != "ONETWO" {
			t.Errorf("%s: %d %q, want 418 and what was held back", way, got.status, got.body)
		}
	}
}

// TestFileReachesReadFrom: files arrive at net/http's ReadFrom as files, which it
// sends by sendfile, and loggers outside see their size.
func TestFileReachesReadFrom(t *testing.T) {
	const size = 1 << 20
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, bytes.Repeat([]byte("x"), size), 0o666); err != nil {
		t.Fatal(err)
	}
	serveFile := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, name) })
	copyFile := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		f, err := os.Open(name)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		io.Copy(w, io.LimitReader(f, size))
	})
	for way, c := range map[string]struct {
		fast  bool
		chain []gin.HandlerFunc
	}{
		"Handler":                      {true, []gin.HandlerFunc{weirgin.Handler(serveFile)}},
		"Handler without WriteHeader":  {true, []gin.HandlerFunc{weirgin.Handler(copyFile)}},
		"Handler in Wraps":             {true, []gin.HandlerFunc{weirgin.Wrap(through), weirgin.Wrap(through), weirgin.Handler(serveFile)}},
		"c.File in Wrap":               {true, []gin.HandlerFunc{weirgin.Wrap(through), func(c *gin.Context) { c.File(name) }}},
		"a writer without ReadFrom":    {false, []gin.HandlerFunc{weirgin.Wrap(recorder(new(record))), weirgin.Handler(serveFile)}},
		"Gin's usual wrapper outside":  {false, []gin.HandlerFunc{func(c *gin.Context) { c.Writer = &embedding{ResponseWriter: c.Writer}; c.Next() }, weirgin.Handler(serveFile)}},
		"without weirgin (gin.WrapH)":  {false, []gin.HandlerFunc{gin.WrapH(serveFile)}},
		"without weirgin (gin's File)": {false, []gin.HandlerFunc{func(c *gin.Context) { c.File(name) }}},
	} {
		logged := 0
		e := newGin()
		e.Use(func(c *gin.Context) {
			c.Next()
			logged = c.Writer.Size()
			if b, ok := c.Writer.(*embedding); ok && b.body.Len() != size {
				t.Errorf("%s: the wrapper saw %d bytes", way, b.body.Len())
			}
		})
		e.GET("/", c.chain...)
		var files int64
		s := serveBy("HTTP/1.1")(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			e.ServeHTTP(&noting{w, &files}, r)
		}))
		got := get(t, s, "/")
		s.Close() // the client may be done before the handler is
		if len(got.body) != size || logged != size {
			t.Errorf("%s: %d bytes arrived, %d were logged, want %d", way, len(got.body), logged, size)
		}
		if fast := files > size-4096; fast != c.fast {
			t.Errorf("%s: %d bytes as a file", way, files)
		}
	}
}

// noting stands for net/http's writer and notes what is sent as a file.
type noting struct {
	http.ResponseWriter
	files *int64
}

func (w *noting) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseWriter, src)
	if l, ok := src.(*io.LimitedReader); ok {
		src = l.R
	}
	if _, ok := src.(*os.File); ok {
		*w.files += n
	}
	return n, err
}

// TestHijack: both kinds of writer give the connection away where there is one,
// with everything that the client has sent.
func TestHijack(t *testing.T) {
	ended := make(chan bool, 1)
	echo := func(w http.ResponseWriter) {
		conn, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		go func() {
			defer conn.Close()
			<-ended // the connection is not the server's any more
			brw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			brw.Flush()
			io.CopyN(conn, brw, 4)
		}()
	}
	abort := func(w http.ResponseWriter, _ *http.Request) {
		echo(w)
		panic(http.ErrAbortHandler)
	}
	var saw record
	engines := mounts(http.HandlerFunc(abort))
	e := newGin()
	e.Use(weirgin.Wrap(recorder(&saw)))
	e.GET("/*path", func(c *gin.Context) { echo(c.Writer) })
	engines["c.Writer in Wrap"] = e
	for way, e := range engines {
		s := serveBy("HTTP/1.1")(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() { ended <- true }()
			e.ServeHTTP(w, r)
		}))
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearl")
		br := bufio.NewReader(conn)
		res, err := http.ReadResponse(br, nil)
		if err != nil || res.StatusCode != 101 {
			t.Errorf("%s: %v, %v", way, res, err)
			continue
		}
		if b, err := io.ReadAll(br); string(b) != "earl" || err != nil {
			t.Errorf("%s: %q, %v", way, b, err)
		}
		conn.Close()
	}
	if saw != (record{}) {
		t.Errorf("a connection that was taken over is seen as %v", saw)
	}
}

// TestNoHijackerInHandler is the counterpart of the trap for net/http code.
func TestNoHijackerInHandler(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, _, err := w.(http.Hijacker).Hijack(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("Hijack: %v", err)
		}
		if err := w.(http.Pusher).Push("/a", nil); err == nil {
			t.Error("Push to a client that wants none: no error")
		}
		w.WriteHeader(426)
	})
	for way, e := range mounts(h) {
		if got := get(t, serveBy("HTTP/2")(t, e), "/"); got.status != 426 {
			t.Errorf("%s: %d, %v", way, got.status, got.err)
		}
		rec := httptest.NewRecorder()
		if e.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil)); rec.Code != 426 {
			t.Errorf("%s: %d in a recorder", way, rec.Code)
		}
	}
}

// TestWarnings are given once a process, with a code that does not change.
func TestWarnings(t *testing.T) {
	defer slog.SetDefault(slog.Default())
	var log bytes.Buffer
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	for name, c := range map[string]struct {
		proxies []string
		warns   bool
	}{
		"as Gin is made": {[]string{"0.0.0.0/0", "::/0"}, true},
		"IPv6 only":      {[]string{"::/0"}, true},
		"nobody":         {nil, false},
		"some":           {[]string{"10.0.0.0/8", "127.0.0.1"}, false},
	} {
		log.Reset()
		weirgin.ForgetWarnings()
		e := newGin()
		if err := e.SetTrustedProxies(c.proxies); err != nil {
			t.Fatal(err)
		}
		e.GET("/wrap", weirgin.Wrap(through), text)
		e.GET("/handler", weirgin.Handler(http.NotFoundHandler()))
		for _, path := range []string{"/wrap", "/handler", "/wrap"} {
			e.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
		}
		want := 0
		if c.warns {
			want = 1
		}
		if got := strings.Count(log.String(), "code=gin-trusts-any-peer"); got != want || strings.Count(log.String(), "\n") != want {
			t.Errorf("%s: %d warnings, want %d: %s", name, got, want, log.String())
		}
	}

	log.Reset()
	e := newGin()
	e.GET("/", func(c *gin.Context) { c.Writer = &opaque{Gin: c.Writer} }, weirgin.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })))
	s := serveBy("HTTP/1.1")(t, e)
	get(t, s, "/")
	get(t, s, "/")
	if got := strings.Count(log.String(), "code=gin-abort-lost"); got != 1 {
		t.Errorf("%d warnings of a lost abort, want 1: %s", got, log.String())
	}
}

// opaque is a writer that shows nothing of what is below it.
type opaque struct{ Gin gin.ResponseWriter }

func (w *opaque) Header() http.Header                          { return w.Gin.Header() }
func (w *opaque) Write(p []byte) (int, error)                  { return w.Gin.Write(p) }
func (w *opaque) WriteString(s string) (int, error)            { return w.Gin.WriteString(s) }
func (w *opaque) WriteHeader(status int)                       { w.Gin.WriteHeader(status) }
func (w *opaque) WriteHeaderNow()                              { w.Gin.WriteHeaderNow() }
func (w *opaque) Status() int                                  { return w.Gin.Status() }
func (w *opaque) Size() int                                    { return w.Gin.Size() }
func (w *opaque) Written() bool                                { return w.Gin.Written() }
func (w *opaque) Flush()                                       { w.Gin.Flush() }
func (w *opaque) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.Gin.Hijack() }
func (w *opaque) CloseNotify() <-chan bool                     { return w.Gin.CloseNotify() }
func (w *opaque) Pusher() http.Pusher                          { return w.Gin.Pusher() }

// TestBelowAnOpaqueWriter: what can be done without knowing the writer is done.
func TestBelowAnOpaqueWriter(t *testing.T) {
	both(t, func(t *testing.T, serve serving) {
		e := newGin()
		e.Use(func(c *gin.Context) { c.Writer = &opaque{c.Writer} }, weirgin.Wrap(through))
		e.GET("/", weirgin.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(103)
			if r.ProtoMajor == 2 {
				if _, _, err := http.NewResponseController(w).Hijack(); err == nil {
					t.Error("Hijack succeeds over HTTP/2")
				}
			}
			w.WriteHeader(404)
			io.Copy(w, strings.NewReader("no"))
			w.(http.Flusher).Flush()
		})))
		if got := get(t, serve(t, e), "/"); got.status != 404 || got.body != "no" {
			t.Errorf("%d %q, %v", got.status, got.body, got.err)
		}
	})
}
