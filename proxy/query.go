package proxy

import "strings"

// A QueryPolicy says what becomes of a query that parsers read differently: one
// with a semicolon, which some take for "&", with a percent sign that is not
// followed by two hexadecimal digits, with a "#", or with more than 10,000
// parameters, where many stop to read. What one reads may be hidden from another,
// for instance from a guard in front of the proxy.
type QueryPolicy uint8

const (
	// QueryClean drops the parameters that Go cannot read and encodes the rest
	// anew, as [httputil.ReverseProxy] does. A "#" passes. The upstream sees what
	// a handler that uses [net/url.ParseQuery] sees.
	QueryClean QueryPolicy = iota

	// QueryRefuse answers with 400.
	QueryRefuse

	// QueryRaw sends each query as it came. It is for upstreams that separate
	// parameters by semicolons, and if nothing in front judges a query.
	QueryRaw
)

// maxParameters is where net/url stops by default (CVE-2026-39825).
const maxParameters = 10_000

// ambiguous reports whether parsers read a query differently.
func ambiguous(query string) bool {
	for i := 0; i < len(query); i++ {
		switch query[i] {
		case ';', '#':
			return true
		case '%':
			if len(query)-i < 3 || !isHex(query[i+1]) || !isHex(query[i+2]) {
				return true
			}
			i += 2
		}
	}
	return strings.Count(query, "&") >= maxParameters
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }

// hasEscapedSlash reports whether an escaped path has a slash or a backslash
// that is escaped.
func hasEscapedSlash(path string) bool {
	for {
		i := strings.IndexByte(path, '%')
		if i < 0 || len(path)-i < 3 {
			return false
		}
		hi, lo := path[i+1], path[i+2]|0x20
		if hi == '2' && lo == 'f' || hi == '5' && lo == 'c' {
			return true
		}
		path = path[i+3:]
	}
}
