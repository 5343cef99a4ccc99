// Package clientip finds the address of the client behind proxies, by explicit
// trust.
//
// A request names its sender twice: by the connection it came on, which cannot
// be forged, and by header fields such as X-Forwarded-For, which anyone can
// write. A [Resolver] is told which addresses belong to proxies. It believes
// what those say and nothing else; without a list it believes nobody, and the
// client is the peer, the other end of the connection.
//
// # Your setup, use this
//
// Each row gives the arguments of [New]. List the addresses from which the
// proxies connect, no more: whoever can connect from a listed address can name
// any client.
//
//	setup                                    trust                              opts
//	clients connect directly                 nil                                nil
//	nginx, Caddy, HAProxy on the same host   127.0.0.0/8, ::1/128               nil
//	the same through a unix socket           nil                                {TrustUnix: true}
//	load balancer in a private network       the subnets of the balancer        nil
//	Kubernetes ingress controller            the pod network it runs in         nil
//	CDN, then this server                    the CDN's published ranges         nil
//	CDN, then a load balancer, then this     both                               nil
//	Google Cloud application load balancer   35.191.0.0/16, 130.211.0.0/22,     nil
//	                                         the balancer's own public address
//	proxies that write Forwarded (RFC 7239)  their addresses                    {Forwarded: true}
//	a proxy that writes only X-Real-Ip       its address                        {SingleHeader: "X-Real-Ip"}
//	Cloudflare without a proxy in between    Cloudflare's published ranges      {SingleHeader: "CF-Connecting-IP"}
//	gateway before services of one's own     per service: the gateway           nil
//
// Most callers should use the default, X-Forwarded-For, with a list. Where
// the addresses of the proxies cannot be listed, other libraries count hops
// from the right instead; one hop too many or too few, and the client chooses
// its address. This package does not count.
//
// To check a setup, send a request with a made-up X-Forwarded-For from a
// machine whose address you know. The answer must be that address: neither the
// made-up one nor a proxy's.
//
// # How a list is read
//
// Every proxy appends the address it received the request from, so the right
// end of the list was written by the nearest proxy and the left end by whoever
// liked to. Starting from the peer, addresses are taken from right to left,
// over all lines of the field, as long as each is listed in trust. The first
// that is not is the client. What stands further left is never read.
//
//   - The peer is not listed: the peer is the answer and no field is read.
//   - Every address is listed: the leftmost is the answer. The request began
//     inside the trusted network (a health check, one service calling another),
//     and each address up to there was written by a listed machine. Answering
//     with the peer would put all such callers into the one bucket of their
//     proxy and gain no safety, since a listed machine may name any address.
//   - An element is not an address (unknown, _hidden, a host name, garbage):
//     the peer is the answer. Whoever wrote it did not know or did not say, and
//     nothing to the left of it has been vouched for.
//   - The field is absent or empty: the peer is the answer.
//   - More than 128 elements would have to be read: the peer is the answer.
//
// Empty list elements are skipped (RFC 9110 section 5.6.1.2) but counted.
//
// A proxy must append to the field or replace it. One that passes on what the
// client sent, and adds nothing, cannot be told from a client; configure it
// first.
//
// # What comes out
//
// An answer is ready to be compared and used as a key: IPv4-mapped IPv6 is
// folded to IPv4, the zone and the port are dropped. Accepted are 192.0.2.1,
// 192.0.2.1:8080, 2001:db8::1, [2001:db8::1] and [2001:db8::1]:8080. An IPv6
// client usually holds a whole /64: limit by that, not by the single address.
//
// A peer without an IP address (a unix socket, an in-memory connection) has the
// zero [netip.Addr], which is not valid ([netip.Addr.IsValid]). It is trusted
// only by [Options.TrustUnix]. Callers must not take the zero Addr for a client:
// all such requests look alike.
//
// Once a process a warning is logged, by slog's default logger, if a request has
// X-Forwarded-For or Forwarded and nobody is trusted, or if the list holds most
// addresses there are; see docs/diagnostics.md.
//
// The address is taken from [http.Request.RemoteAddr]. Do not run middleware
// that overwrites RemoteAddr from a header before this one.
package clientip
