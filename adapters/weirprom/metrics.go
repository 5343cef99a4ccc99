package weirprom

import (
	"cmp"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const namespace = "weir"

// DefaultMaxSeries is Options.MaxSeries if that is 0.
const DefaultMaxSeries = 1000

// Options are the options of [New].
type Options struct {
	// MaxSeries is how many combinations of labels each metric may have; then
	// newcomers share a route called "other", and when there are twice as many,
	// a policy or an upstream of that name. 0 means DefaultMaxSeries; negative
	// panics.
	MaxSeries int

	// NativeHistograms makes the histograms native ones too, for servers that
	// scrape those. False: only the buckets of this package.
	NativeHistograms bool
}

// Metrics counts what the rooms of weir tell. It is a [prometheus.Collector]:
// registering it twice with one registry is the error
// [prometheus.AlreadyRegisteredError], and so is registering two of them.
//
// All methods are safe for concurrent use.
type Metrics struct {
	opts       Options
	collectors []prometheus.Collector

	limiter limiterMetrics
	capture captureMetrics
	proxy   proxyMetrics
}

var _ prometheus.Collector = (*Metrics)(nil)

// New returns metrics that are all at zero, and registered nowhere. nil means
// default options.
func New(opts *Options) *Metrics {
	m := new(Metrics)
	if opts != nil {
		m.opts = *opts
	}
	if m.opts.MaxSeries < 0 {
		panic(fmt.Sprintf("weirprom: New: MaxSeries is %d; allowed: 0 (%d) or more", m.opts.MaxSeries, DefaultMaxSeries))
	}
	m.opts.MaxSeries = cmp.Or(m.opts.MaxSeries, DefaultMaxSeries)
	m.limiter.init(m)
	m.capture.init(m)
	m.proxy.init(m)
	return m
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.collectors {
		c.Describe(ch)
	}
}

// Collect implements [prometheus.Collector].
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.collectors {
		c.Collect(ch)
	}
}

func (m *Metrics) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	m.collectors = append(m.collectors, v)
	return v
}

func (m *Metrics) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	o := prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}
	if m.opts.NativeHistograms {
		o.NativeHistogramBucketFactor = 1.1
		o.NativeHistogramMaxBucketNumber = 160
		o.NativeHistogramMinResetDuration = time.Hour
	}
	v := prometheus.NewHistogramVec(o, labels)
	m.collectors = append(m.collectors, v)
	return v
}

// countersOf has a counter for each name that the configuration chose.
func (m *Metrics) countersOf(name, help, of string) *series[string, prometheus.Counter] {
	v := m.counter(name, help, of)
	return newSeries(m.opts.MaxSeries, otherName, func(called string) prometheus.Counter { return v.WithLabelValues(label(called)) })
}

// countersBy has a counter for each such name and each word.
func (m *Metrics) countersBy(name, help, of, word string) *series[named, prometheus.Counter] {
	v := m.counter(name, help, of, word)
	return newSeries(m.opts.MaxSeries, named.coarser, func(n named) prometheus.Counter { return v.WithLabelValues(label(n.name), n.word) })
}

func (m *Metrics) histogramsOf(name, help string, buckets []float64, of string) *series[string, prometheus.Observer] {
	v := m.histogram(name, help, buckets, of)
	return newSeries(m.opts.MaxSeries, otherName, func(called string) prometheus.Observer { return v.WithLabelValues(label(called)) })
}

func (m *Metrics) histogramsBy(name, help string, buckets []float64, of, word string) *series[named, prometheus.Observer] {
	v := m.histogram(name, help, buckets, of, word)
	return newSeries(m.opts.MaxSeries, named.coarser, func(n named) prometheus.Observer { return v.WithLabelValues(label(n.name), n.word) })
}

func (m *Metrics) gaugesOf(name, help, of string) *series[string, prometheus.Gauge] {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, []string{of})
	m.collectors = append(m.collectors, v)
	return newSeries(m.opts.MaxSeries, otherName, func(called string) prometheus.Gauge { return v.WithLabelValues(label(called)) })
}

var (
	// A decision in memory takes a microsecond, one of a server a hundred times
	// that, and one that waits for its budget 50 ms.
	decisionBuckets = []float64{1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, .001, .0025, .005, .01, .025, .05, .1, .5}

	// An exchange, or a wait, takes milliseconds, and sometimes a minute.
	exchangeBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

	// A sink is a buffer, a disk, or a server.
	sinkBuckets = []float64{1e-5, 1e-4, .001, .01, .1, 1, 10}
)
