package weirotel_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/goweir/weir/adapters/weirotel"
)

// A rig is a Telemetry with an SDK behind it.
type rig struct {
	*weirotel.Telemetry
	reader *sdkmetric.ManualReader
	spans  *tracetest.SpanRecorder
	tracer trace.Tracer
}

var w3c = propagation.TraceContext{}

func newRig(t testing.TB, opts ...sdktrace.TracerProviderOption) *rig {
	t.Helper()
	r := &rig{reader: sdkmetric.NewManualReader(), spans: tracetest.NewSpanRecorder()}
	tp := sdktrace.NewTracerProvider(append(opts, sdktrace.WithSpanProcessor(r.spans))...)
	r.tracer = tp.Tracer("test")
	var err error
	r.Telemetry, err = weirotel.New(&weirotel.Options{
		MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(r.reader)),
		TracerProvider: tp,
		Propagator:     w3c,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// server is the span of each request, as otelhttp makes it.
func (r *rig) server(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		ctx := w3c.Extract(req.Context(), propagation.HeaderCarrier(req.Header))
		ctx, span := r.tracer.Start(ctx, "server", trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		next.ServeHTTP(w, req.WithContext(ctx))
	})
}

// named returns the spans of a name that have ended, in the order of their ends.
func (r *rig) named(name string) (spans []sdktrace.ReadOnlySpan) {
	for _, s := range r.spans.Ended() {
		if s.Name() == name {
			spans = append(spans, s)
		}
	}
	return spans
}

// one returns the only span of a name.
func (r *rig) one(t *testing.T, name string) sdktrace.ReadOnlySpan {
	t.Helper()
	until(t, func() bool { return len(r.named(name)) > 0 })
	spans := r.named(name)
	if len(spans) != 1 {
		t.Fatalf("%d spans %q, want 1", len(spans), name)
	}
	return spans[0]
}

// has compares attributes of a span; "" wants it absent.
func has(t *testing.T, s sdktrace.ReadOnlySpan, want map[attribute.Key]string) {
	t.Helper()
	got := map[attribute.Key]string{}
	for _, kv := range s.Attributes() {
		got[kv.Key] = kv.Value.Emit()
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("span %q: %s = %q, want %q", s.Name(), k, got[k], v)
		}
	}
}

// gathered returns every series and its value; of a histogram, the number of
// observations. The attributes are in order.
func (r *rig) gathered(t *testing.T) map[string]float64 {
	t.Helper()
	var data metricdata.ResourceMetrics
	if err := r.reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			put := func(set attribute.Set, value float64) {
				var pairs []string
				for _, kv := range set.ToSlice() {
					pairs = append(pairs, string(kv.Key)+"="+kv.Value.Emit())
				}
				all[m.Name+"{"+strings.Join(pairs, ",")+"}"] = value
			}
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					put(p.Attributes, float64(p.Value))
				}
			case metricdata.Gauge[int64]:
				for _, p := range d.DataPoints {
					put(p.Attributes, float64(p.Value))
				}
			case metricdata.Gauge[float64]:
				for _, p := range d.DataPoints {
					put(p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range d.DataPoints {
					put(p.Attributes, float64(p.Count))
				}
			default:
				t.Fatalf("%s is a %T", m.Name, d)
			}
		}
	}
	return all
}

// shows compares all series with want; others may be there at 0. A negative
// value wants anything above 0.
func (r *rig) shows(t *testing.T, want map[string]float64) {
	t.Helper()
	got := r.gathered(t)
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

// serve returns a server of h.
func serve(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// get makes a request and returns the status, 0 if there was no whole answer.
func get(t testing.TB, url string, headers ...string) int {
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
func routed(pattern string, h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(pattern, h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, r.Pattern = mux.Handler(r)
		h.ServeHTTP(w, r)
	})
}

// until waits for what another goroutine does.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing came of it within 10 s")
		}
	}
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })

var quiet = slog.New(slog.DiscardHandler)

// sinkhole is a response that nobody gets.
type sinkhole struct{}

func (sinkhole) Header() http.Header         { return http.Header{} }
func (sinkhole) Write(p []byte) (int, error) { return len(p), nil }
func (sinkhole) WriteHeader(int)             {}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}
