package weirprom

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

// A snapshot is a collector that asks when it is scraped.
type snapshot struct {
	descs   []*prometheus.Desc
	collect func(ch chan<- prometheus.Metric)
}

func (s *snapshot) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range s.descs {
		ch <- d
	}
}

func (s *snapshot) Collect(ch chan<- prometheus.Metric) { s.collect(ch) }

// desc adds a gauge to s. label tells things of one kind apart by their names.
func (s *snapshot) desc(name, help, of, called string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc(namespace+"_"+name, help, labels, prometheus.Labels{of: label(called)})
	s.descs = append(s.descs, d)
	return d
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, value float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

// Memory returns a collector of what m holds. name tells it from other memories:
// a second one of that name is an error of Register. To be told of evictions,
// too, give m's options the observer of [Metrics.Limiter].
//
// A scrape locks one shard of m after the other.
func Memory(name string, m *limiter.Memory) prometheus.Collector {
	s := new(snapshot)
	keys := s.desc("limiter_keys", "States held, those that became whole lately among them.", "memory", name)
	bytes := s.desc("limiter_memory_bytes", "Size of the tables and the logs.", "memory", name)
	s.collect = func(ch chan<- prometheus.Metric) {
		st := m.Stats()
		gauge(ch, keys, float64(st.Keys))
		gauge(ch, bytes, float64(st.Bytes))
	}
	return s
}

// InFlight returns a collector of the slots of a, which is known by its own name:
// a second one of that name is an error of Register.
func InFlight(a limiter.Acquirer) prometheus.Collector {
	s := new(snapshot)
	name := a.Snapshot().Name
	inUse := s.desc("inflight_slots_in_use", "Slots in use.", "policy", name)
	limit := s.desc("inflight_slots_limit", "Slots there are at present; 0, if there is no cap over all.", "policy", name)
	waiting := s.desc("inflight_waiting_requests", "Requests that wait for slots.", "policy", name)
	s.collect = func(ch chan<- prometheus.Metric) {
		st := a.Snapshot()
		gauge(ch, inUse, float64(st.InUse))
		gauge(ch, limit, float64(st.Limit))
		gauge(ch, waiting, float64(st.Waiting))
	}
	return s
}

// Budget returns a collector of how much of b is in use. name tells it from other
// budgets: a second one of that name is an error of Register.
func Budget(name string, b *capture.Budget) prometheus.Collector {
	s := new(snapshot)
	inUse := s.desc("capture_budget_in_use_bytes", "Bytes that captured bodies take.", "budget", name)
	s.collect = func(ch chan<- prometheus.Metric) { gauge(ch, inUse, float64(b.InUse())) }
	return s
}

// Queue returns a collector of what waits in q. name tells it from other queues:
// a second one of that name is an error of Register.
func Queue(name string, q *capture.Queue) prometheus.Collector {
	s := new(snapshot)
	records := s.desc("capture_queue_records", "Records that wait for delivery, or are being delivered.", "queue", name)
	bytes := s.desc("capture_queue_bytes", "Size of the records that wait for delivery.", "queue", name)
	s.collect = func(ch chan<- prometheus.Metric) {
		st := q.Stats()
		gauge(ch, records, float64(st.Waiting))
		gauge(ch, bytes, float64(st.WaitingBytes))
	}
	return s
}

// Upstreams returns a collector of the state of p's upstreams, as
// [proxy.Proxy.Upstreams] tells it. name tells it from other proxies: a second
// one of that name is an error of Register.
func Upstreams(name string, p *proxy.Proxy) prometheus.Collector {
	s := new(snapshot)
	desc := func(metric, help string, labels ...string) *prometheus.Desc {
		return s.desc("proxy_upstream_"+metric, help, "proxy", name, append([]string{"upstream"}, labels...)...)
	}
	inFlight := desc("in_flight_requests", "Requests under way, upgraded connections among them.")
	waiting := desc("waiting_requests", "Requests that wait for a place.")
	up := desc("up", "0 for an upstream that health checks have found down, else 1.")
	ejected := desc("ejected_seconds", "What is left of an ejection.")
	breaker := desc("breaker_state", "1 for the state that the upstream's breaker is in, 0 for the others; none without a breaker.", "state")

	s.collect = func(ch chan<- prometheus.Metric) {
		for _, u := range p.Upstreams() {
			called := label(u.Name)
			gauge(ch, inFlight, float64(u.InFlight), called)
			gauge(ch, waiting, float64(u.Waiting), called)
			isUp := 1.0
			if u.Down {
				isUp = 0
			}
			gauge(ch, up, isUp, called)
			gauge(ch, ejected, max(u.EjectedFor, time.Duration(0)).Seconds(), called)
			if u.Breaker != proxy.BreakerNone {
				oneOf(ch, breaker, breakerStates[:], int(u.Breaker-proxy.BreakerClosed), called)
			}
		}
	}
	return s
}
