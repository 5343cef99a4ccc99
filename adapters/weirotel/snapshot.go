package weirotel

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

// A watch makes gauges that are asked when somebody collects.
type watch struct {
	meter  metric.Meter
	gauges []metric.Observable
	faults []error
}

func (w *watch) int(name, unit, about string) metric.Int64Observable {
	g, err := w.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(about))
	w.gauges, w.faults = append(w.gauges, g), append(w.faults, err)
	return g
}

func (w *watch) float(name, unit, about string) metric.Float64Observable {
	g, err := w.meter.Float64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(about))
	w.gauges, w.faults = append(w.gauges, g), append(w.faults, err)
	return g
}

func (w *watch) start(ask func(metric.Observer)) (metric.Registration, error) {
	reg, err := w.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		ask(o)
		return nil
	}, w.gauges...)
	return reg, errors.Join(append(w.faults, err)...)
}

// Memory makes gauges of what m holds, until the Registration ends. name tells
// it from other memories. To be told of evictions, too, give m's options the
// observer of [Telemetry.Limiter].
func (t *Telemetry) Memory(name string, m *limiter.Memory) (metric.Registration, error) {
	w := watch{meter: t.meter}
	keys := w.int("weir.limiter.keys", "{key}", "States held, those that became whole lately among them.")
	bytes := w.int("weir.limiter.memory", "By", "Size of the tables and the logs.")
	which := metric.WithAttributes(attribute.String("weir.memory", name))
	return w.start(func(o metric.Observer) {
		st := m.Stats()
		o.ObserveInt64(keys, int64(st.Keys), which)
		o.ObserveInt64(bytes, st.Bytes, which)
	})
}

// InFlight makes gauges of the slots of a, which is known by its own name, until
// the Registration ends.
func (t *Telemetry) InFlight(a limiter.Acquirer) (metric.Registration, error) {
	w := watch{meter: t.meter}
	inUse := w.int("weir.inflight.slots.in_use", "{slot}", "Slots in use.")
	limit := w.int("weir.inflight.slots.limit", "{slot}", "Slots there are at present; 0, if there is no cap over all.")
	waiting := w.int("weir.inflight.waiting", "{request}", "Requests that wait for slots.")
	which := metric.WithAttributes(policyKey.String(a.Snapshot().Name))
	return w.start(func(o metric.Observer) {
		st := a.Snapshot()
		o.ObserveInt64(inUse, int64(st.InUse), which)
		o.ObserveInt64(limit, int64(st.Limit), which)
		o.ObserveInt64(waiting, int64(st.Waiting), which)
	})
}

// Budget makes a gauge of how much of b is in use, until the Registration ends.
// name tells it from other budgets.
func (t *Telemetry) Budget(name string, b *capture.Budget) (metric.Registration, error) {
	w := watch{meter: t.meter}
	inUse := w.int("weir.capture.budget.in_use", "By", "Bytes that captured bodies take.")
	which := metric.WithAttributes(attribute.String("weir.budget", name))
	return w.start(func(o metric.Observer) { o.ObserveInt64(inUse, b.InUse(), which) })
}

// Queue makes gauges of what waits in q, until the Registration ends. name tells
// it from other queues.
func (t *Telemetry) Queue(name string, q *capture.Queue) (metric.Registration, error) {
	w := watch{meter: t.meter}
	records := w.int("weir.capture.queue.records", "{record}", "Records that wait for delivery, or are being delivered.")
	bytes := w.int("weir.capture.queue.size", "By", "Size of the records that wait for delivery.")
	which := metric.WithAttributes(attribute.String("weir.queue", name))
	return w.start(func(o metric.Observer) {
		st := q.Stats()
		o.ObserveInt64(records, int64(st.Waiting), which)
		o.ObserveInt64(bytes, st.WaitingBytes, which)
	})
}

// Upstreams makes gauges of the state of p's upstreams, as
// [proxy.Proxy.Upstreams] tells it, until the Registration ends. name tells it
// from other proxies.
func (t *Telemetry) Upstreams(name string, p *proxy.Proxy) (metric.Registration, error) {
	w := watch{meter: t.meter}
	inFlight := w.int("weir.proxy.upstream.in_flight", "{request}", "Requests under way, upgraded connections among them.")
	waiting := w.int("weir.proxy.upstream.waiting", "{request}", "Requests that wait for a place.")
	up := w.int("weir.proxy.upstream.up", "1", "0 for an upstream that health checks have found down, else 1.")
	ejected := w.float("weir.proxy.upstream.ejected", "s", "What is left of an ejection.")
	breaker := w.int("weir.proxy.upstream.breaker.state", "1", "1 for the state that the upstream's breaker is in, 0 for the others; none without a breaker.")
	return w.start(func(o metric.Observer) {
		for _, u := range p.Upstreams() {
			attributes := []attribute.KeyValue{attribute.String("weir.proxy", name), upstreamKey.String(u.Name)}
			which := metric.WithAttributes(attributes...)
			o.ObserveInt64(inFlight, int64(u.InFlight), which)
			o.ObserveInt64(waiting, int64(u.Waiting), which)
			isUp := int64(1)
			if u.Down {
				isUp = 0
			}
			o.ObserveInt64(up, isUp, which)
			o.ObserveFloat64(ejected, max(u.EjectedFor.Seconds(), 0), which)
			if u.Breaker != proxy.BreakerNone {
				oneOf(func(v int64, opts ...metric.ObserveOption) { o.ObserveInt64(breaker, v, opts...) }, int(u.Breaker-proxy.BreakerClosed), attributes...)
			}
		}
	})
}
