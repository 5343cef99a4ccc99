package clientip_test

import (
	"strings"
	"testing"

	"github.com/goweir/weir/clientip"
)

// The first block holds the examples of RFC 7239, sections 4, 6 and 7.
var forwardedTests = []struct {
	name  string
	lines []string
	want  string // of a request from proxy
}{
	{"RFC obfuscated", []string{`for="_gazonk"`}, "10.0.0.1"},
	{"RFC IPv6 with a port", []string{`For="[2001:db8:cafe::17]:4711"`}, "2001:db8:cafe::17"},
	{"RFC several parameters", []string{`for=192.0.2.60;proto=http;by=203.0.113.43`}, "192.0.2.60"},
	{"RFC two elements", []string{`for=192.0.2.43, for=198.51.100.17`}, "198.51.100.17"},
	{"RFC hidden", []string{`for=_hidden, for=_SEVKISEK`}, "10.0.0.1"},
	{"RFC IPv4 with a port", []string{`for="192.0.2.43:47011"`}, "192.0.2.43"},
	{"RFC obfuscated port", []string{`for="[2001:db8:cafe::17]:_gazonk"`}, "2001:db8:cafe::17"},
	{"RFC unknown last", []string{`for=192.0.2.43,for="[2001:db8:cafe::17]",for=unknown`}, "10.0.0.1"},
	{"RFC two lines", []string{`for=192.0.2.43, for="[2001:db8:cafe::17]"`, `for=unknown`}, "10.0.0.1"},
	{"RFC IPv6 last", []string{`for=192.0.2.43, for="[2001:db8:cafe::17]"`}, "2001:db8:cafe::17"},

	{"no field", nil, "10.0.0.1"},
	{"empty field", []string{""}, "10.0.0.1"},
	{"empty elements", []string{"for=203.0.113.7, ,\t,"}, "203.0.113.7"},
	{"trusted hop", []string{"for=203.0.113.7, for=10.0.0.2"}, "203.0.113.7"},
	{"trusted hops over lines", []string{"for=198.51.100.1, for=203.0.113.7", `for="10.0.0.3:80"`, `for="[2001:db8:1::1]"`}, "203.0.113.7"},
	{"all trusted", []string{"for=10.3.3.3;proto=https, for=10.2.2.2"}, "10.3.3.3"},
	{"unknown behind a trusted hop", []string{"for=203.0.113.7, for=unknown, for=10.0.0.2"}, "10.0.0.1"},
	{"unknown left of the client", []string{"for=unknown, for=203.0.113.7"}, "203.0.113.7"},
	{"name in upper case", []string{"FOR=203.0.113.7"}, "203.0.113.7"},
	{"for is not first", []string{`proto=https;host="a.example";for=203.0.113.7;by=10.0.0.1`}, "203.0.113.7"},
	{"unknown parameters", []string{`x-trace="a;b,c";for=203.0.113.7;y=1`}, "203.0.113.7"},
	{"quoted IPv4", []string{`for="203.0.113.7"`}, "203.0.113.7"},
	{"quoted IPv6 without brackets", []string{`for="2001:db8:2::7"`}, "2001:db8:2::7"},
	{"mapped", []string{`for="[::ffff:203.0.113.7]:80"`}, "203.0.113.7"},
	{"mapped trusted hop", []string{`for=203.0.113.7, for="[::ffff:10.0.0.2]"`}, "203.0.113.7"},
	{"zone", []string{`for="[2001:db8:2::7%eth0]"`}, "2001:db8:2::7"},
	{"white space around a semicolon", []string{"for=203.0.113.7 ;\tproto=https"}, "203.0.113.7"},
	{"empty pairs", []string{";;for=203.0.113.7;;"}, "203.0.113.7"},

	{"no for", []string{"for=203.0.113.7, by=10.0.0.2"}, "10.0.0.1"},
	{"only semicolons", []string{"for=203.0.113.7, ;"}, "10.0.0.1"},
	{"for twice", []string{"for=203.0.113.7;for=198.51.100.1"}, "10.0.0.1"},
	{"for twice, alike", []string{"for=203.0.113.7;For=203.0.113.7"}, "10.0.0.1"},
	{"for is a suffix", []string{"xfor=203.0.113.7"}, "10.0.0.1"},
	{"no value", []string{"for="}, "10.0.0.1"},
	{"no name", []string{"=203.0.113.7"}, "10.0.0.1"},
	{"no parameter", []string{"203.0.113.7"}, "10.0.0.1"},
	{"empty quotes", []string{`for=""`}, "10.0.0.1"},
	{"space around equals", []string{"for = 203.0.113.7"}, "10.0.0.1"},
	{"port needs quotes", []string{"for=203.0.113.7:80"}, "10.0.0.1"},
	{"IPv6 needs quotes", []string{"for=[2001:db8:2::7]"}, "10.0.0.1"},
	{"single quotes", []string{"for='203.0.113.7'"}, "10.0.0.1"},
	{"space in quotes", []string{`for=" 203.0.113.7"`}, "10.0.0.1"},
	{"list in quotes", []string{`for="198.51.100.1, 203.0.113.7"`}, "10.0.0.1"},
	{"quoted-pair in an address", []string{`for="203.0.113.\7"`}, "10.0.0.1"},
	{"text behind quotes", []string{`for="203.0.113.7"x`}, "10.0.0.1"},
	{"control character in quotes", []string{"for=203.0.113.7;x=\"\x01\""}, "10.0.0.1"},
	{"escaped control character", []string{"for=203.0.113.7;x=\"\\\x7f\""}, "10.0.0.1"},
	{"bytes above ASCII in quotes", []string{"for=203.0.113.7;x=\"\xff\xc3\xa4\\\xc3\xa4\""}, "203.0.113.7"},
	{"bytes above ASCII in a token", []string{"for=203.0.113.7;x=\xc3\xa4"}, "10.0.0.1"},

	{"comma and semicolon in quotes", []string{`for=203.0.113.7;x="a, for=198.51.100.1; b"`}, "203.0.113.7"},
	{"escaped quotes", []string{`for=203.0.113.7;x="\", for=198.51.100.1, \""`}, "203.0.113.7"},
	{"escaped backslashes", []string{`for=203.0.113.7;x="\\\\"`}, "203.0.113.7"},
	{"escaped backslashes and quote", []string{`for=203.0.113.7;x="\\\", for=198.51.100.1"`}, "203.0.113.7"},
	{"closing quote escaped", []string{`for=203.0.113.7;x="\"`}, "10.0.0.1"},
	{"backslash before an opening quote", []string{`for=203.0.113.7;x=\"a"`}, "10.0.0.1"},
	{"even backslashes before an opening quote", []string{`for=203.0.113.7;x=\\"a"`}, "10.0.0.1"},
	{"backslash at the end", []string{`for="203.0.113.7\`}, "10.0.0.1"},
	{"quote opened only", []string{`for="203.0.113.7`}, "10.0.0.1"},
	{"quote closed only", []string{`for=203.0.113.7"`}, "10.0.0.1"},
	{"quote over two lines", []string{`for=203.0.113.7;x="a`, `b"`}, "10.0.0.1"},

	// The element on the right is what the proxy appended to the client's text.
	{"client opens a quote", []string{`for="198.51.100.1, for=203.0.113.7`}, "203.0.113.7"},
	{"client opens a quote, proxy quotes", []string{`for="198.51.100.1, for="[2001:db8:2::7]:80"`}, "2001:db8:2::7"},
	{"client ends in a backslash", []string{`for="\, for="203.0.113.7"`}, "203.0.113.7"},
	{"client opens a quote in its line", []string{`for="`, `for="203.0.113.7"`}, "203.0.113.7"},
	{"client opens a quote, trusted hop", []string{`for="198.51.100.1, for=203.0.113.7, for="10.0.0.2"`}, "203.0.113.7"},

	{"128 elements", []string{"for=203.0.113.7" + strings.Repeat(",for=10.0.0.2", 127)}, "203.0.113.7"},
	{"129 elements", []string{"for=203.0.113.7" + strings.Repeat(",for=10.0.0.2", 128)}, "10.0.0.1"},
}

func TestForwarded(t *testing.T) {
	v := resolver(t, trusted, &clientip.Options{Forwarded: true})
	for _, tt := range forwardedTests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(proxy, "Forwarded", tt.lines...)
			if got := text(v.Addr(r)); got != tt.want {
				t.Errorf("Addr with Forwarded %q = %q, want %q", tt.lines, got, tt.want)
			}
			r.RemoteAddr = "198.51.100.9:1"
			if got := text(v.Addr(r)); got != "198.51.100.9" {
				t.Errorf("Addr of a peer that is not trusted, with Forwarded %q = %q, want the peer", tt.lines, got)
			}
		})
	}
}
