package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/internal/respwriter"
	"github.com/goweir/weir/proxy"
)

// statuses records the final status that middleware outside sees.
type statuses struct {
	respwriter.NoHooks
	got chan int
}

func (s *statuses) Header(status int, _ http.Header) { s.got <- status }

func (s *statuses) middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var rw respwriter.Writer
		next.ServeHTTP(rw.Wrap(w, s), r)
	})
}

// failing is a transport that returns an error.
func failing(err error) func(http.RoundTripper) http.RoundTripper {
	return func(http.RoundTripper) http.RoundTripper {
		return roundTrip(func(*http.Request) (*http.Response, error) { return nil, err })
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestErrors(t *testing.T) {
	noLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String()
	l.Close()
	silent := script(t, func(_ *net.TCPConn, br *bufio.Reader, _ *http.Request) { io.Copy(io.Discard, br) })
	mute, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, nobody speaks
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mute.Close() })
	ok := answer(t, "HTTP/1.1 204 No Content\r\n\r\n")
	short := 50 * time.Millisecond

	for _, tt := range []struct {
		name     string
		upstream string
		edit     func(*proxy.Config)
		status   int
	}{
		{"refused", closed, nil, 502},
		{"no such host", "http://host.invalid", nil, 502},
		{"closed without an answer", answer(t, ""), nil, 502},
		{"closed within the header", answer(t, "HTTP/1.1 200 OK\r\nX:"), nil, 502},
		{"garbage", answer(t, "\x00\x01garbage\r\n\r\n"), nil, 502},
		{"other protocol", answer(t, "SSH-2.0-OpenSSH_9.2\r\n"), nil, 502},
		{"bad chunk before the header ends", answer(t, "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), nil, 502},
		{"status of two digits", answer(t, "HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n"), nil, 502},
		{"status of four digits", answer(t, "HTTP/1.1 1000 No\r\nContent-Length: 0\r\n\r\n"), nil, 502},
		{"status above 599", answer(t, "HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n"), nil, 999},
		{"header too large", answer(t, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 70<<10)+"\r\nContent-Length: 0\r\n\r\n"), nil, 502},
		{"header large but allowed", answer(t, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 60<<10)+"\r\nContent-Length: 0\r\n\r\n"), nil, 200},
		{"informational header too large", answer(t, "HTTP/1.1 103 Early Hints\r\nX: "+strings.Repeat("x", 70<<10)+"\r\n\r\n"), nil, 502},
		{"unasked 101", answer(t, switching), nil, 502},
		{"TLS to a server without", strings.Replace(ok, "http:", "https:", 1), nil, 502},
		{"unknown authority", serveH2(t, http.NotFoundHandler()).URL, nil, 502},
		{"no header in time", silent, func(cfg *proxy.Config) { cfg.Timeouts.ResponseHeader = short }, 504},
		{"no handshake in time", "https://" + mute.Addr().String(), func(cfg *proxy.Config) { cfg.Timeouts.TLSHandshake = short }, 504},
		{"dial timeout", ok, func(cfg *proxy.Config) { cfg.Timeouts.Dial = time.Nanosecond }, 504},
		{"transport: deadline", ok, func(cfg *proxy.Config) { cfg.WrapTransport = failing(context.DeadlineExceeded) }, 504},
		{"transport: canceled", ok, func(cfg *proxy.Config) { cfg.WrapTransport = failing(context.Canceled) }, 502},
		{"transport: any", ok, func(cfg *proxy.Config) { cfg.WrapTransport = failing(errors.New("secret-detail")) }, 502},
		{"transport: body too large", ok, func(cfg *proxy.Config) {
			cfg.WrapTransport = failing(fmt.Errorf("x: %w", &http.MaxBytesError{Limit: 1}))
		}, 413},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			p := newProxy(t, func(cfg *proxy.Config) {
				cfg.ErrorLog = slog.New(slog.NewTextHandler(&log, nil))
				if tt.edit != nil {
					tt.edit(cfg)
				}
			}, tt.upstream)
			seen := statuses{got: make(chan int, 1)}
			s := serve(t, seen.middleware(p))
			res := dial(t, s.URL).send(t, "GET", "GET /x?token=secret-query HTTP/1.1\r\nHost: a\r\n\r\n")
			body, _ := io.ReadAll(res.Body)
			res.Body = io.NopCloser(bytes.NewReader(body))
			if res.StatusCode != tt.status {
				t.Errorf("%d %q, want %d", res.StatusCode, body, tt.status)
			}
			if got := <-seen.got; got != tt.status {
				t.Errorf("middleware saw %d, want %d", got, tt.status)
			}
			if tt.status == 200 || tt.status == 999 {
				return
			}
			problemOf(t, res, tt.status)
			for _, inside := range []string{"secret", "127.0.0.1", "dial", "EOF", tt.upstream} {
				if strings.Contains(string(body), inside) {
					t.Errorf("the client learns %q: %s", inside, body)
				}
			}
			if line := log.String(); tt.status >= 500 && (!strings.Contains(line, "path=/x ") || !strings.Contains(line, tt.upstream)) || strings.Contains(line, "secret-query") {
				t.Errorf("log: %q", line)
			}
		})
	}
}

// h2 upstreams time out in the same way.
func TestHeaderTimeoutHTTP2(t *testing.T) {
	noLeaks(t)
	up := serveH2(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.TLS = up.Client().Transport.(*http.Transport).TLSClientConfig
		cfg.Timeouts.ResponseHeader = 50 * time.Millisecond
	}, up.URL)
	problemOf(t, dial(t, serve(t, p).URL).send(t, "GET", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 504)
}

func TestTrapProxy20_BodyTooLarge(t *testing.T) {
	noLeaks(t)
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	under := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, 10)
			h.ServeHTTP(w, r)
		})
	}
	for _, tt := range []struct {
		name   string
		h      http.Handler
		status int
	}{{"Proxy", newProxy(t, nil, up.URL), 413}, {"ReverseProxy", bare(t, up.URL), 502}} {
		s := serve(t, under(tt.h))
		for _, raw := range []string{
			"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n01234567890",
			"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n",
		} {
			res := dial(t, s.URL).send(t, "POST", raw)
			if res.StatusCode != tt.status {
				t.Errorf("%s: %d, want %d", tt.name, res.StatusCode, tt.status)
			}
			if tt.status == 413 {
				problemOf(t, res, 413)
			}
		}
	}
}

func TestMalformedBody(t *testing.T) {
	noLeaks(t)
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	raw := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
	problemOf(t, dial(t, serve(t, newProxy(t, nil, up.URL)).URL).send(t, "POST", raw), 400)
}

// The client's leaving ends the upstream's work at once, and middleware outside
// records 499 when nothing was sent yet.
func TestClientLeaves(t *testing.T) {
	noLeaks(t)
	for name, raw := range map[string]string{
		"waiting":       "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n",
		"uploading":     "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf",
		"chunk missing": "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf",
	} {
		t.Run(name, func(t *testing.T) {
			arrived, left := make(chan bool), make(chan time.Time, 1)
			up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				arrived <- true
				io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				left <- time.Now()
			}))
			seen := statuses{got: make(chan int, 1)}
			c := dial(t, serve(t, seen.middleware(newProxy(t, nil, up.URL))).URL)
			io.WriteString(c, raw)
			<-arrived
			c.Close()
			start := time.Now()
			if d := (<-left).Sub(start); d > 2*time.Second {
				t.Errorf("the upstream's request ended %s after the client left", d)
			}
			if got := <-seen.got; got != 499 {
				t.Errorf("middleware saw %d, want 499", got)
			}
		})
	}
}

// Over HTTP/2 only the stream ends.
func TestClientLeavesHTTP2(t *testing.T) {
	noLeaks(t)
	arrived := make(chan bool)
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- true
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	for _, method := range []string{"GET", "POST"} {
		seen := statuses{got: make(chan int, 1)}
		s := serveH2(t, seen.middleware(newProxy(t, nil, up.URL)))
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-arrived
			cancel()
		}()
		pr, pw := io.Pipe()
		r, _ := http.NewRequestWithContext(ctx, method, s.URL, http.NoBody)
		if method == "POST" {
			r.Body, r.ContentLength = pr, -1
			go io.WriteString(pw, "half")
		}
		if _, err := s.Client().Do(r); err == nil {
			t.Errorf("%s: answered after the client left", method)
		}
		if got := <-seen.got; got != 499 {
			t.Errorf("%s: middleware saw %d, want 499", method, got)
		}
		pr.Close()
		s.Client().CloseIdleConnections()
	}
}

// A deadline that middleware has set is no departure of the client.
func TestDeadlineOfMiddleware(t *testing.T) {
	noLeaks(t)
	silent := script(t, func(_ *net.TCPConn, br *bufio.Reader, _ *http.Request) { io.Copy(io.Discard, br) })
	p := newProxy(t, nil, silent)
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 20*time.Millisecond)
		defer cancel()
		p.ServeHTTP(w, r.WithContext(ctx))
	}))
	problemOf(t, dial(t, s.URL).send(t, "GET", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 504)

	var out lockedBuffer
	p = newProxy(t, func(cfg *proxy.Config) { cfg.ErrorLog = slog.New(slog.NewTextHandler(&out, nil)) }, hanging(okChunked+"4\r\nhalf\r\n")(t))
	res := dial(t, s.URL).send(t, "GET", "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if b, err := io.ReadAll(res.Body); string(b) != "half" || err == nil {
		t.Errorf("%q, %v", b, err)
	}
	eventually(t, "the log says that the client did not leave", func() bool { return strings.Contains(out.String(), "answer broken off") })
}

// A panic of somebody else's code passes unchanged, and while no header was sent
// a middleware that recovers can still answer.
func TestPanicOfTransport(t *testing.T) {
	noLeaks(t)
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper {
			return roundTrip(func(*http.Request) (*http.Response, error) { panic("mine") })
		}
	}, "http://127.0.0.1:1")
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != "mine" {
				t.Errorf("panic = %v", v)
			}
			w.WriteHeader(500)
		}()
		p.ServeHTTP(w, r)
	}))
	if status, _, _, err := get(s.Client(), s.URL); status != 500 || err != nil {
		t.Errorf("%d, %v; want 500", status, err)
	}
	s.Client().CloseIdleConnections()
}

func TestRoundRobin(t *testing.T) {
	noLeaks(t)
	var urls []string
	for i := range 3 {
		urls = append(urls, serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, i) })).URL)
	}
	p := newProxy(t, nil, urls...)
	var got strings.Builder
	for range 7 {
		rec := httptest.NewRecorder()
		p.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
		got.WriteString(rec.Body.String())
	}
	if got.String() != "0120120" {
		t.Errorf("upstreams in turn: %s", got.String())
	}
}
