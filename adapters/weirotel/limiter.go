package weirotel

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/goweir/weir/limiter"
)

// Limiter returns an observer for limiter.Options and limiter.MemoryOptions. One
// is enough for all of them.
func (t *Telemetry) Limiter() limiter.Observer { return &t.limiter }

// Failover returns an observer for failover.Options. backend names what fails,
// as in "redis": give each failover another name.
func (t *Telemetry) Failover(backend string) limiter.Observer {
	l := &t.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.backends[backend]
	if b == nil {
		b = &failing{limiterTelemetry: l, name: backend}
		l.backends[backend] = b
	}
	return b
}

type limiterTelemetry struct {
	tracer    trace.Tracer
	decisions counter
	durations histogram
	holds     histogram
	evictions counter
	noRoom    counter
	failures  counter
	opened    counter

	mu       sync.Mutex
	backends map[string]*failing
}

func (l *limiterTelemetry) init(t *Telemetry) {
	l.tracer, l.backends = t.tracer, map[string]*failing{}
	l.decisions = t.counter("weir.limiter.decisions", "{decision}", "Decisions about the charges of requests.", func(k key) []attribute.KeyValue {
		return withRoute(k.route, policyKey.String(k.name), resultKey.String(k.word))
	})
	l.durations = t.histogram("weir.limiter.store.duration", "Time until a charge was decided, with those beside it, by who decided.", decisionBuckets, byWord(sourceKey))
	l.holds = t.histogram("weir.limiter.hold.duration", "Time for which requests waited for their turn.", exchangeBuckets, byBoth(policyKey, resultKey))
	l.evictions = t.counter("weir.limiter.evictions", "{state}", "States forgotten before they were whole, to make room for a policy.", byName(policyKey))
	l.noRoom = t.counter("weir.limiter.no_room", "{charge}", "Charges refused because there was no room for their state.", byName(policyKey))
	l.failures = t.counter("weir.limiter.backend.failures", "{call}", "Calls that a backend did not answer in time, or at all.", byName(backendKey))
	l.opened = t.counter("weir.limiter.breaker.opened", "{change}", "How often a backend's breaker opened.", byName(backendKey))
	_, err := t.meter.Int64ObservableGauge("weir.limiter.breaker.state", metric.WithUnit("1"),
		metric.WithDescription("1 for the state that a backend's breaker is in, 0 for the others."), metric.WithInt64Callback(l.states))
	t.fault(err)
}

// Observe implements [limiter.Observer].
func (l *limiterTelemetry) Observe(ctx context.Context, e limiter.Event) {
	switch e.Kind {
	case limiter.EventDecision:
		result := resultOf(&e)
		l.decisions.add(ctx, 1, key{name: e.Policy, route: e.Route, word: result})
		if e.Result != limiter.OutcomeUnkeyed { // nobody was asked
			l.durations.record(ctx, e.Duration.Seconds(), key{word: word(e.Source.String())})
		}
		l.traceDecision(ctx, &e, result)
	case limiter.EventHold:
		l.holds.record(ctx, e.Duration.Seconds(), key{name: e.Policy, word: e.Result.String()})
		l.span(ctx, "wait for "+e.Policy, e.Start, e.Duration, policyKey.String(e.Policy), resultKey.String(e.Result.String())).end()
	case limiter.EventEviction:
		l.evictions.add(ctx, int64(e.N), key{name: e.Policy})
	case limiter.EventNoRoom:
		l.noRoom.add(ctx, int64(e.N), key{name: e.Policy})
	}
}

func (l *limiterTelemetry) traceDecision(ctx context.Context, e *limiter.Event, result string) {
	request := trace.SpanFromContext(ctx)
	if !request.IsRecording() {
		return
	}
	s := l.span(ctx, "limit "+e.Policy, e.Start, e.Duration, policyKey.String(e.Policy), resultKey.String(result),
		sourceKey.String(word(e.Source.String())), attribute.Int("weir.cost", e.N))
	switch e.Result {
	case limiter.OutcomeFailed, limiter.OutcomeWaved:
		s.SetStatus(codes.Error, "the limiter could not decide")
	}
	switch e.Result {
	case limiter.OutcomeDenied, limiter.OutcomeFailed, limiter.OutcomeUnkeyed:
		request.SetAttributes(refusedKey.String(e.Policy))
	}
	s.end()
}

// A past is a span of something that has ended.
type past struct {
	trace.Span
	at time.Time
}

func (p past) end() { p.End(trace.WithTimestamp(p.at)) }

// span returns the span of something that has ended, below that of ctx.
func (l *limiterTelemetry) span(ctx context.Context, name string, start time.Time, d time.Duration, attributes ...attribute.KeyValue) past {
	return pastSpan(l.tracer, ctx, name, start, d, attributes)
}

func pastSpan(tracer trace.Tracer, ctx context.Context, name string, start time.Time, d time.Duration, attributes []attribute.KeyValue) past {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return past{Span: trace.SpanFromContext(context.Background())} // does nothing
	}
	_, s := tracer.Start(ctx, name, trace.WithTimestamp(start), trace.WithAttributes(attributes...))
	return past{s, start.Add(d)}
}

// resultOf returns whether the request may pass as far as this charge is
// concerned, and whether that was decided as it should be.
func resultOf(e *limiter.Event) string {
	switch e.Result {
	case limiter.OutcomeAllowed:
		if e.Source == limiter.SourceFallback {
			return "local_fallback"
		}
		return "allowed"
	case limiter.OutcomeShadow:
		return "shadow_denied"
	case limiter.OutcomeWaved:
		return "error_allowed"
	case limiter.OutcomeFailed:
		return "error_denied"
	}
	return e.Result.String() // denied, spared, unkeyed
}

// word returns a String of package limiter as other attributes are written.
func word(s string) string { return strings.ReplaceAll(s, " ", "_") }

// failing is the observer of a failover.
type failing struct {
	*limiterTelemetry
	name  string
	state atomic.Uint32 // index of breakerStates
}

var breakerStates = [...]string{"closed", "half_open", "open"}

const (
	closed uint32 = iota
	halfOpen
	open
)

// Observe implements [limiter.Observer].
func (f *failing) Observe(ctx context.Context, e limiter.Event) {
	switch e.Kind {
	case limiter.EventFailure:
		f.failures.add(ctx, int64(e.N), key{name: f.name})
		s := f.span(ctx, "ask "+f.name, e.Start, e.Duration, backendKey.String(f.name))
		s.SetStatus(codes.Error, "no answer")
		s.RecordError(e.Err)
		s.end()
	case limiter.EventBreakerOpen:
		f.opened.add(ctx, 1, key{name: f.name})
		f.state.Store(open)
	case limiter.EventBreakerHalfOpen:
		f.state.Store(halfOpen)
	case limiter.EventBreakerClosed:
		f.state.Store(closed)
	default:
		f.limiterTelemetry.Observe(ctx, e)
	}
}

// states shows the state of every backend's breaker.
func (l *limiterTelemetry) states(_ context.Context, o metric.Int64Observer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, f := range l.backends {
		oneOf(o.Observe, int(f.state.Load()), backendKey.String(name))
	}
	return nil
}

// oneOf shows a breaker's state as one series for each that there is.
func oneOf(observe func(int64, ...metric.ObserveOption), is int, attributes ...attribute.KeyValue) {
	for i, state := range breakerStates {
		var value int64
		if i == is {
			value = 1
		}
		observe(value, metric.WithAttributes(attributes...), metric.WithAttributes(stateKey.String(state)))
	}
}
