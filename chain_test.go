package weir_test

import (
	"testing"

	"github.com/goweir/weir/internal/stdtest"
)

// TestChainIsTransparent runs Go's own net/http tests with every handler behind
// the whole chain but the proxy. Header fields about quotas are off, because
// some of those tests compare whole headers.
func TestChainIsTransparent(t *testing.T) {
	stdtest.NetHTTP(t, stdtest.Variant{Name: "chain", Source: `package shim

import (
	"context"
	"net/http"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/limiter"
)

var (
	who   clientip.Resolver // trusts nobody
	audit = capture.Middleware(capture.SinkFunc(func(context.Context, *capture.Exchange) error { return nil }), nil)
	limit = limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{{
		Policy:   limiter.PerSecond("all", 1e9),
		Key:      limiter.KeyGlobal,
		RefundIf: func(status int) bool { return status >= 500 }, // so that it looks at the response
	}}, &limiter.Options{Headers: limiter.NoHeaders})
)

func Wrap(next http.Handler) http.Handler { return who.Middleware(audit(limit(next))) }
`})
}
