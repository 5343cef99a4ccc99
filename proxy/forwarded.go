package proxy

import (
	"net/http"
	"strings"

	"github.com/goweir/weir/clientip"
)

// forwarded holds the values of the fields that tell the upstream how the
// request came, so that they cost no allocation each.
type forwarded [3]string

// set writes X-Forwarded-For, X-Forwarded-Host and X-Forwarded-Proto. It runs
// after hop-by-hop fields were removed, so that no Connection field names them.
//
// X-Forwarded-For is the one address that clientip found, not a list: whether
// an upstream reads such a list from the left or from the right, it comes to the
// same client, and to none that a client has made up.
func (f *forwarded) set(h http.Header, in *http.Request, trust *clientip.Resolver) {
	trusted := trust != nil && trust.Trusted(in)
	for name := range h {
		switch forwardingName(name) {
		case twin:
			delete(h, name)
		case own:
			if !trusted {
				delete(h, name)
			}
		}
	}
	delete(h, "Http2-Settings") // part of an upgrade that is never made, RFC 9113 section 3.1

	addr := clientip.From(in)
	if trust != nil {
		addr = trust.Addr(in)
	}
	if addr.IsValid() {
		f[0] = addr.String()
		h["X-Forwarded-For"] = f[0:1:1]
	} else {
		delete(h, "X-Forwarded-For")
	}

	f[1] = in.Host
	f[2] = "http"
	if in.TLS != nil {
		f[2] = "https"
	}
	if trusted {
		// ReverseProxy has removed these from h.
		if host := in.Header["X-Forwarded-Host"]; len(host) == 1 && host[0] != "" {
			f[1] = host[0]
		}
		if proto := in.Header["X-Forwarded-Proto"]; len(proto) == 1 && (proto[0] == "http" || proto[0] == "https") {
			f[2] = proto[0]
		}
		if chain := in.Header["Forwarded"]; len(chain) > 0 {
			h["Forwarded"] = chain
		}
	}
	h["X-Forwarded-Host"] = f[1:2:2]
	h["X-Forwarded-Proto"] = f[2:3:3]
}

type ownership uint8

const (
	foreign ownership = iota
	own               // a field that says how the request came
	twin              // the same to servers that turn it into a variable name
)

// forwardingName says what a field's name is. CGI and its heirs replace
// whatever is not a letter by an underscore, so X_Forwarded_For reaches an
// application under the name of X-Forwarded-For; a client must not be able to
// set either.
func forwardingName(name string) ownership {
	if len(name) < len("Forwarded") {
		return foreign
	}
	if c := name[0] | 0x20; c != 'x' && c != 'f' {
		return foreign
	}
	switch {
	case foldEqual(name, "forwarded"), foldEqual(name, "x-real-ip"):
	case len(name) >= len("x-forwarded") && foldEqual(name[:len("x-forwarded")], "x-forwarded"):
	default:
		return foreign
	}
	if strings.ContainsAny(name, "_.") {
		return twin
	}
	return own
}

// foldEqual compares a field's name with one in lower case, taking underscores
// and dots for hyphens.
func foldEqual(name, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case c == '_' || c == '.':
			c = '-'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
