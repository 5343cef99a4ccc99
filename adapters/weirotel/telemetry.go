package weirotel

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// scope is the name of the instrumentation.
const scope = "github.com/goweir/weir/adapters/weirotel"

// Options are the options of [New].
type Options struct {
	// MeterProvider and TracerProvider make meters and tracers. nil: the global
	// ones.
	MeterProvider  metric.MeterProvider
	TracerProvider trace.TracerProvider

	// Propagator writes the span of an attempt into the request to the upstream.
	// nil: the global one, which is none until the program sets it.
	Propagator propagation.TextMapPropagator
}

// Telemetry has an observer for each room of weir. All its methods are safe for
// concurrent use.
type Telemetry struct {
	meter      metric.Meter
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	faults     []error

	limiter limiterTelemetry
	capture captureTelemetry
	proxy   proxyTelemetry
	client  clientTelemetry
}

// New returns a Telemetry. nil means default options. The error joins those of
// the meter, which the API promises none of; the Telemetry can be used all the
// same.
func New(opts *Options) (*Telemetry, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.MeterProvider == nil {
		o.MeterProvider = otel.GetMeterProvider()
	}
	if o.TracerProvider == nil {
		o.TracerProvider = otel.GetTracerProvider()
	}
	if o.Propagator == nil {
		o.Propagator = otel.GetTextMapPropagator()
	}
	t := &Telemetry{meter: o.MeterProvider.Meter(scope), tracer: o.TracerProvider.Tracer(scope), propagator: o.Propagator}
	t.limiter.init(t)
	t.capture.init(t)
	t.proxy.init(t)
	t.client.init(t)
	return t, errors.Join(t.faults...)
}

// A counter counts in a series for each combination of attributes.
type counter struct {
	inner metric.Int64Counter
	*series
}

func (c *counter) add(ctx context.Context, n int64, k key) { c.inner.Add(ctx, n, c.of(k).add...) }

func (t *Telemetry) counter(name, unit, about string, attributes func(key) []attribute.KeyValue) counter {
	c, err := t.meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(about))
	t.fault(err)
	return counter{c, newSeries(attributes)}
}

// A histogram is the same for times, in seconds.
type histogram struct {
	inner metric.Float64Histogram
	*series
}

func (h *histogram) record(ctx context.Context, seconds float64, k key) {
	h.inner.Record(ctx, seconds, h.of(k).record...)
}

func (t *Telemetry) histogram(name, about string, buckets []float64, attributes func(key) []attribute.KeyValue) histogram {
	h, err := t.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(about), metric.WithExplicitBucketBoundaries(buckets...))
	t.fault(err)
	return histogram{h, newSeries(attributes)}
}

func (t *Telemetry) fault(err error) {
	if err != nil {
		t.faults = append(t.faults, err)
	}
}

var (
	// A decision in memory takes a microsecond, one of a server a hundred times
	// that, and one that waits for its budget 50 ms.
	decisionBuckets = []float64{1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, .001, .0025, .005, .01, .025, .05, .1, .5}

	// A sink is a buffer, a disk, or a server.
	sinkBuckets = []float64{1e-5, 1e-4, .001, .01, .1, 1, 10}

	// What the semantic conventions advise for HTTP.
	exchangeBuckets = []float64{.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}
)

const (
	policyKey    = attribute.Key("weir.policy")
	routeKey     = attribute.Key("http.route")
	resultKey    = attribute.Key("weir.result")
	sourceKey    = attribute.Key("weir.source")
	backendKey   = attribute.Key("weir.backend")
	stateKey     = attribute.Key("weir.state")
	partKey      = attribute.Key("weir.part")
	reasonKey    = attribute.Key("weir.reason")
	upstreamKey  = attribute.Key("weir.upstream")
	triggerKey   = attribute.Key("weir.trigger")
	sideKey      = attribute.Key("weir.side")
	phaseKey     = attribute.Key("weir.phase")
	classKey     = attribute.Key("weir.class")
	directionKey = attribute.Key("weir.direction")
	refusedKey   = attribute.Key("weir.refused_by")
)

// byName returns attributes of one name.
func byName(name attribute.Key) func(key) []attribute.KeyValue {
	return func(k key) []attribute.KeyValue { return []attribute.KeyValue{name.String(k.name)} }
}

// byWord returns attributes of one word.
func byWord(word attribute.Key) func(key) []attribute.KeyValue {
	return func(k key) []attribute.KeyValue { return []attribute.KeyValue{word.String(k.word)} }
}

// byBoth returns attributes of a name and a word.
func byBoth(name, word attribute.Key) func(key) []attribute.KeyValue {
	return func(k key) []attribute.KeyValue {
		return []attribute.KeyValue{name.String(k.name), word.String(k.word)}
	}
}

// byRoute returns attributes of a route and a word.
func byRoute(word attribute.Key) func(key) []attribute.KeyValue {
	return func(k key) []attribute.KeyValue {
		return withRoute(k.route, word.String(k.word))
	}
}

// withRoute adds a route, where one is known.
func withRoute(route string, attributes ...attribute.KeyValue) []attribute.KeyValue {
	if route == "" {
		return attributes
	}
	return append(attributes, routeKey.String(route))
}
