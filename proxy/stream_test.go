package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/proxy"
)

// The first bytes arrive before the upstream has ended, whatever says how long
// the body is.
func TestFirstByteArrivesFirst(t *testing.T) {
	noLeaks(t)
	for name, header := range map[string]http.Header{
		"events":         {"Content-Type": {"text/event-stream; charset=utf-8"}},
		"unknown length": {"Content-Type": {"text/plain"}},
		"events, length": {"Content-Type": {"text/event-stream"}, "Content-Length": {"10"}},
	} {
		release := make(chan bool)
		handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			maps.Copy(w.Header(), header)
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
			<-release
			io.WriteString(w, "first")
			http.NewResponseController(w).Flush()
			<-release
			io.WriteString(w, "after")
		})
		up1, up2 := serve(t, handler), serveH2(t, handler)
		for upstream, p := range map[string]http.Handler{
			"HTTP/1.1": newProxy(t, nil, up1.URL),
			"HTTP/2": newProxy(t, func(cfg *proxy.Config) {
				cfg.TLS = up2.Client().Transport.(*http.Transport).TLSClientConfig
			}, up2.URL),
		} {
			for _, start := range []func(testing.TB, http.Handler) (string, *http.Client){h1, h2} {
				url, c := start(t, p)
				// Were anything held back, each step would wait for the next.
				res, err := c.Get(url)
				if err != nil {
					t.Fatal(err)
				}
				release <- true
				b := make([]byte, 5)
				if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != "first" {
					t.Errorf("%s from %s to %s: %q, %v", name, upstream, res.Proto, b, err)
				}
				release <- true
				if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "after" {
					t.Errorf("%s from %s to %s: then %q, %v", name, upstream, res.Proto, rest, err)
				}
				res.Body.Close()
				c.CloseIdleConnections()
			}
		}
	}
}

// The first bytes of an upload arrive before the client has ended.
func TestUploadStreams(t *testing.T) {
	noLeaks(t)
	first := make(chan string, 1)
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 5)
		io.ReadFull(r.Body, b)
		first <- string(b)
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}))
	for _, start := range []func(testing.TB, http.Handler) (string, *http.Client){h1, h2} {
		url, c := start(t, newProxy(t, nil, up.URL))
		pr, pw := io.Pipe()
		go func() {
			io.WriteString(pw, "first")
			<-first
			io.WriteString(pw, "after")
			pw.Close()
		}()
		res, err := c.Post(url, "", pr)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := io.ReadAll(res.Body); string(b) != "5" {
			t.Errorf("%s: upstream read %s more bytes, want 5", res.Proto, b)
		}
		res.Body.Close()
		c.CloseIdleConnections()
	}
}

// pattern writes n bytes that depend on seed.
func pattern(w io.Writer, seed uint64, n int) error {
	var key [32]byte
	key[0] = byte(seed)
	src := rand.NewChaCha8(key)
	for b := make([]byte, 64<<10); n > 0; {
		b := b[:min(n, len(b))]
		src.Read(b)
		if _, err := w.Write(b); err != nil {
			return err
		}
		n -= len(b)
	}
	return nil
}

func sumOf(seed uint64, n int) []byte {
	h := sha256.New()
	pattern(h, seed, n)
	return h.Sum(nil)
}

// heapPeak samples what the heap holds until the function it returns is called.
func heapPeak() (stop func() (peak uint64)) {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	read := func() uint64 { metrics.Read(sample); return sample[0].Value.Uint64() }
	runtime.GC()
	base := read()
	var peak atomic.Uint64
	done, stopped := make(chan bool), make(chan bool)
	go func() {
		defer close(stopped)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				peak.Store(max(peak.Load(), read()))
			case <-done:
				return
			}
		}
	}()
	return func() uint64 {
		close(done)
		<-stopped
		return max(peak.Load(), base) - base
	}
}

func TestTrapProxy26_BoundedMemory(t *testing.T) {
	noLeaks(t)
	const streams = 8
	const allowed = 16<<20 + streams*100<<10
	size := 32 << 20
	if testing.Short() {
		size = 8 << 20
	}
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			h := sha256.New()
			io.Copy(h, r.Body)
			w.Write(h.Sum(nil))
			return
		}
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		pattern(w, uint64(r.URL.Query().Get("seed")[0]), size)
	}))
	url, c := h1(t, newProxy(t, nil, up.URL))
	sums := map[uint64][]byte{}
	for seed := range uint64(streams) {
		sums['0'+seed] = sumOf('0'+seed, size)
	}
	download := func(path string) func(uint64) error {
		return func(seed uint64) error {
			res, err := c.Get(fmt.Sprintf("%s%s?seed=%c", url, path, rune(seed)))
			if err != nil {
				return err
			}
			defer res.Body.Close()
			h := sha256.New()
			if n, err := io.Copy(h, res.Body); err != nil {
				return fmt.Errorf("after %d bytes: %w", n, err)
			}
			return equal(h, sums[seed])
		}
	}
	upload := func(seed uint64) error {
		pr, pw := io.Pipe()
		go func() { pw.CloseWithError(pattern(pw, seed, size)) }()
		r, _ := http.NewRequest("PUT", url, pr)
		res, err := c.Do(r)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		if err == nil && !bytes.Equal(got, sums[seed]) {
			err = fmt.Errorf("sum %x", got)
		}
		return err
	}
	for name, transfer := range map[string]func(uint64) error{
		"with length": download("/length"), "chunked": download("/"), "up": upload,
	} {
		stop := heapPeak()
		var wg sync.WaitGroup
		for seed := range sums {
			wg.Go(func() {
				if err := transfer(seed); err != nil {
					t.Errorf("%s, stream %c: %v", name, rune(seed), err)
				}
			})
		}
		wg.Wait()
		peak := stop()
		t.Logf("%s: %d x %d MiB, peak heap %.1f MiB, client and upstream included", name, streams, size>>20, float64(peak)/(1<<20))
		if peak > allowed {
			t.Errorf("%s: peak heap %d, want at most %d", name, peak, allowed)
		}
	}
	c.CloseIdleConnections()
}

func equal(h hash.Hash, want []byte) error {
	if got := h.Sum(nil); !bytes.Equal(got, want) {
		return fmt.Errorf("sum %x, want %x", got, want)
	}
	return nil
}

func TestTrapProxy15_IdleConnections(t *testing.T) {
	noLeaks(t)
	const workers, each = 32, 20
	opened := func(h func(string) http.Handler) int {
		var n atomic.Int64
		var peers sync.Map
		up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, known := peers.LoadOrStore(r.RemoteAddr, true); !known {
				n.Add(1)
			}
			io.WriteString(w, "x")
		}))
		front := serve(t, h(up.URL))
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				c := dial(t, front.URL)
				for range each {
					res := c.send(t, "GET", getRoot)
					io.Copy(io.Discard, res.Body)
				}
				c.Close()
			})
		}
		wg.Wait()
		return int(n.Load())
	}
	p := opened(func(u string) http.Handler { return newProxy(t, nil, u) })
	b := opened(func(u string) http.Handler { return bare(t, u) })
	t.Logf("%d requests by %d workers: %d connections to the upstream, bare ReverseProxy %d", workers*each, workers, p, b)
	// More than one a worker, because http.Transport dials while a connection
	// is about to become idle; never one a request.
	if p > 2*workers {
		t.Errorf("opened %d connections for %d workers", p, workers)
	}
	if b <= 2*workers {
		t.Errorf("bare ReverseProxy opened %d; the trap is closed upstream", b)
	}
}

// Bodies are the same bytes, and headers and statuses pass as they are.
func TestAnswersPassUnchanged(t *testing.T) {
	noLeaks(t)
	for _, tt := range []struct{ name, method, raw, want string }{
		{"no content", "GET", "HTTP/1.1 204 No Content\r\nX-A: 1\r\nX-A: 2\r\n\r\n", ""},
		{"not modified", "GET", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nX-A: 1\r\nX-A: 2\r\n\r\n", ""},
		{"head", "HEAD", "HTTP/1.1 200 OK\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 1000\r\n\r\n", ""},
		{"error", "GET", "HTTP/1.1 500 Boom\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 4\r\n\r\noops", "oops"},
		{"partial", "GET", "HTTP/1.1 206 Partial Content\r\nX-A: 1\r\nX-A: 2\r\nContent-Range: bytes 0-1/10\r\nContent-Length: 2\r\n\r\nab", "ab"},
		{"encoded", "GET", "HTTP/1.1 200 OK\r\nX-A: 1\r\nX-A: 2\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nnot", "not"},
		{"empty", "GET", "HTTP/1.1 200 OK\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 0\r\n\r\n", ""},
	} {
		c := dial(t, serve(t, newProxy(t, nil, answer(t, tt.raw))).URL)
		res := c.send(t, tt.method, tt.method+" / HTTP/1.1\r\nHost: a\r\n\r\n")
		body, err := io.ReadAll(res.Body)
		sent, _ := http.ReadResponse(bufio.NewReader(strings.NewReader(tt.raw)), &http.Request{Method: tt.method})
		if err != nil || res.StatusCode != sent.StatusCode || string(body) != tt.want || res.ContentLength != sent.ContentLength {
			t.Errorf("%s: %d %q of %d bytes, %v", tt.name, res.StatusCode, body, res.ContentLength, err)
		}
		for name, want := range sent.Header {
			if got := res.Header[name]; fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %s = %q, want %q", tt.name, name, got, want)
			}
		}
	}
}

// lateReader is a transport that reads the request's body once more after its
// end, when the answer has begun, as the one of net/http may: it looks for bytes
// beyond the Content-Length while the upstream answers already. The server has
// closed the body by then, and an error instead of an end would break the answer.
type lateReader struct{ late chan error }

func (l lateReader) RoundTrip(r *http.Request) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return nil, err
	}
	answer, w := io.Pipe()
	go func() {
		w.Write(make([]byte, 64<<10)) // more than the server holds back
		_, err := r.Body.Read(make([]byte, 1))
		l.late <- err
		w.Close()
	}()
	return &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: answer, ContentLength: -1, Request: r}, nil
}

func TestBodyStaysEnded(t *testing.T) {
	transport := lateReader{make(chan error, 1)}
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper { return transport }
	}, "http://127.0.0.1:1")
	plain := bare(t, "http://127.0.0.1:1")
	plain.Transport = transport
	for _, tt := range []struct {
		name string
		h    http.Handler
		want error
	}{
		{"proxy", p, io.EOF},
		{"ReverseProxy", plain, http.ErrBodyReadAfterClose},
	} {
		s := serve(t, tt.h)
		res, err := s.Client().Post(s.URL, "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if n, err := io.Copy(io.Discard, res.Body); n != 64<<10 || err != nil {
			t.Errorf("%s: the answer has %d bytes, %v", tt.name, n, err)
		}
		res.Body.Close()
		if got := <-transport.late; got != tt.want {
			t.Errorf("%s: reading behind the end of the body gives %v, want %v", tt.name, got, tt.want)
		}
	}
}
