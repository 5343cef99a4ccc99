package clientip

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// maxElements bounds the elements of a list that are looked at. No chain of
// real proxies comes near; a header of a mebibyte has half a million.
const maxElements = 128

// A Resolver finds the address of the client of a request. It is immutable and
// safe for concurrent use by multiple goroutines. The zero Resolver trusts
// nobody and answers with the peer.
type Resolver struct {
	trust  prefixes
	source source
	field  string // canonical name of the header field to be read
	unix   bool

	nobody, everybody bool // trust holds
}

// New returns a Resolver that believes the proxies whose addresses are in
// trust. An empty trust is allowed and trusts nobody. Nil opts read
// X-Forwarded-For; see the package comment for which arguments suit which setup.
//
// A prefix need not be masked, and a v4-mapped one (::ffff:10.0.0.0/104) means
// the IPv4 one. An invalid prefix, a v4-mapped one shorter than 96 bits, and one
// of 0 bits, which would trust everyone, are faults, as are those documented at
// [Options]. The error joins all of them ([errors.Join]).
func New(trust []netip.Prefix, opts *Options) (*Resolver, error) {
	set, faults := newPrefixes(trust)
	src, field, more := opts.source()
	if err := errors.Join(append(faults, more...)...); err != nil {
		return nil, err
	}
	v := &Resolver{trust: set, source: src, field: field, unix: opts != nil && opts.TrustUnix, everybody: set.everybody()}
	v.nobody = len(set) == 0 && !v.unix
	return v, nil
}

// Addr returns the address of the client of r, folded to IPv4 if it is
// v4-mapped, without zone and port; the package comment says how it is found.
// It is the zero Addr only if the peer has no IP address and no trusted proxy
// named one.
//
// Addr reads r.RemoteAddr and the header anew on every call, whether or not a
// Middleware has run. Its time is bounded by the length of the header; it does
// not allocate, except once for text that consists of an address's characters
// and is none.
func (v *Resolver) Addr(r *http.Request) netip.Addr {
	peer := parseNode(r.RemoteAddr)
	if !v.trusted(r, peer) {
		if v.nobody {
			warnIgnored(r, peer)
		}
		return peer
	}
	if v.everybody {
		warnEverybody(r)
	}
	lines := r.Header[v.field]
	if v.source != single {
		return v.walk(peer, lines)
	}
	// Of several values the proxy's cannot be told from the client's. The comma
	// is looked for because a zone may contain one.
	if len(lines) != 1 || strings.Contains(lines[0], ",") {
		return peer
	}
	if addr := parseNode(trim(lines[0])); addr.IsValid() {
		return addr
	}
	return peer
}

// Trusted reports whether the peer of r, the other end of its connection, is
// trusted. If it is not, header fields that speak of the way the request came
// (X-Forwarded-For, X-Forwarded-Proto, Forwarded and the like) are the client's
// own words: a proxy must drop them, not append to them.
func (v *Resolver) Trusted(r *http.Request) bool {
	return v.trusted(r, parseNode(r.RemoteAddr))
}

func (v *Resolver) trusted(r *http.Request, peer netip.Addr) bool {
	if peer.IsValid() {
		return v.trust.contains(peer)
	}
	if !v.unix {
		return false
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "unix"
}

// walk goes from the trusted peer to the first element from the right that is
// not trusted.
func (v *Resolver) walk(peer netip.Addr, lines []string) netip.Addr {
	furthest, elements := peer, 0
	// Lines of one name are one list (RFC 9110 section 5.3). They are read one
	// by one instead of joined: a quoted-string that is opened in one line and
	// closed in the next is then malformed, and a client cannot make it so that
	// its own line and a proxy's form one.
	for _, line := range slices.Backward(lines) {
		for more := true; more; {
			if elements++; elements > maxElements {
				return peer
			}
			var comma int
			if v.source == forwarded {
				comma = lastComma(line)
			} else {
				comma = strings.LastIndexByte(line, ',')
			}
			element := trim(line[comma+1:])
			if more = comma >= 0; more {
				line = line[:comma]
			}
			if element == "" {
				continue
			}
			addr := v.node(element)
			if !addr.IsValid() {
				return peer
			}
			if !v.trust.contains(addr) {
				return addr
			}
			furthest = addr
		}
	}
	return furthest
}

// node returns the address that a list element names, or the zero Addr.
func (v *Resolver) node(element string) netip.Addr {
	if v.source == list {
		return parseNode(element)
	}
	value, ok := forParameter(element)
	if !ok {
		return netip.Addr{}
	}
	return parseNode(value)
}
