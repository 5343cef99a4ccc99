package weirprom_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/adapters/weirprom"
	"github.com/goweir/weir/proxy"
)

// Requests that end in every way there is.
func TestProxy(t *testing.T) {
	m := weirprom.New(nil)
	reg := registered(t, m)
	good := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/users/half":
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "half")
		case "/users/broken":
			panic(http.ErrAbortHandler)
		case "/users/upload":
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusNotFound)
		default:
			io.WriteString(w, "hello")
		}
	}))
	good.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	p, err := proxy.New(proxy.Config{
		Upstreams: []proxy.Upstream{{URL: good.URL}},
		Fallback:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }),
		Observer:  m.Proxy(),
		ErrorLog:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, routed([]string{"/users/{what}"}, p))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	for path, want := range map[string]int{"/users/good": 200, "/users/half": 0, "/users/broken": 503} {
		if status := get(t, s.URL+path); status != want {
			t.Errorf("%s: status %d, want %d", path, status, want)
		}
	}
	res, err := http.Post(s.URL+"/users/upload", "text/plain", strings.NewReader("some bytes"))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	r, err := http.NewRequest("CONNECT", s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err = http.DefaultClient.Do(r); err != nil || res.StatusCode != 405 {
		t.Fatalf("CONNECT: %v, %v", res, err)
	}
	res.Body.Close()
	until(t, func() bool { return gathered(t, reg)[`weir_proxy_outcomes_total{result="refused",route=""}`] == 1 })
	u := `{upstream="` + good.URL + `"`
	and := func(label string) string { return `{` + label + `,upstream="` + good.URL + `"}` }
	shows(t, reg, map[string]float64{
		`weir_proxy_requests_total` + and(`code_class="2xx"`):                                    2, // half an answer, too
		`weir_proxy_requests_total` + and(`code_class="4xx"`):                                    1,
		`weir_proxy_requests_total` + and(`code_class="5xx"`):                                    1,
		`weir_proxy_requests_total{code_class="4xx",upstream=""}`:                                1,
		`weir_proxy_outcomes_total{result="ok",route="/users/{what}"}`:                           2,
		`weir_proxy_outcomes_total{result="aborted",route="/users/{what}"}`:                      1,
		`weir_proxy_outcomes_total{result="fallback",route="/users/{what}"}`:                     1,
		`weir_proxy_outcomes_total{result="refused",route=""}`:                                   1,
		`weir_proxy_request_duration_seconds{route="/users/{what}"}`:                             4,
		`weir_proxy_request_duration_seconds{route=""}`:                                          1,
		`weir_proxy_aborts_total{phase="response",side="upstream"}`:                              1,
		`weir_proxy_failures_total` + and(`reason="unreachable"`):                                1,
		`weir_proxy_fallbacks_total{reason="unreachable"}`:                                       1,
		`weir_proxy_transferred_bytes_total` + and(`direction="up"`):                             10,
		`weir_proxy_transferred_bytes_total` + and(`direction="down"`):                           9,
		`weir_proxy_attempts_total{result="ok",trigger="first",upstream="` + good.URL + `"}`:     3,
		`weir_proxy_attempts_total{result="failed",trigger="first",upstream="` + good.URL + `"}`: 1,
		`weir_proxy_upstream_duration_seconds` + u + `}`:                                         4,
	})
}

// The client that leaves is told from the upstream that breaks.
func TestClientLeaves(t *testing.T) {
	m := weirprom.New(nil)
	reg := registered(t, m)
	arrived := make(chan struct{})
	up := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	}))
	p, err := proxy.New(proxy.Config{Upstreams: []proxy.Upstream{{URL: up.URL}}, Observer: m.Proxy(), ErrorLog: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() { <-arrived; cancel() }()
	if _, err := http.DefaultClient.Do(r); err == nil {
		t.Fatal("the request did not end")
	}
	until(t, func() bool { return gathered(t, reg)[`weir_proxy_aborts_total{phase="waiting",side="client"}`] == 1 })
	for name, want := range map[string]float64{
		`weir_proxy_outcomes_total{result="left",route=""}`:                                  1,
		`weir_proxy_requests_total{code_class="4xx",upstream="` + up.URL + `"}`:              1,
		`weir_proxy_attempts_total{result="left",trigger="first",upstream="` + up.URL + `"}`: 1,
	} {
		if got := gathered(t, reg)[name]; got != want {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
}

// deaf is an address where nobody listens: the port of tcpmux. One that was free a
// moment ago may be another server's by now.
const deaf = "http://127.0.0.1:1"

// An upstream that fails is taken out, its breaker opens, and retries that there
// is no budget for are counted.
func TestFailingUpstream(t *testing.T) {
	m := weirprom.New(nil)
	reg := registered(t, m)
	p, err := proxy.New(proxy.Config{
		Upstreams: []proxy.Upstream{{URL: deaf}, {URL: serve(t, hello).URL}},
		Ejection:  proxy.Ejection{Failures: 1, For: time.Hour, Max: time.Hour},
		Breaker:   proxy.Breaker{FailureRatio: .5, MinRequests: 1, OpenFor: time.Hour},
		Retries:   proxy.Retries{Max: 1},
		Observer:  m.Proxy(),
		ErrorLog:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, p)
	for range 3 { // one of them asks it
		get(t, s.URL)
	}
	got := gathered(t, reg)
	for name, want := range map[string]float64{
		`weir_proxy_ejections_total{upstream="` + deaf + `"}`:      1,
		`weir_proxy_breaker_opened_total{upstream="` + deaf + `"}`: 1,
		`weir_proxy_no_budget_total{trigger="connect"}`:            1,
	} {
		if got[name] != want {
			t.Errorf("%s = %v, want %v", name, got[name], want)
		}
	}
}

func TestDown(t *testing.T) {
	m := weirprom.New(nil)
	reg := registered(t, m)
	p, err := proxy.New(proxy.Config{
		Upstreams:   []proxy.Upstream{{URL: deaf}},
		HealthCheck: proxy.HealthCheck{Path: "/health", Interval: time.Millisecond, Down: 1},
		Observer:    m.Proxy(),
		ErrorLog:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { p.CheckHealth(ctx) })
	until(t, func() bool { return gathered(t, reg)[`weir_proxy_downs_total{upstream="`+deaf+`"}`] == 1 })
	cancel()
	wg.Wait()
	shows(t, reg, map[string]float64{`weir_proxy_downs_total{upstream="` + deaf + `"}`: 1})
}

// Who waits for a place is in the histogram, by how the wait ended.
func TestWait(t *testing.T) {
	m := weirprom.New(nil)
	reg := registered(t, m)
	gate := make(chan struct{})
	up := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-gate }))
	p, err := proxy.New(proxy.Config{
		Upstreams: []proxy.Upstream{{URL: up.URL}},
		InFlight:  proxy.InFlight{Max: 1, Queue: 1, Wait: time.Minute},
		Observer:  m.Proxy(),
		ErrorLog:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, p)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { get(t, s.URL) })
	}
	until(t, func() bool { u := p.Upstreams()[0]; return u.InFlight == 1 && u.Waiting == 1 })
	if status := get(t, s.URL); status != 503 {
		t.Errorf("the third got %d, want 503", status)
	}
	close(gate)
	wg.Wait()
	name := func(result string) string {
		return `weir_proxy_wait_duration_seconds{result="` + result + `",upstream="` + up.URL + `"}`
	}
	if got := gathered(t, reg); got[name("ok")] != 1 || got[name("refused")] != 1 {
		t.Errorf("waits: %v ok, %v refused, want 1 and 1", got[name("ok")], got[name("refused")])
	}
}

func TestTunnels(t *testing.T) {
	m := weirprom.New(nil)
	reg := registered(t, m)
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		rw.Flush()
		io.Copy(conn, rw)
	}))
	p, err := proxy.New(proxy.Config{Upstreams: []proxy.Upstream{{URL: up.URL}}, Observer: m.Proxy(), ErrorLog: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, p)
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	open := `weir_proxy_open_tunnels{upstream="` + up.URL + `"}`
	until(t, func() bool { return gathered(t, reg)[open] == 1 })
	conn.Close()
	until(t, func() bool {
		got := gathered(t, reg)
		return got[open] == 0 && got[`weir_proxy_requests_total{code_class="1xx",upstream="`+up.URL+`"}`] == 1
	})
}

// The state of each upstream, as it is when it is scraped: one that works and is
// busy, one that fails, and one that is ill.
func TestUpstreams(t *testing.T) {
	gate := make(chan struct{})
	good := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-gate
		}
	}))
	bad := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	ill := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	p, err := proxy.New(proxy.Config{
		Upstreams:   []proxy.Upstream{{URL: good.URL}, {URL: bad.URL}, {URL: ill.URL}},
		InFlight:    proxy.InFlight{Max: 1, Queue: 5, Wait: time.Minute},
		Ejection:    proxy.Ejection{Failures: 1, For: time.Hour, Max: time.Hour, Share: 1},
		Breaker:     proxy.Breaker{FailureRatio: .5, MinRequests: 1, OpenFor: time.Hour},
		HealthCheck: proxy.HealthCheck{Path: "/health", Interval: 10 * time.Millisecond, Down: 1},
		ErrorLog:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	reg := registered(t, weirprom.Upstreams("users", p))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { p.CheckHealth(ctx) })
	until(t, func() bool { return p.Upstreams()[2].Down })

	s := serve(t, p)
	want := map[string]float64{}
	defer wg.Wait()
	defer cancel()
	for i, u := range []string{good.URL, bad.URL, ill.URL} {
		labels := `{proxy="users",upstream="` + u + `"}`
		want[`weir_proxy_upstream_in_flight_requests`+labels] = 0
		want[`weir_proxy_upstream_waiting_requests`+labels] = 0
		want[`weir_proxy_upstream_up`+labels] = 1
		want[`weir_proxy_upstream_ejected_seconds`+labels] = 0
		for j, state := range []string{"closed", "half_open", "open"} {
			is := 0.0
			if i == 1 && j == 2 || i != 1 && j == 0 {
				is = 1
			}
			want[`weir_proxy_upstream_breaker_state{proxy="users",state="`+state+`",upstream="`+u+`"}`] = is
		}
	}
	for range 4 {
		get(t, s.URL)
	}
	for range 2 {
		wg.Go(func() { get(t, s.URL+"/slow") })
	}
	until(t, func() bool { u := p.Upstreams()[0]; return u.InFlight == 1 && u.Waiting == 1 })
	want[`weir_proxy_upstream_in_flight_requests{proxy="users",upstream="`+good.URL+`"}`] = 1
	want[`weir_proxy_upstream_waiting_requests{proxy="users",upstream="`+good.URL+`"}`] = 1
	want[`weir_proxy_upstream_ejected_seconds{proxy="users",upstream="`+bad.URL+`"}`] = -1
	want[`weir_proxy_upstream_up{proxy="users",upstream="`+ill.URL+`"}`] = 0
	shows(t, reg, want)
	close(gate)
}
