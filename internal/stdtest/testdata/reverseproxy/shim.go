// Package httputil has what the tests of net/http/httputil use of it, made of
// package proxy.
package httputil

import (
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	delegate "github.com/goweir/weir/internal/stdtest/testdata/reverseproxy/delegate"
	"github.com/goweir/weir/proxy"
)

type (
	BufferPool   = httputil.BufferPool
	ProxyRequest = httputil.ProxyRequest
)

// A ReverseProxy has the fields of the real one. Rewrite and Director run on
// their way to the transport, and the others that a proxy.Config has no
// counterpart for reach the ReverseProxy below the proxy as hooks.
type ReverseProxy struct {
	Rewrite        func(*ProxyRequest)
	Director       func(*http.Request)
	Transport      http.RoundTripper
	FlushInterval  time.Duration
	ErrorLog       *log.Logger
	BufferPool     BufferPool
	ModifyResponse func(*http.Response) error
	ErrorHandler   func(http.ResponseWriter, *http.Request, error)
}

func (p *ReverseProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	cfg := proxy.Config{
		Upstreams:    []proxy.Upstream{{URL: "http://replaced-by-the-hook.invalid"}},
		PreserveHost: true,
		ErrorLog:     slog.New(slog.DiscardHandler),
	}
	if p.ErrorLog != nil {
		cfg.ErrorLog = slog.New(slog.NewTextHandler(p.ErrorLog.Writer(), nil))
	}
	hooks := &httputil.ReverseProxy{
		FlushInterval:  p.FlushInterval,
		BufferPool:     p.BufferPool,
		ModifyResponse: p.ModifyResponse,
		ErrorHandler:   p.ErrorHandler,
	}
	rewrite := p.Rewrite
	if p.Director != nil {
		rewrite = func(pr *ProxyRequest) { p.Director(pr.Out) }
		// What NewSingleHostReverseProxy made, and nobody changed, is a
		// configuration: then the proxy finds its own way to the upstream.
		probe := &http.Request{URL: new(url.URL), Header: http.Header{marker: nil}}
		p.Director(probe)
		if target := probe.Header[marker]; len(target) == 1 {
			cfg.Upstreams[0].URL = target[0]
			rewrite = nil
		}
	}
	cfg.WrapTransport = func(base http.RoundTripper) http.RoundTripper {
		if p.Transport != nil {
			base = p.Transport
		}
		if rewrite == nil {
			return base
		}
		// Here, and not below the proxy, because it is the proxy that says where
		// an attempt goes.
		return transport(func(out *http.Request) (*http.Response, error) {
			pr := &ProxyRequest{In: r, Out: out.Clone(out.Context())}
			rewrite(pr)
			return base.RoundTrip(pr.Out)
		})
	}
	front, err := proxy.New(cfg)
	if err != nil {
		panic(err)
	}
	defer front.CloseIdleConnections()
	front.ServeHTTP(w, r.WithContext(delegate.WithHooks(r.Context(), hooks)))
}

const marker = "weir: which upstream?"

func NewSingleHostReverseProxy(target *url.URL) *ReverseProxy {
	direct := httputil.NewSingleHostReverseProxy(target).Director
	return &ReverseProxy{Director: func(r *http.Request) {
		if _, asked := r.Header[marker]; asked && len(r.Header) == 1 && r.URL.Host == "" && target.RawQuery == "" {
			r.Header[marker] = []string{target.String()}
			return
		}
		direct(r)
	}}
}

// flushInterval cannot be answered from outside.
func (p *ReverseProxy) flushInterval(*http.Response) time.Duration { return -2 }

func joinURLPath(a, b *url.URL) (path, rawpath string) {
	out := through("http://upstream"+a.EscapedPath(), "/"+strings.TrimPrefix(b.EscapedPath(), "/"))
	return out.Path, out.RawPath
}

func singleJoiningSlash(a, b string) string {
	return through(a, "/"+strings.TrimPrefix(b, "/")).String()
}

// through returns what a proxy asks upstream for.
func through(upstream, target string) (out *url.URL) {
	p := &ReverseProxy{Transport: transport(func(r *http.Request) (*http.Response, error) {
		out = r.URL
		return &http.Response{StatusCode: 204, Body: http.NoBody}, nil
	})}
	base, err := url.Parse(upstream)
	if err != nil {
		panic(err)
	}
	p.Director = NewSingleHostReverseProxy(base).Director
	p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", target, nil))
	return out
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// upgradeType is the requested protocol, as the tests' own backends read it.
func upgradeType(h http.Header) string {
	if !strings.EqualFold(h.Get("Connection"), "upgrade") {
		return ""
	}
	return h.Get("Upgrade")
}

// neverEnding is a reader of the one byte, as in the tests of dumping.
type neverEnding byte

func (b neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}
