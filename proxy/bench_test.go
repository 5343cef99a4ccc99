package proxy_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/proxy"
)

// blank is a ResponseWriter that costs nothing.
type blank struct{ h http.Header }

func (w *blank) Header() http.Header         { return w.h }
func (w *blank) WriteHeader(int)             {}
func (w *blank) Write(p []byte) (int, error) { return len(p), nil }

// stub is a transport that answers from memory.
type stub struct{ n int64 }

func (s stub) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: 200, ContentLength: s.n,
		Header: http.Header{"Content-Type": {"text/plain"}, "Content-Length": {"1024"}},
		Body:   io.NopCloser(io.LimitReader(zeros{}, s.n)),
	}, nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// arrayPool is the BufferPool that a careful user of ReverseProxy has.
type arrayPool struct{ sync.Pool }

func (p *arrayPool) Get() []byte {
	if b, ok := p.Pool.Get().(*[32 << 10]byte); ok {
		return b[:]
	}
	return new([32 << 10]byte)[:]
}
func (p *arrayPool) Put(b []byte) { p.Pool.Put((*[32 << 10]byte)(b)) }

func browser() *http.Request {
	r, _ := http.NewRequest("GET", "http://front/a/b?c=d", nil)
	r.RemoteAddr = "192.0.2.1:1234"
	for _, f := range []string{"Accept", "Accept-Encoding", "Accept-Language", "Cache-Control", "Cookie", "Referer", "User-Agent", "X-Request-Id"} {
		r.Header.Set(f, "some value")
	}
	return r
}

func bareStub(pool httputil.BufferPool) http.Handler {
	target, _ := url.Parse("http://upstream")
	return &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
		Transport: stub{1024}, BufferPool: pool,
	}
}

func TestAllocations(t *testing.T) {
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper { return stub{1024} }
	}, "http://upstream")
	per := func(h http.Handler) float64 {
		r, w := browser(), &blank{http.Header{}}
		return testing.AllocsPerRun(200, func() { clear(w.h); h.ServeHTTP(w, r) })
	}
	// The exchange, its context and its informational responses, and the
	// request's id; the race detector empties pools at random.
	most := per(bareStub(&arrayPool{})) + 4
	if raceEnabled {
		most += 4
	}
	if got := per(p); got > most {
		t.Errorf("%v allocations a request, want at most %v: four more than ReverseProxy with a pool", got, most)
	}
}

// What is switched off costs nothing, and of what is on by default only a new
// request id does.
func TestAllocationsOfOptions(t *testing.T) {
	if raceEnabled {
		t.Skip("not counted: the race detector empties pools at random")
	}
	per := func(edit func(*proxy.Config)) float64 {
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper { return stub{1024} }
			cfg.Via, cfg.RequestIDHeader = "-", "-"
			edit(cfg)
		}, "http://upstream")
		r, w := browser(), &blank{http.Header{}}
		return testing.AllocsPerRun(200, func() { clear(w.h); p.ServeHTTP(w, r) })
	}
	off := per(func(*proxy.Config) {})
	for name, tt := range map[string]struct {
		edit func(*proxy.Config)
		most float64
	}{
		"Via":                     {func(cfg *proxy.Config) { cfg.Via = "" }, 0},
		"RequestIDHeader":         {func(cfg *proxy.Config) { cfg.RequestIDHeader = "" }, 1},
		"defaults":                {func(cfg *proxy.Config) { cfg.Via, cfg.RequestIDHeader = "", "" }, 1},
		"Forwarded":               {func(cfg *proxy.Config) { cfg.Forwarded = true }, 1},
		"RefuseEscapedSlashes":    {func(cfg *proxy.Config) { cfg.RefuseEscapedSlashes = true }, 0},
		"QueryRefuse":             {func(cfg *proxy.Config) { cfg.Query = proxy.QueryRefuse }, 0},
		"Observer":                {func(cfg *proxy.Config) { cfg.Observer = deaf{} }, 0},
		"Hedge, with nobody else": {func(cfg *proxy.Config) { cfg.Retries = proxy.Retries{Max: 1, Hedge: time.Hour} }, 0},
		"Hedge": {func(cfg *proxy.Config) {
			cfg.Upstreams = append(cfg.Upstreams, proxy.Upstream{URL: "http://other"})
			cfg.Retries = proxy.Retries{Max: 1, Hedge: time.Hour}
		}, 10},
		"QueryRaw": {func(cfg *proxy.Config) { cfg.Query = proxy.QueryRaw }, 0},
	} {
		if got := per(tt.edit) - off; got > tt.most {
			t.Errorf("%s: %v allocations a request, want at most %v", name, got, tt.most)
		}
	}
}

// deaf is an Observer that costs nothing.
type deaf struct{}

func (deaf) Observe(context.Context, proxy.Event) {}

// BenchmarkServeHTTP compares the handlers alone, over a transport that does
// nothing.
func BenchmarkServeHTTP(b *testing.B) {
	over := func(edit func(*proxy.Config)) http.Handler {
		return newProxy(b, func(cfg *proxy.Config) {
			cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper { return stub{1024} }
			if edit != nil {
				edit(cfg)
			}
		}, "http://upstream")
	}
	stale := func(h http.Handler) http.Handler {
		s, err := proxy.NewStale(&proxy.StaleOptions{MaxStale: time.Hour})
		if err != nil {
			b.Fatal(err)
		}
		return s.Middleware(h)
	}
	for _, bb := range []struct {
		name string
		h    http.Handler
	}{
		{"ReverseProxy", bareStub(nil)},
		{"ReverseProxy-pooled", bareStub(&arrayPool{})},
		{"Proxy", over(nil)},
		{"Proxy-without-idle-limits", over(func(cfg *proxy.Config) { cfg.Timeouts.UpstreamIdle, cfg.Timeouts.ClientIdle = -1, -1 })},
		{"Proxy-of-eight", over(func(cfg *proxy.Config) { cfg.Upstreams = list(1, 1, 1, 1, 1, 1, 1, 1) })},
		{"Proxy-least-in-flight", over(func(cfg *proxy.Config) {
			cfg.Upstreams, cfg.Balance = list(1, 1, 1, 1, 1, 1, 1, 1), proxy.LeastInFlight
		})},
		{"Proxy-in-flight", over(func(cfg *proxy.Config) { cfg.InFlight.Max = 10 })},
		{"Proxy-ejection", over(func(cfg *proxy.Config) { cfg.Ejection.Failures = 5 })},
		{"Proxy-breaker", over(func(cfg *proxy.Config) { cfg.Breaker.FailureRatio = 0.5 })},
		{"Proxy-retries", over(func(cfg *proxy.Config) { cfg.Retries = proxy.Retries{Max: 2, Statuses: []int{503}, MaxBody: 1 << 16} })},
		{"Proxy-fallback", over(func(cfg *proxy.Config) { cfg.Fallback = proxy.FixedAnswer(503, nil, nil) })},
		{"Proxy-stale", stale(over(nil))},
		{"Proxy-refused", over(func(cfg *proxy.Config) { cfg.StripPrefix = "/other" })},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			r, w := browser(), &blank{http.Header{}}
			for b.Loop() {
				clear(w.h)
				bb.h.ServeHTTP(w, r)
			}
		})
	}
}

// BenchmarkLoopback sends small requests through real sockets.
func BenchmarkLoopback(b *testing.B) {
	up := serve(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, strings.Repeat("x", 1024)) }))
	tuned := bare(b, up.URL)
	tuned.BufferPool = &arrayPool{}
	tuned.Transport = &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	for _, bb := range []struct {
		name string
		h    http.Handler
	}{
		{"ReverseProxy", bare(b, up.URL)},
		{"ReverseProxy-tuned", tuned},
		{"Proxy", newProxy(b, nil, up.URL)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			s := serve(b, bb.h)
			c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					res, err := c.Get(s.URL)
					if err != nil {
						b.Error(err)
						return
					}
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			})
			c.CloseIdleConnections()
		})
	}
	tuned.Transport.(*http.Transport).CloseIdleConnections()
}

// BenchmarkBulk streams 16 MiB through real sockets.
func BenchmarkBulk(b *testing.B) {
	const size = 16 << 20
	for _, length := range []bool{true, false} {
		up := serve(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if length {
				w.Header().Set("Content-Length", "16777216")
			}
			io.Copy(w, io.LimitReader(zeros{}, size))
		}))
		name := map[bool]string{true: "length/", false: "chunked/"}[length]
		for _, bb := range []struct {
			name string
			h    http.Handler
		}{{"ReverseProxy", bare(b, up.URL)}, {"Proxy", newProxy(b, nil, up.URL)}} {
			b.Run(name+bb.name, func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(size)
				s := serve(b, bb.h)
				for b.Loop() {
					res, err := s.Client().Get(s.URL)
					if err != nil {
						b.Fatal(err)
					}
					if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
						b.Fatal(n, err)
					}
					res.Body.Close()
				}
				s.Client().CloseIdleConnections()
			})
		}
	}
}
