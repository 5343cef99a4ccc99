package weirprom_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/goweir/weir/adapters/weirprom"
	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

// Everything that one process can tell, on one page.
func Example() {
	metrics := weirprom.New(nil)
	memory := limiter.NewMemory(&limiter.MemoryOptions{Observer: metrics.Limiter()})
	queue := capture.Async(capture.JSONL(os.Stderr), &capture.AsyncOptions{Observer: metrics.Capture()})
	users, err := proxy.New(proxy.Config{Upstreams: []proxy.Upstream{{URL: "http://127.0.0.1:9001"}}, Observer: metrics.Proxy()})
	if err != nil {
		log.Fatal(err)
	}
	limits := limiter.Middleware(memory, limiter.Rules{{Policy: limiter.PerSecond("client", 10), Key: limiter.KeyByClientIP}},
		&limiter.Options{Observer: metrics.Limiter()})
	audit := capture.Middleware(queue, &capture.Options{Observer: metrics.Capture()})
	prometheus.MustRegister(metrics, weirprom.Memory("api", memory), weirprom.Queue("audit", queue), weirprom.Upstreams("users", users))

	http.Handle("/users/", audit(limits(users)))
	http.Handle("/metrics", promhttp.Handler())
}

// What a refusal looks like.
func ExampleMetrics_Limiter() {
	metrics := weirprom.New(nil)
	reg := prometheus.NewRegistry()
	if err := reg.Register(metrics); err != nil {
		log.Fatal(err)
	}
	limits := limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{{Policy: limiter.PerDay("client", 2), Key: limiter.KeyGlobal}},
		&limiter.Options{Observer: metrics.Limiter()})
	mux := http.NewServeMux()
	mux.Handle("GET /users/{id}", limits(http.NotFoundHandler()))
	for range 3 {
		mux.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/users/7", nil))
	}
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	page, err := io.ReadAll(w.Body)
	if err != nil {
		log.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "weir_limiter_decisions") {
			fmt.Print(line)
		}
	}
	// Output:
	// weir_limiter_decisions_total{policy="client",result="allowed",route="GET /users/{id}"} 2
	// weir_limiter_decisions_total{policy="client",result="denied",route="GET /users/{id}"} 1
}
