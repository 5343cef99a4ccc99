package weirotel_test

import (
	"log"
	"net/http"

	"github.com/goweir/weir/adapters/weirotel"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

// The gateway as a part of traces: whatever makes the request's span, such as
// otelhttp.NewHandler, stands outside.
func Example() {
	telemetry, err := weirotel.New(nil)
	if err != nil {
		log.Fatal(err)
	}
	users, err := proxy.New(proxy.Config{
		Upstreams:     []proxy.Upstream{{URL: "http://127.0.0.1:9001"}},
		Observer:      telemetry.Proxy(),
		WrapTransport: telemetry.WrapTransport,
		Fallback:      telemetry.Fallback(http.HandlerFunc(proxy.Problem)),
	})
	if err != nil {
		log.Fatal(err)
	}
	limits := limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{{Policy: limiter.PerSecond("client", 10), Key: limiter.KeyByClientIP}},
		&limiter.Options{Observer: telemetry.Limiter()})

	http.Handle("/users/", limits(users))
}
