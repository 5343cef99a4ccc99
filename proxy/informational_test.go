package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/goweir/weir/internal/respwriter"
	"github.com/goweir/weir/proxy"
)

// hints is an upstream that sends n informational responses before raw.
func hints(t *testing.T, n int, raw string) string {
	return answer(t, strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", n)+raw)
}

// informed returns the informational statuses and the answer a client sees.
func informed(t *testing.T, s string, c *http.Client) (infos []int, links []string, status int, header http.Header) {
	t.Helper()
	r, _ := http.NewRequest("GET", s, nil)
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			infos = append(infos, code)
			links = append(links, h["Link"]...)
			return nil
		},
	}))
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	c.CloseIdleConnections()
	return infos, links, res.StatusCode, res.Header
}

// latching takes the first WriteHeader for the final one, as echo.Response does
// (labstack/echo#3106), and so loses what follows a 103.
type latching struct {
	http.ResponseWriter
	done bool
}

func (w *latching) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *latching) WriteHeader(status int) {
	if !w.done {
		w.ResponseWriter.WriteHeader(status)
	}
	w.done = true
}

// deferring keeps the status until the first Write, as gin's writer does
// (gin-gonic/gin#3289), and so drops a 103.
type deferring struct {
	http.ResponseWriter
	status int
}

func (w *deferring) Unwrap() http.ResponseWriter { return w.ResponseWriter }
func (w *deferring) WriteHeader(status int)      { w.status = status }
func (w *deferring) Write(p []byte) (int, error) {
	w.finish()
	return w.ResponseWriter.Write(p)
}

func (w *deferring) finish() {
	if w.status != 0 {
		w.ResponseWriter.WriteHeader(w.status)
		w.status = 0
	}
}

func TestTrapProxy02_FinalStatus(t *testing.T) {
	noLeaks(t)
	up := hints(t, 2, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
	under := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(&latching{ResponseWriter: w}, r) })
	}
	for _, s := range []func(testing.TB, http.Handler) (string, *http.Client){h1, h2} {
		url, c := s(t, under(newProxy(t, nil, up)))
		if infos, _, status, _ := informed(t, url, c); status != 404 || !slices.Equal(infos, []int{103, 103}) {
			t.Errorf("%s: %v then %d, want two 103 then 404", url, infos, status)
		}
	}
	url, c := h1(t, under(bare(t, up)))
	if _, _, status, _ := informed(t, url, c); status == 404 {
		t.Error("bare ReverseProxy gave 404; the trap is closed upstream")
	}
}

func h1(t testing.TB, h http.Handler) (string, *http.Client) {
	s := serve(t, h)
	return s.URL, s.Client()
}
func h2(t testing.TB, h http.Handler) (string, *http.Client) {
	s := serveH2(t, h)
	return s.URL, s.Client()
}

func TestTrapProxy03_DroppedInformational(t *testing.T) {
	noLeaks(t)
	up := hints(t, 1, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
	under := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			d := &deferring{ResponseWriter: w}
			h.ServeHTTP(d, r)
			d.finish()
		})
	}
	url, c := h1(t, under(newProxy(t, nil, up)))
	if infos, _, status, _ := informed(t, url, c); status != 201 || !slices.Equal(infos, []int{103}) {
		t.Errorf("%v then %d, want a 103 then 201", infos, status)
	}
	url, c = h1(t, under(bare(t, up)))
	if infos, _, _, _ := informed(t, url, c); len(infos) > 0 {
		t.Errorf("bare ReverseProxy gave %v; the trap is closed upstream", infos)
	}
}

// noting is a weir middleware, such as capture, that records 1xx responses.
type noting struct {
	respwriter.NoHooks
	infos []int
}

func (n *noting) Informational(status int, _ http.Header) { n.infos = append(n.infos, status) }

func TestInformationalPassesWeirsOwnWriters(t *testing.T) {
	noLeaks(t)
	p := newProxy(t, nil, hints(t, 1, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	var outer, between noting
	url, c := h1(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var a, b respwriter.Writer
		w = a.Wrap(w, &outer)
		w = &latching{ResponseWriter: b.Wrap(w, &between)}
		p.ServeHTTP(w, r)
	}))
	if infos, _, status, _ := informed(t, url, c); status != 200 || len(infos) != 1 || len(outer.infos) != 1 || len(between.infos) != 1 {
		t.Errorf("client saw %v then %d, outer writers %v and %v", infos, status, outer.infos, between.infos)
	}
}

// A writer of weir's that is passed by, because of another one around it, hears
// of what is sent past it.
func TestInformationalIsToldToWritersPassedBy(t *testing.T) {
	noLeaks(t)
	p := newProxy(t, nil, hints(t, 2, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	var outer, between, inner noting
	url, c := h1(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var a, b, c respwriter.Writer
		w = &latching{ResponseWriter: a.Wrap(w, &outer)}
		w = &latching{ResponseWriter: b.Wrap(w, &between)}
		p.ServeHTTP(c.Wrap(w, &inner), r)
	}))
	infos, _, status, _ := informed(t, url, c)
	if status != 200 || len(infos) != 2 {
		t.Errorf("client saw %v then %d, want two 103 then 200", infos, status)
	}
	for name, n := range map[string]noting{"outer": outer, "between": between, "inner": inner} {
		if !slices.Equal(n.infos, []int{103, 103}) {
			t.Errorf("%s writer was told of %v, want two 103", name, n.infos)
		}
	}
}

func TestTrapProxy12_HeaderOfMiddleware(t *testing.T) {
	noLeaks(t)
	up := hints(t, 1, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	under := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Request-Id", "7")
			h.ServeHTTP(w, r)
		})
	}
	for _, s := range []func(testing.TB, http.Handler) (string, *http.Client){h1, h2} {
		url, c := s(t, under(newProxy(t, nil, up)))
		_, links, status, h := informed(t, url, c)
		if status != 200 || h.Get("X-Request-Id") != "7" || h.Get("Link") != "" || !slices.Equal(links, []string{"</a>"}) {
			t.Errorf("%d %v after a 103 with Link %v", status, h, links)
		}
	}
	url, c := h1(t, under(bare(t, up)))
	if _, _, _, h := informed(t, url, c); h.Get("X-Request-Id") != "" {
		t.Error("bare ReverseProxy kept the header; the trap is closed upstream")
	}
}

func TestTrapProxy13_EndlessInformational(t *testing.T) {
	noLeaks(t)
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	for _, tt := range []struct{ max, n, status int }{
		{0, 8, 200}, {0, 9, 502}, {0, 5000, 502}, {3, 3, 200}, {3, 4, 502},
	} {
		p := newProxy(t, func(cfg *proxy.Config) { cfg.MaxInformational = tt.max }, hints(t, tt.n, ok))
		c := dial(t, serve(t, p).URL)
		res, got := c.send(t, "GET", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 0
		for ; res.StatusCode == 103; got++ {
			res = c.send(t, "GET", "")
		}
		if res.StatusCode != tt.status || got > 8 {
			t.Errorf("limit %d, %d sent: %d relayed, then %d; want %d", tt.max, tt.n, got, res.StatusCode, tt.status)
		}
	}
	c := dial(t, serve(t, bare(t, hints(t, 5000, ok))).URL)
	got := 0
	for res := c.send(t, "GET", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); res.StatusCode == 103; got++ {
		res = c.send(t, "GET", "")
	}
	if got != 5000 {
		t.Errorf("bare ReverseProxy relayed %d; the trap is closed upstream", got)
	}
}

// An upstream over HTTP/2 is relayed, and stopped, in the same way.
func TestInformationalFromHTTP2(t *testing.T) {
	noLeaks(t)
	up := serveH2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		w.Header()["Content-Length"] = nil // net/http sends a copy then, which is not changed below when the stream is reset
		for range n {
			w.Header().Set("Link", "</a>")
			w.WriteHeader(103)
		}
		w.Header().Del("Link")
		w.WriteHeader(404)
	}))
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.TLS = up.Client().Transport.(*http.Transport).TLSClientConfig
	}, up.URL)
	under := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", "7")
		p.ServeHTTP(w, r)
	})
	for _, start := range []func(testing.TB, http.Handler) (string, *http.Client){h1, h2} {
		for n, want := range map[int]int{0: 404, 1: 404, 5: 404, 20: 502} {
			url, c := start(t, under)
			infos, links, status, h := informed(t, fmt.Sprint(url, "/?n=", n), c)
			if status != want || len(infos) != min(n, 8) && want == 404 || len(infos) > 8 || len(links) != len(infos) || h.Get("X-Request-Id") != "7" || h.Get("Link") != "" {
				t.Errorf("%s: %d times 103: %v, %q, then %d %v", url, n, infos, links, status, h)
			}
		}
	}
}

// RFC 9110 section 15.2: HTTP/1.0 has no informational responses.
func TestNoInformationalForHTTP10(t *testing.T) {
	noLeaks(t)
	s := serve(t, newProxy(t, nil, hints(t, 1, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")))
	res := dial(t, s.URL).send(t, "GET", "GET / HTTP/1.0\r\nHost: a\r\n\r\n")
	if b, _ := io.ReadAll(res.Body); res.StatusCode != 200 || string(b) != "ok" {
		t.Errorf("%d %q, want 200", res.StatusCode, b)
	}
}

// An upload with Expect waits for the upstream's consent, and what it says
// instead arrives.
func TestExpectContinue(t *testing.T) {
	noLeaks(t)
	request := "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
	yes := script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
		io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		b := make([]byte, 4)
		io.ReadFull(br, b)
		io.WriteString(c, "HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\n"+string(b))
	})
	c := dial(t, serve(t, newProxy(t, nil, yes)).URL)
	if res := c.send(t, "PUT", request); res.StatusCode != 100 {
		t.Fatalf("%d, want 100", res.StatusCode)
	}
	res := c.send(t, "PUT", "body")
	for res.StatusCode == 100 { // net/http may add its own
		res = c.send(t, "PUT", "")
	}
	if b, _ := io.ReadAll(res.Body); res.StatusCode != 201 || string(b) != "body" {
		t.Errorf("%d %q, want 201", res.StatusCode, b)
	}

	no := answer(t, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	if res := dial(t, serve(t, newProxy(t, nil, no)).URL).send(t, "PUT", request); res.StatusCode != 417 {
		t.Errorf("%d, want 417 before the body is sent", res.StatusCode)
	}
}

// late is a body that comes with an informational response after the answer, as
// the hook may be called once more while RoundTrip returns.
type late struct {
	io.Reader
	hook func(int, textproto.MIMEHeader) error
}

func (l *late) Read(p []byte) (int, error) { l.hook(103, nil); return l.Reader.Read(p) }
func (l *late) Close() error               { return nil }

// counting is a ResponseWriter that remembers the statuses it was given.
type counting struct {
	blank
	statuses []int
}

func (w *counting) WriteHeader(status int) { w.statuses = append(w.statuses, status) }

func TestLateInformational(t *testing.T) {
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper {
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				hook := httptrace.ContextClientTrace(r.Context()).Got1xxResponse
				hook(102, nil)
				return &http.Response{StatusCode: 200, Header: http.Header{}, Body: &late{strings.NewReader("x"), hook}}, nil
			})
		}
	}, "http://upstream")
	w := &counting{blank: blank{http.Header{}}}
	r, _ := http.NewRequest("GET", "/", nil)
	p.ServeHTTP(w, r)
	if !slices.Equal(w.statuses, []int{102, 200}) {
		t.Errorf("statuses %v, want 102 and 200", w.statuses)
	}
}

// Over HTTP/2, WriteHeader returns when the client resets its stream, though the
// header may still be read by who sends it: a map that is changed at that moment
// ends the process. Only the race detector can see it.
func TestInformationalToAClientThatLeaves(t *testing.T) {
	noLeaks(t)
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.MaxInformational = 1000
		cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper {
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				trace := httptrace.ContextClientTrace(r.Context())
				fields := textproto.MIMEHeader{}
				for i := range 100 { // which takes a while to send
					fields[fmt.Sprint("X-", i)] = []string{"x"}
				}
				for r.Context().Err() == nil {
					if err := trace.Got1xxResponse(103, fields); err != nil {
						return nil, err
					}
				}
				return nil, r.Context().Err()
			})
		}
	}, "http://upstream")
	url, c := h2(t, p)
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		r, _ := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			Got1xxResponse: func(int, textproto.MIMEHeader) error { cancel(); return nil },
		}), "GET", url, nil)
		if res, err := c.Do(r); err == nil {
			res.Body.Close()
		}
		cancel()
	}
	c.CloseIdleConnections()
}
