package weirprom

import (
	"context"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/goweir/weir/limiter"
)

// Limiter returns an observer for limiter.Options, whichever middleware they are
// for, limiter.MemoryOptions and limiter.BandwidthOptions. One is enough for all
// of them.
func (m *Metrics) Limiter() limiter.Observer { return &m.limiter }

// Failover returns an observer for failover.Options. backend names what fails,
// as in "redis": give each failover another name.
func (m *Metrics) Failover(backend string) limiter.Observer {
	return m.limiter.backends.of(label(backend))
}

type limiterMetrics struct {
	decisions *series[decision, prometheus.Counter]
	durations *series[limiter.Source, prometheus.Observer]
	holds     *series[named, prometheus.Observer]
	evictions *series[string, prometheus.Counter]
	noRoom    *series[string, prometheus.Counter]
	lapses    *series[string, prometheus.Counter]
	backends  *series[string, *backend]

	slots    *series[decision, prometheus.Counter]
	waits    *series[named, prometheus.Observer]
	inFlight *series[string, prometheus.Gauge]
	refusals *series[named, prometheus.Counter]

	bodies *series[paced, prometheus.Counter]
	bytes  *series[named, prometheus.Counter]
	paces  *series[named, prometheus.Observer]
}

// A paced is the labels of weir_bandwidth_bodies_total.
type paced struct{ class, direction, result string }

func (p paced) coarser() paced { return paced{other, p.direction, p.result} }

// A decision is the labels of weir_limiter_decisions_total.
type decision struct{ policy, route, result string }

func (d decision) coarser() decision {
	if d.route != other {
		return decision{d.policy, other, d.result}
	}
	return decision{other, other, d.result}
}

func (l *limiterMetrics) init(m *Metrics) {
	decisions := func(name, help string) *series[decision, prometheus.Counter] {
		v := m.counter(name, help, "policy", "route", "result")
		return newSeries(m.opts.MaxSeries, decision.coarser, func(d decision) prometheus.Counter {
			return v.WithLabelValues(label(d.policy), label(d.route), d.result)
		})
	}
	l.decisions = decisions("limiter_decisions_total", "Decisions about the charges of requests.")
	durations := m.histogram("limiter_store_duration_seconds",
		"Time until a charge was decided, with those beside it, by who decided.", decisionBuckets, "source")
	l.durations = newSeries(m.opts.MaxSeries, itself, func(s limiter.Source) prometheus.Observer {
		return durations.WithLabelValues(word(s.String()))
	})
	l.holds = m.histogramsBy("limiter_hold_duration_seconds", "Time for which requests waited for their turn.", exchangeBuckets, "policy", "result")
	l.evictions = m.countersOf("limiter_evictions_total", "States forgotten before they were whole, to make room for a policy.", "policy")
	l.noRoom = m.countersOf("limiter_no_room_total", "Charges refused because there was no room for their state.", "policy")

	failures := m.counter("limiter_backend_failures_total", "Calls that a backend did not answer in time, or at all.", "backend")
	opened := m.counter("limiter_breaker_opened_total", "How often a backend's breaker opened.", "backend")
	l.backends = newSeries(m.opts.MaxSeries, itself, func(name string) *backend {
		return &backend{
			limiterMetrics: l,
			failures:       failures.WithLabelValues(name),
			opened:         opened.WithLabelValues(name),
		}
	})
	m.collectors = append(m.collectors, breakers{l})

	l.slots = decisions("inflight_decisions_total", "Requests that asked for slots, by what became of that.")
	l.refusals = m.countersBy("inflight_refusals_total", "Requests that got no slots, by why.", "policy", "reason")
	l.waits = m.histogramsBy("inflight_wait_duration_seconds", "Time for which requests waited for slots.", exchangeBuckets, "policy", "result")
	l.inFlight = m.gaugesOf("inflight_requests", "Requests that hold slots.", "policy")
	l.lapses = m.countersOf("inflight_lapses_total", "Leases of slots that had ended before they were renewed.", "policy")

	bodies := m.counter("bandwidth_bodies_total", "Paced bodies that ended, by how.", "class", "direction", "result")
	l.bodies = newSeries(m.opts.MaxSeries, paced.coarser, func(p paced) prometheus.Counter {
		return bodies.WithLabelValues(label(p.class), p.direction, p.result)
	})
	l.bytes = m.countersBy("bandwidth_transferred_bytes_total", "Bytes of paced bodies that ended.", "class", "direction")
	l.paces = m.histogramsBy("bandwidth_wait_duration_seconds", "Time for which paced bodies waited in all.", exchangeBuckets, "class", "direction")
}

func (l *limiterMetrics) observeSlot(e *limiter.Event) {
	l.slots.of(decision{e.Policy, e.Route, resultOf(e)}).Inc()
	if e.Result != limiter.OutcomeUnkeyed { // nobody was asked
		l.waits.of(named{e.Policy, e.Result.String()}).Observe(e.Duration.Seconds())
	}
	switch e.Result {
	case limiter.OutcomeAllowed:
		l.inFlight.of(e.Policy).Inc()
	case limiter.OutcomeDenied:
		l.refusals.of(named{e.Policy, word(e.Reason.String())}).Inc()
	}
}

func (l *limiterMetrics) observeBody(e *limiter.Event) {
	direction := "sent"
	if e.Kind == limiter.EventReceived {
		direction = "received"
	}
	l.bodies.of(paced{e.Policy, direction, e.Result.String()}).Inc()
	if e.Result != limiter.OutcomeUnkeyed {
		l.bytes.of(named{e.Policy, direction}).Add(float64(e.N))
		l.paces.of(named{e.Policy, direction}).Observe(e.Duration.Seconds())
	}
}

// Observe implements [limiter.Observer].
func (l *limiterMetrics) Observe(_ context.Context, e limiter.Event) {
	switch e.Kind {
	case limiter.EventDecision:
		l.decisions.of(decision{e.Policy, e.Route, resultOf(&e)}).Inc()
		if e.Result != limiter.OutcomeUnkeyed { // nobody was asked
			l.durations.of(e.Source).Observe(e.Duration.Seconds())
		}
	case limiter.EventHold:
		l.holds.of(named{e.Policy, e.Result.String()}).Observe(e.Duration.Seconds())
	case limiter.EventEviction:
		l.evictions.of(e.Policy).Add(float64(e.N))
	case limiter.EventNoRoom:
		l.noRoom.of(e.Policy).Add(float64(e.N))
	case limiter.EventLapse:
		l.lapses.of(e.Policy).Add(float64(e.N))
	case limiter.EventSlot:
		l.observeSlot(&e)
	case limiter.EventRelease:
		l.inFlight.of(e.Policy).Dec()
	case limiter.EventSent, limiter.EventReceived:
		l.observeBody(&e)
	}
}

// resultOf returns the label: whether the request may pass as far as this charge
// is concerned, and whether that was decided as it should be.
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

// A backend is the observer of a failover.
type backend struct {
	*limiterMetrics
	failures, opened prometheus.Counter
	state            atomic.Uint32 // index of breakerStates
}

var breakerStates = [...]string{"closed", "half_open", "open"}

const (
	closed uint32 = iota
	halfOpen
	open
)

// Observe implements [limiter.Observer].
func (b *backend) Observe(ctx context.Context, e limiter.Event) {
	switch e.Kind {
	case limiter.EventFailure:
		b.failures.Add(float64(e.N))
	case limiter.EventBreakerOpen:
		b.opened.Inc()
		b.state.Store(open)
	case limiter.EventBreakerHalfOpen:
		b.state.Store(halfOpen)
	case limiter.EventBreakerClosed:
		b.state.Store(closed)
	default:
		b.limiterMetrics.Observe(ctx, e)
	}
}

// breakers shows the state of every backend's breaker, all of one moment.
type breakers struct{ *limiterMetrics }

var breakerDesc = prometheus.NewDesc(namespace+"_limiter_breaker_state",
	"1 for the state that a backend's breaker is in, 0 for the others.", []string{"backend", "state"}, nil)

func (b breakers) Describe(ch chan<- *prometheus.Desc) { ch <- breakerDesc }

func (b breakers) Collect(ch chan<- prometheus.Metric) {
	for name, of := range *b.backends.known.Load() {
		oneOf(ch, breakerDesc, breakerStates[:], int(of.state.Load()), name)
	}
}

// oneOf shows a state as one series for each that there is.
func oneOf(ch chan<- prometheus.Metric, desc *prometheus.Desc, states []string, is int, labels ...string) {
	for i, state := range states {
		value := 0.0
		if i == is {
			value = 1
		}
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, append(labels[:len(labels):len(labels)], state)...)
	}
}
