package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/proxy"
)

// causes is a fallback that keeps why it was called.
type causes struct{ got []proxy.Cause }

func (c *causes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	cause, ok := proxy.CauseFrom(r.Context())
	if !ok {
		panic("no cause")
	}
	c.got = append(c.got, cause)
	w.WriteHeader(203)
}

func dialError() error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: io.ErrClosedPipe}
}

func TestFallbackLearnsTheCause(t *testing.T) {
	for _, tt := range []struct {
		name   string
		does   func(*http.Request) (*http.Response, error)
		edit   func(*proxy.Config)
		first  func(*proxy.Proxy)
		reason proxy.Reason
		status int
		sent   bool
	}{
		{"refused", breaks(dialError()), nil, nil, proxy.Unreachable, 502, false},
		{"broken", breaks(io.ErrUnexpectedEOF), nil, nil, proxy.Unreachable, 502, true},
		{"timeout", breaks(context.DeadlineExceeded), nil, nil, proxy.Timeout, 504, true},
		{"500", status(500, "inside"), nil, nil, proxy.Failed, 500, true},
		{"502", status(502, "inside"), nil, nil, proxy.Failed, 502, true},
		{"503", status(503, ""), nil, nil, proxy.Failed, 503, true},
		{"504", status(504, ""), nil, nil, proxy.Failed, 504, true},
		{"forced", nil, nil, func(p *proxy.Proxy) { p.ForceFallback(true) }, proxy.Forced, 503, false},
		{"open", status(500, ""), func(cfg *proxy.Config) { cfg.Breaker = proxy.Breaker{FailureRatio: 1, MinRequests: 1} },
			func(p *proxy.Proxy) { serveOnce(p, nil) }, proxy.Open, 503, false},
	} {
		f, c := newFleet(), &causes{}
		f.set("a", tt.does)
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Upstreams, cfg.WrapTransport, cfg.Fallback = list(1), f.over, c
			if tt.edit != nil {
				tt.edit(cfg)
			}
		})
		if tt.first != nil {
			tt.first(p)
		}
		code, _ := serveOnce(p, nil)
		if code != 203 || len(c.got) == 0 {
			t.Errorf("%s: answered %d", tt.name, code)
			continue
		}
		got := c.got[len(c.got)-1]
		if got.Reason != tt.reason || got.Status != tt.status || got.Sent != tt.sent || (got.Upstream == "http://a") != (tt.reason != proxy.Forced && tt.reason != proxy.Open) {
			t.Errorf("%s: %+v (%s)", tt.name, got, got.Reason)
		}
	}
}

// What is no failure of the upstream's is none of the fallback's business.
func TestFallbackIsNotCalled(t *testing.T) {
	for name, does := range map[string]func(*http.Request) (*http.Response, error){
		"200":       status(200, "x"),
		"404":       status(404, "x"),
		"501":       status(501, "x"),
		"too large": breaks(&http.MaxBytesError{Limit: 1}),
		"truncated": truncated, // a first byte is out
	} {
		f, c := newFleet(), &causes{}
		f.set("a", does)
		p := newProxy(t, func(cfg *proxy.Config) { cfg.Upstreams, cfg.WrapTransport, cfg.Fallback = list(1), f.over, c })
		if code, _ := serveOnce(aborting(p), nil); code == 203 || len(c.got) > 0 {
			t.Errorf("%s: %d, %v", name, code, c.got)
		}
	}
	// A client that has left gets nothing.
	f, c := newFleet(), &causes{}
	ctx, cancel := context.WithCancel(t.Context())
	f.set("a", func(r *http.Request) (*http.Response, error) { cancel(); return nil, context.Canceled })
	p := newProxy(t, func(cfg *proxy.Config) { cfg.Upstreams, cfg.WrapTransport, cfg.Fallback = list(1), f.over, c })
	if code, _ := serveOnce(p, func(r *http.Request) { *r = *r.WithContext(ctx) }); code != 499 || len(c.got) > 0 {
		t.Errorf("client gone: %d, %v", code, c.got)
	}
}

// Another Proxy as a fallback executes nothing a second time, and gets bodies
// whole or not at all.
func TestFallbackToAnotherProxy(t *testing.T) {
	noLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String()
	l.Close()
	failing := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(500)
	})).URL
	var executed bytes.Buffer
	second := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		fmt.Fprintf(&executed, "%s %d %v", r.Method, len(b), err)
		w.Write(b)
	}))
	big := strings.Repeat("x", 100_000)
	for _, tt := range []struct {
		first, method, key, body string
		status                   int
		executed                 string
	}{
		{closed, "POST", "", big, 200, "POST 100000 <nil>"},
		{closed, "GET", "", "", 200, "GET 0 <nil>"},
		{failing, "GET", "", "", 200, "GET 0 <nil>"},
		{failing, "DELETE", "", "", 200, "DELETE 0 <nil>"},
		{failing, "POST", "", "", 500, ""},
		{failing, "POST", "", big, 500, ""},
		{failing, "POST", "k", "", 200, "POST 0 <nil>"},
		{failing, "POST", "k", big, 500, ""}, // its body is gone
		{failing, "PUT", "", big, 500, ""},
	} {
		executed.Reset()
		p := newProxy(t, func(cfg *proxy.Config) { cfg.Fallback = newProxy(t, nil, second.URL) }, tt.first)
		s := serve(t, p)
		r, _ := http.NewRequest(tt.method, s.URL, strings.NewReader(tt.body))
		if tt.key != "" {
			r.Header.Set("Idempotency-Key", tt.key)
		}
		res, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		s.Client().CloseIdleConnections()
		if res.StatusCode != tt.status || err != nil || executed.String() != tt.executed || tt.status == 200 && string(body) != tt.body {
			t.Errorf("%s of %d bytes, key %q: %d with %d bytes, %v; executed %q, want %d and %q", tt.method, len(tt.body), tt.key,
				res.StatusCode, len(body), err, executed.String(), tt.status, tt.executed)
		}
	}
}

// A fallback that breaks off its answer does so for the client, whatever
// recovers the panic, and then nothing is added.
func TestFallbackThatBreaksOff(t *testing.T) {
	noLeaks(t)
	dead := answer(t, "")
	half := answer(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
	p := newProxy(t, func(cfg *proxy.Config) { cfg.Fallback = newProxy(t, nil, half) }, dead)
	for name, s := range map[string]*httptest.Server{"h1": serve(t, recovering(p)), "h2": serveH2(t, recovering(p))} {
		code, _, body, err := get(s.Client(), s.URL)
		if code != 200 || body != "half" || err == nil {
			t.Errorf("%s: %d %q, %v; want an error", name, code, body, err)
		}
		s.Client().CloseIdleConnections()
	}
}

// So does any other handler, which panics as handlers do and leaves the rest to
// the server; and before it has answered, others still can.
func TestFallbackThatPanics(t *testing.T) {
	noLeaks(t)
	dead := answer(t, "")
	half := answer(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
	for _, tt := range []struct {
		name     string
		fallback http.Handler
		status   int
	}{
		{"after the header", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "half"); panic("mine") }), 200},
		{"a bare ReverseProxy", bare(t, half), 200},
		{"before the header", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("mine") }), 500},
	} {
		for _, forced := range []bool{false, true} {
			p := newProxy(t, func(cfg *proxy.Config) { cfg.Fallback = tt.fallback }, dead)
			p.ForceFallback(forced)
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer func() {
					if recover() != nil && tt.status == 500 {
						w.WriteHeader(500)
					}
				}()
				p.ServeHTTP(w, r)
			})
			for name, s := range map[string]*httptest.Server{"h1": serve(t, h), "h2": serveH2(t, h)} {
				code, _, body, err := get(s.Client(), s.URL)
				if tt.status == 500 && (code != 500 || err != nil) || tt.status == 200 && err == nil {
					t.Errorf("%s, %s, forced %t: %d %q, %v", tt.name, name, forced, code, body, err)
				}
				s.Client().CloseIdleConnections()
			}
		}
	}
}

func TestForceFallbackAndBack(t *testing.T) {
	f := newFleet()
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.Upstreams, cfg.WrapTransport = list(1), f.over
		cfg.Fallback = proxy.FixedAnswer(200, http.Header{"content-type": {"text/plain"}}, []byte("closed for works"))
	})
	for _, forced := range []bool{false, true, false} {
		p.ForceFallback(forced)
		rec := httptest.NewRecorder()
		p.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
		if want := map[bool]string{true: "200 closed for works 16 text/plain", false: "204   "}[forced]; fmt.Sprint(rec.Code, " ", rec.Body,
			" ", rec.Header().Get("Content-Length"), " ", rec.Header().Get("Content-Type")) != want {
			t.Errorf("forced %t: %d %s %v", forced, rec.Code, rec.Body, rec.Header())
		}
		if p.FallbackForced() != forced || f.times("a") != map[bool]int{true: 0, false: 1}[forced] {
			t.Errorf("forced %t: FallbackForced %t", forced, p.FallbackForced())
		}
	}
	// What the front refuses, no fallback serves.
	p.ForceFallback(true)
	if code, _ := serveOnce(p, func(r *http.Request) { r.Method = "CONNECT" }); code != 405 {
		t.Errorf("CONNECT: %d", code)
	}
	bare := newProxy(t, nil, "http://a")
	bare.ForceFallback(true)
	if code, _ := serveOnce(bare, nil); code != 503 {
		t.Errorf("forced without a fallback: %d", code)
	}
}

// A fallback may decline, and then the answer is what it would have been.
func TestProblem(t *testing.T) {
	f := newFleet()
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.Upstreams, cfg.WrapTransport, cfg.Fallback = list(1), f.over, http.HandlerFunc(proxy.Problem)
		cfg.Breaker = proxy.Breaker{FailureRatio: 1, MinRequests: 2, OpenFor: time.Minute}
	})
	f.set("a", status(500, "secret"))
	for i, want := range []string{"500 ", "500 ", "503 60"} {
		rec := httptest.NewRecorder()
		p.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
		if got := fmt.Sprint(rec.Code, " ", rec.Header().Get("Retry-After")); got != want {
			t.Errorf("answer %d: %q, want %q", i, got, want)
		}
		if strings.Contains(rec.Body.String(), "secret") {
			t.Errorf("answer %d: %s", i, rec.Body)
		}
		res := rec.Result()
		problemOf(t, res, rec.Code)
	}
}

// A fallback that takes over while the client is still sending gets through to
// it, and leaves nothing behind.
func TestFallbackDuringUpload(t *testing.T) {
	noLeaks(t)
	silent := script(t, func(c *net.TCPConn, _ *bufio.Reader, _ *http.Request) { c.SetReadBuffer(1024); time.Sleep(time.Second) })
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.Timeouts.UpstreamIdle = 200 * time.Millisecond
		cfg.Fallback = proxy.FixedAnswer(200, nil, []byte("sorry"))
	}, silent)
	for name, s := range map[string]*httptest.Server{"h1": serve(t, p), "h2": serveH2(t, p)} {
		pr, pw := io.Pipe()
		go func() {
			_, err := pw.Write(make([]byte, 1000))
			for err == nil {
				_, err = pw.Write(make([]byte, 1<<16))
			}
		}()
		r, _ := http.NewRequest("POST", s.URL, pr)
		res, err := s.Client().Do(r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else {
			if body, err := io.ReadAll(res.Body); res.StatusCode != 200 || string(body) != "sorry" || err != nil {
				t.Errorf("%s: %d %q, %v", name, res.StatusCode, body, err)
			}
			res.Body.Close()
		}
		pr.Close()
		s.Client().CloseIdleConnections()
	}
	eventually(t, "the place is free", func() bool { return p.Upstreams()[0].InFlight == 0 })
}
