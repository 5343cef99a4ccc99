// Package httputil stands in for net/http/httputil below a copy of package
// proxy: the same ReverseProxy, which also calls the hooks of the test.
package httputil

import (
	"context"
	"net/http"
	"net/http/httputil"
)

type (
	BufferPool   = httputil.BufferPool
	ProxyRequest = httputil.ProxyRequest

	ReverseProxy httputil.ReverseProxy
)

type key struct{}

// WithHooks returns a context with the fields of p that a proxy.Config does not
// have.
func WithHooks(ctx context.Context, p *httputil.ReverseProxy) context.Context {
	return context.WithValue(ctx, key{}, p)
}

func (p *ReverseProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reverse := httputil.ReverseProxy(*p)
	if h, ok := r.Context().Value(key{}).(*httputil.ReverseProxy); ok {
		modify := reverse.ModifyResponse
		if h.ModifyResponse != nil {
			reverse.ModifyResponse = func(res *http.Response) error {
				if modify != nil {
					if err := modify(res); err != nil {
						return err
					}
				}
				return h.ModifyResponse(res)
			}
		}
		if h.ErrorHandler != nil {
			reverse.ErrorHandler = h.ErrorHandler
		}
		if h.BufferPool != nil {
			reverse.BufferPool = h.BufferPool
		}
		if h.FlushInterval != 0 {
			reverse.FlushInterval = h.FlushInterval
		}
	}
	reverse.ServeHTTP(w, r)
}
