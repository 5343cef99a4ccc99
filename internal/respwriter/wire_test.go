package respwriter_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/goweir/weir/internal/respwriter"
)

// wrap returns h with its writer wrapped as a middleware does it.
func wrap(h http.Handler, hooks func() respwriter.Hooks) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var rw respwriter.Writer
		returned := false
		defer func() { rw.Finish(returned) }()
		h.ServeHTTP(rw.Wrap(w, hooks()), r)
		returned = true
	})
}

// wants reads up to n bytes and changes nothing.
type wants struct {
	respwriter.NoHooks
	n, seen int
}

func (h *wants) Want() int                       { return max(0, h.n-h.seen) }
func (h *wants) Body(p []byte, _ int64, _ error) { h.seen += len(p) }

// source hides everything but Read, so that no shortcut is taken.
func source(size int) io.Reader {
	return struct{ io.Reader }{bytes.NewReader(pattern(size))}
}

// pattern returns size bytes in which no two places look the same for long.
func pattern(size int) []byte {
	p := make([]byte, 0, size+8)
	for i := 0; len(p) < size; i++ {
		p = fmt.Appendf(p, "%d,", i)
	}
	return p[:size]
}

// What a client of net/http gets on the wire is the same with the wrapper.
func TestWireIsUnchanged(t *testing.T) {
	type test struct {
		name    string
		handler http.HandlerFunc
	}
	tests := []test{
		{"nothing", func(w http.ResponseWriter, r *http.Request) {}},
		{"404", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) }},
		{"204 with a body", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204); io.WriteString(w, "no") }},
		{"304 with a body", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(304); io.Copy(w, source(3000)) }},
		{"103 then 200", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</a>")
			w.WriteHeader(103)
			io.WriteString(w, "a")
		}},
		{"two headers", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(201)
			w.WriteHeader(500)
			io.WriteString(w, "a")
		}},
		{"trailer", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, strings.Repeat("a", 5000))
			w.Header().Set(http.TrailerPrefix+"Sum", "1")
		}},
		{"flush then copy", func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).Flush()
			io.Copy(w, source(700))
		}},
		{"copy of nothing then 404", func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, source(0))
			http.Error(w, "empty", 404)
		}},
		{"copy that fails at once then 502", func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(w, iotest.ErrReader(errFake)); !errors.Is(err, errFake) {
				t.Errorf("Copy = %v, want the source's error", err)
			}
			http.Error(w, "bad source", 502)
		}},
		{"copy that fails in the middle", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "4000")
			io.Copy(w, io.MultiReader(source(1000), iotest.ErrReader(errFake)))
		}},
		{"abort", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, strings.Repeat("a", 5000))
			panic(http.ErrAbortHandler)
		}},
		{"full file", func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "a.txt", time.Time{}, bytes.NewReader(pattern(100_000)))
		}},
	}
	for _, size := range []int{0, 1, 511, 512, 513, 1000, 2047, 2048, 2049, 5000, 40_000, 100_000} {
		tests = append(tests,
			test{fmt.Sprintf("copy of %d", size), func(w http.ResponseWriter, r *http.Request) { io.Copy(w, source(size)) }},
			test{fmt.Sprintf("copy of %d with its length", size), func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(size))
				io.Copy(w, source(size))
			}},
			test{fmt.Sprintf("copy of %d byte by byte", size), func(w http.ResponseWriter, r *http.Request) {
				io.Copy(w, iotest.OneByteReader(source(size)))
			}},
			test{fmt.Sprintf("copy of %d with the end in the last read", size), func(w http.ResponseWriter, r *http.Request) {
				io.Copy(w, iotest.DataErrReader(source(size)))
			}},
			test{fmt.Sprintf("write of %d", size), func(w http.ResponseWriter, r *http.Request) { w.Write(pattern(size)) }},
		)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, method := range []string{"GET", "HEAD"} {
				want := onWire(t, method, tt.handler)
				for _, n := range []int{0, 1, 100, 512, 600, 1 << 30} {
					got := onWire(t, method, wrap(tt.handler, func() respwriter.Hooks { return &wants{n: n} }))
					if got != want {
						t.Errorf("%s with hooks that want %d:\n%.600s\nwithout the wrapper:\n%.600s", method, n, got, want)
					}
				}
			}
		})
	}
}

// onWire returns what a server with h answers, less what depends on the time
// and on how a body is cut into chunks.
func onWire(t *testing.T, method string, h http.Handler) string {
	t.Helper()
	ts := httptest.NewUnstartedServer(h)
	ts.Config.ErrorLog = log.New(io.Discard, "", 0)
	ts.Start()
	defer ts.Close()
	conn, err := net.Dial("tcp", ts.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s / HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n", method)
	var b strings.Builder
	br := bufio.NewReader(conn)
	for {
		res, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		res.Header.Del("Date")
		body, err := io.ReadAll(res.Body)
		fmt.Fprintln(&b, res.Status, res.ContentLength, res.TransferEncoding, res.Header, len(body), err, res.Trailer)
		b.Write(body)
		if res.StatusCode >= 200 {
			break
		}
	}
	rest, err := io.ReadAll(br)
	fmt.Fprintf(&b, "%q %v", rest, err)
	return b.String()
}

// net/http hands what it has read to a connection at once when it knows the
// length. A wrapper that wants to see the bytes must not hold them back.
func TestReadFromDoesNotHoldBack(t *testing.T) {
	const first, size = 1000, 2000
	for name, middleware := range map[string]func(http.Handler) http.Handler{
		"unwrapped": func(h http.Handler) http.Handler { return h },
		"wanting": func(h http.Handler) http.Handler {
			return wrap(h, func() respwriter.Hooks { return &wants{n: 1 << 20} })
		},
		"nohooks": func(h http.Handler) http.Handler {
			return wrap(h, func() respwriter.Hooks { return respwriter.NoHooks{} })
		},
	} {
		t.Run(name, func(t *testing.T) {
			pr, pw := io.Pipe()
			ts := httptest.NewServer(middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(size))
				io.Copy(w, pr)
			})))
			defer ts.Close()
			defer pw.Close()
			go pw.Write(pattern(size)[:first])
			// Only a failure waits for it: the handler is stuck until the
			// client has got the first half.
			ts.Client().Timeout = 10 * time.Second
			res, err := ts.Client().Get(ts.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			head := make([]byte, first)
			if n, err := io.ReadFull(res.Body, head); err != nil {
				t.Fatalf("%d of %d bytes arrived before the source went on: %v", n, first, err)
			}
			go pw.Write(pattern(size)[first:])
			tail, err := io.ReadAll(res.Body)
			if got := slices.Concat(head, tail); err != nil || !bytes.Equal(got, pattern(size)) {
				t.Errorf("got %d bytes, %v, want the %d sent", len(got), err, size)
			}
		})
	}
}
