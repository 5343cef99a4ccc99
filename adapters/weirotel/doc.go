// Package weirotel shows what weir does as OpenTelemetry metrics and spans.
//
//	telemetry, err := weirotel.New(nil)
//	...
//	users, err := proxy.New(proxy.Config{
//		Upstreams:     upstreams,
//		Observer:      telemetry.Proxy(),
//		WrapTransport: telemetry.WrapTransport,
//		Fallback:      telemetry.Fallback(sorry),
//	})
//
// It uses the API of OpenTelemetry only; the program brings the SDK, or none, and
// then nothing is measured.
//
// # Spans
//
// Spans are children of the request's span, which whatever stands outside makes,
// such as otelhttp. Where that is not recorded, neither are they:
//
//	limit POLICY         a decision about one charge, with weir.result and weir.source
//	slot LIMIT           what became of asking for slots (limiter.InFlight), the wait included
//	wait for POLICY      the wait for the turn that the policy gave
//	wait for upstream    the wait for a place at an upstream (proxy.InFlight)
//	ask BACKEND          a call that a failover's backend did not answer
//	METHOD               an attempt to get an answer from an upstream, a client span by
//	                     the semantic conventions for HTTP
//	fallback             the fallback, with weir.reason
//
// The request's span itself gets weir.refused_by, the name of the policy that
// refused, and what the proxy says of the end: weir.proxy.result, side, phase,
// reason and upstream. So a trace, and a service map made of traces, shows the
// gateway and who refused.
//
// The span of an attempt is what the upstream gets as traceparent, by the
// propagator in use. If the request has no span, what came from the client is
// passed on, or is its parent.
//
// # Attributes
//
// Attributes of metrics are what the configuration names, or words of a fixed
// set; they have no path, no address and no user. There are at most 1000
// combinations of each metric; of what comes later the route is "other", then
// the policy or upstream. Spans of attempts also have url.full, without the
// query.
package weirotel
