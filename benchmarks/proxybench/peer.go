// Package proxybench compares weir's proxy with other reverse proxies, each in a
// process of its own between the same client and the same upstream.
package proxybench

import (
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"

	"github.com/goweir/weir/proxy"
	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"
)

// A Peer is a way to forward requests.
type Peer struct {
	Name string
	New  func(upstream string) http.Handler
}

// Peers are weir's proxy at its defaults and what there is besides.
var Peers = []Peer{
	{"ReverseProxy", func(u string) http.Handler { return reverse(u, nil, nil) }},
	{"ReverseProxy, tuned", tuned},
	{"weir", func(u string) http.Handler {
		return Weir(proxy.Config{Upstreams: []proxy.Upstream{{URL: u}}})
	}},
	{"weir, all off", func(u string) http.Handler {
		cfg := proxy.Config{Upstreams: []proxy.Upstream{{URL: u}}}
		EverythingOff(&cfg)
		return Weir(cfg)
	}},
	{"Echo v5 Proxy", func(u string) http.Handler {
		target, err := url.Parse(u)
		if err != nil {
			panic(err)
		}
		e := echo.New()
		e.Use(middleware.Proxy(middleware.NewRoundRobinBalancer([]*middleware.ProxyTarget{{URL: target}})))
		return e
	}},
}

// EverythingOff leaves of a Proxy what cannot be switched off, and its
// connections.
func EverythingOff(cfg *proxy.Config) {
	cfg.Via, cfg.RequestIDHeader = "-", "-"
	cfg.Timeouts.UpstreamIdle, cfg.Timeouts.ClientIdle = -1, -1
	cfg.Timeouts.ResponseHeader, cfg.Timeouts.ConnAge = -1, -1
}

// Weir returns a Proxy that logs nothing.
func Weir(cfg proxy.Config) *proxy.Proxy {
	cfg.ErrorLog = slog.New(slog.DiscardHandler)
	p, err := proxy.New(cfg)
	if err != nil {
		panic(err)
	}
	return p
}

// reverse is a ReverseProxy as it is written most often: over
// http.DefaultTransport, without a BufferPool.
func reverse(upstream string, transport http.RoundTripper, buffers httputil.BufferPool) http.Handler {
	target, err := url.Parse(upstream)
	if err != nil {
		panic(err)
	}
	return &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
		Transport:  transport,
		BufferPool: buffers,
		ErrorLog:   slog.NewLogLogger(slog.DiscardHandler, 0),
	}
}

// tuned is a ReverseProxy by somebody who knows it.
func tuned(upstream string) http.Handler {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy, t.DisableCompression, t.MaxIdleConnsPerHost, t.MaxIdleConns = nil, true, 64, 0
	return reverse(upstream, t, &arrayPool{})
}

type arrayPool struct{ sync.Pool }

func (p *arrayPool) Get() []byte {
	if b, ok := p.Pool.Get().(*[32 << 10]byte); ok {
		return b[:]
	}
	return new([32 << 10]byte)[:]
}

func (p *arrayPool) Put(b []byte) { p.Pool.Put((*[32 << 10]byte)(b)) }
