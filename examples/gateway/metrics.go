package main

import (
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/goweir/weir/adapters/weirprom"
	"github.com/goweir/weir/capture"

	dto "github.com/prometheus/client_model/go"
)

// metrics are what the gateway counts, in a registry of its own: what rooms tell
// their observers, what exchanges look like from outside, and the process.
//
// The pieces of the running chain that are asked when they are scraped have a
// registry that is replaced together with the chain. The counters stay.
type metrics struct {
	*weirprom.Metrics
	registry *prometheus.Registry
	chain    atomic.Pointer[prometheus.Registry]

	requests   *prometheus.CounterVec
	firstBytes *prometheus.HistogramVec
	inFlight   prometheus.Gauge
	open       prometheus.Gauge
	config     *prometheus.GaugeVec
	loaded     prometheus.Gauge
	refused    prometheus.Gauge
	profiled   prometheus.Gauge
}

// firstByteBuckets go from an answer out of memory to one that a person has
// given up.
var firstByteBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

func newMetrics() *metrics {
	name := func(s string) string { return prometheus.BuildFQName("weir", "gateway", s) }
	gauge := func(n, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name(n), Help: help})
	}
	m := &metrics{
		Metrics:  weirprom.New(nil),
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name("requests_total"),
			Help: "Requests that ended, those that were refused or had no route among them, by the status the client was sent; none, if there was none."},
			[]string{"route", "code_class"}),
		firstBytes: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name("first_byte_seconds"), Buckets: firstByteBuckets,
			Help: "Time from a request's header to that of its answer, refused requests and upgraded connections left out."}, []string{"route"}),
		inFlight: gauge("requests_in_flight", "Requests under way, upgraded connections among them."),
		open:     gauge("open_connections", "Connections of clients, idle ones among them, without those that were upgraded."),
		config:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name("config_info"), Help: "1 for the configuration that runs."}, []string{"hash"}),
		loaded:   gauge("config_loaded_timestamp_seconds", "When the configuration that runs was loaded."),
		refused:  gauge("config_refused", "1 if the configuration that was offered last was not taken, and another one runs."),
		profiled: gauge("heap_profile_timestamp_seconds", "When a heap profile was written because there was too much in memory; 0: not yet."),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name("build_info"), Help: "1 for the program that runs."},
		[]string{"version", "revision", "go"})
	b := readBuild()
	build.WithLabelValues(b.Version, b.Revision, b.Go).Set(1)
	m.registry.MustRegister(m.Metrics, m.requests, m.firstBytes, m.inFlight, m.open, m.config, m.loaded, m.refused, m.profiled, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.show()
	return m
}

// show replaces what is asked at each scrape: the pieces of the chain that runs.
// One that collides with another is left out, and said to be.
func (m *metrics) show(pieces ...prometheus.Collector) (err error) {
	chain := prometheus.NewRegistry()
	for _, c := range pieces {
		if rerr := chain.Register(c); rerr != nil {
			err = rerr
		}
	}
	m.chain.Store(chain)
	return err
}

// handler serves the metrics. What cannot be collected is logged and left out.
func (m *metrics) handler(log *slog.Logger) http.Handler {
	gather := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		return prometheus.Gatherers{m.registry, m.chain.Load()}.Gather()
	})
	return promhttp.HandlerFor(gather, promhttp.HandlerOpts{
		ErrorLog:      slog.NewLogLogger(serverLog(log), slog.LevelError),
		ErrorHandling: promhttp.ContinueOnError,
	})
}

// exchange counts a request that has ended. Its route is a pattern of the
// configuration.
func (m *metrics) exchange(x *capture.Exchange) {
	m.requests.WithLabelValues(x.Route, codeClass(x.Status)).Inc()
	if x.RefusedBy == "" && x.FirstByte > 0 && x.Status != http.StatusSwitchingProtocols {
		m.firstBytes.WithLabelValues(x.Route).Observe(x.FirstByte.Seconds())
	}
}

// connection is for http.Server.ConnState. An upgraded connection is not the
// server's any more.
func (m *metrics) connection(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		m.open.Inc()
	case http.StateClosed, http.StateHijacked:
		m.open.Dec()
	}
}

// configured says which configuration runs.
func (m *metrics) configured(hash string, at time.Time) {
	m.config.Reset()
	m.config.WithLabelValues(hash).Set(1)
	m.loaded.Set(float64(at.UnixMilli()) / 1e3)
	m.refused.Set(0)
}

// A buildInfo is what the program was made of.
type buildInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Go       string `json:"go"`
}

// readBuild asks the program itself. The revision ends in "+" if files were
// changed that are not in it.
func readBuild() buildInfo {
	b := buildInfo{Version: "unknown", Revision: "unknown", Go: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Version, b.Go = info.Main.Version, info.GoVersion
	changed := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.Revision = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = "+"
		}
	}
	b.Revision += changed
	return b
}
