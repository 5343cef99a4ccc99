package capture_test

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
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/capture"
)

func TestTrapCapture01_DecidesAtTheFirstFinalHeader(t *testing.T) {
	for _, way := range []struct {
		name    string
		do      func(w http.ResponseWriter)
		status  int
		outcome capture.Outcome
		skip    capture.SkipReason
	}{
		{"WriteHeader", func(w http.ResponseWriter) { w.WriteHeader(404) }, 404, capture.OutcomeOK, ""},
		{"Write", func(w http.ResponseWriter) { w.Write([]byte("{}")) }, 200, capture.OutcomeOK, ""},
		{"empty Write", func(w http.ResponseWriter) { w.Write(nil) }, 200, capture.OutcomeOK, ""},
		{"WriteString", func(w http.ResponseWriter) { io.WriteString(w, "{}") }, 200, capture.OutcomeOK, ""},
		{"ReadFrom", func(w http.ResponseWriter) { w.(io.ReaderFrom).ReadFrom(strings.NewReader("{}")) }, 200, capture.OutcomeOK, ""},
		{"Flush", func(w http.ResponseWriter) { w.(http.Flusher).Flush() }, 200, capture.OutcomeOK, ""},
		{"FlushError", func(w http.ResponseWriter) { http.NewResponseController(w).Flush() }, 200, capture.OutcomeOK, ""},
		{"Hijack", func(w http.ResponseWriter) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
				c.Close()
			}
		}, 101, capture.OutcomeHijacked, capture.SkipUpgrade},
		{"nothing", func(http.ResponseWriter) {}, 200, capture.OutcomeImplicit, ""},
	} {
		t.Run(way.name, func(t *testing.T) {
			s, srv := server(t, nil, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				way.do(w)
				w.Header().Set("Content-Type", "image/png") // too late
			})
			resp, err := srv.Client().Get(srv.URL)
			if err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			x := s.next(t)
			// Without any of them the decision falls when the handler returned.
			want, skip := "application/json", way.skip
			if way.outcome == capture.OutcomeImplicit {
				want, skip = "image/png", capture.SkipContentType
			}
			if x.Status != way.status || x.Outcome != way.outcome || x.Response.Body.Skipped != skip || x.Response.Body.Type != want {
				t.Errorf("got %d %s skipped %q type %q, want %d %s %q %q", x.Status, x.Outcome,
					x.Response.Body.Skipped, x.Response.Body.Type, way.status, way.outcome, skip, want)
			}
		})
	}
}

func TestTrapCapture02_InformationalIsNotFinal(t *testing.T) {
	s, srv := server(t, nil, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(103)
		w.WriteHeader(102)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(404)
		io.WriteString(w, "{}")
	})
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	x := s.next(t)
	if resp.StatusCode != 404 || x.Status != 404 || !slices.Equal(x.Informational, []int{103, 102}) || captured(x.Response.Body) != "{}" {
		t.Errorf("client %d; record %d, %v, %q", resp.StatusCode, x.Status, x.Informational, captured(x.Response.Body))
	}

	x, _ = record(t, nil, get("/"), func(w http.ResponseWriter, r *http.Request) {
		for range 1000 {
			w.WriteHeader(102)
		}
	})
	if len(x.Informational) > 16 || x.Status != 200 {
		t.Errorf("%d informational statuses kept, status %d; want at most 16, 200", len(x.Informational), x.Status)
	}
}

func TestTrapCapture03_SuperfluousWriteHeader(t *testing.T) {
	var logged lockedBuffer
	s := newShelf()
	srv := httptest.NewUnstartedServer(capture.Middleware(s, nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(201)
		w.WriteHeader(500)
	})))
	srv.Config.ErrorLog = log.New(&logged, "", 0)
	srv.Start()
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if x := s.next(t); x.Status != 201 || resp.StatusCode != 201 {
		t.Errorf("recorded %d, sent %d; want 201", x.Status, resp.StatusCode)
	}
	if got := logged.String(); !strings.Contains(got, "superfluous") {
		t.Errorf("net/http logged %q, want its complaint", got)
	}
}

func TestTrapCapture04_WriteHeaderThatPanics(t *testing.T) {
	x, w := record(t, nil, get("/"), func(w http.ResponseWriter, r *http.Request) {
		for _, code := range []int{0, 99, 1000} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("WriteHeader(%d) did not panic", code)
					}
				}()
				w.WriteHeader(code)
			}()
		}
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(400)
		io.WriteString(w, "bad")
	})
	if x.Status != 400 || w.Code != 400 || captured(x.Response.Body) != "bad" || x.Outcome != capture.OutcomeOK {
		t.Errorf("recorded %d %q %s, sent %d", x.Status, captured(x.Response.Body), x.Outcome, w.Code)
	}
}

func TestTrapCapture05_BodiesThatAreNeverSent(t *testing.T) {
	for _, c := range []struct {
		method string
		status int
	}{{"HEAD", 200}, {"GET", 204}, {"GET", 304}} {
		s, srv := server(t, nil, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(c.status)
			n, err := io.WriteString(w, `{"never":"sent"}`)
			if refused := err == http.ErrBodyNotAllowed; refused == (c.method == "HEAD") {
				t.Errorf("%s %d: Write returned %d, %v", c.method, c.status, n, err)
			}
		})
		r, _ := http.NewRequest(c.method, srv.URL, nil)
		resp, err := srv.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		x := s.next(t)
		b := x.Response.Body
		if b.Size != 0 || b.Len() != 0 || b.Skipped != capture.SkipNoBody || x.Outcome != capture.OutcomeOK || x.Empty {
			t.Errorf("%s %d: size %d, captured %d, skipped %q, %s", c.method, c.status, b.Size, b.Len(), b.Skipped, x.Outcome)
		}
	}
}

// stingy accepts only some bytes of the body.
type stingy struct {
	http.ResponseWriter
	left int
}

var errStingy = errors.New("no more")

func (w *stingy) Write(p []byte) (n int, err error) {
	n = min(len(p), w.left)
	w.left -= n
	if n < len(p) {
		err = errStingy
	}
	return n, err
}

func (w *stingy) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(io.Discard, io.LimitReader(src, int64(w.left)))
	w.left -= int(n)
	if w.left == 0 && err == nil {
		err = errStingy
	}
	return n, err
}

func TestTrapCapture06_CountsWhatWasAccepted(t *testing.T) {
	write := func(w http.ResponseWriter, s string) { io.WriteString(w, s) }
	copying := func(w http.ResponseWriter, s string) { io.Copy(w, struct{ io.Reader }{strings.NewReader(s)}) }
	for name, how := range map[string]func(http.ResponseWriter, string){"write": write, "copy": copying} {
		x := recordOn(t, &stingy{httptest.NewRecorder(), 5}, nil, get("/"), func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			how(w, "0123456789")
		})
		if x.Response.Body.Size != 5 || captured(x.Response.Body) != "01234" || x.Outcome != capture.OutcomeWriteError {
			t.Errorf("%s: size %d, %q, %s; want 5, 01234, write_error", name, x.Response.Body.Size, captured(x.Response.Body), x.Outcome)
		}
	}
	// The part that ReadFrom was left to.
	x := recordOn(t, &stingy{httptest.NewRecorder(), 100}, &capture.Options{ResponseCap: 10}, get("/"), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		copying(w, strings.Repeat("x", 1000))
	})
	if x.Response.Body.Size != 100 || x.Response.Body.Len() != 10 || !x.Response.Body.Truncated {
		t.Errorf("delegated: %+v", x.Response.Body)
	}
}

func TestTrapCapture07_ErrorsOfTheRecorderStayInside(t *testing.T) {
	var told error
	sinkErr := errors.New("disk full")
	h := capture.Middleware(capture.SinkFunc(func(context.Context, *capture.Exchange) error { return sinkErr }),
		&capture.Options{Budget: capture.NewBudget(0), OnError: func(err error) { told = err }},
	)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		if n, err := io.WriteString(w, "hello"); n != 5 || err != nil {
			t.Errorf("WriteString returned %d, %v", n, err)
		}
		if n, err := w.(io.Writer).Write([]byte("hello")); n != 5 || err != nil {
			t.Errorf("Write returned %d, %v", n, err)
		}
	}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, get("/"))
	if w.Body.String() != "hellohello" || told != sinkErr {
		t.Errorf("client got %q, OnError %v", w.Body, told)
	}
}

func TestTrapCapture08_ReadFromCountsOnce(t *testing.T) {
	body := strings.Repeat("0123456789", 10_000)
	s, srv := server(t, nil, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		n, err := io.Copy(w, struct{ io.Reader }{strings.NewReader(body)})
		if n != int64(len(body)) || err != nil {
			t.Errorf("io.Copy returned %d, %v", n, err)
		}
	})
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	x := s.next(t)
	if string(got) != body || x.Response.Body.Size != int64(len(body)) || captured(x.Response.Body) != body[:64<<10] {
		t.Errorf("client %d bytes, size %d, captured %d", len(got), x.Response.Body.Size, x.Response.Body.Len())
	}
}

// fileSender is a ResponseWriter that could use sendfile.
type fileSender struct {
	http.ResponseWriter
	from map[string]int64 // bytes that ReadFrom got, by the type of the source
}

func (w *fileSender) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(io.Discard, src)
	w.from[fmt.Sprintf("%T", src)] += n
	return n, err
}

func (w *fileSender) Write(p []byte) (int, error) { return len(p), nil }

func TestTrapCapture09_SendfileSurvives(t *testing.T) {
	const size = 64 << 20
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		contentType string
		captured    int
		copied      int64 // through memory: what is captured, or what net/http sniffs
	}{{"text/plain", 64 << 10, 64 << 10}, {"application/octet-stream", 0, 512}} {
		w := &fileSender{ResponseWriter: httptest.NewRecorder(), from: map[string]int64{}}
		bare := &fileSender{ResponseWriter: httptest.NewRecorder(), from: map[string]int64{}}
		send := func(w http.ResponseWriter, r *http.Request) {
			f, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			w.Header().Set("Content-Type", c.contentType)
			if n, err := io.Copy(w, f); n != size || err != nil {
				t.Errorf("io.Copy returned %d, %v", n, err)
			}
		}
		send(bare, nil)
		x := recordOn(t, w, &capture.Options{DangerouslyKeepSecrets: true}, get("/"), send)
		// By what type the inner ReadFrom knows a file that it can send.
		for file := range bare.from {
			if got := w.from[file]; got < size/1000*999 || got != size-c.copied {
				t.Errorf("%s: the inner ReadFrom got %v, want all but %d bytes from %s", c.contentType, w.from, c.copied, file)
			}
		}
		if x.Response.Body.Size != size || x.Response.Body.Len() != c.captured {
			t.Errorf("%s: size %d, captured %d", c.contentType, x.Response.Body.Size, x.Response.Body.Len())
		}
	}
}

func TestTrapCapture10_SniffedContentType(t *testing.T) {
	png := "\x89PNG\x0d\x0a\x1a\x0a" + strings.Repeat("\x00", 600)
	text := strings.Repeat("plain words ", 100)
	for _, c := range []struct {
		name  string
		parts []string // "flush" flushes
		head  func(http.Header)
		skip  capture.SkipReason
	}{
		{"html", []string{"<html>"}, nil, ""},
		{"json is text", []string{`{"a":1}`}, nil, ""},
		{"long text", []string{text}, nil, ""},
		{"long text in pieces", strings.SplitAfter(text, " "), nil, ""},
		{"png", []string{png}, nil, capture.SkipContentType},
		{"png in pieces", []string{png[:1], png[1:5], png[5:]}, nil, capture.SkipContentType},
		{"binary within the first 512 bytes", []string{text[:500], "\x00\x01"}, nil, capture.SkipContentType},
		{"binary after them", []string{text[:520], "\x00\x01"}, nil, ""},
		{"binary after a flush", []string{"plain", "flush", "\x00\x01"}, nil, ""},
		{"flush before anything", []string{"flush", "plain"}, nil, capture.SkipContentType},
		{"flush and nothing", []string{"flush"}, nil, capture.SkipNoBody},
		{"nothing", nil, nil, capture.SkipNoBody},
		{"encoded", []string{text}, func(h http.Header) { h.Set("Content-Encoding", "gzip") }, capture.SkipContentType},
		{"switched off", []string{text}, func(h http.Header) { h["Content-Type"] = nil }, capture.SkipContentType},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, srv := server(t, &capture.Options{DangerouslyKeepSecrets: true}, func(w http.ResponseWriter, r *http.Request) {
				if c.head != nil {
					c.head(w.Header())
				}
				for _, p := range c.parts {
					if p == "flush" {
						w.(http.Flusher).Flush()
					} else {
						io.WriteString(w, p)
					}
				}
			})
			tr := &http.Transport{DisableCompression: true}
			defer tr.CloseIdleConnections()
			resp, err := tr.RoundTrip(must(http.NewRequest("GET", srv.URL, nil)))
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			x := s.next(t)
			b := x.Response.Body
			if b.Skipped != c.skip {
				t.Errorf("skipped %q, want %q", b.Skipped, c.skip)
			}
			if sent := resp.Header.Get("Content-Type"); b.Type != sent {
				t.Errorf("type %q, net/http sent %q", b.Type, sent)
			}
			if want := string(body); c.skip == "" && captured(b) != want {
				t.Errorf("captured %q, want %q", captured(b), want)
			} else if c.skip != "" && b.Len() != 0 {
				t.Errorf("captured %d bytes, want none", b.Len())
			}
		})
	}
}

func TestTrapCapture11_HeaderIsCopiedWhenSent(t *testing.T) {
	s, srv := server(t, nil, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Early", "1")
		w.WriteHeader(200)
		w.Header().Set("X-Early", "2")
		w.Header().Set("X-Late", "3")
		w.Header().Set("X-Sum", "42")
		w.Header().Set(http.TrailerPrefix+"X-Unannounced-Token", "hidden")
	})
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	x := s.next(t)
	want := capture.Header{{Name: "Trailer", Value: "X-Sum"}, {Name: "X-Early", Value: "1"}}
	if !slices.Equal(x.Response.Header, want) {
		t.Errorf("header %v, want %v", x.Response.Header, want)
	}
	trailer := capture.Header{{Name: "X-Sum", Value: "42"}, {Name: "X-Unannounced-Token", Value: "REDACTED"}}
	if !slices.Equal(x.Response.Trailer, trailer) {
		t.Errorf("trailer %v, want %v; sent was %v", x.Response.Trailer, trailer, resp.Trailer)
	}
}

// touchy fails the test when it is used after Hijack.
type touchy struct {
	http.ResponseWriter
	t        *testing.T
	hijacked bool
}

func (w *touchy) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.hijacked = true
	c, _ := net.Pipe()
	return c, bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c)), nil
}

func (w *touchy) Header() http.Header {
	if w.hijacked {
		w.t.Error("Header called after Hijack")
	}
	return w.ResponseWriter.Header()
}

func TestTrapCapture12_HijackedIsLeftAlone(t *testing.T) {
	x := recordOn(t, &touchy{httptest.NewRecorder(), t, false}, nil, get("/"), func(w http.ResponseWriter, r *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	})
	if x.Outcome != capture.OutcomeHijacked || x.Status != 101 || x.Response.Body.Skipped != capture.SkipUpgrade {
		t.Errorf("recorded %s %d %s", x.Outcome, x.Status, x.Response.Body.Skipped)
	}
	// A Hijack that fails settles nothing.
	x = recordOn(t, failingHijacker{httptest.NewRecorder()}, nil, get("/"), func(w http.ResponseWriter, r *http.Request) {
		w.(http.Hijacker).Hijack()
		http.Error(w, "no", 500)
	})
	if x.Outcome != capture.OutcomeOK || x.Status != 500 || captured(x.Response.Body) != "no\n" {
		t.Errorf("after a failed Hijack: %s %d %q", x.Outcome, x.Status, captured(x.Response.Body))
	}
}

type failingHijacker struct{ http.ResponseWriter }

func (failingHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, http.ErrNotSupported
}

func TestTrapCapture13_ClaimsNoInterfaceOfItsOwn(t *testing.T) {
	claims := func(w http.ResponseWriter) string {
		_, f := w.(http.Flusher)
		_, e := w.(interface{ FlushError() error })
		_, h := w.(http.Hijacker)
		_, r := w.(io.ReaderFrom)
		_, s := w.(io.StringWriter)
		_, p := w.(http.Pusher)
		rc := http.NewResponseController(w)
		d, x := rc.SetReadDeadline(time.Time{}) == nil, rc.EnableFullDuplex() == nil
		return fmt.Sprint(f, e, h, r, s, p, d, x)
	}
	for _, h2 := range []bool{false, true} {
		var inside string
		wrapped := capture.Middleware(newShelf(), nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inside = claims(w)
		}))
		var outside string
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			outside = claims(w)
			wrapped.ServeHTTP(w, r)
		}))
		srv.EnableHTTP2 = h2
		srv.StartTLS()
		resp, err := srv.Client().Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		srv.Close()
		if inside != outside {
			t.Errorf("http2 %v: inside %s, outside %s", h2, inside, outside)
		}
	}
}

func TestTrapCapture14_InsideATimeoutHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inside, outside := newShelf(), newShelf()
		h := capture.Middleware(inside, nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(2 * time.Second)
			w.Header().Set("Content-Type", "text/plain")
			io.WriteString(w, "too late")
		}))
		h = capture.Middleware(outside, nil)(http.TimeoutHandler(h, time.Second, "timeout"))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, get("/"))
		if x := outside.next(t); x.Status != 503 || captured(x.Response.Body) != w.Body.String() {
			t.Errorf("outside: %d %q, client got %q", x.Status, captured(x.Response.Body), w.Body)
		}
		// Inside nobody can know what the client got, but not that it was this.
		if x := inside.next(t); x.Response.Body.Size != 0 || x.Outcome != capture.OutcomeWriteError {
			t.Errorf("inside: size %d, %s; want 0, write_error", x.Response.Body.Size, x.Outcome)
		}
	})
}

// lateGzip is a compressor that decides at the first Write.
type lateGzip struct {
	http.ResponseWriter
	zw *gzip.Writer
}

func (w *lateGzip) Write(p []byte) (int, error) {
	if w.zw == nil {
		w.Header().Set("Content-Encoding", "gzip")
		w.zw = gzip.NewWriter(w.ResponseWriter)
	}
	return w.zw.Write(p)
}

func TestTrapCapture15_NextToACompressor(t *testing.T) {
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"a":1}`)
	})
	compress := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			zw := &lateGzip{ResponseWriter: w}
			next.ServeHTTP(zw, r)
			zw.zw.Close()
		})
	}
	inside, outside := newShelf(), newShelf()
	h := capture.Middleware(outside, nil)(compress(capture.Middleware(inside, nil)(app)))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, get("/"))
	zr, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(zr); string(got) != `{"a":1}` || w.Header().Get("Content-Encoding") != "gzip" {
		t.Errorf("client got %q, %v", got, w.Header())
	}
	if x := inside.next(t); captured(x.Response.Body) != `{"a":1}` {
		t.Errorf("inside: %q, %q", captured(x.Response.Body), x.Response.Body.Skipped)
	}
	if x := outside.next(t); captured(x.Response.Body) != `{"a":1}` || x.Response.Body.Encoding != "gzip" || x.Response.Body.Size < 20 {
		t.Errorf("outside: %q, %+v", captured(x.Response.Body), x.Response.Body)
	}
}

// lockedBuffer is a bytes.Buffer for a server's log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
