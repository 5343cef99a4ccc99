package weirotel

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/goweir/weir/proxy"
)

// Proxy returns an observer for proxy.Config. One is enough for all of them. The
// spans of attempts are made by [Telemetry.WrapTransport], those of fallbacks by
// [Telemetry.Fallback].
func (t *Telemetry) Proxy() proxy.Observer { return &t.proxy }

type proxyTelemetry struct {
	tracer    trace.Tracer
	requests  counter
	outcomes  counter
	aborts    counter
	failures  counter
	bytes     counter
	attempts  counter
	waits     histogram
	fallbacks counter
	noBudget  counter
	ejected   counter
	ill       counter
	opened    counter
	tunnels   metric.Int64UpDownCounter
	upstreams *series
}

func (p *proxyTelemetry) init(t *Telemetry) {
	p.tracer = t.tracer
	p.requests = t.counter("weir.proxy.requests", "{request}", "Requests that ended, by the status the client was sent; none, if there was none.", func(k key) []attribute.KeyValue {
		return []attribute.KeyValue{upstreamKey.String(k.name), attribute.String("weir.code_class", k.word)}
	})
	p.outcomes = t.counter("weir.proxy.outcomes", "{request}", "Requests that ended, by how.", byRoute(resultKey))
	p.aborts = t.counter("weir.proxy.aborts", "{request}", "Requests that ended before the whole answer was passed on, by whose fault and how far they had come.", func(k key) []attribute.KeyValue {
		return []attribute.KeyValue{sideKey.String(k.word), phaseKey.String(k.word2)}
	})
	p.failures = t.counter("weir.proxy.failures", "{request}", "Requests without an answer of an upstream's, by why, whether a fallback answered or not.", byBoth(upstreamKey, reasonKey))
	p.bytes = t.counter("weir.proxy.io", "By", "Bytes of bodies, and of tunnels, up to the upstream and down from it.", byBoth(upstreamKey, directionKey))
	p.attempts = t.counter("weir.proxy.attempts", "{attempt}", "Attempts to get an answer from an upstream, by what they were made for and how they ended.", func(k key) []attribute.KeyValue {
		return []attribute.KeyValue{upstreamKey.String(k.name), triggerKey.String(k.word), resultKey.String(k.word2)}
	})
	p.waits = t.histogram("weir.proxy.wait.duration", "Time for which requests waited for a place at an upstream.", exchangeBuckets, byBoth(upstreamKey, resultKey))
	p.fallbacks = t.counter("weir.proxy.fallbacks", "{call}", "Calls of the fallback.", byWord(reasonKey))
	p.noBudget = t.counter("weir.proxy.no_budget", "{attempt}", "Attempts that were not made because the budget of retries was used up.", byWord(triggerKey))
	p.ejected = t.counter("weir.proxy.ejections", "{ejection}", "How often an upstream was taken out of the choice because its requests failed.", byName(upstreamKey))
	p.ill = t.counter("weir.proxy.downs", "{change}", "How often health checks found an upstream down.", byName(upstreamKey))
	p.opened = t.counter("weir.proxy.breaker.opened", "{change}", "How often an upstream's breaker opened.", byName(upstreamKey))
	var err error
	p.tunnels, err = t.meter.Int64UpDownCounter("weir.proxy.open_tunnels", metric.WithUnit("{connection}"), metric.WithDescription("Upgraded connections that are open."))
	t.fault(err)
	p.upstreams = newSeries(byName(upstreamKey))
}

// Observe implements [proxy.Observer].
func (p *proxyTelemetry) Observe(ctx context.Context, e proxy.Event) {
	upstream := key{name: e.Upstream}
	switch e.Kind {
	case proxy.EventRequest:
		p.observeRequest(ctx, &e)
	case proxy.EventAttempt:
		p.attempts.add(ctx, 1, key{name: e.Upstream, word: string(e.Trigger), word2: string(e.Result)})
	case proxy.EventFallback:
		p.fallbacks.add(ctx, 1, key{word: e.Reason.String()})
	case proxy.EventNoBudget:
		p.noBudget.add(ctx, 1, key{word: string(e.Trigger)})
	case proxy.EventWait:
		p.waits.record(ctx, e.Duration.Seconds(), key{name: e.Upstream, word: string(e.Result)})
		s := pastSpan(p.tracer, ctx, "wait for upstream", e.Start, e.Duration, []attribute.KeyValue{upstreamKey.String(e.Upstream), resultKey.String(string(e.Result))})
		s.end()
	case proxy.EventEjected:
		p.ejected.add(ctx, 1, upstream)
	case proxy.EventDown:
		p.ill.add(ctx, 1, upstream)
	case proxy.EventBreaker:
		if e.State == proxy.BreakerOpen {
			p.opened.add(ctx, 1, upstream)
		}
	case proxy.EventTunnelOpen:
		p.tunnels.Add(ctx, 1, p.upstreams.of(upstream).add...)
	case proxy.EventTunnelClose:
		p.tunnels.Add(ctx, -1, p.upstreams.of(upstream).add...)
	}
}

func (p *proxyTelemetry) observeRequest(ctx context.Context, e *proxy.Event) {
	p.requests.add(ctx, 1, key{name: e.Upstream, word: codeClass(e.Status)})
	p.outcomes.add(ctx, 1, key{route: e.Route, word: string(e.Result)})
	switch e.Result {
	case proxy.OutcomeAborted, proxy.OutcomeLeft, proxy.OutcomePanic:
		p.aborts.add(ctx, 1, key{word: string(e.Side), word2: string(e.Phase)})
	}
	if e.Reason != 0 {
		p.failures.add(ctx, 1, key{name: e.Upstream, word: e.Reason.String()})
	}
	if e.Upstream != "" {
		p.bytes.add(ctx, e.BytesUp, key{name: e.Upstream, word: "up"})
		p.bytes.add(ctx, e.BytesDown, key{name: e.Upstream, word: "down"})
	}
	if request := trace.SpanFromContext(ctx); request.IsRecording() {
		attributes := []attribute.KeyValue{attribute.String("weir.proxy.result", string(e.Result))}
		for name, value := range map[attribute.Key]string{
			"weir.proxy.upstream": e.Upstream, "weir.proxy.side": string(e.Side), "weir.proxy.phase": string(e.Phase),
		} {
			if value != "" {
				attributes = append(attributes, name.String(value))
			}
		}
		if e.Reason != 0 {
			attributes = append(attributes, attribute.String("weir.proxy.reason", e.Reason.String()))
		}
		request.SetAttributes(attributes...)
	}
}

// codeClass returns the first digit of a status, as in "2xx".
func codeClass(status int) string {
	switch status / 100 {
	case 1:
		return "1xx"
	case 2:
		return "2xx"
	case 3:
		return "3xx"
	case 4:
		return "4xx"
	case 5:
		return "5xx"
	}
	return "none"
}

// Fallback returns h with a span around it, for proxy.Config's Fallback. It
// panics if h is nil.
func (t *Telemetry) Fallback(h http.Handler) http.Handler {
	if h == nil {
		panic("weirotel: Fallback needs a handler, not nil")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !trace.SpanFromContext(r.Context()).IsRecording() {
			h.ServeHTTP(w, r)
			return
		}
		ctx, s := t.tracer.Start(r.Context(), "fallback")
		defer s.End()
		if cause, ok := proxy.CauseFrom(ctx); ok {
			s.SetAttributes(reasonKey.String(cause.Reason.String()))
			if cause.Upstream != "" {
				s.SetAttributes(upstreamKey.String(cause.Upstream))
			}
		}
		ended := false
		defer func() {
			if !ended {
				s.SetStatus(codes.Error, "the fallback panicked")
			}
		}()
		h.ServeHTTP(w, r.WithContext(ctx))
		ended = true
	})
}
