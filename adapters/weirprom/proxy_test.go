package weirprom_test

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/adapters/weirprom"
	"github.com/goweir/weir/proxy"
)

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
