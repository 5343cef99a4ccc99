package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/internal/faultnet"
	"github.com/goweir/weir/proxy"
)

// retrying is a Proxy to three hosts of f that has saved up retries.
func retrying(t *testing.T, f *fleet, r proxy.Retries) *proxy.Proxy {
	t.Helper()
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.Upstreams, cfg.WrapTransport, cfg.Retries = list(1, 1, 1), f.over, r
	})
	for range 60 { // a multiple of three, so that the turn is a's again
		serveOnce(p, nil)
	}
	for _, host := range []string{"a", "b", "c"} {
		f.times(host)
	}
	return p
}

func TestRetries(t *testing.T) {
	reading := func(then func(*http.Request) (*http.Response, error)) func(*http.Request) (*http.Response, error) {
		return func(r *http.Request) (*http.Response, error) {
			if r.Body != nil {
				io.Copy(io.Discard, r.Body)
				r.Body.Close()
			}
			return then(r)
		}
	}
	closing := func(then func(*http.Request) (*http.Response, error)) func(*http.Request) (*http.Response, error) {
		return func(r *http.Request) (*http.Response, error) {
			if r.Body != nil {
				r.Body.Close() // as http.Transport does when it cannot connect
			}
			return then(r)
		}
	}
	broken := breaks(io.ErrUnexpectedEOF)
	dial := closing(breaks(dialError()))
	const small, large = "0123456789", "0123456789a"
	for _, tt := range []struct {
		name, method, body string
		key                bool
		does               func(*http.Request) (*http.Response, error)
		again              bool
		status             int // if not
	}{
		{"cannot connect", "GET", "", false, dial, true, 0},
		{"cannot connect", "POST", "", false, dial, true, 0},
		{"cannot connect", "POST", large, false, dial, true, 0},
		{"cannot connect", "PATCH", large, false, dial, true, 0},
		{"claims so, and has read", "POST", small, false, reading(breaks(dialError())), false, 502},
		{"broken", "GET", "", false, broken, true, 0},
		{"broken", "DELETE", "", false, broken, true, 0},
		{"broken", "PUT", small, false, reading(broken), true, 0},
		{"broken", "PUT", large, false, reading(broken), false, 502},
		{"broken before it was read", "PUT", large, false, broken, true, 0},
		{"broken", "POST", "", false, broken, false, 502},
		{"broken", "POST", small, false, reading(broken), false, 502},
		{"broken", "POST", "", true, broken, true, 0},
		{"broken", "POST", small, true, reading(broken), true, 0},
		{"broken", "PATCH", "", false, broken, false, 502},
		{"503", "GET", "", false, status(503, "x"), true, 0},
		{"503", "PUT", small, false, reading(status(503, "")), true, 0},
		{"503", "PUT", large, false, reading(status(503, "")), false, 503},
		{"503", "POST", small, false, reading(status(503, "")), false, 503},
		{"503", "POST", small, true, reading(status(503, "")), true, 0},
		{"500 is not listed", "GET", "", false, status(500, "x"), false, 500},
		{"timeout", "GET", "", false, breaks(context.DeadlineExceeded), false, 504},
		{"too large", "PUT", "", false, breaks(&http.MaxBytesError{}), false, 413},
		{"truncated", "GET", "", false, truncated, false, 200},
	} {
		f := newFleet()
		p := retrying(t, f, proxy.Retries{Max: 1, Statuses: []int{503}, MaxBody: int64(len(small)), Budget: 1})
		var got string
		f.set("a", tt.does)
		f.set("b", func(r *http.Request) (*http.Response, error) {
			if r.Body != nil {
				b, err := io.ReadAll(r.Body)
				if err != nil {
					t.Errorf("%s %s: body: %v", tt.method, tt.name, err)
				}
				got = string(b)
			}
			return status(200, "second")(r)
		})
		r := httptest.NewRequest(tt.method, "/p?q", strings.NewReader(tt.body))
		if tt.body == "" {
			r.Body = http.NoBody
		}
		if tt.key {
			r.Header.Set("Idempotency-Key", "1")
		}
		rec := httptest.NewRecorder()
		aborting(p).ServeHTTP(rec, r)
		a, b := f.times("a"), f.times("b")
		switch {
		case tt.again && (rec.Code != 200 || rec.Body.String() != "second" || got != tt.body || a != 1 || b != 1):
			t.Errorf("%s %s of %d bytes, key %t: %d %q, a asked %d times, b %d, with %q; want it to be sent again", tt.method, tt.name,
				len(tt.body), tt.key, rec.Code, rec.Body, a, b, got)
		case !tt.again && (rec.Code != tt.status || a != 1 || b != 0):
			t.Errorf("%s %s of %d bytes, key %t: %d, a asked %d times, b %d; want %d and not again", tt.method, tt.name,
				len(tt.body), tt.key, rec.Code, a, b, tt.status)
		}
		if s := p.Upstreams(); s[0].InFlight+s[1].InFlight != 0 {
			t.Errorf("%s %s: still in flight: %+v", tt.method, tt.name, s)
		}
	}
}

// Each attempt goes to another upstream while there is one, and the last answer
// is the client's.
func TestRetriesGoToTheNext(t *testing.T) {
	f := newFleet()
	p := retrying(t, f, proxy.Retries{Max: 5, Statuses: []int{502, 503}, Budget: 1})
	f.set("a", status(503, ""))
	f.set("b", breaks(dialError()))
	f.set("c", status(502, "last"))
	code, _ := serveOnce(p, nil)
	a, b, c := f.times("a"), f.times("b"), f.times("c")
	if a < 1 || b < 1 || c < 1 || a+b+c != 6 {
		t.Errorf("asked %d, %d, %d times; want six in all, each once at least", a, b, c)
	}
	if code != 502 && code != 503 {
		t.Errorf("%d", code)
	}
	f.set("c", nil)
	if code, host := serveOnce(p, nil); code != 204 || host != "c" {
		t.Errorf("%d from %q", code, host)
	}
}

// With all upstreams failing, they get at most 1.2 times the requests.
func TestRetryBudget(t *testing.T) {
	for name, does := range map[string]func(*http.Request) (*http.Response, error){
		"cannot connect": breaks(dialError()), "broken": breaks(io.ErrUnexpectedEOF), "503": status(503, ""),
	} {
		f := newFleet()
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Upstreams, cfg.WrapTransport, cfg.Retries = list(1, 1, 1), f.over, proxy.Retries{Max: 3, Statuses: []int{503}}
		})
		for _, host := range []string{"a", "b", "c"} {
			f.set(host, does)
		}
		const n = 1000
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range n / 4 {
					serveOnce(p, nil)
				}
			})
		}
		wg.Wait()
		if got := f.times("a") + f.times("b") + f.times("c"); got > 1.2*n || got < 1.19*n {
			t.Errorf("%s: %d attempts for %d requests, want 1.2 times as many", name, got, n)
		}
		// What is saved is bounded.
		for _, host := range []string{"a", "b", "c"} {
			f.set(host, nil)
		}
		for range n {
			serveOnce(p, nil)
		}
		for _, host := range []string{"a", "b", "c"} {
			f.times(host)
			f.set(host, does)
		}
		for range 100 {
			serveOnce(p, nil)
		}
		if got := f.times("a") + f.times("b") + f.times("c"); got > 130 || got < 125 {
			t.Errorf("%s: %d attempts for the first 100 requests of an outage, want 10 more than 120 at most", name, got)
		}
	}
}

// An informational response of an attempt that failed does not come late, and
// that of the next one does come.
func TestRetriesRelayInformational(t *testing.T) {
	noLeaks(t)
	urls := []string{
		answer(t, "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
		answer(t, "HTTP/1.1 103 Early Hints\r\nLink: <b>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"),
	}
	p := newProxy(t, func(cfg *proxy.Config) { cfg.Retries = proxy.Retries{Max: 1, Statuses: []int{503}, Budget: 1} }, urls...)
	s := serve(t, p)
	var links []string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
		links = append(links, h.Get("Link"))
		return nil
	}}
	r, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "GET", s.URL, nil)
	res, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	s.Client().CloseIdleConnections()
	if res.StatusCode != 200 || string(body) != "ok" || fmt.Sprint(links) != "[<a> <b>]" || res.Header.Get("Link") != "" {
		t.Errorf("%d %q, hints %v, Link %q", res.StatusCode, body, links, res.Header.Get("Link"))
	}
}

// A fallback behind retries gets a body only if nobody has read it.
func TestFallbackAfterRetries(t *testing.T) {
	f, c := newFleet(), &causes{}
	var read error
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.Upstreams, cfg.WrapTransport = list(1, 1), f.over
		cfg.Retries = proxy.Retries{Max: 1, MaxBody: 100, Budget: 1}
		cfg.Fallback = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var b []byte
			if b, read = io.ReadAll(r.Body); read == nil && string(b) != "body" {
				read = errors.New("the body is " + string(b))
			}
			c.ServeHTTP(w, r)
		})
	})
	f.set("a", func(r *http.Request) (*http.Response, error) {
		io.Copy(io.Discard, r.Body)
		return nil, io.ErrUnexpectedEOF
	})
	f.set("b", breaks(dialError()))
	for _, tt := range []struct {
		method string
		whole  bool
	}{{"PUT", false}, {"POST", false}} { // b reads nothing, a has read; and POST goes to a first, too
		rec := httptest.NewRecorder()
		p.ServeHTTP(rec, httptest.NewRequest(tt.method, "/", strings.NewReader("body")))
		if rec.Code != 203 || (read == nil) != tt.whole || !c.got[len(c.got)-1].Sent {
			t.Errorf("%s: %d, reading the body: %v, %+v", tt.method, rec.Code, read, c.got[len(c.got)-1])
		}
	}
	f.set("a", breaks(dialError()))
	rec := httptest.NewRecorder()
	p.ServeHTTP(rec, httptest.NewRequest("POST", "/", strings.NewReader("body")))
	if rec.Code != 203 || read != nil || c.got[len(c.got)-1].Sent {
		t.Errorf("nobody connected: %d, reading the body: %v, %+v", rec.Code, read, c.got[len(c.got)-1])
	}
}

// naive is what a breaker or a retry around the transport looks like when it is
// written for small JSON: it keeps the request's body, and looks at the answer's.
type naive struct{ http.RoundTripper }

func (n naive) RoundTrip(r *http.Request) (*http.Response, error) {
	var kept []byte
	if r.Body != nil {
		kept, _ = io.ReadAll(r.Body)
	}
	var res *http.Response
	var err error
	for range 2 {
		r.Body = io.NopCloser(bytes.NewReader(kept))
		if res, err = n.RoundTripper.RoundTrip(r); err == nil && res.StatusCode < 500 {
			res.Body = struct{ io.ReadCloser }{res.Body} // to see how it ends
			return res, nil
		}
	}
	return res, err
}

func TestTrapProxy25_UpgradesAndUploadsPassBreakerAndRetries(t *testing.T) {
	noLeaks(t)
	first := make(chan byte, 1)
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			echo(w, r)
			return
		}
		b := make([]byte, 1)
		io.ReadFull(r.Body, b)
		select {
		case first <- b[0]:
		default:
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n+1)
	}))
	full := newProxy(t, func(cfg *proxy.Config) {
		cfg.Breaker = proxy.Breaker{FailureRatio: 0.5}
		cfg.Ejection = proxy.Ejection{Failures: 3}
		cfg.InFlight = proxy.InFlight{Max: 10, Queue: 10}
		cfg.Retries = proxy.Retries{Max: 2, Statuses: []int{503}, MaxBody: 1 << 20, Budget: 1}
		cfg.Fallback = proxy.FixedAnswer(503, nil, nil)
	}, up.URL)
	wrong := bare(t, up.URL)
	wrong.Transport = naive{wrong.Transport}
	for _, tt := range []struct {
		name    string
		h       http.Handler
		upgrade int
		streams bool
	}{{"Proxy", full, 101, true}, {"naive", wrong, 502, false}} {
		s := serve(t, tt.h)
		c := dial(t, s.URL)
		if res := c.send(t, "GET", handshake); res.StatusCode != tt.upgrade {
			t.Errorf("%s: upgrade: %d, want %d", tt.name, res.StatusCode, tt.upgrade)
		} else if tt.upgrade == 101 {
			writeFrame(c, []byte("ping"), true)
			if got, err := readFrame(c.br); string(got) != "ping" || err != nil {
				t.Errorf("%s: frame: %q, %v", tt.name, got, err)
			}
		}
		c.Close()

		pr, pw := io.Pipe()
		r, _ := http.NewRequest("PUT", s.URL, pr)
		answered := make(chan string)
		go func() {
			res, err := s.Client().Do(r)
			if err != nil {
				answered <- err.Error()
				return
			}
			b, _ := io.ReadAll(res.Body)
			res.Body.Close()
			answered <- string(b)
		}()
		io.WriteString(pw, "first")
		wait := 10 * time.Second
		if !tt.streams {
			wait = 100 * time.Millisecond
		}
		select {
		case <-first:
			if !tt.streams {
				t.Errorf("%s: streams, and so is no example any more", tt.name)
			}
		case <-time.After(wait):
			if tt.streams {
				t.Errorf("%s: the upstream waits for the first byte until the upload has ended", tt.name)
			}
		}
		pw.Write(make([]byte, 2<<20)) // more than is kept
		pw.Close()
		if got := <-answered; got != fmt.Sprint(5+2<<20) && got != fmt.Sprint(5+(2<<20)) {
			t.Errorf("%s: the upstream got %s bytes", tt.name, got)
		}
		select {
		case <-first:
		default:
		}
		s.Client().CloseIdleConnections()
	}
	eventually(t, "all places are free", func() bool { return full.Upstreams()[0].InFlight == 0 })
}

// A ledger of what raw upstreams have begun to execute.
type ledger struct {
	mu   sync.Mutex
	runs map[string]int
	bad  []string
}

// raw is an upstream over a socket that reads whole requests or parts of them,
// and then does one of many bad things. It counts a request as executed as soon
// as it has read its header.
func (l *ledger) raw(c *net.TCPConn, br *bufio.Reader, r *http.Request) {
	for served := 0; ; served++ {
		id := r.Header.Get("X-Id")
		seed, _ := strconv.ParseUint(id, 10, 64)
		l.mu.Lock()
		l.runs[id]++
		run := l.runs[id]
		l.mu.Unlock()
		fate := rand.New(rand.NewPCG(seed, uint64(run))).IntN(12)
		if fate == 0 { // breaks before the body
			c.SetLinger(0)
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if want, _ := strconv.Atoi(r.Header.Get("X-Length")); len(b) != want || want > 0 && string(b) != strings.Repeat(id[len(id)-1:], want) {
			l.mu.Lock()
			l.bad = append(l.bad, fmt.Sprintf("%s %s: %d bytes, want %d", r.Method, id, len(b), want))
			l.mu.Unlock()
		}
		switch fate {
		case 1: // executed, and nobody hears of it
			return
		case 2:
			c.SetLinger(0)
			return
		case 3:
			io.WriteString(c, "HTTP/1.1 200")
			return
		case 4:
			io.WriteString(c, "garbage\r\n\r\n")
			return
		case 5:
			io.WriteString(c, "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")
		case 6:
			io.WriteString(c, "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nb")
			return
		case 7: // truncated
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
			return
		case 8: // good, and the idle connection is lost
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
			return
		case 9: // slow, so that it is hedged where that is allowed
			time.Sleep(10 * time.Millisecond)
			fallthrough
		default:
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
		}
		if r, err = http.ReadRequest(br); err != nil {
			return
		}
	}
}

// However upstreams fail, and with every kind of retry and hedging switched on,
// nothing that must not be executed twice is, and bodies arrive whole.
func TestNothingIsExecutedTwice(t *testing.T) {
	noLeaks(t)
	n := 10_000
	if testing.Short() {
		n = 2_000
	}
	l := &ledger{runs: map[string]int{}}
	raws := []string{script(t, l.raw), script(t, l.raw), script(t, l.raw)}
	// The third is behind a network that refuses now and then.
	net3 := faultnet.New(t, strings.TrimPrefix(raws[2], "http://"))
	told := &notebook{}
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.Observer = told
		cfg.Retries = proxy.Retries{Max: 3, Statuses: []int{503}, MaxBody: 4 << 10, Budget: 1, Hedge: 2 * time.Millisecond}
		cfg.Fallback = newProxy(t, func(cfg *proxy.Config) {
			cfg.Observer = told
			cfg.Retries = proxy.Retries{Max: 2, Statuses: []int{503}, MaxBody: 4 << 10, Budget: 1, Hedge: 2 * time.Millisecond}
		}, raws...)
	}, raws[0], raws[1], "http://"+net3.Addr())
	s := serve(t, p)

	type kind struct {
		method string
		key    bool
		length int
	}
	kinds := []kind{
		{"GET", false, 0}, {"GET", false, 0}, {"DELETE", false, 0}, {"PUT", false, 10}, {"PUT", false, 100_000}, {"POST", true, 0}, {"POST", true, 1000},
		{"POST", false, 0}, {"POST", false, 10}, {"POST", false, 100_000}, {"PATCH", false, 10}, {"PATCH", false, 0}, {"REPORT", false, 10},
	}
	var next, good atomic.Int64
	stop := make(chan struct{})
	var flapping, wg sync.WaitGroup
	flapping.Go(func() {
		for refuse := true; ; refuse = !refuse {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				net3.Set(faultnet.Faults{Refuse: refuse, Latency: time.Microsecond})
			}
		}
	})
	for range 8 {
		wg.Go(func() {
			c := &http.Client{Transport: &http.Transport{}}
			defer c.CloseIdleConnections()
			for {
				i := int(next.Add(1))
				if i > n {
					return
				}
				k, id := kinds[i%len(kinds)], strconv.Itoa(i)
				var body io.Reader
				if k.length > 0 {
					body = strings.NewReader(strings.Repeat(id[len(id)-1:], k.length))
				}
				r, _ := http.NewRequest(k.method, s.URL, body)
				r.Header.Set("X-Id", id)
				r.Header.Set("X-Length", strconv.Itoa(k.length))
				r.GetBody = nil // the client itself must not send anything again
				if k.key {
					r.Header.Set("Idempotency-Key", id)
				}
				res, err := c.Do(r)
				if err != nil {
					continue
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err == nil && res.StatusCode == 200 && string(b) == "good" {
					good.Add(1)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	flapping.Wait()

	l.mu.Lock()
	defer l.mu.Unlock()
	again := 0
	for id, runs := range l.runs {
		i, _ := strconv.Atoi(id)
		k := kinds[i%len(kinds)]
		idempotent := k.key || k.method == "GET" || k.method == "PUT" || k.method == "DELETE"
		if runs > 1 && !idempotent {
			t.Errorf("%s of %d bytes (%s) was executed %d times", k.method, k.length, id, runs)
		}
		if runs > 1 {
			again++
		}
	}
	for _, b := range l.bad {
		t.Error("a body came wrong: " + b)
	}
	hedged := 0
	for _, e := range told.take(proxy.EventAttempt) {
		if e.Trigger == proxy.TriggerHedge {
			hedged++
		}
	}
	t.Logf("%d requests, %d answered well, %d executed more than once, all of them idempotent, %d attempts that hedge", n, good.Load(), again, hedged)
	if hedged < n/500 {
		t.Errorf("%d attempts that hedge: the test is too tame", hedged)
	}
	if again < n/20 || int(good.Load()) < n/3 {
		t.Errorf("%d requests were executed again and %d went well: the test is too tame", again, good.Load())
	}
}
