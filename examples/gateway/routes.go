package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"path/filepath"

	"github.com/goweir/weir/examples/gateway/internal/config"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

// route builds what answers the requests of one route:
//
//	limits -> in flight, of all and of the route -> bandwidth -> stale -> proxy
//
// A request that is refused for its rate does not wait for a slot first, and
// what the limits took is given back for one that gets none.
func (b *builder) route(r *config.Route, field string) (*route, error) {
	built := &route{config: *r}
	h, err := b.proxied(built, field)
	if err != nil {
		return nil, err
	}
	if b.chain.bandwidth != nil {
		h = b.chain.bandwidth.Middleware()(h)
		built.note("bandwidth")
	}
	own, err := b.slots(&r.InFlight, field+".in_flight")
	if err != nil {
		return nil, err
	}
	if own != nil {
		built.inFlight = append(built.inFlight, own)
		h = limiter.InFlightMiddleware(own, b.slot(&r.InFlight, r), b.limitOptions(r.Unkeyed, nil, r.InFlight.Status))(h)
		built.note("in flight: %s", aboutSlots(&r.InFlight, r))
	}
	if b.global != nil {
		built.inFlight = append(built.inFlight, b.global)
		h = limiter.InFlightMiddleware(b.global, b.slot(&b.InFlight, r), b.limitOptions(r.Unkeyed, nil, b.InFlight.Status))(h)
		built.note("in flight: %s", aboutSlots(&b.InFlight, r))
	}
	if max := int64(r.MaxBody); max > 0 {
		h = http.MaxBytesHandler(h, max)
		built.note("bodies of requests up to %v", r.MaxBody)
	}
	if built.rules = b.rules(r.Limits); len(built.rules) > 0 {
		if err := built.rules.Validate(); err != nil {
			return nil, b.At(r.Pos, field+".limits", err)
		}
		opts := func(rules limiter.Rules) *limiter.Options { return b.limitOptions(r.Unkeyed, rules, 0) }
		if b.inspector == nil {
			h = limiter.Middleware(b.chain.store, built.rules, opts(built.rules))(h)
		} else {
			by := make([]string, len(r.Limits))
			for i := range r.Limits {
				by[i] = string(r.Limits[i].Key)
			}
			built.shown = b.inspector.Limits(r.Path.Text, b.chain.store, built.rules, by, opts)
			h = built.shown.Middleware(h)
		}
		for i := range r.Limits {
			l := &r.Limits[len(r.Limits)-1-i]
			built.note("limit %s: %v", l.Name, l)
		}
	}
	built.Handler = h
	return built, nil
}

// note adds a step; the chain is built from its end.
func (r *route) note(format string, args ...any) {
	r.steps = append([]string{fmt.Sprintf(format, args...)}, r.steps...)
}

// proxied returns the proxy of a route, with its fallback, as it was before
// unless something else than the upstreams has changed.
func (b *builder) proxied(built *route, field string) (http.Handler, error) {
	r := &built.config
	name := "route " + r.Path.Text
	secure, id, err := b.upstreamTLS(r, field)
	if err != nil {
		return nil, err
	}
	fallback, fid, err := b.fallback(built, name, field, secure, id)
	if err != nil {
		return nil, err
	}
	id += fid
	c := r.Proxy(b.Timeouts, b.demo)
	c.TLS = secure
	c.Trust = b.chain.resolver
	c.ErrorLog = seldom(b.log)
	c.Observer = b.observe.proxy
	c.Fallback = fallback
	if key := r.Pool.Key; key != "" {
		f := key.Func(b.apiKey)
		c.Key = func(r *http.Request) string { k, _ := f(r); return k }
		id += config.Identity(b.APIKeys)
	}
	id += identity(r, b.Config)
	p, kept, err := reuse(b, name, id, func() (*proxy.Proxy, func(), error) { return newProxy(c, b.log, b.dry) })
	if err != nil {
		return nil, b.At(r.Pos, field, err)
	}
	if kept {
		b.commit = append(b.commit, func() error { return p.SetUpstreams(c.Upstreams) })
	}
	forced := r.Fallback.Forced
	if before, ok := b.before["forced "+name]; !ok || before.value != forced || !kept {
		// Else somebody may have switched by hand.
		b.commit = append(b.commit, func() error { p.ForceFallback(forced); return nil })
	}
	b.parts["forced "+name] = &part{value: forced}
	built.proxies = append([]*proxy.Proxy{p}, built.proxies...)
	built.note("proxy: %v over %s%s", r.Pool.Balance, upstreamNames(r.Upstreams), aboutPool(r))
	if stale, ok := fallback.(*proxy.Stale); ok {
		return stale.Middleware(p), nil
	}
	return p, nil
}

// identity says what makes the proxy of a route another one.
func identity(r *config.Route, c *config.Config) string {
	same := *r
	// Not the proxy's business, or changed while it runs.
	same.Upstreams, same.Limits, same.Unkeyed, same.MaxBody, same.Capture = nil, nil, 0, 0, false
	same.InFlight, same.Priority, same.Weight, same.Bandwidth, same.Class = config.InFlight{}, 0, 0, 0, ""
	same.Fallback.Forced = false
	return config.Identity(same) + config.Identity(c.Timeouts.Upstream) + c.Timeouts.Stall.String() +
		fmt.Sprint(c.Trust) + config.Identity(c.ClientIP)
}

// upstreamTLS returns how a route speaks to its upstreams, nil if nothing is said
// about that, and what makes it another way: the files may change.
func (b *builder) upstreamTLS(r *config.Route, field string) (c *tls.Config, id string, err error) {
	sum := sha256.New()
	c, err = r.TLS.Config(func(name string) ([]byte, error) {
		data, err := readSmall(name)
		sum.Write(data)
		return data, err
	})
	if err != nil {
		return nil, "", b.At(r.TLS.Pos, field+".upstream_tls", err)
	}
	return c, fmt.Sprintf("%x", sum.Sum(nil)), nil
}

// newProxy returns a proxy that asks after the health of its upstreams until it
// is closed.
func newProxy(c proxy.Config, log *slog.Logger, dry bool) (*proxy.Proxy, func(), error) {
	p, err := proxy.New(c)
	if err != nil {
		return nil, nil, err
	}
	if c.HealthCheck.Path == "" || dry {
		return p, p.CloseIdleConnections, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := p.CheckHealth(ctx); ctx.Err() == nil {
			log.Error("upstreams are no longer checked", "error", err)
		}
	}()
	return p, func() {
		cancel()
		<-ended
		p.CloseIdleConnections()
	}, nil
}

// fallback returns what answers when no upstream can, nil if nothing does, and
// what makes it another one beside its fields.
func (b *builder) fallback(built *route, name, field string, secure *tls.Config, secureID string) (h http.Handler, id string, err error) {
	f := &built.config.Fallback
	field += ".fallback"
	switch {
	case f.File != "":
		data, err := readSmall(f.File)
		if err != nil {
			return nil, "", b.At(f.Pos, field+".file", err)
		}
		header := http.Header{}
		if kind := mime.TypeByExtension(filepath.Ext(f.File)); kind != "" {
			header.Set("Content-Type", kind)
		} else {
			header.Set("Content-Type", http.DetectContentType(data))
		}
		return proxy.FixedAnswer(int(f.Status), header, data), fmt.Sprintf("%x", sha256.Sum256(data)), nil
	case f.JSON != "":
		return proxy.FixedAnswer(int(f.Status), http.Header{"Content-Type": {"application/json"}}, []byte(f.JSON)), "", nil
	case len(f.Upstreams) > 0:
		other := built.config // but for what helps the upstreams of a pool
		other.Upstreams, other.Pool = f.Upstreams, config.Pool{}
		c := other.Proxy(b.Timeouts, b.demo)
		c.TLS, c.Trust, c.ErrorLog, c.Observer = secure, b.chain.resolver, seldom(b.log), b.observe.proxy
		p, _, err := reuse(b, "fallback of "+name, secureID+identity(&built.config, b.Config), func() (*proxy.Proxy, func(), error) { return newProxy(c, b.log, b.dry) })
		if err != nil {
			return nil, "", b.At(f.Pos, field+".upstreams", err)
		}
		built.proxies = append(built.proxies, p)
		return p, "", nil
	case f.Stale.Set():
		stale, _, err := reuse(b, "stale of "+name, config.Identity(f.Stale), func() (*proxy.Stale, func(), error) {
			s, err := proxy.NewStale(f.Stale.Options())
			return s, nil, err
		})
		if err != nil {
			return nil, "", b.At(f.Pos, field+".stale", err)
		}
		return stale, "", nil
	}
	return nil, "", nil
}
