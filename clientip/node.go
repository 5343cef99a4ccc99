package clientip

import (
	"net/netip"
	"strings"
)

// maxAddrLen is the length of the longest textual address, six groups of four
// hexadecimal digits followed by a dotted IPv4 address.
const maxAddrLen = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")

// parseNode parses an address with or without a port, as found in RemoteAddr,
// in X-Forwarded-For, and in RFC 7239 section 6, and folds it. What is not an
// address gives the zero Addr.
//
// net.SplitHostPort is not used because it allocates its errors, and an IPv6
// address without brackets, which is common in X-Forwarded-For, is one.
func parseNode(s string) netip.Addr {
	if rest, ok := strings.CutPrefix(s, "["); ok {
		host, port, ok := strings.Cut(rest, "]")
		if !ok || port != "" && !isPort(port) || !strings.Contains(host, ":") {
			return netip.Addr{}
		}
		return parseAddr(host)
	}
	// Only IPv6 has more than one colon, and it needs brackets to have a port.
	if i := strings.IndexByte(s, ':'); i >= 0 && i == strings.LastIndexByte(s, ':') {
		if !isPort(s[i:]) {
			return netip.Addr{}
		}
		s = s[:i]
	}
	return parseAddr(s)
}

// isPort reports whether s is a colon and a node-port of RFC 7239 section 6: up
// to five digits, or an underscore and an obfuscated identifier.
func isPort(s string) bool {
	if len(s) < 2 || s[0] != ':' {
		return false
	}
	s = s[1:]
	if s[0] == '_' {
		for i := 1; i < len(s); i++ {
			if c := s[i]; !isAlphanumeric(c) && c != '.' && c != '_' && c != '-' {
				return false
			}
		}
		return len(s) > 1
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return len(s) <= 5
}

func parseAddr(s string) netip.Addr {
	// The zone goes first: netip interns it, so that a zone of a megabyte would
	// be copied and kept.
	host, zone, zoned := strings.Cut(s, "%")
	if zoned && (zone == "" || !strings.Contains(host, ":")) {
		return netip.Addr{}
	}
	// Words such as "unknown" are told apart here because ParseAddr allocates
	// its errors.
	if host == "" || len(host) > maxAddrLen {
		return netip.Addr{}
	}
	for i := range len(host) {
		if c := host[i]; c != '.' && c != ':' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
			return netip.Addr{}
		}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap()
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}
