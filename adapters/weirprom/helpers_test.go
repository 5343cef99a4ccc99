package weirprom_test

import (
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// registered returns a registry with cs, which must be free of what promlint
// complains about in the end.
func registered(t *testing.T, cs ...prometheus.Collector) *prometheus.Registry {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	for _, c := range cs {
		if err := reg.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		problems, err := testutil.GatherAndLint(reg)
		if err != nil {
			t.Error(err)
		}
		for _, p := range problems {
			t.Errorf("promlint: %s: %s", p.Metric, p.Text)
		}
	})
	return reg
}

// gathered returns every series and its value; of a histogram, the number of
// observations.
func gathered(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var pairs []string
			for _, l := range m.GetLabel() {
				pairs = append(pairs, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := f.GetName()
			if len(pairs) > 0 {
				name += "{" + strings.Join(pairs, ",") + "}"
			}
			switch {
			case m.GetCounter() != nil:
				all[name] = m.GetCounter().GetValue()
			case m.GetGauge() != nil:
				all[name] = m.GetGauge().GetValue()
			default:
				all[name] = float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return all
}

// shows compares all series with want; others may be there at 0. A negative
// value wants anything above 0.
func shows(t *testing.T, reg prometheus.Gatherer, want map[string]float64) {
	t.Helper()
	got := gathered(t, reg)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		value, ok := got[name]
		if w := want[name]; !ok || w >= 0 && math.Abs(value-w) > 1e-9 || w < 0 && value <= 0 {
			t.Errorf("%s = %v (there: %v), want %v", name, value, ok, w)
		}
		delete(got, name)
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if got[name] != 0 {
			t.Errorf("%s = %v, which should not be there", name, got[name])
		}
	}
}

// serve returns a server of h and its URL.
func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// get makes a request and returns the status, 0 if there was no whole answer.
func get(t *testing.T, url string, headers ...string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0
	}
	return res.StatusCode
}

// routed tells h of the pattern that a request takes, as a router in front does.
func routed(patterns []string, h http.Handler) http.Handler {
	mux := http.NewServeMux()
	for _, p := range patterns {
		mux.Handle(p, h)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, r.Pattern = mux.Handler(r)
		h.ServeHTTP(w, r)
	})
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
