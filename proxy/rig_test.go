package proxy_test

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/proxy"
)

// quiet is an ErrorLog for tests that provoke errors.
var quiet = slog.New(slog.DiscardHandler)

// newProxy returns a Proxy to upstreams; edit may change the configuration. To
// connect and to answer may take long: a machine that has much else to do is no
// fault.
func newProxy(t testing.TB, edit func(*proxy.Config), upstreams ...string) *proxy.Proxy {
	t.Helper()
	cfg := proxy.Config{ErrorLog: quiet, Timeouts: proxy.Timeouts{Dial: 5 * time.Minute, TLSHandshake: 5 * time.Minute, ResponseHeader: 5 * time.Minute}}
	for _, u := range upstreams {
		cfg.Upstreams = append(cfg.Upstreams, proxy.Upstream{URL: u})
	}
	if edit != nil {
		edit(&cfg)
	}
	p, err := proxy.New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(p.CloseIdleConnections)
	return p
}

// bare returns what users write without this package, to show that a test
// would fail on it.
func bare(t testing.TB, upstream string) *httputil.ReverseProxy {
	t.Helper()
	target, err := url.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	t.Cleanup(transport.CloseIdleConnections)
	return &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
		Transport: transport,
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, 0),
	}
}

// serve starts a server over HTTP/1.1 that is stopped with the test.
func serve(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.Start()
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	return s
}

// serveH2 is serve over TLS with HTTP/2; s.Client() speaks it.
func serveH2(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	return s
}

// script starts an upstream that answers by writing bytes: f is called once a
// request, with the request's header read and its body not, and the connection
// is closed when f returns.
func script(t testing.TB, f func(c *net.TCPConn, br *bufio.Reader, r *http.Request)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns = map[net.Conn]bool{}
	)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer func() {
					c.Close()
					mu.Lock()
					delete(conns, c)
					mu.Unlock()
				}()
				br := bufio.NewReader(c)
				r, err := http.ReadRequest(br)
				if err == nil {
					f(c.(*net.TCPConn), br, r)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return "http://" + l.Addr().String()
}

// answer is a script that sends the same bytes to everyone.
func answer(t testing.TB, raw string) string {
	return script(t, func(c *net.TCPConn, _ *bufio.Reader, _ *http.Request) { io.WriteString(c, raw) })
}

// A rawConn is a client that sends exactly what it is told.
type rawConn struct {
	*net.TCPConn
	br *bufio.Reader
}

func dial(t testing.TB, server string) *rawConn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(strings.TrimPrefix(server, "http://"), "https://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return &rawConn{c.(*net.TCPConn), bufio.NewReader(c)}
}

// send writes raw and reads one answer to method.
func (c *rawConn) send(t testing.TB, method, raw string) *http.Response {
	t.Helper()
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatalf("sending %q: %v", raw, err)
	}
	res, err := http.ReadResponse(c.br, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("answer to %q: %v", raw, err)
	}
	return res
}

// problemOf fails unless res is a problem document with this status.
func problemOf(t testing.TB, res *http.Response, status int) {
	t.Helper()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Errorf("reading a %d: %v", res.StatusCode, err)
	}
	if res.StatusCode != status || res.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %d %q %q, want %d as application/problem+json", res.StatusCode, res.Header.Get("Content-Type"), body, status)
	}
}

// get returns the answer's status and body. The error is of either.
func get(c *http.Client, url string) (status int, header http.Header, body string, err error) {
	res, err := c.Get(url)
	if err != nil {
		return 0, nil, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, res.Header, string(b), err
}

// recovering stands for middleware and frameworks that take every panic for
// handled (gin.Recovery, labstack/echo's Recover with a handler of one's own).
func recovering(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { recover() }()
		next.ServeHTTP(w, r)
	})
}

// eventually waits for what has no event to wait for.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// noLeaks fails if the test leaves goroutines or descriptors behind. It must be
// called before anything is started.
func noLeaks(t testing.TB) {
	t.Helper()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	openPoller(t)
	goroutines, fds := runtime.NumGoroutine(), descriptors()
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		deadline := time.Now().Add(time.Minute)
		for runtime.NumGoroutine() > goroutines || descriptors() > fds {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<20)
				t.Errorf("goroutines: %d, before %d; descriptors: %d, before %d\n%s", runtime.NumGoroutine(), goroutines,
					descriptors(), fds, buf[:runtime.Stack(buf, true)])
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
}

// openPoller makes the runtime open the descriptors that it keeps for all sockets,
// which are nobody's leak.
func openPoller(t testing.TB) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// descriptors returns how many the process has open, or 0 where that cannot be
// seen.
func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	return len(entries)
}
