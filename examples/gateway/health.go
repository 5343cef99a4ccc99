package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/goweir/weir/adapters/weirprom"
	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/proxy"
)

// health says whether the gateway is to be sent requests. Redis that is away, an
// upstream that is down, records that are lost: all that is degraded, and said,
// but another gateway would be no better off, and without any there is no
// service at all. Not ready is only who is about to end.
type health struct {
	started  time.Time
	build    buildInfo
	draining atomic.Bool
	running  atomic.Pointer[running]
	refused  atomic.Pointer[string] // why the configuration offered last was not taken
}

// running is what one configuration has made.
type running struct {
	Hash   string    `json:"hash"`   // of all that it says, defaults included
	Loaded time.Time `json:"loaded"` // when
	probes []probe
}

// A probe looks at one part of the chain. why is empty while all is well.
type probe struct {
	part string
	why  func() string
}

func newHealth() *health {
	h := &health{started: time.Now(), build: readBuild()}
	h.running.Store(&running{})
	return h
}

// configured says which configuration runs, and what to look at in it.
func (h *health) configured(hash string, at time.Time, probes []probe) {
	h.running.Store(&running{hash, at.UTC(), probes})
	h.refused.Store(nil)
}

// refuse says that a configuration was not taken. The old one goes on.
func (h *health) refuse(why string) { h.refused.Store(&why) }

// A degradation is a part that does not do what it should.
type degradation struct {
	Part string `json:"part"`
	Why  string `json:"why"`
}

// degraded asks every part.
func (h *health) degraded() []degradation {
	found := []degradation{}
	for _, c := range h.running.Load().probes {
		if why := c.why(); why != "" {
			found = append(found, degradation{c.part, why})
		}
	}
	if why := h.refused.Load(); why != nil {
		found = append(found, degradation{"configuration", "the file was not taken, and the one before it goes on: " + *why})
	}
	return found
}

// readyz answers 503 from the moment the gateway drains, else 200; the body says
// how it does.
func (h *health) readyz(w http.ResponseWriter, _ *http.Request) {
	answer := struct {
		Status   string        `json:"status"` // ready, degraded or draining
		Degraded []degradation `json:"degraded"`
		Config   *running      `json:"config"`
		Build    buildInfo     `json:"build"`
		Started  time.Time     `json:"started"`
	}{"ready", h.degraded(), h.running.Load(), h.build, h.started.UTC()}
	status := http.StatusOK
	switch {
	case h.draining.Load():
		answer.Status, status = "draining", http.StatusServiceUnavailable
	case len(answer.Degraded) > 0:
		answer.Status = "degraded"
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

// newLookout returns what programs ask about the gateway: whether it lives and
// is ready, its metrics, and profiles. It must not be where clients are: a
// profile shows what is in memory, and taking one costs time.
func newLookout(h *health, m *metrics, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", h.readyz)
	mux.Handle("GET /metrics", m.handler(log))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	// pprof.Cmdline is left out: a command line may have a password in it, and
	// pprof.Index would find it by its name.
	mux.Handle("GET /debug/pprof/cmdline", http.NotFoundHandler())
	mux.HandleFunc("GET /debug/pprof/profile", patient(pprof.Profile))
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", patient(pprof.Trace))
	return mux
}

// patient lets h take longer than the server gives a client to send its request:
// when that time is over, net/http takes the client for gone.
func patient(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		h(w, r)
	}
}

// pieces returns what health and metrics look into, of a chain.
func (c *chain) pieces() ([]probe, []prometheus.Collector) {
	probes := append(c.store.probes(), c.audit.probe())
	pieces := append(c.store.collectors(), weirprom.Queue("audit", c.audit.queue))
	if p, ok := c.parts["budget"]; ok {
		pieces = append(pieces, weirprom.Budget("capture", p.value.(*capture.Budget)))
	}
	for _, a := range c.inFlight {
		pieces = append(pieces, weirprom.InFlight(a))
	}
	for _, r := range c.routes {
		name := r.config.Path.Text
		for i, p := range r.proxies {
			name := name
			if i > 0 {
				name += " fallback"
			}
			pieces = append(pieces, weirprom.Upstreams(name, p))
			probes = append(probes, probe{"route " + name, func() string { return unusable(p.Upstreams()) }})
		}
	}
	return probes, pieces
}

// unusable names the upstreams that are sent nothing at present, or next to it.
func unusable(ups []proxy.UpstreamState) string {
	var out []string
	for _, u := range ups {
		switch {
		case u.Down:
			out = append(out, u.Name+" is down")
		case u.Breaker == proxy.BreakerOpen:
			out = append(out, u.Name+" has an open breaker")
		case u.EjectedFor > 0:
			out = append(out, u.Name+" is ejected")
		}
	}
	if len(out) == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d upstreams: %s", len(out), len(ups), strings.Join(out, ", "))
}
