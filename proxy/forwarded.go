package proxy

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/goweir/weir/clientip"
)

// none switches a header field of Config off.
const none = "-"

// fieldNames are what a Proxy writes into the header of each request.
type fieldNames struct {
	via       [3][]string // by the version of the request; nil for none
	id        string      // canonical; "" for none
	idLower   string
	forwarded bool
}

func newFieldNames(cfg *Config) (n fieldNames) {
	if cfg.Via != none {
		n.via = [...][]string{{"1.0 " + cfg.Via}, {"1.1 " + cfg.Via}, {"2 " + cfg.Via}}
	}
	if cfg.RequestIDHeader != none {
		n.id = http.CanonicalHeaderKey(cfg.RequestIDHeader)
		n.idLower = strings.ToLower(n.id)
	}
	n.forwarded = cfg.Forwarded
	return n
}

// forwarded holds the values of the fields that tell the upstream how the
// request came, so that they cost no allocation each. Those that are the same
// for many requests are shared: a transport must not change what it sends.
type forwarded struct{ client, host, id, element [1]string }

var plain, encrypted = []string{"http"}, []string{"https"}

// set writes the fields that tell the upstream how the request came. It runs
// after hop-by-hop fields were removed, so that no Connection field names them.
// answer is the header of the response as middleware in front has left it.
//
// X-Forwarded-For is the one address that clientip found, not a list: whether
// an upstream reads such a list from the left or from the right, it comes to the
// same client, and to none that a client has made up.
func (f *forwarded) set(h http.Header, in *http.Request, p *Proxy, answer http.Header) {
	trust, names := p.cfg.Trust, &p.fields
	trusted := trust != nil && trust.Trusted(in)
	for name := range h {
		switch forwardingName(name) {
		case twin:
			delete(h, name)
		case own:
			if !trusted {
				delete(h, name)
			}
		default:
			if name != names.id && foldEqual(name, names.idLower) {
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
		f.client[0] = addrString(addr, in.RemoteAddr)
		h["X-Forwarded-For"] = f.client[:]
	} else {
		delete(h, "X-Forwarded-For")
	}

	f.host[0] = in.Host
	proto := plain
	if in.TLS != nil {
		proto = encrypted
	}
	if trusted {
		// ReverseProxy has removed these from h.
		chain := in.Header["Forwarded"]
		if len(chain) > 0 {
			h["Forwarded"] = chain
			if names.forwarded {
				// What came to us, as the chain has what came to others.
				peer, _ := netip.ParseAddrPort(in.RemoteAddr)
				element := forwardedElement(peer.Addr(), f.host[0], proto[0])
				h["Forwarded"] = append(chain[:len(chain):len(chain)], element)
			}
		}
		if host := in.Header["X-Forwarded-Host"]; len(host) == 1 && host[0] != "" {
			f.host[0] = host[0]
		}
		if sent := in.Header["X-Forwarded-Proto"]; len(sent) == 1 && sent[0] == "http" {
			proto = plain
		} else if len(sent) == 1 && sent[0] == "https" {
			proto = encrypted
		}
	}
	h["X-Forwarded-Host"] = f.host[:]
	h["X-Forwarded-Proto"] = proto
	if names.forwarded && len(h["Forwarded"]) == 0 {
		f.element[0] = forwardedElement(addr, f.host[0], proto[0])
		h["Forwarded"] = f.element[:]
	}

	if via := names.via[min(max(in.ProtoMajor*2+in.ProtoMinor-2, 0), 2)]; via != nil {
		if passed := h["Via"]; len(passed) > 0 {
			h["Via"] = append(passed[:len(passed):len(passed)], via...)
		} else {
			h["Via"] = via
		}
	}

	if names.id != "" {
		id, ok := requestID(answer[names.id])
		if !ok && trusted {
			id, ok = requestID(h[names.id])
		}
		if !ok {
			id = newRequestID()
		}
		f.id[0] = id
		h[names.id] = f.id[:]
	}
}

// addrString is addr.String, without an allocation if peer begins with it.
func addrString(addr netip.Addr, peer string) string {
	var buf [64]byte
	text := addr.AppendTo(buf[:0])
	peer = strings.TrimPrefix(peer, "[")
	if n := len(text); len(peer) > n && (peer[n] == ':' || peer[n] == ']') && peer[:n] == string(text) {
		return peer[:n]
	}
	return string(text)
}

// forwardedElement returns one element of a Forwarded field, RFC 7239 section 4.
func forwardedElement(client netip.Addr, host, proto string) string {
	b := make([]byte, 0, 128)
	b = append(b, "for="...)
	switch client = client.WithZone("").Unmap(); {
	case client.Is4():
		b = client.AppendTo(b)
	case client.Is6(): // section 6: in brackets, which need quotes
		b = append(client.AppendTo(append(b, `"[`...)), `]"`...)
	default:
		b = append(b, "unknown"...) // section 6.2
	}
	if host != "" {
		b = append(b, ";host="...)
		if isToken(host) {
			b = append(b, host...)
		} else {
			b = append(b, '"')
			for i := range len(host) {
				if c := host[i]; c == '"' || c == '\\' {
					b = append(b, '\\')
				}
				b = append(b, host[i])
			}
			b = append(b, '"')
		}
	}
	b = append(b, ";proto="...)
	return string(append(b, proto...))
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
