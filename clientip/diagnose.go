package clientip

import (
	"log/slog"
	"net/http"
	"net/netip"

	"github.com/goweir/weir/internal/diagnose"
)

// warnIgnored warns if r seems to come from a proxy, when nobody is trusted: then
// all clients behind that proxy are one.
func warnIgnored(r *http.Request, peer netip.Addr) {
	if !diagnose.ForwardedIgnored.Look() {
		return
	}
	field := forwardedFor
	if len(r.Header[field]) == 0 {
		if field = "Forwarded"; len(r.Header[field]) == 0 {
			return
		}
	}
	var attrs []slog.Attr
	if peer.IsPrivate() || peer.IsLoopback() || peer.IsLinkLocalUnicast() {
		// It is a proxy of one's own, where others may be people.
		attrs = append(attrs, slog.String("peer", peer.String()))
	}
	diagnose.ForwardedIgnored.Tell(r.Context(), "clientip: a request has "+field+", and nobody is trusted: if a proxy stands in front, "+
		"all its clients count as one; trust its address, and use the Resolver's Middleware", attrs...)
}

func warnEverybody(r *http.Request) {
	diagnose.TrustsEverybody.Tell(r.Context(), "clientip: the list of trusted addresses holds most there are, "+
		"so any client can name its own address; list the proxies only")
}

// everybody reports whether set holds half of all IPv4 addresses, or the part of
// IPv6 that is in use (2000::/3). New refuses 0 bits; several prefixes do as well.
func (set prefixes) everybody() bool {
	var v4, v6 float64
	for _, p := range set {
		share := 1 / float64(uint64(1)<<min(p.Bits(), 62))
		if p.Addr().Is4() {
			v4 += share
		} else {
			v6 += share
		}
	}
	return v4 >= 1./2 || v6 >= 1./8
}
