package proxy_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/proxy"
)

// Requests under /api go to two servers in turn, without the prefix and below
// their base path. The load balancer in front is believed when it names the
// client.
func Example() {
	upstream := func(name string) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s: %s for %s", name, r.RequestURI, r.Header.Get("X-Forwarded-For"))
		}))
	}
	a, b := upstream("a"), upstream("b")
	defer a.Close()
	defer b.Close()

	trust, err := clientip.New([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, nil)
	if err != nil {
		log.Fatal(err)
	}
	p, err := proxy.New(proxy.Config{
		Upstreams:   []proxy.Upstream{{URL: a.URL + "/v1"}, {URL: b.URL + "/v1"}},
		StripPrefix: "/api",
		Trust:       trust,
		Timeouts:    proxy.Timeouts{ResponseHeader: 10 * time.Second},
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/api/", trust.Middleware(p))
	front := httptest.NewServer(mux)
	defer front.Close()

	for range 2 {
		r, _ := http.NewRequest("GET", front.URL+"/api/users?page=2", nil)
		r.Header.Set("X-Forwarded-For", "192.0.2.1")
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			log.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		fmt.Printf("%s\n", body)
	}
	// Output:
	// a: /v1/users?page=2 for 192.0.2.1
	// b: /v1/users?page=2 for 192.0.2.1
}

// Upstreams that fail are left out for a while, and those that do not answer
// health checks until they do.
func ExampleProxy_CheckHealth() {
	p, err := proxy.New(proxy.Config{
		Upstreams:   []proxy.Upstream{{URL: "http://127.0.0.1:9001", Weight: 3}, {URL: "http://127.0.0.1:9002"}},
		Balance:     proxy.LeastInFlight,
		InFlight:    proxy.InFlight{Max: 200, Queue: 100},
		Ejection:    proxy.Ejection{Failures: 5},
		HealthCheck: proxy.HealthCheck{Path: "/healthz"},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	checked := make(chan error)
	go func() { checked <- p.CheckHealth(ctx) }()

	// ... serve requests ...

	stop()
	fmt.Println(<-checked)
	for _, s := range p.Upstreams() {
		fmt.Println(s.Name, s.Weight, s.InFlight, s.Down, s.EjectedFor)
	}
	// Output:
	// context canceled
	// http://127.0.0.1:9001 3 0 false 0s
	// http://127.0.0.1:9002 1 0 false 0s
}

// A request that an upstream has not got, or may get twice, is sent to the next
// one. An order is not.
func ExampleRetries() {
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("broken:", r.Method)
		panic(http.ErrAbortHandler)
	}))
	defer broken.Close()
	sound := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("sound:", r.Method)
	}))
	defer sound.Close()

	p, err := proxy.New(proxy.Config{
		Upstreams: []proxy.Upstream{{URL: broken.URL}, {URL: sound.URL}},
		Retries:   proxy.Retries{Max: 1, Statuses: []int{502, 503, 504}, Budget: 1},
		ErrorLog:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer p.CloseIdleConnections()
	for _, method := range []string{"GET", "GET", "POST"} {
		rec := httptest.NewRecorder()
		p.ServeHTTP(rec, httptest.NewRequest(method, "/order", nil))
		fmt.Println(rec.Code)
	}
	// Output:
	// broken: GET
	// sound: GET
	// 200
	// sound: GET
	// 200
	// broken: POST
	// 502
}

// While the upstream is down, clients get the last good answer if there is one,
// and an error otherwise. An operator can do the same by hand.
func ExampleStale() {
	var down atomic.Bool
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Header().Set("Cache-Control", "max-age=10, stale-if-error=3600")
		io.WriteString(w, "prices of today")
	}))
	defer upstream.Close()

	stale, err := proxy.NewStale(nil)
	if err != nil {
		log.Fatal(err)
	}
	p, err := proxy.New(proxy.Config{
		Upstreams: []proxy.Upstream{{URL: upstream.URL}},
		Breaker:   proxy.Breaker{FailureRatio: 0.5},
		Fallback:  stale,
		ErrorLog:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer p.CloseIdleConnections()
	h := stale.Middleware(p)

	show := func(what, target string) {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", target, nil))
		fmt.Printf("%s: %d, aged %q\n", what, rec.Code, rec.Header().Get("Age"))
	}
	show("up", "/prices")
	down.Store(true)
	show("down", "/prices")
	show("never seen", "/news")
	down.Store(false)
	p.ForceFallback(true)
	show("forced", "/prices")
	p.ForceFallback(false)
	show("and back", "/prices")
	// Output:
	// up: 200, aged ""
	// down: 200, aged "0"
	// never seen: 500, aged ""
	// forced: 200, aged "0"
	// and back: 200, aged ""
}

// A fallback that tells programs from browsers, and an answer of its own from
// what is merely in the way.
func ExampleCauseFrom() {
	page := proxy.FixedAnswer(503, http.Header{"Content-Type": {"text/html"}}, []byte("<h1>Back soon</h1>"))
	fallback := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cause, _ := proxy.CauseFrom(r.Context())
		fmt.Println(cause.Reason, cause.Status, cause.Sent)
		if strings.Contains(r.Header.Get("Accept"), "text/html") {
			page.ServeHTTP(w, r)
			return
		}
		proxy.Problem(w, r)
	})
	p, err := proxy.New(proxy.Config{
		Upstreams: []proxy.Upstream{{URL: "http://127.0.0.1:1"}}, // nobody is there
		Fallback:  fallback,
		ErrorLog:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	rec := httptest.NewRecorder()
	p.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	fmt.Println(rec.Code, rec.Header().Get("Content-Type"))
	// Output:
	// unreachable 502 false
	// 502 application/problem+json
}

// All faults of a configuration are reported at once.
func ExampleNew_faults() {
	_, err := proxy.New(proxy.Config{
		Upstreams:   []proxy.Upstream{{URL: "localhost:9001"}, {URL: "http://localhost:9002/?debug=1"}},
		StripPrefix: "api",
	})
	fmt.Println(err)
	// Output:
	// proxy: Upstreams[0].URL "localhost:9001" has no scheme that is allowed: http or https
	// proxy: Upstreams[0].URL "localhost:9001" has no host
	// proxy: Upstreams[1].URL "http://localhost:9002/?debug=1" has a query: only a base path is allowed
	// proxy: StripPrefix "api": does not begin with a slash
}

// This is WRONG: [http.StripPrefix] cuts within a segment and leaves dot
// segments in, and SetURL puts the rest below the base path as it is. Use
// [Config.StripPrefix].
func ExampleNew_incorrect() {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) }))
	defer upstream.Close()
	base, _ := url.Parse(upstream.URL + "/public")

	wrong := http.StripPrefix("/api", &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(base) },
	})
	right, err := proxy.New(proxy.Config{
		Upstreams:   []proxy.Upstream{{URL: base.String()}},
		StripPrefix: "/api",
	})
	if err != nil {
		log.Fatal(err)
	}

	for _, target := range []string{"/api/users", "/api/../private", "/api/%2e%2e/private", "/apiary"} {
		for _, h := range []http.Handler{wrong, right} {
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, httptest.NewRequest("GET", target, nil))
			if rec.Code != 200 {
				fmt.Println(target, "is refused with", rec.Code)
				continue
			}
			fmt.Println(target, "becomes", rec.Body)
		}
	}
	// Output:
	// /api/users becomes /public/users
	// /api/users becomes /public/users
	// /api/../private becomes /public/../private
	// /api/../private is refused with 400
	// /api/%2e%2e/private becomes /public/%2e%2e/private
	// /api/%2e%2e/private is refused with 400
	// /apiary becomes /public/ary
	// /apiary is refused with 404
}
