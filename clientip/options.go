package clientip

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

const forwardedFor = "X-Forwarded-For"

// Options say where the address of the client is read when the peer is
// trusted. At most one of Header, Forwarded and SingleHeader may be set, and
// the others are then never read: a second source that the proxies do not
// write is one that the client writes.
//
// Nil Options, like the zero value, read X-Forwarded-For.
type Options struct {
	// Header is the name of a field to be read as a list of addresses to which
	// every proxy appends, in the syntax of X-Forwarded-For. Empty means
	// X-Forwarded-For unless another source is chosen. It must be a field name
	// (RFC 9110 section 5.1) and not Forwarded, which has a syntax of its own.
	Header string

	// Forwarded reads the "for" parameters of the Forwarded field (RFC 7239).
	// An element that breaks the syntax, that has no "for" or has it twice, or
	// whose "for" is unknown or an obfuscated identifier (section 6.3) is not
	// an address and ends the walk. So does a port or an IPv6 address without
	// quotes, which section 6 requires. White space around ";" is let pass,
	// which the syntax does not allow but proxies send.
	Forwarded bool

	// SingleHeader is the name of a field that holds one address and that the
	// proxy sets on every request in place of what the client sent, such as
	// CF-Connecting-IP, or X-Real-Ip behind nginx. Several lines, several
	// values or anything else that is not one address count as absent: the
	// peer is the answer. It must be a field name, and neither Forwarded nor
	// X-Forwarded-For, which are lists.
	//
	// Some such fields are passed on when the client sends them (True-Client-IP
	// and X-Real-Ip among them, depending on the product's configuration). And
	// the field says nothing about the way it came: if a balancer stands between
	// the CDN that sets it and this server, whoever reaches the balancer can set
	// it too. Most callers should use the list.
	SingleHeader string

	// TrustUnix trusts every peer that connected through a unix socket, which
	// has no address to be listed. Set it when the file mode of the socket lets
	// only the proxy in. The connection is known by the local address that
	// http.Server puts into the context ([http.LocalAddrContextKey]); an
	// unparsable RemoteAddr alone is not taken for a unix socket. When the walk
	// falls back to such a peer the answer is the zero netip.Addr.
	TrustUnix bool
}

type source uint8

const (
	list source = iota
	forwarded
	single
)

// source returns how and from which field the address is read, and every fault
// in opts.
func (opts *Options) source() (src source, field string, faults []error) {
	if opts == nil {
		return list, forwardedFor, nil
	}
	src, field = list, forwardedFor
	var chosen []string
	if opts.Header != "" {
		chosen = append(chosen, "Header")
		src, field = list, http.CanonicalHeaderKey(opts.Header)
		switch {
		case tokenLen(opts.Header) != len(opts.Header):
			faults = append(faults, notFieldName("Header", opts.Header))
		case field == "Forwarded":
			faults = append(faults, errors.New("clientip: Options.Header must not be Forwarded, which has its own syntax (set Options.Forwarded instead)"))
		}
	}
	if opts.SingleHeader != "" {
		chosen = append(chosen, "SingleHeader")
		src, field = single, http.CanonicalHeaderKey(opts.SingleHeader)
		switch {
		case tokenLen(opts.SingleHeader) != len(opts.SingleHeader):
			faults = append(faults, notFieldName("SingleHeader", opts.SingleHeader))
		case field == "Forwarded" || field == forwardedFor:
			faults = append(faults, fmt.Errorf("clientip: Options.SingleHeader must not be %s, which is a list (set Options.Forwarded, or nothing for %s)", field, forwardedFor))
		}
	}
	if opts.Forwarded {
		chosen = append(chosen, "Forwarded")
		src, field = forwarded, "Forwarded"
	}
	if len(chosen) > 1 {
		faults = append(faults, fmt.Errorf("clientip: %s are set in Options (at most one of Header, Forwarded and SingleHeader is allowed)", strings.Join(chosen, " and ")))
	}
	return src, field, faults
}

func notFieldName(option, value string) error {
	return fmt.Errorf("clientip: Options.%s is %q, not a field name (letters, digits and !#$%%&'*+-.^_`|~ are allowed)", option, value)
}
