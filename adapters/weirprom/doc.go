// Package weirprom shows what weir does as Prometheus metrics.
//
//	metrics := weirprom.New(nil)
//	prometheus.MustRegister(metrics)
//	limits := limiter.Middleware(memory, rules, &limiter.Options{Observer: metrics.Limiter()})
//
// A [Metrics] counts what the rooms tell their observers: it is one collector,
// whose methods return an observer for each room. [Memory], [InFlight], [Budget],
// [Queue] and [Upstreams] are collectors of their own, that ask when they are scraped.
//
// # Labels
//
// A label is something the configuration names: a policy, a route (the pattern
// that a router matched, as in "GET /users/{id}"), an upstream; or one of a
// fixed set of words. No label is something that a client chose: no path, no
// address, no user, no key. Still, a name may be made at run time: by
// Rule.PolicyFor, or by a router that puts a path where a pattern belongs. So
// each metric has at most Options.MaxSeries combinations; of what comes later
// the route is "other", and when that is not enough, so is the rest.
//
// # Cost
//
// An event takes one or two lookups and atomic additions, and no allocation once
// its labels are known.
package weirprom
