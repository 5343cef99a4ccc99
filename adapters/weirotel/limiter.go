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

// Limiter returns an observer for limiter.Options, whichever middleware they are
// for, limiter.MemoryOptions and limiter.BandwidthOptions. One is enough for all
// of them.
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
	lapses    counter
	failures  counter
	opened    counter

	slots    counter
	refusals counter
	waits    histogram
	inFlight metric.Int64UpDownCounter
	policies *series

	bodies, bytes counter
	paces         histogram

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
	l.lapses = t.counter("weir.inflight.lapses", "{lease}", "Leases of slots that had ended before they were renewed.", byName(policyKey))
	l.failures = t.counter("weir.limiter.backend.failures", "{call}", "Calls that a backend did not answer in time, or at all.", byName(backendKey))
	l.opened = t.counter("weir.limiter.breaker.opened", "{change}", "How often a backend's breaker opened.", byName(backendKey))
	_, err := t.meter.Int64ObservableGauge("weir.limiter.breaker.state", metric.WithUnit("1"),
		metric.WithDescription("1 for the state that a backend's breaker is in, 0 for the others."), metric.WithInt64Callback(l.states))
	t.fault(err)
	l.initInFlight(t)
	l.initBandwidth(t)
}

func (l *limiterTelemetry) initInFlight(t *Telemetry) {
	l.slots = t.counter("weir.inflight.decisions", "{request}", "Requests that asked for slots, by what became of that.", func(k key) []attribute.KeyValue {
		return withRoute(k.route, policyKey.String(k.name), resultKey.String(k.word))
	})
	l.refusals = t.counter("weir.inflight.refusals", "{request}", "Requests that got no slots, by why.", byBoth(policyKey, reasonKey))
	l.waits = t.histogram("weir.inflight.wait.duration", "Time for which requests waited for slots.", exchangeBuckets, byBoth(policyKey, resultKey))
	var err error
	l.inFlight, err = t.meter.Int64UpDownCounter("weir.inflight.requests", metric.WithUnit("{request}"), metric.WithDescription("Requests that hold slots."))
	t.fault(err)
	l.policies = newSeries(byName(policyKey))
}

func (l *limiterTelemetry) initBandwidth(t *Telemetry) {
	l.bodies = t.counter("weir.bandwidth.bodies", "{body}", "Paced bodies that ended, by how.", func(k key) []attribute.KeyValue {
		return []attribute.KeyValue{classKey.String(k.name), directionKey.String(k.word), resultKey.String(k.word2)}
	})
	l.bytes = t.counter("weir.bandwidth.io", "By", "Bytes of paced bodies that ended.", byBoth(classKey, directionKey))
	l.paces = t.histogram("weir.bandwidth.wait.duration", "Time for which paced bodies waited in all.", exchangeBuckets, byBoth(classKey, directionKey))
}

func (l *limiterTelemetry) observeSlot(ctx context.Context, e *limiter.Event) {
	result := resultOf(e)
	l.slots.add(ctx, 1, key{name: e.Policy, route: e.Route, word: result})
	if e.Result != limiter.OutcomeUnkeyed { // nobody was asked
		l.waits.record(ctx, e.Duration.Seconds(), key{name: e.Policy, word: e.Result.String()})
	}
	switch e.Result {
	case limiter.OutcomeAllowed:
		l.inFlight.Add(ctx, 1, l.policies.of(key{name: e.Policy}).add...)
	case limiter.OutcomeDenied:
		l.refusals.add(ctx, 1, key{name: e.Policy, word: word(e.Reason.String())})
	}
	l.trace(ctx, "slot ", e, result)
}

func (l *limiterTelemetry) observeBody(ctx context.Context, e *limiter.Event) {
	k := key{name: e.Policy, word: "sent"}
	if e.Kind == limiter.EventReceived {
		k.word = "received"
	}
	if e.Result != limiter.OutcomeUnkeyed {
		l.bytes.add(ctx, int64(e.N), k)
		l.paces.record(ctx, e.Duration.Seconds(), k)
	}
	k.word2 = e.Result.String()
	l.bodies.add(ctx, 1, k)
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
		l.trace(ctx, "limit ", &e, result)
	case limiter.EventHold:
		l.holds.record(ctx, e.Duration.Seconds(), key{name: e.Policy, word: e.Result.String()})
		l.traceHold(ctx, &e)
	case limiter.EventEviction:
		l.evictions.add(ctx, int64(e.N), key{name: e.Policy})
	case limiter.EventNoRoom:
		l.noRoom.add(ctx, int64(e.N), key{name: e.Policy})
	case limiter.EventLapse:
		l.lapses.add(ctx, int64(e.N), key{name: e.Policy})
	case limiter.EventSlot:
		l.observeSlot(ctx, &e)
	case limiter.EventRelease:
		l.inFlight.Add(ctx, -1, l.policies.of(key{name: e.Policy}).add...)
	case limiter.EventSent, limiter.EventReceived:
		l.observeBody(ctx, &e)
	}
}

// trace makes the span of a decision, and notes at that of the request who
// refused it.
func (l *limiterTelemetry) trace(ctx context.Context, what string, e *limiter.Event, result string) {
	request := trace.SpanFromContext(ctx)
	if !request.IsRecording() {
		return
	}
	s := l.span(ctx, what+e.Policy, e.Start, e.Duration, policyKey.String(e.Policy), resultKey.String(result),
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

func (l *limiterTelemetry) traceHold(ctx context.Context, e *limiter.Event) {
	if trace.SpanFromContext(ctx).IsRecording() {
		l.span(ctx, "wait for "+e.Policy, e.Start, e.Duration, policyKey.String(e.Policy), resultKey.String(e.Result.String())).end()
	}
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
