package weirprom

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/goweir/weir/capture"
)

// Capture returns an observer for capture.Options and capture.AsyncOptions. One
// is enough for all of them. A middleware in front of a queue tells of what the
// queue was offered and the queue of what came of it: give it to both.
func (m *Metrics) Capture() capture.Observer { return &m.capture }

type captureMetrics struct {
	exchanges *series[exchange, prometheus.Counter]
	outcomes  *series[capture.Outcome, prometheus.Counter]
	dropped   *series[capture.DropReason, prometheus.Counter]
	skipped   *series[body, prometheus.Counter]
	truncated *series[body, prometheus.Counter]
	sink      prometheus.Observer
}

// An exchange is the labels of weir_capture_exchanges_total.
type exchange struct {
	route string
	kind  capture.EventKind
}

func (x exchange) coarser() exchange { return exchange{other, x.kind} }

// A body is the labels of what was left out of bodies. The reason may be a
// hook's own word.
type body struct {
	part   capture.Part
	reason capture.SkipReason
}

func (b body) coarser() body { return body{b.part, other} }

func (c *captureMetrics) init(m *Metrics) {
	exchanges := m.counter("capture_exchanges_total", "Exchanges, by what became of their records.", "route", "result")
	c.exchanges = newSeries(m.opts.MaxSeries, exchange.coarser, func(x exchange) prometheus.Counter {
		return exchanges.WithLabelValues(label(x.route), x.kind.String())
	})
	outcomes := m.counter("capture_outcomes_total", "Exchanges, by how they ended.", "outcome")
	c.outcomes = newSeries(m.opts.MaxSeries, itself, func(o capture.Outcome) prometheus.Counter {
		return outcomes.WithLabelValues(string(o))
	})
	dropped := m.counter("capture_dropped_total", "Records that were lost.", "reason")
	c.dropped = newSeries(m.opts.MaxSeries, itself, func(d capture.DropReason) prometheus.Counter {
		return dropped.WithLabelValues(string(d))
	})
	bodies := func(name, help string) *series[body, prometheus.Counter] {
		vec := m.counter(name, help, "part", "reason")
		return newSeries(m.opts.MaxSeries, body.coarser, func(b body) prometheus.Counter {
			return vec.WithLabelValues(string(b.part), label(string(b.reason)))
		})
	}
	c.skipped = bodies("capture_skipped_total", "Bodies of which nothing was captured.")
	c.truncated = bodies("capture_truncated_total", "Bodies of which only a beginning was captured.")
	c.sink = m.histogram("capture_sink_duration_seconds", "Time that sinks took for a record.", sinkBuckets).WithLabelValues()
}

// Observe implements [capture.Observer].
func (c *captureMetrics) Observe(_ context.Context, e capture.Event) {
	switch e.Kind {
	case capture.EventSkipped:
		c.skipped.of(body{e.Part, e.Skip}).Inc()
		return
	case capture.EventTruncated:
		c.truncated.of(body{e.Part, e.Skip}).Inc()
		return
	case capture.EventOffered, capture.EventThinned, capture.EventSampledOut:
		// Exactly one of them is told of each exchange.
		c.outcomes.of(e.Outcome).Inc()
	}
	switch e.Kind {
	case capture.EventThinned, capture.EventSampledOut, capture.EventDelivered, capture.EventDropped:
		c.exchanges.of(exchange{e.Route, e.Kind}).Inc()
	}
	if e.Kind == capture.EventDropped {
		c.dropped.of(e.Drop).Inc()
	}
	if e.Kind == capture.EventDelivered || e.Drop == capture.DropFailed {
		c.sink.Observe(e.Duration.Seconds())
	}
}
