package main

import (
	"context"
	"time"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/examples/gateway/internal/inspect"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

// limiterObservers are told in their order.
type limiterObservers []limiter.Observer

func (os limiterObservers) Observe(ctx context.Context, e limiter.Event) {
	for _, o := range os {
		o.Observe(ctx, e)
	}
}

// captureObservers are told in their order.
type captureObservers []capture.Observer

func (os captureObservers) Observe(ctx context.Context, e capture.Event) {
	for _, o := range os {
		o.Observe(ctx, e)
	}
}

// proxyObservers are told in their order.
type proxyObservers []proxy.Observer

func (os proxyObservers) Observe(ctx context.Context, e proxy.Event) {
	for _, o := range os {
		o.Observe(ctx, e)
	}
}

// watched has the metrics, the health and the inspector look on.
func watched(o outside, a *admin, h *health, m *metrics, logRequests bool) outside {
	o.observe = observers{limiter: m.Limiter(), failover: m.Failover, proxy: m.Proxy(), capture: m.Capture()}
	o.exchange = func(x *capture.Exchange) {
		m.exchange(x)
		if logRequests {
			accessLine(o.log, x)
		}
	}
	o.swapped = func(c *chain) {
		probes, pieces := c.pieces()
		if err := m.show(pieces...); err != nil {
			o.log.Error("a part has no metrics", "error", err)
		}
		now := time.Now()
		h.configured(c.sum, now, probes)
		m.configured(c.sum, now)
		if a.inspector != nil {
			a.inspector.Show(c.shown())
		}
	}
	o.refused = func(err error) {
		h.refuse(err.Error())
		m.refused.Set(1)
	}
	if in := a.inspector; in != nil {
		o.inspector = in
		o.observe.limiter = limiterObservers{o.observe.limiter, in.LimiterObserver()}
		o.observe.proxy = proxyObservers{o.observe.proxy, in.ProxyObserver()}
		o.observe.capture = captureObservers{o.observe.capture, in.CaptureObserver()}
		o.sinks = append(o.sinks, capture.SinkFunc(func(ctx context.Context, x *capture.Exchange) error {
			_ = a.sink().Record(ctx, x) // what is too large for it is in the file
			return nil
		}))
	}
	return o
}

// shown is what the inspector shows of a chain.
func (c *chain) shown() []inspect.Route {
	var routes []inspect.Route
	for _, r := range c.routes {
		shown := inspect.Route{Pattern: r.config.Path.Text, Limits: r.shown, InFlight: r.inFlight, Proxy: r.proxies[0]}
		if c.bandwidth != nil {
			shown.Bandwidth = []*limiter.Bandwidth{c.bandwidth}
		}
		routes = append(routes, shown)
	}
	return routes
}

// lost is how many records the audit has lost.
func (g *gateway) lost() int64 {
	c, _ := g.chain()
	return c.audit.queue.Stats().Dropped()
}
