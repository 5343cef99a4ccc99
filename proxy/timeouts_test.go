package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/proxy"
)

// pipes is a listener whose connections are pipes, for use in a bubble.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// inBubble runs f in a bubble with a client's connection to a Proxy whose
// upstream is rt, and statuses that stand between.
func inBubble(t *testing.T, rt roundTrip, edit func(*proxy.Config), f func(t *testing.T, c net.Conn, seen *statuses)) {
	t.Helper()
	bubble(t, func(t *testing.T) http.Handler {
		return newProxy(t, func(cfg *proxy.Config) {
			cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper { return rt }
			if edit != nil {
				edit(cfg)
			}
		}, "http://upstream")
	}, f)
}

// bareInBubble is inBubble with a bare ReverseProxy.
func bareInBubble(t *testing.T, rt roundTrip, f func(t *testing.T, c net.Conn, seen *statuses)) {
	t.Helper()
	bubble(t, func(t *testing.T) http.Handler {
		p := bare(t, "http://upstream")
		p.Transport = rt
		return p
	}, f)
}

func bubble(t *testing.T, handler func(*testing.T) http.Handler, f func(t *testing.T, c net.Conn, seen *statuses)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		seen := &statuses{got: make(chan int, 1)}
		l := newPipes()
		s := &http.Server{Handler: seen.middleware(handler(t))}
		stopped := make(chan error, 1)
		go func() { stopped <- s.Serve(l) }()
		c := l.dial()
		f(t, c, seen)
		c.Close()
		s.Close()
		<-stopped
		time.Sleep(time.Second) // net/http lingers half as long with some connections
	})
}

// streaming is an event stream that f writes, given the attempt's context.
func streaming(f func(ctx context.Context, w io.Writer) error) roundTrip {
	return writtenBy(f, http.Header{"Content-Type": {"text/event-stream"}}, -1)
}

// writtenBy is an answer whose body f writes.
func writtenBy(f func(ctx context.Context, w io.Writer) error, h http.Header, length int64) roundTrip {
	return func(r *http.Request) (*http.Response, error) {
		pr, pw := io.Pipe()
		stop := context.AfterFunc(r.Context(), func() { pr.CloseWithError(context.Cause(r.Context())); pw.CloseWithError(context.Cause(r.Context())) })
		go func() {
			defer stop()
			pw.CloseWithError(f(r.Context(), pw))
		}()
		return &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, ContentLength: length,
			Header: h, Body: pr, Request: r}, nil
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

const getRoot = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

// request sends raw, reads the answer wholly, and says how long that took.
func request(c net.Conn, raw string) (status int, body string, took time.Duration, err error) {
	start := time.Now()
	errs := make(chan error, 1)
	go func() { _, err := io.WriteString(c, raw); errs <- err }()
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, "", time.Since(start), err
	}
	<-errs
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), time.Since(start), err
}

func TestEventStreamWithHeartbeatsLives(t *testing.T) {
	beats := func(ctx context.Context, w io.Writer) error {
		for range 4 * 60 {
			if err := sleep(ctx, 15*time.Second); err != nil {
				return err
			}
			if _, err := io.WriteString(w, ":\n\n"); err != nil {
				return err
			}
		}
		return nil
	}
	inBubble(t, streaming(beats), nil, func(t *testing.T, c net.Conn, _ *statuses) {
		status, body, took, err := request(c, getRoot)
		if status != 200 || len(body) != 3*240 || took != time.Hour || err != nil {
			t.Errorf("%d, %d bytes in %s, %v; want 720 in 1h", status, len(body), took, err)
		}
	})
}

func TestTrapProxy19_UpstreamStalls(t *testing.T) {
	stall := func(ctx context.Context, w io.Writer) error {
		io.WriteString(w, "first")
		<-ctx.Done()
		return context.Cause(ctx)
	}
	for _, tt := range []struct{ idle, want time.Duration }{{0, time.Minute}, {time.Second, time.Second}} {
		inBubble(t, streaming(stall), func(cfg *proxy.Config) { cfg.Timeouts.UpstreamIdle = tt.idle }, func(t *testing.T, c net.Conn, _ *statuses) {
			status, body, took, err := request(c, getRoot)
			if status != 200 || body != "first" || took != tt.want || err == nil {
				t.Errorf("UpstreamIdle %s: %d %q in %s, %v; want an error after %s", tt.idle, status, body, took, err, tt.want)
			}
		})
	}

	// None: it waits as ReverseProxy does, here for the client to lose patience.
	forever := func(t *testing.T, c net.Conn, _ *statuses) {
		c.SetReadDeadline(time.Now().Add(24 * time.Hour))
		if _, _, took, err := request(c, getRoot); took != 24*time.Hour || err == nil {
			t.Errorf("without a limit: ended after %s, %v", took, err)
		}
	}
	inBubble(t, streaming(stall), func(cfg *proxy.Config) { cfg.Timeouts.UpstreamIdle = -1 }, forever)
	bareInBubble(t, streaming(stall), forever)
}

// What the ready-made fallbacks answer is as patient with a client as an
// upstream's answer is, and no more.
func TestClientOfAFallback(t *testing.T) {
	body := strings.Repeat("x", 200<<10)
	stale, err := proxy.NewStale(&proxy.StaleOptions{MaxStale: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for name, fallback := range map[string]http.Handler{"FixedAnswer": proxy.FixedAnswer(200, nil, []byte(body)), "Stale": stale} {
		for _, reads := range []bool{false, true} {
			ended := make(chan time.Duration, 1)
			bubble(t, func(t *testing.T) http.Handler {
				p := newProxy(t, func(cfg *proxy.Config) {
					cfg.Fallback = fallback
					cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper { return roundTrip(status(200, body)) }
				}, "http://upstream")
				h := stale.Middleware(p)
				r := httptest.NewRequest("GET", "/", nil)
				r.Host = "a"
				h.ServeHTTP(httptest.NewRecorder(), r)
				p.ForceFallback(true)
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					start := time.Now()
					h.ServeHTTP(w, r)
					ended <- time.Since(start)
				})
			}, func(t *testing.T, c net.Conn, _ *statuses) {
				io.WriteString(c, getRoot)
				got := 0
				for buf := make([]byte, 32<<10); reads && got < len(body); {
					time.Sleep(25 * time.Second)
					n, err := io.ReadFull(c, buf[:min(len(buf), len(body)-got)])
					if got += n; err != nil {
						break
					}
				}
				if reads && got < len(body) {
					t.Errorf("%s: a slow client got %d bytes of %d", name, got, len(body))
				}
				time.Sleep(3 * time.Minute)
				select {
				case took := <-ended:
					if !reads && took != time.Minute {
						t.Errorf("%s: a client that never reads was waited for %v, want 1m", name, took)
					}
				default:
					t.Errorf("%s: a client that reads (%t) holds its handler after 3m", name, reads)
				}
			})
		}
	}
}

func TestTrapProxy18_ClientNeverReads(t *testing.T) {
	var ended chan error
	// With a length, because of a body without one ReverseProxy flushes the
	// header on a goroutine of its own, and a bubble with a goroutine that waits
	// for a mutex never ends.
	endless := writtenBy(func(_ context.Context, w io.Writer) error {
		var err error
		for b := make([]byte, 1<<16); err == nil; {
			_, err = w.Write(b)
		}
		ended <- err
		return err
	}, http.Header{"Content-Length": {"1000000000000"}}, 1e12)
	for _, tt := range []struct{ idle, want time.Duration }{{0, time.Minute}, {time.Second, time.Second}} {
		edit := func(cfg *proxy.Config) {
			cfg.Timeouts.ClientIdle = tt.idle
			ended = make(chan error, 1) // in the bubble
		}
		inBubble(t, endless, edit, func(t *testing.T, c net.Conn, _ *statuses) {
			io.WriteString(c, getRoot)
			c.Read(make([]byte, 4096))
			start := time.Now()
			<-ended
			if took := time.Since(start); took != tt.want {
				t.Errorf("ClientIdle %s: the upstream was let go after %s, want %s", tt.idle, took, tt.want)
			}
		})
	}

	bareInBubble(t, roundTrip(func(r *http.Request) (*http.Response, error) {
		ended = make(chan error, 1)
		return endless(r)
	}), func(t *testing.T, c net.Conn, _ *statuses) {
		io.WriteString(c, getRoot)
		c.Read(make([]byte, 4096))
		select {
		case <-ended:
			t.Error("bare ReverseProxy let the upstream go; the trap is closed upstream")
		case <-time.After(24 * time.Hour):
		}
		c.Close()
		<-ended
	})

	// A client that takes a little now and then is left alone.
	edit := func(*proxy.Config) { ended = make(chan error, 1) }
	inBubble(t, endless, edit, func(t *testing.T, c net.Conn, _ *statuses) {
		io.WriteString(c, getRoot)
		b := make([]byte, 64<<10)
		c.Read(b)
		for range 60 {
			time.Sleep(50 * time.Second)
			if _, err := io.ReadFull(c, b); err != nil {
				t.Fatalf("slow client: %v", err)
			}
		}
		c.Close()
		<-ended
	})
}

// What the server still has in its buffers when the handler returns counts too.
func TestClientNeverReadsTheEnd(t *testing.T) {
	small := roundTrip(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, ContentLength: 1, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("x"))}, nil
	})
	inBubble(t, small, nil, func(t *testing.T, c net.Conn, _ *statuses) {
		io.WriteString(c, getRoot)
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the server still waits after a minute")
		}
	})
}

// A body keeps its connection's deadlines to itself.
func TestDeadlinesEndWithTheExchange(t *testing.T) {
	small := roundTrip(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, ContentLength: 1, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("x"))}, nil
	})
	inBubble(t, small, nil, func(t *testing.T, c net.Conn, seen *statuses) {
		for range 3 {
			if status, _, _, err := request(c, getRoot); status != 200 || err != nil {
				t.Fatalf("%d, %v", status, err)
			}
			<-seen.got
			time.Sleep(10 * time.Minute)
		}
	})
}

// taking is an upstream that reads the request's body wholly and answers.
var taking = roundTrip(func(r *http.Request) (*http.Response, error) {
	n, err := io.Copy(io.Discard, r.Body)
	r.Body.Close()
	if err != nil {
		return nil, err
	}
	body := fmt.Sprint(n)
	return &http.Response{StatusCode: 200, ContentLength: int64(len(body)), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
})

func TestSlowUploadPasses(t *testing.T) {
	inBubble(t, taking, nil, func(t *testing.T, c net.Conn, _ *statuses) {
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n")
		for range 20 {
			time.Sleep(30 * time.Second)
			io.WriteString(c, "x")
		}
		if status, body, _, err := request(c, ""); status != 200 || body != "20" || err != nil {
			t.Errorf("%d %q, %v", status, body, err)
		}
	})
}

func TestUploadStalls(t *testing.T) {
	inBubble(t, taking, nil, func(t *testing.T, c net.Conn, seen *statuses) {
		status, body, took, err := request(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nhalf")
		if status != 408 || took != time.Minute || err != nil || <-seen.got != 408 {
			t.Errorf("%d %q in %s, %v; want 408 after a minute", status, body, took, err)
		}
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("then %v, want the connection closed", err)
		}
	})
}

func TestUpstreamTakesNoUpload(t *testing.T) {
	stuck := roundTrip(func(r *http.Request) (*http.Response, error) {
		r.Body.Read(make([]byte, 1))
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	inBubble(t, stuck, nil, func(t *testing.T, c net.Conn, _ *statuses) {
		status, _, took, err := request(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
		if status != 504 || took != time.Minute || err != nil {
			t.Errorf("%d in %s, %v; want 504 after a minute", status, took, err)
		}
	})
}

// An upstream that answers first and then takes its time with a long upload is
// not idle.
func TestUploadKeepsTheAnswerAlive(t *testing.T) {
	var taken atomic.Int64
	early := roundTrip(func(r *http.Request) (*http.Response, error) {
		pr, pw := io.Pipe()
		go func() {
			n, err := io.Copy(io.Discard, r.Body)
			taken.Store(n)
			pw.CloseWithError(errors.Join(err))
		}()
		return &http.Response{StatusCode: 200, ContentLength: -1, Header: http.Header{}, Body: pr}, nil
	})
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		s := &http.Server{Handler: fullDuplex(newProxy(t, func(cfg *proxy.Config) {
			cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper { return early }
		}, "http://upstream"))}
		go s.Serve(l)
		c := l.dial()
		go func() {
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n")
			for range 20 {
				time.Sleep(30 * time.Second)
				io.WriteString(c, "x")
			}
		}()
		status, _, took, err := request(c, "")
		if status != 200 || took != 10*time.Minute || err != nil || taken.Load() != 20 {
			t.Errorf("%d in %s, %v, %d bytes taken; want 20 in 10m", status, took, err, taken.Load())
		}
		c.Close()
		s.Close()
	})
}

// Of two waits with different limits, the shorter one counts.
func TestIdleOnBothTracks(t *testing.T) {
	early := roundTrip(func(r *http.Request) (*http.Response, error) {
		pr, pw := io.Pipe()
		context.AfterFunc(r.Context(), func() { pw.CloseWithError(context.Cause(r.Context())) })
		go io.Copy(io.Discard, r.Body)
		time.Sleep(time.Second) // the request's body is waited for first
		return &http.Response{StatusCode: 200, ContentLength: -1, Header: http.Header{}, Body: pr}, nil
	})
	bubble(t, func(t *testing.T) http.Handler {
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Timeouts.UpstreamIdle = 10 * time.Second
			cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper { return early }
		}, "http://upstream")
		return fullDuplex(p)
	}, func(t *testing.T, c net.Conn, _ *statuses) {
		status, _, took, err := request(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nhalf")
		if status != 200 || took != 11*time.Second || err == nil {
			t.Errorf("%d in %s, %v; want an error after 11s", status, took, err)
		}
	})
}

// fullDuplex lets an HTTP/1 answer begin before the request's body ends.
func fullDuplex(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		h.ServeHTTP(w, r)
	})
}

// earlyAnswer is an upstream that answers when it has half of the body.
func earlyAnswer(t *testing.T, answered chan<- bool) string {
	return script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
		br.Discard(len("half"))
		io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		answered <- true
	})
}

const halfAnUpload = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf"

// A client that stops sending when it was answered is not waited for longer
// than ClientIdle.
func TestAnswerBeforeStalledUpload(t *testing.T) {
	noLeaks(t)
	answered := make(chan bool, 1)
	// Long enough for the upstream's answer to come first.
	p := newProxy(t, func(cfg *proxy.Config) { cfg.Timeouts.ClientIdle = 2 * time.Second }, earlyAnswer(t, answered))
	var both sync.WaitGroup
	for name, h := range map[string]http.Handler{"half duplex": p, "full duplex": fullDuplex(p)} {
		c := dial(t, serve(t, h).URL)
		if res := c.send(t, "POST", halfAnUpload); res.StatusCode != 413 {
			t.Errorf("%s: %d, want 413", name, res.StatusCode)
		}
		both.Go(func() {
			if _, err := io.ReadAll(c.br); err != nil {
				t.Errorf("%s: then %v, want the connection closed", name, err)
			}
		})
		<-answered
	}
	both.Wait()
}

// One that sends on gets the whole answer, and no second one: a connection whose
// request was not read to its end is not kept.
func TestAnswerBeforeMovingUpload(t *testing.T) {
	noLeaks(t)
	answered := make(chan bool, 1)
	p := newProxy(t, nil, earlyAnswer(t, answered))
	for name, h := range map[string]http.Handler{"half duplex": p, "full duplex": fullDuplex(p)} {
		c := dial(t, serve(t, h).URL)
		res := c.send(t, "POST", halfAnUpload)
		<-answered
		io.WriteString(c, "half"+getRoot)
		if rest, err := io.ReadAll(c.br); res.StatusCode != 413 || !res.Close || len(rest) > 0 || err != nil {
			t.Errorf("%s: %d, close announced %t, then %q, %v; want 413 and the end", name, res.StatusCode, res.Close, rest, err)
		}
	}
}

// resetFirst reports whether a client of HTTP/2 has seen the reset of its stream
// before the header, as net/http's may.
func resetFirst(err error) bool { return kind(err) == "RST_STREAM INTERNAL_ERROR" }

// The time limits over real connections of both kinds.
func TestIdleOverSockets(t *testing.T) {
	noLeaks(t)
	const short = 100 * time.Millisecond
	let := make(chan bool)
	ended := make(chan bool, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		w.WriteHeader(200)
		rc.Flush()
		switch r.URL.Path {
		case "/stall":
			<-r.Context().Done()
		case "/endless":
			for b := make([]byte, 64<<10); r.Context().Err() == nil; {
				w.Write(b)
			}
		case "/silent":
			<-let
			io.WriteString(w, "done")
			return
		}
		ended <- true
	})
	up1, up2 := serve(t, handler), serveH2(t, handler)
	for _, up := range []*httptest.Server{up1, up2} {
		for _, start := range []func(testing.TB, http.Handler) (string, *http.Client){h1, h2} {
			to := func(edit func(*proxy.Timeouts)) (string, *http.Client) {
				return start(t, newProxy(t, func(cfg *proxy.Config) {
					edit(&cfg.Timeouts)
					if up.TLS != nil {
						cfg.TLS = up.Client().Transport.(*http.Transport).TLSClientConfig
					}
				}, up.URL))
			}

			url, c := to(func(limits *proxy.Timeouts) { limits.UpstreamIdle = short })
			if status, _, _, err := get(c, url+"/stall"); err == nil || status != 200 && !resetFirst(err) {
				t.Errorf("upstream stalls: %d, %v; want an error after the header", status, err)
			}
			<-ended
			c.CloseIdleConnections()

			url, c = to(func(limits *proxy.Timeouts) { limits.ClientIdle = short })
			res, err := c.Get(url + "/endless")
			<-ended // nobody reads
			if err == nil {
				if _, err := io.Copy(io.Discard, res.Body); err == nil {
					t.Errorf("%s client never reads: clean end", res.Proto)
				}
				res.Body.Close()
			} else if !resetFirst(err) {
				t.Fatal(err)
			}

			c.CloseIdleConnections()
			if up == up2 {
				continue
			}

			// While the upstream has nothing to send, the client is not idle:
			// a write deadline would reset an HTTP/2 stream even so. The limit
			// is long enough for what is written.
			const long = time.Second
			url, c = to(func(limits *proxy.Timeouts) { limits.ClientIdle = long })
			res, err = c.Get(url + "/silent")
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(long + long/4)
			let <- true
			if b, err := io.ReadAll(res.Body); string(b) != "done" || err != nil {
				t.Errorf("%s silent upstream: %q, %v", res.Proto, b, err)
			}
			res.Body.Close()
			c.CloseIdleConnections()
		}
	}
}

// An upload that the transport has given up is waited for by nobody: neither
// does it end an answer that moves slowly, nor is it the upstream's fault when
// the client takes nothing any more.
func TestUploadGivenUpIsNotWaitedFor(t *testing.T) {
	const upload = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
	givesUp := func(ended chan<- error) roundTrip {
		return func(r *http.Request) (*http.Response, error) {
			r.Body.Read(make([]byte, 1))
			r.Body.Close()
			return writtenBy(func(ctx context.Context, w io.Writer) error {
				var err error
				for b := make([]byte, 1<<16); err == nil; {
					_, err = w.Write(b)
				}
				ended <- context.Cause(ctx)
				return err
			}, http.Header{"Content-Length": {"1000000000000"}}, 1e12)(r)
		}
	}
	for _, tt := range []struct {
		name           string
		upstream, idle time.Duration
		pause          time.Duration
	}{
		{"the client is slow, and may be", 10 * time.Second, time.Minute, 50 * time.Second},
		{"the client stops", 0, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			var ended chan error
			rt := roundTrip(func(r *http.Request) (*http.Response, error) {
				ended = make(chan error, 1) // in the bubble
				return givesUp(ended)(r)
			})
			edit := func(cfg *proxy.Config) {
				cfg.Timeouts.UpstreamIdle, cfg.Timeouts.ClientIdle = tt.upstream, tt.idle
				cfg.ErrorLog = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			}
			inBubble(t, rt, edit, func(t *testing.T, c net.Conn, _ *statuses) {
				io.WriteString(c, upload)
				b := make([]byte, 64<<10)
				c.Read(b)
				if tt.pause > 0 {
					for range 5 {
						time.Sleep(tt.pause)
						if _, err := io.ReadFull(c, b); err != nil {
							t.Errorf("an answer that moves was ended: %v", err)
							break
						}
					}
					c.Close()
				}
				<-ended
				synctest.Wait()
			})
			if got := log.String(); !strings.Contains(got, "client left an answer") {
				t.Errorf("log: %s", got)
			}
		})
	}
}

// A client that takes nothing makes an upstream that talks both ways take
// nothing either. It is the client who keeps all waiting, and it is let go.
func TestClientThatNeverReadsBlocksItsUpload(t *testing.T) {
	parrot := func(r *http.Request) (*http.Response, error) {
		pr, pw := io.Pipe()
		context.AfterFunc(r.Context(), func() { pw.CloseWithError(context.Cause(r.Context())) })
		go io.Copy(pw, r.Body)
		return &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, ContentLength: 1e12,
			Header: http.Header{"Content-Length": {"1000000000000"}}, Body: pr, Request: r}, nil
	}
	for _, tt := range []struct {
		name             string
		sends            bool // for as long as it is let, or nothing after the first part
		upstream, client time.Duration
		want             time.Duration
	}{
		{"sends", true, 0, 0, time.Minute},
		{"sends, and the upstream is to be quick", true, time.Second, 0, time.Minute},
		{"sends, and the client is to be quick", true, 0, time.Second, time.Second},
		{"sends nothing", false, 0, 0, time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			var returned chan time.Duration
			bubble(t, func(t *testing.T) http.Handler {
				returned = make(chan time.Duration, 1)
				p := newProxy(t, func(cfg *proxy.Config) {
					cfg.Timeouts.UpstreamIdle, cfg.Timeouts.ClientIdle = tt.upstream, tt.client
					cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper { return roundTrip(parrot) }
					cfg.ErrorLog = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
				}, "http://upstream")
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					start := time.Now()
					defer func() { returned <- time.Since(start) }()
					fullDuplex(p).ServeHTTP(w, r)
				})
			}, func(t *testing.T, c net.Conn, _ *statuses) {
				io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
				part := make([]byte, 64<<10)
				c.Write(part)
				go func() {
					for tt.sends {
						if _, err := c.Write(part); err != nil {
							return
						}
					}
				}()
				select {
				case took := <-returned:
					if took != tt.want {
						t.Errorf("ended after %s, want %s", took, tt.want)
					}
				case <-time.After(24 * time.Hour):
					t.Error("the handler waits for ever")
				}
				c.Close()
			})
			if got := log.String(); !strings.Contains(got, "client left an answer") {
				t.Errorf("log: %s", got)
			}
		})
	}
}

// Total ends what has not ended, whoever is waited for, and holds it against no
// upstream.
func TestTotal(t *testing.T) {
	const total = 10 * time.Second
	never := func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	moving := func(ctx context.Context, w io.Writer) error {
		for {
			if err := sleep(ctx, 999*time.Millisecond); err != nil {
				return err
			}
			if _, err := w.Write([]byte("x")); err != nil {
				return err
			}
		}
	}
	quick := func(_ context.Context, w io.Writer) error { _, err := io.WriteString(w, "x"); return err }
	const slowUpload = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
	for _, tt := range []struct {
		name   string
		rt     roundTrip
		raw    string
		sends  bool // a byte a second
		status int
		body   string
		fails  bool
	}{
		{"no header", never, getRoot, false, 504, "", false},
		{"no answer to an upgrade", never, handshake, false, 504, "", false},
		{"an answer that moves", streaming(moving), getRoot, false, 200, "xxxxxxxxxx", true},
		{"an upload that moves", taking, slowUpload, true, 504, "", false},
		{"nothing to end", streaming(quick), getRoot, false, 200, "x", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p *proxy.Proxy
			bubble(t, func(t *testing.T) http.Handler {
				p = newProxy(t, func(cfg *proxy.Config) {
					cfg.Timeouts.Total = total
					cfg.Breaker = proxy.Breaker{FailureRatio: 0.01, MinRequests: 1}
					cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper { return tt.rt }
				}, "http://upstream")
				return p
			}, func(t *testing.T, c net.Conn, _ *statuses) {
				io.WriteString(c, tt.raw)
				go func() {
					for tt.sends {
						time.Sleep(time.Second)
						if _, err := io.WriteString(c, "x"); err != nil {
							return
						}
					}
				}()
				status, body, took, err := request(c, "")
				if status != tt.status || status == 200 && body != tt.body || (err != nil) != tt.fails || took > total || took < total && tt.name != "nothing to end" {
					t.Errorf("%d %q in %s, %v", status, body, took, err)
				}
				c.Close()
				synctest.Wait()
				if s := p.Upstreams()[0]; s.Breaker != proxy.BreakerClosed || s.InFlight != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}

	// A client that takes nothing is let go by it even where nothing else would.
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan time.Duration, 1)
		l := newPipes()
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Timeouts.Total, cfg.Timeouts.ClientIdle, cfg.Timeouts.UpstreamIdle = total, -1, -1
			cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper {
				return writtenBy(func(_ context.Context, w io.Writer) (err error) {
					for b := make([]byte, 1<<16); err == nil; {
						_, err = w.Write(b)
					}
					return err
				}, http.Header{"Content-Length": {"1000000000000"}}, 1e12)
			}
		}, "http://upstream")
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			start := time.Now()
			defer func() { ended <- time.Since(start) }()
			p.ServeHTTP(w, r)
		})}
		go s.Serve(l)
		c := l.dial()
		io.WriteString(c, getRoot)
		if took := <-ended; took != total {
			t.Errorf("a client that takes nothing was let go after %s", took)
		}
		c.Close()
		s.Close()
	})

	// A tunnel has none.
	upstream := make(chan net.Conn, 1)
	inBubble(t, switched(upstream), func(cfg *proxy.Config) { cfg.Timeouts.Total = total }, func(t *testing.T, c net.Conn, _ *statuses) {
		io.WriteString(c, handshake)
		http.ReadResponse(bufio.NewReader(c), nil)
		far := <-upstream
		time.Sleep(10 * total)
		want := wsFrame{2, true, "still here"}
		c.Write(want.bytes())
		if f, err := readWS(far); f != want || err != nil {
			t.Error(f, err)
		}
		far.Close()
	})
}

// The same over HTTP/2, which talks both ways without being asked, and over real
// connections.
func TestClientThatNeverReadsBlocksItsUploadHTTP2(t *testing.T) {
	noLeaks(t)
	up := serve(t, http.HandlerFunc(parrot))
	p := newProxy(t, func(cfg *proxy.Config) { cfg.Timeouts.ClientIdle = 200 * time.Millisecond }, up.URL)
	returned := make(chan bool, 1)
	s := serveH2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { returned <- true }()
		p.ServeHTTP(w, r)
	}))
	done := make(chan struct{})
	defer close(done)
	res, err := s.Client().Post(s.URL, "text/plain", endless{done})
	select {
	case <-returned:
	case <-time.After(time.Minute):
		t.Fatal("the handler waits for a client that reads nothing")
	}
	if err == nil {
		defer res.Body.Close()
		if n, err := io.Copy(io.Discard, res.Body); err == nil && res.StatusCode == 200 { // 408 if this machine is too slow
			t.Errorf("%d with %d bytes and a clean end", res.StatusCode, n)
		}
	} else if !resetFirst(err) {
		t.Error(err)
	}
	s.Client().CloseIdleConnections()
}

// The longest of all durations is as good as none, and switches off no other.
func TestTimeoutsWithoutEnd(t *testing.T) {
	const ever = math.MaxInt64
	silent := streaming(func(ctx context.Context, w io.Writer) error {
		io.WriteString(w, "x")
		return sleep(ctx, time.Hour)
	})
	for name, tt := range map[string]struct {
		limits proxy.Timeouts
		want   time.Duration
		fails  bool
	}{
		"all": {proxy.Timeouts{Dial: ever, TLSHandshake: ever, ResponseHeader: ever, ExpectContinue: ever, UpstreamIdle: ever, ClientIdle: ever,
			Total: ever, TunnelIdle: ever, IdleConn: ever, ConnAge: ever}, time.Hour, false},
		"all but Total":        {proxy.Timeouts{UpstreamIdle: ever, ClientIdle: ever, Total: time.Minute}, time.Minute, true},
		"all but UpstreamIdle": {proxy.Timeouts{UpstreamIdle: time.Minute, ClientIdle: ever, Total: ever}, time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, silent, func(cfg *proxy.Config) { cfg.Timeouts = tt.limits }, func(t *testing.T, c net.Conn, _ *statuses) {
				time.Sleep(time.Second) // to the age of a Proxy a limit is added
				status, body, took, err := request(c, getRoot)
				if status != 200 || body != "x" || (err != nil) != tt.fails || took < tt.want || took > tt.want+time.Second {
					t.Errorf("%d %q after %v, %v; want %v", status, body, took, err, tt.want)
				}
				c.Close()
			})
		})
	}
}
