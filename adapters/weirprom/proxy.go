package weirprom

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/goweir/weir/proxy"
)

// Proxy returns an observer for proxy.Config. One is enough for all of them.
func (m *Metrics) Proxy() proxy.Observer { return &m.proxy }

type proxyMetrics struct {
	requests  *series[named, prometheus.Counter]
	outcomes  *series[named, prometheus.Counter]
	durations *series[string, prometheus.Observer]
	aborts    *series[abort, prometheus.Counter]
	failures  *series[named, prometheus.Counter]
	up, down  *series[string, prometheus.Counter]

	attempts  *series[try, prometheus.Counter]
	headers   *series[string, prometheus.Observer]
	waits     *series[named, prometheus.Observer]
	fallbacks *series[proxy.Reason, prometheus.Counter]
	noBudget  *series[proxy.Trigger, prometheus.Counter]

	ejected, ill, opened *series[string, prometheus.Counter]
	tunnels              *series[string, prometheus.Gauge]
}

// An abort is the labels of weir_proxy_aborts_total.
type abort struct {
	side  proxy.Side
	phase proxy.Phase
}

// A try is the labels of weir_proxy_attempts_total.
type try struct {
	upstream string
	trigger  proxy.Trigger
	result   proxy.Outcome
}

func (t try) coarser() try { return try{other, t.trigger, t.result} }

func (p *proxyMetrics) init(m *Metrics) {
	p.requests = m.countersBy("proxy_requests_total", "Requests that ended, by the status the client was sent; none, if there was none.", "upstream", "code_class")
	p.outcomes = m.countersBy("proxy_outcomes_total", "Requests that ended, by how.", "route", "result")
	p.durations = m.histogramsOf("proxy_request_duration_seconds", "Time until requests ended, the answer's body included; of tunnels, too.", exchangeBuckets, "route")
	aborts := m.counter("proxy_aborts_total", "Requests that ended before the whole answer was passed on, by whose fault and how far they had come.", "side", "phase")
	p.aborts = newSeries(m.opts.MaxSeries, itself, func(a abort) prometheus.Counter {
		return aborts.WithLabelValues(string(a.side), string(a.phase))
	})
	p.failures = m.countersBy("proxy_failures_total", "Requests without an answer of an upstream's, by why, whether a fallback answered or not.", "upstream", "reason")
	bytes := m.counter("proxy_transferred_bytes_total", "Bytes of bodies, and of tunnels, up to the upstream and down from it.", "upstream", "direction")
	for direction, s := range map[string]**series[string, prometheus.Counter]{"up": &p.up, "down": &p.down} {
		*s = newSeries(m.opts.MaxSeries, otherName, func(upstream string) prometheus.Counter {
			return bytes.WithLabelValues(label(upstream), direction)
		})
	}

	attempts := m.counter("proxy_attempts_total", "Attempts to get an answer from an upstream, by what they were made for and how they ended.", "upstream", "trigger", "result")
	p.attempts = newSeries(m.opts.MaxSeries, try.coarser, func(t try) prometheus.Counter {
		return attempts.WithLabelValues(label(t.upstream), string(t.trigger), string(t.result))
	})
	p.headers = m.histogramsOf("proxy_upstream_duration_seconds", "Time until the header of an upstream's answer, or the end of an attempt to get one.", exchangeBuckets, "upstream")
	p.waits = m.histogramsBy("proxy_wait_duration_seconds", "Time for which requests waited for a place at an upstream.", exchangeBuckets, "upstream", "result")
	fallbacks := m.counter("proxy_fallbacks_total", "Calls of the fallback.", "reason")
	p.fallbacks = newSeries(m.opts.MaxSeries, itself, func(r proxy.Reason) prometheus.Counter { return fallbacks.WithLabelValues(r.String()) })
	noBudget := m.counter("proxy_no_budget_total", "Attempts that were not made because the budget of retries was used up.", "trigger")
	p.noBudget = newSeries(m.opts.MaxSeries, itself, func(t proxy.Trigger) prometheus.Counter { return noBudget.WithLabelValues(string(t)) })

	p.ejected = m.countersOf("proxy_ejections_total", "How often an upstream was taken out of the choice because its requests failed.", "upstream")
	p.ill = m.countersOf("proxy_downs_total", "How often health checks found an upstream down.", "upstream")
	p.opened = m.countersOf("proxy_breaker_opened_total", "How often an upstream's breaker opened.", "upstream")
	p.tunnels = m.gaugesOf("proxy_open_tunnels", "Upgraded connections that are open.", "upstream")
}

// Observe implements [proxy.Observer].
func (p *proxyMetrics) Observe(_ context.Context, e proxy.Event) {
	switch e.Kind {
	case proxy.EventRequest:
		p.observeRequest(&e)
	case proxy.EventAttempt:
		p.attempts.of(try{e.Upstream, e.Trigger, e.Result}).Inc()
		p.headers.of(e.Upstream).Observe(e.Duration.Seconds())
	case proxy.EventFallback:
		p.fallbacks.of(e.Reason).Inc()
	case proxy.EventNoBudget:
		p.noBudget.of(e.Trigger).Inc()
	case proxy.EventWait:
		p.waits.of(named{e.Upstream, string(e.Result)}).Observe(e.Duration.Seconds())
	case proxy.EventEjected:
		p.ejected.of(e.Upstream).Inc()
	case proxy.EventDown:
		p.ill.of(e.Upstream).Inc()
	case proxy.EventBreaker:
		if e.State == proxy.BreakerOpen {
			p.opened.of(e.Upstream).Inc()
		}
	case proxy.EventTunnelOpen:
		p.tunnels.of(e.Upstream).Inc()
	case proxy.EventTunnelClose:
		p.tunnels.of(e.Upstream).Dec()
	}
}

func (p *proxyMetrics) observeRequest(e *proxy.Event) {
	p.requests.of(named{e.Upstream, codeClass(e.Status)}).Inc()
	p.outcomes.of(named{e.Route, string(e.Result)}).Inc()
	p.durations.of(e.Route).Observe(e.Duration.Seconds())
	switch e.Result {
	case proxy.OutcomeAborted, proxy.OutcomeLeft, proxy.OutcomePanic:
		p.aborts.of(abort{e.Side, e.Phase}).Inc()
	}
	if e.Reason != 0 {
		p.failures.of(named{e.Upstream, e.Reason.String()}).Inc()
	}
	if e.Upstream != "" {
		p.up.of(e.Upstream).Add(float64(e.BytesUp))
		p.down.of(e.Upstream).Add(float64(e.BytesDown))
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
