package weirprom_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/adapters/weirprom"
	"github.com/goweir/weir/limiter"
)

// Who holds a slot, who waits for one, who is refused; and nobody, in the end.
func TestInFlight(t *testing.T) {
	m := weirprom.New(nil)
	f, err := limiter.NewInFlight(limiter.InFlightOptions{Name: "heavy", Max: 1, Queue: 1, MaxWait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	reg := registered(t, m, weirprom.InFlight(f))
	gate := make(chan struct{})
	one := f.Middleware(nil, &limiter.Options{Observer: m.Limiter()})
	s := serve(t, routed([]string{"/reports"}, one(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-gate }))))
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { get(t, s.URL+"/reports") })
	}
	until(t, func() bool { st := f.Snapshot(); return st.InUse == 1 && st.Waiting == 1 })
	if status := get(t, s.URL+"/reports"); status != 503 {
		t.Errorf("the third got %d, want 503", status)
	}
	until(t, func() bool { return gathered(t, reg)[`weir_inflight_requests{policy="heavy"}`] == 1 })
	shows(t, reg, map[string]float64{
		`weir_inflight_requests{policy="heavy"}`:                                          1,
		`weir_inflight_slots_in_use{policy="heavy"}`:                                      1,
		`weir_inflight_slots_limit{policy="heavy"}`:                                       1,
		`weir_inflight_waiting_requests{policy="heavy"}`:                                  1,
		`weir_inflight_decisions_total{policy="heavy",result="allowed",route="/reports"}`: 1,
		`weir_inflight_decisions_total{policy="heavy",result="denied",route="/reports"}`:  1,
		`weir_inflight_refusals_total{policy="heavy",reason="full"}`:                      1,
		`weir_inflight_wait_duration_seconds{policy="heavy",result="allowed"}`:            1,
		`weir_inflight_wait_duration_seconds{policy="heavy",result="denied"}`:             1,
	})
	close(gate)
	wg.Wait()
	until(t, func() bool {
		got := gathered(t, reg)
		return got[`weir_inflight_requests{policy="heavy"}`] == 0 && got[`weir_inflight_slots_in_use{policy="heavy"}`] == 0 &&
			got[`weir_inflight_wait_duration_seconds{policy="heavy",result="allowed"}`] == 2
	})
}

// Leases that several processes share may end before they are renewed.
func TestLapses(t *testing.T) {
	m := weirprom.New(nil)
	reg := registered(t, m)
	m.Limiter().Observe(t.Context(), limiter.Event{Kind: limiter.EventLapse, Policy: "heavy", N: 3})
	shows(t, reg, map[string]float64{`weir_inflight_lapses_total{policy="heavy"}`: 3})
}

func TestBandwidth(t *testing.T) {
	m := weirprom.New(nil)
	reg := registered(t, m)
	b, err := limiter.NewBandwidth(limiter.BandwidthOptions{
		Limits: limiter.BandwidthLimits{PerResponse: 1 << 30, Classes: []limiter.BandwidthClass{{Name: "high"}, {Name: "low"}}},
		Class:  func(r *http.Request) string { return r.Header.Get("X-Class") }, Bodies: limiter.AllBodies, Observer: m.Limiter(),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, strings.Repeat("x", 1000))
	})))
	r, err := http.NewRequest("POST", s.URL, strings.NewReader("some bytes"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Class", "low")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	until(t, func() bool {
		return gathered(t, reg)[`weir_bandwidth_wait_duration_seconds{class="low",direction="received"}`] == 1
	})
	shows(t, reg, map[string]float64{
		`weir_bandwidth_bodies_total{class="low",direction="sent",result="allowed"}`:     1,
		`weir_bandwidth_bodies_total{class="low",direction="received",result="allowed"}`: 1,
		`weir_bandwidth_transferred_bytes_total{class="low",direction="sent"}`:           1000,
		`weir_bandwidth_transferred_bytes_total{class="low",direction="received"}`:       10,
		`weir_bandwidth_wait_duration_seconds{class="low",direction="sent"}`:             1,
		`weir_bandwidth_wait_duration_seconds{class="low",direction="received"}`:         1,
	})
}
