package respwriter_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/goweir/weir/internal/respwriter"
)

// The tests named TestTrapCaptureNN are the traps that wrappers fall into; the
// numbers are those of the list of facts they were collected in.

// serve runs a handler behind the wrapper on a real server, returns what a
// client got, and fails if what the hooks were told is not wantLog.
func serve(t *testing.T, http2 bool, method string, h http.HandlerFunc, wantLog []string) (*http.Response, string) {
	t.Helper()
	log := new([]string)
	status, hijacked := 0, false
	ts := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var rw respwriter.Writer
		defer func() { status, hijacked = rw.Status(), rw.Hijacked() }()
		returned := false
		defer func() { rw.Finish(returned) }()
		h(rw.Wrap(w, &spy{log: log}), r)
		returned = true
	}))
	ts.EnableHTTP2 = http2
	ts.Config.ErrorLog = discard
	if http2 {
		ts.StartTLS()
	} else {
		ts.Start()
	}
	var informational []int
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			informational = append(informational, code)
			return nil
		},
	})
	req, err := http.NewRequestWithContext(ctx, method, ts.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := ts.Client().Do(req)
	if err != nil {
		ts.Close()
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	ts.Close() // waits for the handler
	if err != nil {
		t.Errorf("read body: %v", err)
	}
	if !slices.Equal(*log, wantLog) {
		t.Errorf("hooks were told %q, want %q", *log, wantLog)
	}
	if status != res.StatusCode && !hijacked {
		t.Errorf("Status = %d, the client got %d", status, res.StatusCode)
	}
	if got, want := res.Header.Get("X-Hook"), fmt.Sprint(res.StatusCode); got != want {
		t.Errorf("the client got X-Hook %q, want what the Header hook set, %q", got, want)
	}
	for _, code := range informational {
		if !slices.Contains(*log, fmt.Sprintf("Informational %d", code)) {
			t.Errorf("the client got a %d that the hooks were not told of", code)
		}
	}
	return res, string(body)
}

var discard = log.New(io.Discard, "", 0)

func bothProtocols(t *testing.T, f func(t *testing.T, http2 bool)) {
	t.Run("HTTP/1.1", func(t *testing.T) { f(t, false) })
	t.Run("HTTP/2", func(t *testing.T) { f(t, true) })
}

// Trap 1: everything that settles the final header, and what only looks so.
func TestTrapCapture01_CommitPoints(t *testing.T) {
	for _, tt := range []struct {
		name   string
		act    func(w wrapped)
		status int
		log    []string // until Finish, which decides the rest
		finish []string
	}{
		{"return", func(w wrapped) {}, 200, nil, []string{"Header 200"}},
		{"WriteHeader 200", func(w wrapped) { w.WriteHeader(200) }, 200, []string{"Header 200", "inner.WriteHeader 200"}, nil},
		{"WriteHeader 404", func(w wrapped) { w.WriteHeader(404) }, 404, []string{"Header 404", "inner.WriteHeader 404"}, nil},
		{"WriteHeader 999", func(w wrapped) { w.WriteHeader(999) }, 999, []string{"Header 999", "inner.WriteHeader 999"}, nil},
		{"WriteHeader 101", func(w wrapped) { w.WriteHeader(101) }, 101, []string{"Header 101", "inner.WriteHeader 101"}, nil},
		{"Write", func(w wrapped) { w.Write([]byte("abc")) }, 200, []string{"Header 200", "inner.Write 3", "Body 3 of 3 <nil>"}, nil},
		{"Write of nothing", func(w wrapped) { w.Write(nil) }, 200, []string{"Header 200", "inner.Write 0", "Body 0 of 0 <nil>"}, nil},
		{"WriteString", func(w wrapped) { io.WriteString(w.ResponseWriter, "abc") }, 200, []string{"Header 200", "inner.WriteString 3", "Body 3 of 3 <nil>"}, nil},
		{"Flush", func(w wrapped) { w.ResponseWriter.(http.Flusher).Flush() }, 200, []string{"Header 200", "Flushing", "inner.Flush"}, nil},
		{"FlushError", func(w wrapped) { http.NewResponseController(w.ResponseWriter).Flush() }, 200, []string{"Header 200", "Flushing", "inner.FlushError"}, nil},
		{"Hijack", func(w wrapped) { hijack(w) }, 101, []string{"Header 101", "inner.Hijack", "Hijacked"}, nil},
		{"ReadFrom", func(w wrapped) { readFrom(w, strings.NewReader("abc")) }, 200,
			[]string{"Header 200", "Body 3 of 3 <nil>", "inner.ReadFrom 3"}, nil},
		{"ReadFrom of more than is wanted", func(w wrapped) { w.hooks.want = 10; readFrom(w, source(600)) }, 200,
			[]string{"Header 200", "Body 512 of 512 <nil>", "inner.ReadFrom 512", "inner.ReadFrom 88", "Body 0 of 88 <nil>"}, nil},
		{"ReadFrom of nothing", func(w wrapped) { readFrom(w, strings.NewReader("")) }, 0,
			[]string{"inner.ReadFrom 0"}, []string{"Header 200"}},
		{"ReadFrom that fails at once", func(w wrapped) { readFrom(w, iotest.ErrReader(errFake)); w.WriteHeader(502) }, 502,
			[]string{"inner.ReadFrom 0", "Body 0 of 0 fake error", "Header 502", "inner.WriteHeader 502"}, nil},
		{"Header", func(w wrapped) { w.Header().Set("A", "b") }, 0, nil, []string{"Header 200"}},
		{"Push", func(w wrapped) { w.ResponseWriter.(http.Pusher).Push("/p", nil) }, 0, []string{"inner.Push /p"}, []string{"Header 200"}},
		{"CloseNotify", func(w wrapped) { w.ResponseWriter.(http.CloseNotifier).CloseNotify() }, 0, []string{"inner.CloseNotify"}, []string{"Header 200"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := wrapFake()
			if got := w.rw.Status(); got != 0 {
				t.Errorf("Status = %d before anything, want 0", got)
			}
			tt.act(w)
			if !slices.Equal(*w.log, tt.log) {
				t.Errorf("log = %q, want %q", *w.log, tt.log)
			}
			if got := w.rw.Status(); got != tt.status && tt.name != "return" {
				t.Errorf("Status = %d, want %d", got, tt.status)
			}
			*w.log = nil
			w.rw.Finish(true)
			if !slices.Equal(*w.log, tt.finish) {
				t.Errorf("log of Finish = %q, want %q", *w.log, tt.finish)
			}
			if got := w.rw.Status(); tt.status == 0 && got != 200 {
				t.Errorf("Status = %d after Finish, want the implicit 200", got)
			}
		})
	}

	t.Run("panic before any", func(t *testing.T) {
		w := wrapFake()
		w.rw.Finish(false)
		w.rw.Finish(true) // a second call does nothing
		if len(*w.log) != 0 || w.rw.Status() != 0 {
			t.Errorf("log = %q, Status = %d, want none and 0: no header was decided", *w.log, w.rw.Status())
		}
	})
	bothProtocols(t, func(t *testing.T, http2 bool) {
		serve(t, http2, "GET", func(w http.ResponseWriter, r *http.Request) {}, []string{"Header 200"})
		serve(t, http2, "GET", func(w http.ResponseWriter, r *http.Request) {
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Errorf("Flush = %v", err)
			}
			w.WriteHeader(500) // too late
		}, []string{"Header 200", "Flushing"})
		serve(t, http2, "GET", func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, iotest.ErrReader(errFake))
			w.WriteHeader(502)
		}, map[bool][]string{
			false: {"Body 0 of 0 fake error", "Header 502"},
			true:  {"Header 502"}, // no ReadFrom: nothing was called
		}[http2])
	})
}

func hijack(w wrapped) (net.Conn, error) {
	conn, _, err := w.ResponseWriter.(http.Hijacker).Hijack()
	return conn, err
}

func readFrom(w wrapped, src io.Reader) (int64, error) {
	return w.ResponseWriter.(io.ReaderFrom).ReadFrom(src)
}

// Trap 2: 1xx pass and settle nothing.
func TestTrapCapture02_Informational(t *testing.T) {
	w := wrapFake()
	w.WriteHeader(100)
	w.WriteHeader(103)
	if got := w.rw.Status(); got != 0 {
		t.Errorf("Status = %d after 103, want 0", got)
	}
	w.WriteHeader(404)
	w.WriteHeader(103) // after the final one: net/http's to judge
	want := []string{
		"inner.WriteHeader 100", "Informational 100",
		"inner.WriteHeader 103", "Informational 103",
		"Header 404", "inner.WriteHeader 404",
		"inner.WriteHeader 103",
	}
	if !slices.Equal(*w.log, want) || w.rw.Status() != 404 {
		t.Errorf("log = %q, Status = %d, want %q, 404", *w.log, w.rw.Status(), want)
	}

	bothProtocols(t, func(t *testing.T, http2 bool) {
		res, _ := serve(t, http2, "GET", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(103)
			w.WriteHeader(103)
			w.WriteHeader(404)
		}, []string{"Informational 103", "Informational 103", "Header 404"})
		if res.StatusCode != 404 {
			t.Errorf("the client got %d, want 404", res.StatusCode)
		}
		serve(t, http2, "GET", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(103) },
			[]string{"Informational 103", "Header 200"})
	})
}

// Trap 3: a second WriteHeader reaches net/http, which logs the mistake, and
// changes nothing.
func TestTrapCapture03_SuperfluousWriteHeader(t *testing.T) {
	var logged bytes.Buffer
	var status int
	ts := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var rw respwriter.Writer
		w = rw.Wrap(w, respwriter.NoHooks{})
		w.WriteHeader(201)
		w.WriteHeader(500)
		w.WriteHeader(0) // not even a panic by now
		rw.Finish(true)
		status = rw.Status()
	}))
	ts.Config.ErrorLog = log.New(&logged, "", 0)
	ts.Start()
	res, err := ts.Client().Get(ts.URL)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	ts.Close()
	if res.StatusCode != 201 || status != 201 {
		t.Errorf("the client got %d, Status = %d, want 201", res.StatusCode, status)
	}
	if got := strings.Count(logged.String(), "superfluous response.WriteHeader"); got != 2 {
		t.Errorf("server logged %q, want two superfluous calls", logged.String())
	}
}

// Trap 4: WriteHeader(0) panics in net/http; a handler that recovers, or the
// middleware around it, can still answer.
func TestTrapCapture04_WriteHeaderZeroPanics(t *testing.T) {
	for _, status := range []int{-1, 0, 99, 1000} {
		func() {
			w := wrapFake()
			defer func() {
				if got, want := recover(), fmt.Sprintf("invalid WriteHeader code %d", status); got != want {
					t.Errorf("WriteHeader(%d) panics with %v, want %v", status, got, want)
				}
				if len(*w.log) != 0 || w.rw.Status() != 0 {
					t.Errorf("WriteHeader(%d): log = %q, Status = %d, want none and 0", status, *w.log, w.rw.Status())
				}
			}()
			w.WriteHeader(status)
		}()
	}
	t.Run("inner writer that panics with a valid code", func(t *testing.T) {
		var rw respwriter.Writer
		w := rw.Wrap(panicking{httptest.NewRecorder()}, respwriter.NoHooks{})
		defer func() {
			if got := recover(); got != errFake || rw.Status() != 0 {
				t.Errorf("panics with %v, Status = %d, want %v, 0", got, rw.Status(), errFake)
			}
		}()
		w.WriteHeader(200)
	})
	bothProtocols(t, func(t *testing.T, http2 bool) {
		serve(t, http2, "GET", func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				if recover() == nil {
					t.Error("WriteHeader(0) did not panic")
				}
				w.WriteHeader(500)
			}()
			w.WriteHeader(0)
		}, []string{"Header 500"})
	})
}

type panicking struct{ http.ResponseWriter }

func (panicking) WriteHeader(int) { panic(errFake) }

// Trap 5: 204 and 304 refuse a body; HEAD takes it and sends nothing.
func TestTrapCapture05_NoBody(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		for _, status := range []int{204, 304} {
			serve(t, http2, "GET", func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(status)
				if n, err := w.Write([]byte("abc")); n != 0 || !errors.Is(err, http.ErrBodyNotAllowed) {
					t.Errorf("Write = %d, %v, want 0, %v", n, err, http.ErrBodyNotAllowed)
				}
			}, []string{fmt.Sprintf("Header %d", status), fmt.Sprintf("Body 0 of 0 %v", http.ErrBodyNotAllowed)})
		}
		_, body := serve(t, http2, "HEAD", func(w http.ResponseWriter, r *http.Request) {
			if n, err := w.Write([]byte("abc")); n != 3 || err != nil {
				t.Errorf("Write = %d, %v, want 3 accepted", n, err)
			}
		}, []string{"Header 200", "Body 3 of 3 <nil>"})
		if body != "" {
			t.Errorf("HEAD has body %q", body)
		}
	})
}

// Trap 6: what counts is what the inner writer accepted.
func TestTrapCapture06_CountsAccepted(t *testing.T) {
	const size = 100_000
	for _, tt := range []struct {
		name string
		act  func(w wrapped) (int64, error)
		n    int64
		seen int
		err  error
	}{
		{"Write", func(w wrapped) (int64, error) { n, err := w.Write(pattern(size)); return int64(n), err }, size, size, nil},
		{"WriteString", func(w wrapped) (int64, error) {
			n, err := io.WriteString(w.ResponseWriter, string(pattern(size)))
			return int64(n), err
		}, size, size, nil},
		{"ReadFrom, all wanted", func(w wrapped) (int64, error) { w.hooks.want = 1 << 20; return readFrom(w, source(size)) }, size, size, nil},
		{"ReadFrom, some wanted", func(w wrapped) (int64, error) { w.hooks.want = 40_000; return readFrom(w, source(size)) }, size, 40_000, nil},
		{"ReadFrom, few wanted", func(w wrapped) (int64, error) { w.hooks.want = 10; return readFrom(w, source(size)) }, size, 512, nil},
		{"ReadFrom, none wanted", func(w wrapped) (int64, error) { w.WriteHeader(200); return readFrom(w, source(size)) }, size, 0, nil},
		{"ReadFrom byte by byte", func(w wrapped) (int64, error) {
			w.hooks.want = 1000
			return readFrom(w, iotest.OneByteReader(source(size)))
		}, size, 1000, nil},
		{"ReadFrom, source fails", func(w wrapped) (int64, error) {
			w.hooks.want = 1 << 20
			return readFrom(w, io.MultiReader(source(size), iotest.ErrReader(errFake)))
		}, size, size, errFake},
		{"ReadFrom, inner fails after the prefix", func(w wrapped) (int64, error) {
			w.hooks.want = 10
			w.inner.err = errFake
			return readFrom(w, source(size))
		}, 512, 512, errFake},
		{"short Write", func(w wrapped) (int64, error) {
			w.inner.short = true
			n, err := w.Write(pattern(size))
			return int64(n), err
		}, size - 1, size - 1, nil},
		{"short WriteString", func(w wrapped) (int64, error) {
			w.inner.short = true
			n, err := io.WriteString(w.ResponseWriter, string(pattern(size)))
			return int64(n), err
		}, size - 1, size - 1, nil},
		{"short ReadFrom", func(w wrapped) (int64, error) {
			w.WriteHeader(200)
			w.inner.short = true
			return readFrom(w, source(size))
		}, size - 1, 0, nil},
		{"failing Write", func(w wrapped) (int64, error) {
			w.inner.short, w.inner.err = true, errFake
			n, err := w.Write(pattern(size))
			return int64(n), err
		}, size - 1, size - 1, errFake},
		{"failing ReadFrom", func(w wrapped) (int64, error) {
			w.WriteHeader(200)
			w.inner.short, w.inner.err = true, errFake
			return readFrom(w, source(size))
		}, size - 1, 0, errFake},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := wrapFake()
			n, err := tt.act(w)
			if n != tt.n || err != tt.err {
				t.Errorf("returned %d, %v, want %d, %v", n, err, tt.n, tt.err)
			}
			if w.hooks.n != tt.n || w.hooks.body.Len() != tt.seen {
				t.Errorf("hooks counted %d and saw %d, want %d and %d", w.hooks.n, w.hooks.body.Len(), tt.n, tt.seen)
			}
			if !bytes.HasPrefix(w.inner.body.Bytes(), w.hooks.body.Bytes()) {
				t.Error("hooks saw other bytes than the inner writer")
			}
			if got := (*w.log)[len(*w.log)-1]; tt.err != nil && !strings.HasSuffix(got, tt.err.Error()) {
				t.Errorf("hooks were last told %q, want the error", got)
			}
		})
	}

	// The connection breaks in the middle of a prefix.
	for _, accepts := range []int{0, 511, 512, 600, 40_000} {
		for _, tt := range []struct {
			byRead      bool
			fails, want error
		}{
			{false, errFake, errFake},
			{true, errFake, errFake},
			{false, nil, io.ErrShortWrite},
			{true, nil, io.ErrShortWrite},
		} {
			t.Run(fmt.Sprintf("broken after %d with %v, byRead=%v", accepts, tt.fails, tt.byRead), func(t *testing.T) {
				var rw respwriter.Writer
				hooks := &spy{log: new([]string), want: 1 << 20}
				inner := &breaking{httptest.NewRecorder(), accepts, tt.fails, tt.byRead}
				n, err := io.Copy(rw.Wrap(inner, hooks), source(size))
				if n != int64(accepts) || err != tt.want {
					t.Errorf("Copy = %d, %v, want %d, %v", n, err, accepts, tt.want)
				}
				if hooks.n != n || !bytes.Equal(hooks.body.Bytes(), pattern(size)[:accepts]) {
					t.Errorf("hooks counted %d and saw %d bytes, want %d", hooks.n, hooks.body.Len(), accepts)
				}
			})
		}
	}
}

// breaking is an inner writer with a ReadFrom of net/http's kind: what it reads
// it hands on at once, until it breaks.
type breaking struct {
	http.ResponseWriter
	left   int
	err    error
	byRead bool // not by the source's WriteTo
}

func (b *breaking) ReadFrom(src io.Reader) (int64, error) {
	if b.byRead {
		src = struct{ io.Reader }{src}
	}
	return io.Copy(writerFunc(func(p []byte) (int, error) {
		if len(p) > b.left {
			return b.left, b.err
		}
		b.left -= len(p)
		return len(p), nil
	}), src)
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Trap 8: no recursion through io.Copy, and nothing counted twice, whatever the
// inner writer does with what it is given.
func TestTrapCapture08_ReadFromOnce(t *testing.T) {
	const size = 100_000
	for name, inner := range map[string]func() http.ResponseWriter{
		"no ReadFrom": func() http.ResponseWriter { return httptest.NewRecorder() },
		"ReadFrom that falls back to Write": func() http.ResponseWriter {
			return &falling{ResponseWriter: httptest.NewRecorder()}
		},
		"wrapped twice": func() http.ResponseWriter {
			return new(respwriter.Writer).Wrap(&falling{ResponseWriter: httptest.NewRecorder()}, &wants{n: 5000})
		},
	} {
		for _, want := range []int{0, 600, 1 << 20} {
			t.Run(fmt.Sprintf("%s, want %d", name, want), func(t *testing.T) {
				var rw respwriter.Writer
				hooks := &spy{log: new([]string), want: want}
				n, err := io.Copy(rw.Wrap(inner(), hooks), source(size))
				if n != size || err != nil {
					t.Errorf("Copy = %d, %v, want %d", n, err, size)
				}
				if hooks.n != size {
					t.Errorf("hooks counted %d, want %d", hooks.n, size)
				}
				if !bytes.HasPrefix(pattern(size), hooks.body.Bytes()) {
					t.Error("hooks saw other bytes than were sent")
				}
			})
		}
	}
}

// falling is an inner writer whose ReadFrom is a loop around its Write.
type falling struct{ http.ResponseWriter }

func (f *falling) ReadFrom(src io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{f.ResponseWriter}, src)
}

// Trap 9: io.Copy of a file arrives as a type that net/http sends by sendfile,
// also after a prefix was read from it. What the kernel makes of it is in
// TestSendfile.
func TestTrapCapture09_ReaderUnchanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, pattern(100_000), 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, want := range []int{0, 64 << 10} {
		f.Seek(0, io.SeekStart)
		plain := newFake(new([]string))
		io.Copy(plain, f)
		f.Seek(0, io.SeekStart)
		w := wrapFake()
		w.hooks.want = want
		if n, err := io.Copy(w.ResponseWriter, f); n != 100_000 || err != nil {
			t.Errorf("Copy = %d, %v", n, err)
		}
		if got, want := fmt.Sprintf("%T", w.inner.reader), fmt.Sprintf("%T", plain.reader); got != want {
			t.Errorf("the inner ReadFrom got a %s, without the wrapper a %s", got, want)
		}
		if !bytes.Equal(w.inner.body.Bytes(), pattern(100_000)) {
			t.Error("the inner writer got other bytes than the file's")
		}

		w = wrapFake()
		w.hooks.want = want
		http.ServeContent(w.ResponseWriter, httptest.NewRequest("GET", "/", nil), "file", time.Time{}, f)
		lr, ok := w.inner.reader.(*io.LimitedReader)
		if !ok || lr.R != io.Reader(f) {
			t.Errorf("the inner ReadFrom got a %T, want ServeContent's own LimitedReader of the file", w.inner.reader)
		}
	}
}

// Trap 12: after a Hijack the response is none of ours.
func TestTrapCapture12_Hijack(t *testing.T) {
	t.Run("after WriteHeader", func(t *testing.T) {
		w := wrapFake()
		w.WriteHeader(200)
		*w.log = nil
		hijack(w)
		if want := []string{"inner.Hijack", "Hijacked"}; !slices.Equal(*w.log, want) {
			t.Errorf("log = %q, want %q", *w.log, want)
		}
		if w.rw.Status() != 200 || !w.rw.Hijacked() {
			t.Errorf("Status = %d, Hijacked = %v, want 200, true", w.rw.Status(), w.rw.Hijacked())
		}
	})
	t.Run("nothing is told afterwards", func(t *testing.T) {
		w := wrapFake()
		w.hooks.want = 1 << 20
		hijack(w)
		*w.log = nil
		w.WriteHeader(200)
		w.WriteHeader(103)
		w.Write([]byte("a"))
		io.WriteString(w.ResponseWriter, "ab")
		readFrom(w, source(3))
		w.ResponseWriter.(http.Flusher).Flush()
		hijack(w)
		w.rw.Finish(true)
		want := []string{"inner.WriteHeader 200", "inner.WriteHeader 103", "inner.Write 1", "inner.WriteString 2",
			"inner.ReadFrom 3", "inner.Flush", "inner.Hijack"}
		if !slices.Equal(*w.log, want) {
			t.Errorf("log = %q, want %q", *w.log, want)
		}
		if w.rw.Status() != 101 {
			t.Errorf("Status = %d, want 101", w.rw.Status())
		}
	})
	t.Run("failing, then a normal answer", func(t *testing.T) {
		w := wrapFake()
		w.inner.err = errFake
		if _, err := hijack(w); err != errFake {
			t.Errorf("Hijack = %v, want the inner writer's error", err)
		}
		if w.rw.Status() != 0 || w.rw.Hijacked() {
			t.Errorf("Status = %d, Hijacked = %v after a Hijack that failed, want 0, false", w.rw.Status(), w.rw.Hijacked())
		}
		w.inner.err = nil
		w.WriteHeader(400)
		w.Write([]byte("abc"))
		w.rw.Finish(true)
		want := []string{"Header 101", "inner.Hijack", "Header 400", "inner.WriteHeader 400", "inner.Write 3", "Body 3 of 3 <nil>"}
		if !slices.Equal(*w.log, want) || w.rw.Status() != 400 {
			t.Errorf("log = %q, Status = %d, want %q, 400", *w.log, w.rw.Status(), want)
		}
	})
	t.Run("the handler gets what the hook returns", func(t *testing.T) {
		var rw respwriter.Writer
		w := rw.Wrap(newFake(new([]string)), swapConn{})
		if conn, _, err := w.(http.Hijacker).Hijack(); conn != (markedConn{}) || err != nil {
			t.Errorf("Hijack = %v, %v, want the hook's connection", conn, err)
		}
	})
	t.Run("WebSocket through ReverseProxy", func(t *testing.T) {
		backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, brw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			brw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			brw.Flush()
			io.Copy(conn, brw)
		}))
		defer backend.Close()
		target, err := url.Parse(backend.URL)
		if err != nil {
			t.Fatal(err)
		}
		proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
		res, _ := upgrade(t, proxy, func(conn io.ReadWriteCloser) {
			io.WriteString(conn, "hello")
			echo := make([]byte, 5)
			if _, err := io.ReadFull(conn, echo); err != nil || string(echo) != "hello" {
				t.Errorf("echo = %q, %v", echo, err)
			}
		}, []string{"Header 101", "Hijacked"})
		if got := res.Header.Get("X-Hook"); got != "101" {
			t.Errorf("X-Hook = %q, want 101: what the hook sets before a Hijack is sent by ReverseProxy", got)
		}
	})
	t.Run("write afterwards", func(t *testing.T) {
		upgrade(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if n, err := w.Write([]byte("a")); n != 0 || !errors.Is(err, http.ErrHijacked) {
				t.Errorf("Write = %d, %v, want 0, %v", n, err, http.ErrHijacked)
			}
			if n, err := io.WriteString(w, "a"); n != 0 || !errors.Is(err, http.ErrHijacked) {
				t.Errorf("WriteString = %d, %v, want 0, %v", n, err, http.ErrHijacked)
			}
			w.WriteHeader(500)
			if _, _, err := http.NewResponseController(w).Hijack(); !errors.Is(err, http.ErrHijacked) {
				t.Errorf("second Hijack = %v, want %v", err, http.ErrHijacked)
			}
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		}), func(io.ReadWriteCloser) {}, []string{"Header 101", "Hijacked"})
	})
}

type markedConn struct{ net.Conn }

type swapConn struct{ respwriter.NoHooks }

func (swapConn) Hijacked(conn net.Conn, brw *bufio.ReadWriter) (net.Conn, *bufio.ReadWriter) {
	conn.Close()
	return markedConn{}, brw
}

// upgrade sends a request with Upgrade to a wrapped h and calls f with the
// connection when it has switched.
func upgrade(t *testing.T, h http.Handler, f func(io.ReadWriteCloser), wantLog []string) (*http.Response, *respwriter.Writer) {
	t.Helper()
	var rw respwriter.Writer
	log := new([]string)
	done := make(chan struct{})
	ts := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		defer rw.Finish(true)
		h.ServeHTTP(rw.Wrap(w, &spy{log: log}), r)
	}))
	ts.Config.ErrorLog = discard
	ts.Start()
	defer ts.Close()
	req, err := http.NewRequestWithContext(t.Context(), "GET", ts.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	res, err := ts.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 101 {
		t.Fatalf("the client got %s, want 101", res.Status)
	}
	conn := res.Body.(io.ReadWriteCloser)
	f(conn)
	conn.Close()
	<-done
	if !slices.Equal(*log, wantLog) {
		t.Errorf("hooks were told %q, want %q", *log, wantLog)
	}
	if rw.Status() != 101 || !rw.Hijacked() {
		t.Errorf("Status = %d, Hijacked = %v, want 101, true", rw.Status(), rw.Hijacked())
	}
	return res, &rw
}

// Trap 14: TimeoutHandler holds everything back. Inside it the hooks see what
// the handler wrote until the deadline; what the client got is seen outside.
func TestTrapCapture14_TimeoutHandler(t *testing.T) {
	inside, outside := new(respwriter.Writer), new(respwriter.Writer)
	insideLog, outsideLog := new([]string), new([]string)
	wrote := make(chan error, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w = inside.Wrap(w, &spy{log: insideLog})
		defer inside.Finish(true)
		io.WriteString(w, "abc")
		<-r.Context().Done()
		// Done comes first, TimeoutHandler's own answer just after it.
		var err error
		for err == nil {
			_, err = io.WriteString(w, "")
		}
		*insideLog = (*insideLog)[:2:2]
		_, err = io.WriteString(w, "def")
		wrote <- err
	})
	limited := http.TimeoutHandler(handler, 20*time.Millisecond, "too slow")
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer outside.Finish(true)
		limited.ServeHTTP(outside.Wrap(w, &spy{log: outsideLog}), r)
	}))
	res, err := ts.Client().Get(ts.URL)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; !errors.Is(err, http.ErrHandlerTimeout) {
		t.Errorf("late write = %v, want %v", err, http.ErrHandlerTimeout)
	}
	ts.Close()
	if res.StatusCode != 503 || string(body) != "too slow" {
		t.Errorf("the client got %d %q, want 503", res.StatusCode, body)
	}
	if got := outside.Status(); got != 503 {
		t.Errorf("Status outside = %d, want 503", got)
	}
	if want := []string{"Header 503", "Body 8 of 8 <nil>"}; !slices.Equal(*outsideLog, want) {
		t.Errorf("outside: %q, want %q", *outsideLog, want)
	}
	want := []string{"Header 200", "Body 3 of 3 <nil>", fmt.Sprintf("Body 0 of 0 %v", http.ErrHandlerTimeout)}
	if !slices.Equal(*insideLog, want) {
		t.Errorf("inside: %q, want %q", *insideLog, want)
	}
}

// Trap 15: a compressor decides at the first Write by the header as it is then,
// so the wrapper must not write the header by itself, inside or outside of it.
func TestTrapCapture15_NoEarlyCommit(t *testing.T) {
	w := wrapFake()
	io.WriteString(w.ResponseWriter, "a")
	w.rw.Finish(true)
	for _, call := range *w.log {
		if strings.HasPrefix(call, "inner.WriteHeader") {
			t.Errorf("log = %q: the handler did not call WriteHeader", *w.log)
		}
	}

	const text = "a plain text that is long enough to be worth it"
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, text)
	})
	for _, tt := range []struct {
		name string
		make func(hooks func() respwriter.Hooks) http.Handler
		saw  func(body []byte) string
	}{
		{"inside", func(hooks func() respwriter.Hooks) http.Handler { return compress(wrap(handler, hooks)) },
			func(body []byte) string { return string(body) }},
		{"outside", func(hooks func() respwriter.Hooks) http.Handler { return wrap(compress(handler), hooks) },
			func(body []byte) string { return gunzip(t, body) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hooks := &spy{log: new([]string)}
			ts := httptest.NewServer(tt.make(func() respwriter.Hooks { return hooks }))
			defer ts.Close()
			req, err := http.NewRequestWithContext(context.Background(), "GET", ts.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept-Encoding", "gzip") // by hand: the transport does not decode
			res, err := ts.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			if res.Header.Get("Content-Encoding") != "gzip" || gunzip(t, body) != text {
				t.Errorf("the client got %v %q, want it compressed", res.Header, body)
			}
			if got := tt.saw(hooks.body.Bytes()); got != text {
				t.Errorf("hooks saw %q, want %q", got, text)
			}
		})
	}
}

func gunzip(t *testing.T, p []byte) string {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(p))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// compress is a compressor that decides at the first Write.
func compress(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &compressor{ResponseWriter: w}
		h.ServeHTTP(c, r)
		if c.gz != nil {
			c.gz.Close()
		}
	})
}

type compressor struct {
	http.ResponseWriter
	gz *gzip.Writer
}

func (c *compressor) Write(p []byte) (int, error) {
	if c.gz == nil {
		if c.Header().Get("Content-Type") != "text/plain" {
			return c.ResponseWriter.Write(p)
		}
		c.Header().Set("Content-Encoding", "gzip")
		c.gz = gzip.NewWriter(c.ResponseWriter)
	}
	return c.gz.Write(p)
}
