package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/proxy"
)

// A slate is a ResponseWriter that knows when what was written could be seen:
// not before it was flushed.
type slate struct {
	header http.Header
	hook   func() // called by Write; may be nil

	mu      sync.Mutex
	begun   time.Time
	held    []byte
	seen    []byte
	headed  time.Duration // when the header was flushed; 0: it was not
	when    map[byte]time.Duration
	writes  int
	flushes int
}

func newSlate() *slate {
	return &slate{header: http.Header{}, begun: time.Now(), when: map[byte]time.Duration{}}
}

func (s *slate) Header() http.Header { return s.header }
func (s *slate) WriteHeader(int)     {}

func (s *slate) Write(p []byte) (int, error) {
	if s.hook != nil {
		s.hook()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	s.held = append(s.held, p...)
	return len(p), nil
}

func (s *slate) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushes++
	now := max(time.Since(s.begun), 1)
	if s.headed == 0 {
		s.headed = now
	}
	for _, c := range s.held {
		if _, ok := s.when[c]; !ok {
			s.when[c] = now
		}
	}
	s.seen, s.held = append(s.seen, s.held...), nil
}

func (s *slate) all() string { return string(s.seen) + string(s.held) }

// through has rt's answer sent to a slate, within a bubble.
func through(t *testing.T, rt roundTrip, s *slate, edit func(*proxy.Config)) {
	t.Helper()
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper { return rt }
		if edit != nil {
			edit(cfg)
		}
	}, "http://upstream")
	p.ServeHTTP(s, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
}

// No part of an answer without a length waits for more than 10 ms, and none at
// all that comes by itself.
func TestPartsArriveInTime(t *testing.T) {
	write := func(w io.Writer, parts string) {
		for i := range len(parts) {
			io.WriteString(w, parts[i:i+1])
		}
	}
	for _, tt := range []struct {
		name  string
		kind  string
		parts func(ctx context.Context, w io.Writer) error
		want  map[byte]time.Duration // when each is to be seen at the latest
	}{
		{"one by one", "text/plain", func(ctx context.Context, w io.Writer) error {
			for _, c := range "abc" {
				sleep(ctx, time.Second)
				write(w, string(c))
			}
			return sleep(ctx, time.Hour)
		}, map[byte]time.Duration{'a': time.Second, 'b': 2 * time.Second, 'c': 3 * time.Second}},
		{"rushes", "application/json", func(ctx context.Context, w io.Writer) error {
			write(w, "ab")
			sleep(ctx, time.Minute)
			write(w, "cde")
			return sleep(ctx, time.Hour)
		}, map[byte]time.Duration{
			'a': 10 * time.Millisecond, 'b': 10 * time.Millisecond,
			'c': time.Minute, 'd': time.Minute + 10*time.Millisecond, 'e': time.Minute + 10*time.Millisecond,
		}},
		{"a rush without an end", "text/plain", func(ctx context.Context, w io.Writer) error {
			write(w, "a")
			for range 100 {
				sleep(ctx, 500*time.Microsecond) // never for so long that it is a pause
				write(w, "b")
			}
			write(w, "c")
			return sleep(ctx, time.Hour)
		}, map[byte]time.Duration{'a': 10 * time.Millisecond, 'b': 11 * time.Millisecond, 'c': 60 * time.Millisecond}},
		{"events", "text/event-stream", func(ctx context.Context, w io.Writer) error {
			write(w, "ab")
			sleep(ctx, time.Minute)
			write(w, "c")
			return sleep(ctx, time.Hour)
		}, map[byte]time.Duration{'a': 1, 'b': 1, 'c': time.Minute}},
		{"more than a buffer", "text/plain", func(ctx context.Context, w io.Writer) error {
			for _, c := range "abc" {
				w.Write(bytes.Repeat([]byte{byte(c)}, 300<<10))
			}
			io.WriteString(w, "d")
			return sleep(ctx, time.Hour)
		}, map[byte]time.Duration{'a': 10 * time.Millisecond, 'c': 10 * time.Millisecond, 'd': 10 * time.Millisecond}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSlate()
				through(t, writtenBy(tt.parts, http.Header{"Content-Type": {tt.kind}}, -1), s, func(cfg *proxy.Config) { cfg.Timeouts.UpstreamIdle = -1 })
				if s.headed == 0 || s.headed > 10*time.Millisecond {
					t.Errorf("the header was seen after %v, want at most 10ms", s.headed)
				}
				for part, want := range tt.want {
					if got, ok := s.when[part]; !ok || got > want {
						t.Errorf("%c was seen after %v, %v; want at most %v", part, got, ok, want)
					}
				}
			})
		})
	}
}

// What comes together is sent together.
func TestRushesAreSentTogether(t *testing.T) {
	for _, tt := range []struct {
		parts, size     int
		writes, flushes int // at most
	}{
		{1000, 10, 5, 0},
		{1000, 4096, 45, 0},
		{10, 100 << 10, 35, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSlate()
			through(t, writtenBy(func(_ context.Context, w io.Writer) error {
				for range tt.parts {
					w.Write(make([]byte, tt.size))
				}
				return nil
			}, http.Header{}, -1), s, nil)
			if len(s.all()) != tt.parts*tt.size {
				t.Errorf("%d parts of %d: %d bytes arrived", tt.parts, tt.size, len(s.all()))
			}
			if s.writes > tt.writes || s.flushes > tt.flushes {
				t.Errorf("%d parts of %d: %d writes and %d flushes, want at most %d and %d", tt.parts, tt.size, s.writes, s.flushes, tt.writes, tt.flushes)
			}
		})
	}
}

// Nothing gets lost, doubled or out of order, however an answer comes, and what
// came before a break arrives as well.
func TestPartsArriveWhole(t *testing.T) {
	noLeaks(t)
	runs := 30
	if testing.Short() {
		runs = 10
	}
	errBroken := errors.New("broken")
	for run := range runs {
		rnd := rand.New(rand.NewPCG(uint64(run), 6))
		var sizes []int
		total := 0
		for range rnd.IntN(40) {
			n := 1 << rnd.IntN(18)
			n += rnd.IntN(n)
			sizes = append(sizes, n)
			total += n
		}
		want := make([]byte, total)
		for i := range want {
			want[i] = byte(rnd.Uint32())
		}
		broken := run%3 == 1
		pauses := rnd.IntN(3)
		rt := func(length int64, kind string) roundTrip {
			return writtenBy(func(_ context.Context, w io.Writer) error {
				rest := want
				for i, n := range sizes {
					if pauses > 0 && i%5 == 0 {
						time.Sleep(time.Duration(pauses) * 6 * time.Millisecond)
					}
					if _, err := w.Write(rest[:n]); err != nil {
						return err
					}
					rest = rest[n:]
				}
				if broken {
					return errBroken
				}
				return nil
			}, http.Header{"Content-Type": {kind}}, length)
		}
		length := int64(total)
		if broken {
			length++
		}
		for name, rt := range map[string]roundTrip{"chunks": rt(-1, "text/plain"), "events": rt(-1, "text/event-stream"), "sized": rt(length, "text/plain")} {
			s := serve(t, newProxy(t, func(cfg *proxy.Config) {
				cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper { return rt }
			}, "http://upstream"))
			res, err := s.Client().Get(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			res.Body.Close()
			s.Close()
			if (err != nil) != broken || !bytes.Equal(got, want) {
				t.Fatalf("run %d, %s: %d bytes, %v; want the %d that were sent, and an error: %v", run, name, len(got), err, total, broken)
			}
		}
	}
}

// unheard is a ResponseWriter as HTTP/2's is when the stream is reset: what it was
// given may be read after Write has returned (golang/go#20704).
type unheard struct {
	*slate
	given [][]byte
	panic bool
}

func (u *unheard) Write(p []byte) (int, error) {
	u.given = append(u.given, p)
	if u.panic {
		panic(http.ErrAbortHandler)
	}
	return 0, errors.New("stream is reset")
}

// A buffer whose Write has failed is not used for anything else: the server may
// still be sending it, to a client that would see a part of another's answer.
func TestFailedWritesKeepTheirBuffers(t *testing.T) {
	var answer atomic.Value // of a func() *http.Response
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper {
			return roundTrip(func(*http.Request) (*http.Response, error) { return answer.Load().(func() *http.Response)(), nil })
		}
	}, "http://upstream")
	for _, tt := range []struct {
		name   string
		kind   string
		size   int
		length int64
	}{
		{"small", "text/plain", 100, 100},
		{"sized", "text/plain", 20 << 10, 20 << 10},
		{"large", "text/plain", 300 << 10, 300 << 10},
		{"chunks", "text/plain", 300 << 10, -1},
		{"events", "text/event-stream", 300 << 10, -1},
	} {
		for _, panics := range []bool{false, true} {
			of := func(c byte) {
				answer.Store(func() *http.Response {
					return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {tt.kind}}, ContentLength: tt.length,
						Body: io.NopCloser(bytes.NewReader(bytes.Repeat([]byte{c}, tt.size)))}
				})
			}
			u := &unheard{slate: newSlate(), panic: panics}
			for range 8 { // a pool may lose what it is given
				of('a')
				aborting(p).ServeHTTP(u, httptest.NewRequest("GET", "/", nil))
				of('b')
				p.ServeHTTP(newSlate(), httptest.NewRequest("GET", "/", nil))
			}
			for _, given := range u.given {
				if i := bytes.IndexByte(given, 'b'); i >= 0 {
					t.Errorf("%s, panics %t: another's answer is in a buffer that was given to Write, at %d of %d", tt.name, panics, i, len(given))
					break
				}
			}
			if len(u.given) != 8 {
				t.Errorf("%s, panics %t: %d writes, want 8", tt.name, panics, len(u.given))
			}
		}
	}
}

// stuck is a ResponseWriter whose client takes nothing.
type stuck struct {
	*slate
	missed chan struct{} // closed by a deadline in the past
}

func (s *stuck) Write([]byte) (int, error) {
	<-s.missed
	return 0, os.ErrDeadlineExceeded
}

func (s *stuck) SetWriteDeadline(t time.Time) error {
	if t.Before(time.Now()) {
		close(s.missed)
	}
	return nil
}

// A client that takes nothing is found out while the timer writes and the
// upstream is silent.
func TestStalledClientOfARush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Timeouts.ClientIdle, cfg.Timeouts.UpstreamIdle = 5*time.Second, time.Hour
			cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper {
				return writtenBy(func(ctx context.Context, w io.Writer) error {
					io.WriteString(w, "a")
					<-ctx.Done()
					return ctx.Err()
				}, http.Header{}, -1)
			}
		}, "http://upstream")
		s := &stuck{newSlate(), make(chan struct{})}
		p.ServeHTTP(s, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
		if took := time.Since(s.begun); took != 5*time.Second {
			t.Errorf("the handler ended after %v, want 5s", took)
		}
	})
}

// A panic of the ResponseWriter's is the handler's, even if the timer wrote.
func TestPanicOfATimersWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlate()
		s.hook = func() { panic("full") }
		begun := time.Now()
		defer func() {
			if got := recover(); got != "full" || time.Since(begun) != 10*time.Millisecond {
				t.Errorf("panic %v after %v, want that of the ResponseWriter after 10ms", got, time.Since(begun))
			}
		}()
		through(t, writtenBy(func(ctx context.Context, w io.Writer) error {
			io.WriteString(w, "a")
			<-ctx.Done()
			return ctx.Err()
		}, http.Header{}, -1), s, nil)
	})
}

// Trailers make an answer chunked, whatever has held flushes back.
func TestTrailersAfterChunks(t *testing.T) {
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "ab")
		http.NewResponseController(w).Flush()
		io.WriteString(w, "c")
		w.Header().Set("X-Sum", "3")
	}))
	s := serve(t, newProxy(t, nil, up.URL))
	res, err := s.Client().Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if string(body) != "abc" || err != nil || res.Trailer.Get("X-Sum") != "3" {
		t.Errorf("%q, %v, trailer %v", body, err, res.Trailer)
	}
}

// Readers that are slow do not use up the large buffers for good, and all get
// what they asked for.
func TestManyDownloads(t *testing.T) {
	noLeaks(t)
	const size = 512 << 10
	want := strings.Repeat("weir", size/4)
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/sized" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		io.WriteString(w, want)
	}))
	s := serve(t, newProxy(t, nil, up.URL))
	var wg sync.WaitGroup
	for i := range 80 {
		wg.Go(func() {
			path := []string{"/sized", "/"}[i%2]
			status, _, body, err := get(s.Client(), s.URL+path)
			if status != 200 || body != want || err != nil {
				t.Errorf("%s: %d, %d bytes, %v", path, status, len(body), err)
			}
		})
	}
	wg.Wait()
	s.Client().CloseIdleConnections()
}

// An upstream is not held to its limit for the time that the client takes: here
// for what the timer sends while the upstream is read from.
func TestSlowClientIsNotTheUpstreamsIdleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlate()
		s.hook = func() {
			if s.writes == 0 {
				time.Sleep(15 * time.Second)
			}
		}
		defer func() {
			if v := recover(); v != nil {
				t.Errorf("broken off after %v", time.Since(s.begun))
			}
		}()
		through(t, writtenBy(func(ctx context.Context, w io.Writer) error {
			io.WriteString(w, "a")
			if err := sleep(ctx, 18*time.Second); err != nil {
				return err
			}
			_, err := io.WriteString(w, "b")
			return err
		}, http.Header{}, -1), s, func(cfg *proxy.Config) { cfg.Timeouts.UpstreamIdle = 10 * time.Second })
		if s.all() != "ab" {
			t.Errorf("%q arrived", s.all())
		}
	})
}
