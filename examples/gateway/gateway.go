package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/capture/decoders"
	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/examples/gateway/internal/config"
	"github.com/goweir/weir/examples/gateway/internal/inspect"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

// newGateway builds the chain:
//
//	clientip -> match -> inspector -> capture -> noteCut -> refuseOdd -> mux -> limiter -> proxy
//
// Matching comes before capture, so that the record of every request has its
// route, and capture before the limits, so that refusals and requests for which
// there is no route are recorded too. in is nil without an inspector. The proxies,
// one a route, are returned for their tunnels to be drained.
func newGateway(c *config.Config, demo string, quotas limiter.Limiter, sink capture.Sink, lost func(error), in *inspect.Inspector, log *slog.Logger) (http.Handler, []*proxy.Proxy, error) {
	trust := make([]netip.Prefix, len(c.Trust))
	for i, p := range c.Trust {
		trust[i] = p.Prefix
	}
	resolver, err := clientip.New(trust, nil)
	if err != nil {
		return nil, nil, err
	}
	var proxies []*proxy.Proxy
	var shown []inspect.Route
	mux := http.NewServeMux()
	bodiless := map[string]bool{} // by pattern
	for i, r := range c.Routes {
		h, p, limits, err := newRoute(r, c.Timeouts, demo, quotas, resolver, in, log)
		if err != nil {
			return nil, nil, fmt.Errorf("routes[%d]: %w", i, err)
		}
		proxies = append(proxies, p)
		shown = append(shown, inspect.Route{Pattern: r.Path.Text, Limits: limits, Proxy: p})
		mux.Handle(r.Path.Text, h)
		bodiless[r.Path.Text] = !r.Capture
	}
	opts := captureOptions(c.Audit, bodiless, lost)
	if in != nil {
		in.Show(shown)
		opts.Observer = in.CaptureObserver()
	}
	chain := capture.Middleware(sink, opts)(noteCut(refuseOdd(mux)))
	if in != nil {
		chain = in.Middleware(chain)
	}
	return resolver.Middleware(match(mux, chain)), proxies, nil
}

// newRoute returns what answers the requests of one route, the proxy in it, and
// its limits if an inspector shows them.
func newRoute(r config.Route, t config.Timeouts, demo string, quotas limiter.Limiter, resolver *clientip.Resolver, in *inspect.Inspector, log *slog.Logger) (http.Handler, *proxy.Proxy, *inspect.Limits, error) {
	upstreams := make([]proxy.Upstream, len(r.Upstreams))
	for i, u := range r.Upstreams {
		upstreams[i].URL = string(u)
		if u == config.Demo {
			upstreams[i].URL = demo
		}
	}
	cfg := proxy.Config{
		Upstreams:   upstreams,
		StripPrefix: r.StripPrefix.Text,
		Trust:       resolver,
		ErrorLog:    log,
		Timeouts: proxy.Timeouts{
			Dial:           time.Duration(t.Upstream.Dial),
			ResponseHeader: time.Duration(t.Upstream.Header),
			UpstreamIdle:   time.Duration(t.Upstream.Idle),
			ClientIdle:     time.Duration(t.Stall),
		},
	}
	if in != nil {
		cfg.Observer = in.ProxyObserver()
	}
	p, err := proxy.New(cfg)
	if err != nil || len(r.Limits) == 0 {
		return p, p, nil, err
	}
	rules, by := make(limiter.Rules, len(r.Limits)), make([]string, len(r.Limits))
	for i, l := range r.Limits {
		rules[i], by[i] = limiter.Rule{Policy: l.Policy(), Key: l.Key.Func()}, l.Key.String()
	}
	if err := rules.Validate(); err != nil {
		return nil, nil, nil, err
	}
	note := func(r *http.Request, d limiter.Decision) {
		if !d.Allowed {
			capture.From(r.Context()).Refused(refuser(rules, d))
		}
	}
	opts := limiter.Options{OnDecision: note}
	if in == nil {
		return limiter.Middleware(quotas, rules, &opts)(p), p, nil, nil
	}
	opts.Observer = in.LimiterObserver()
	limits := in.Limits(r.Path.Text, quotas, rules, by, opts)
	return limits.Middleware(p), p, limits, nil
}

// refuser names what refused a request, for its record.
func refuser(rules limiter.Rules, d limiter.Decision) string {
	if d.Rule < 0 {
		return "limiter failed"
	}
	return rules[d.Rule].Policy.Name
}

// captureOptions says how much of bodies is recorded, and of which routes none.
func captureOptions(a config.Audit, bodiless map[string]bool, lost func(error)) *capture.Options {
	limit := cmp.Or(int(a.MaxBody), -1) // the file says 0 for what Options calls -1
	return &capture.Options{
		RequestCap:  limit,
		ResponseCap: limit,
		Budget:      capture.NewBudget(int64(a.Budget)),
		OnError:     lost,
		Decoders:    decoders.All(),
		RequestBody: func(r *http.Request, skip capture.SkipReason) capture.SkipReason {
			if skip == "" && bodiless[r.Pattern] {
				return capture.SkipSampledOut
			}
			return skip
		},
		ResponseBody: func(r *http.Request, _ int, _ http.Header, skip capture.SkipReason) capture.SkipReason {
			if skip == "" && bodiless[r.Pattern] {
				return capture.SkipSampledOut
			}
			return skip
		},
	}
}

// noteCut marks the records of exchanges that the end of the gateway cut short:
// they look as if their clients had left.
func noteCut(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if context.Cause(r.Context()) == errShutdown {
				capture.From(r.Context()).Set("cut_by", "shutdown")
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// match tells everything behind it which route a request takes.
func match(mux *http.ServeMux, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !odd(r) {
			_, r.Pattern = mux.Handler(r)
		}
		next.ServeHTTP(w, r)
	})
}

// odd reports whether the target of r is something else than a path, such as
// "*" or "http:opaque". ServeMux sees an empty path then and redirects to "/".
func odd(r *http.Request) bool {
	return r.URL.Opaque != "" || r.URL.Path != "" && r.URL.Path[0] != '/'
}

func refuseOdd(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if odd(r) {
			w.Header().Set("Connection", "close")
			http.Error(w, "The request target must be a path.", http.StatusBadRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}
