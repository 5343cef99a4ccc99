package clientip_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/goweir/weir/clientip"
)

// trusted is the list of proxies in the tables of this package. In them
// 198.51.100.0/24, 203.0.113.0/24 and 2001:db8:2::/48 are clients.
var trusted = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("192.0.2.128/25"),
	netip.MustParsePrefix("2001:db8:1::/48"),
	netip.MustParsePrefix("fe80::/10"),
}

func resolver(t testing.TB, trust []netip.Prefix, opts *clientip.Options) *clientip.Resolver {
	t.Helper()
	v, err := clientip.New(trust, opts)
	if err != nil {
		t.Fatalf("New(%v, %+v) = %v", trust, opts, err)
	}
	return v
}

// request comes from remote and has one line of the named field per value.
func request(remote, name string, lines ...string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = remote
	for _, line := range lines {
		r.Header.Add(name, line)
	}
	return r
}

// text is empty for the zero Addr, unlike Addr.String.
func text(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	return addr.String()
}

const proxy = "10.0.0.1:4711" // a trusted peer

var listTests = []struct {
	name   string
	remote string
	lines  []string
	want   string
}{
	{"no field", proxy, nil, "10.0.0.1"},
	{"empty field", proxy, []string{""}, "10.0.0.1"},
	{"only separators", proxy, []string{" , ,\t,"}, "10.0.0.1"},
	{"one client", proxy, []string{"203.0.113.7"}, "203.0.113.7"},
	{"the rightmost counts", proxy, []string{"198.51.100.1, 203.0.113.7"}, "203.0.113.7"},
	{"no space", proxy, []string{"198.51.100.1,203.0.113.7"}, "203.0.113.7"},
	{"tab and spaces", proxy, []string{"198.51.100.1 ,\t 203.0.113.7 \t"}, "203.0.113.7"},
	{"lines are one list", proxy, []string{"198.51.100.1", "203.0.113.7"}, "203.0.113.7"},
	{"lines with lists", proxy, []string{"198.51.100.1, 198.51.100.2", "203.0.113.7, 10.9.9.9"}, "203.0.113.7"},
	{"last line trusted", proxy, []string{"198.51.100.1, 203.0.113.7", "10.1.1.1, 10.9.9.9"}, "203.0.113.7"},
	{"last line empty", proxy, []string{"203.0.113.7", ""}, "203.0.113.7"},
	{"empty elements", proxy, []string{"198.51.100.1,,203.0.113.7,,,"}, "203.0.113.7"},
	{"client writes words first", proxy, []string{"oh, hi,,127.0.0.1,,,,"}, "127.0.0.1"},

	{"one trusted hop", proxy, []string{"203.0.113.7, 10.0.0.2"}, "203.0.113.7"},
	{"hops of two families", proxy, []string{"198.51.100.1, 203.0.113.7, 2001:db8:1::5, 10.0.0.2"}, "203.0.113.7"},
	{"private but not listed", proxy, []string{"172.16.0.50, 10.0.0.2"}, "172.16.0.50"},
	{"first of a prefix", proxy, []string{"203.0.113.7, 192.0.2.128"}, "203.0.113.7"},
	{"last of a prefix", proxy, []string{"203.0.113.7, 192.0.2.255"}, "203.0.113.7"},
	{"just before a prefix", proxy, []string{"203.0.113.7, 192.0.2.127"}, "192.0.2.127"},
	{"just after a prefix", proxy, []string{"203.0.113.7, 192.0.3.0"}, "192.0.3.0"},
	{"all trusted", proxy, []string{"10.3.3.3, 10.2.2.2"}, "10.3.3.3"},
	{"all trusted over lines", proxy, []string{"10.4.4.4, 10.3.3.3", "10.2.2.2"}, "10.4.4.4"},

	{"unknown ends the walk", proxy, []string{"198.51.100.1, unknown"}, "10.0.0.1"},
	{"unknown behind a trusted hop", proxy, []string{"198.51.100.1, unknown, 10.0.0.2"}, "10.0.0.1"},
	{"unknown left of the client", proxy, []string{"unknown, 203.0.113.7"}, "203.0.113.7"},
	{"obfuscated", proxy, []string{"198.51.100.1, _hidden, 10.0.0.2"}, "10.0.0.1"},
	{"garbage", proxy, []string{"198.51.100.1, gar bage"}, "10.0.0.1"},
	{"garbage in the last line", proxy, []string{"198.51.100.1", "gar bage"}, "10.0.0.1"},
	{"host name", proxy, []string{"198.51.100.1, localhost"}, "10.0.0.1"},
	{"quoted", proxy, []string{`"203.0.113.7"`}, "10.0.0.1"},
	{"other white space", proxy, []string{"203.0.113.7\v"}, "10.0.0.1"},
	{"semicolon", proxy, []string{"203.0.113.7; 10.0.0.2"}, "10.0.0.1"},
	{"octet too large", proxy, []string{"198.51.100.1, 203.0.113.256"}, "10.0.0.1"},
	{"octet with leading zero", proxy, []string{"198.51.100.1, 203.0.113.07"}, "10.0.0.1"},
	{"three octets", proxy, []string{"198.51.100.1, 203.0.113"}, "10.0.0.1"},
	{"a number", proxy, []string{"198.51.100.1, 3405803783"}, "10.0.0.1"},
	{"prefix", proxy, []string{"198.51.100.1, 203.0.113.0/24"}, "10.0.0.1"},

	{"port", proxy, []string{"203.0.113.7:8080, 10.0.0.2:80"}, "203.0.113.7"},
	{"obfuscated port", proxy, []string{"203.0.113.7:_http.1-a"}, "203.0.113.7"},
	{"port empty", proxy, []string{"203.0.113.7:"}, "10.0.0.1"},
	{"port too long", proxy, []string{"203.0.113.7:123456"}, "10.0.0.1"},
	{"port of letters", proxy, []string{"203.0.113.7:http"}, "10.0.0.1"},
	{"obfuscated port empty", proxy, []string{"203.0.113.7:_"}, "10.0.0.1"},
	{"obfuscated port of wrong characters", proxy, []string{"203.0.113.7:_a+b"}, "10.0.0.1"},
	{"IPv6", proxy, []string{"2001:db8:2::7"}, "2001:db8:2::7"},
	{"IPv6 upper case, not shortened", proxy, []string{"2001:0DB8:0002:0:0:0:0:0007"}, "2001:db8:2::7"},
	{"IPv6 in brackets", proxy, []string{"[2001:db8:2::7]"}, "2001:db8:2::7"},
	{"IPv6 with a port", proxy, []string{"[2001:db8:2::7]:443, [2001:db8:1::1]:1"}, "2001:db8:2::7"},
	{"IPv6 port without colon", proxy, []string{"[2001:db8:2::7]443"}, "10.0.0.1"},
	{"IPv6 bracket open", proxy, []string{"[2001:db8:2::7"}, "10.0.0.1"},
	{"IPv6 bracket closed twice", proxy, []string{"[2001:db8:2::7]]"}, "10.0.0.1"},
	{"IPv6 bracket only closed", proxy, []string{"2001:db8:2::7]:443"}, "10.0.0.1"},
	{"IPv6 brackets empty", proxy, []string{"[]:443"}, "10.0.0.1"},
	{"IPv6 too many groups", proxy, []string{"1:2:3:4:5:6:7:8:9"}, "10.0.0.1"},
	{"IPv6 port by mistake is a group", proxy, []string{"::1:80"}, "::1:80"},
	{"IPv4 in brackets", proxy, []string{"[203.0.113.7]:80"}, "10.0.0.1"},
	{"loopback", proxy, []string{"::1"}, "::1"},
	{"longest spelling", proxy, []string{"0000:0000:0000:0000:0000:FFFF:203.000.113.007"}, "10.0.0.1"},
	{"longest valid spelling", proxy, []string{"0000:0000:0000:0000:0000:FFFF:203.100.113.107"}, "203.100.113.107"},

	{"zone", proxy, []string{"2001:db8:2::7%eth0"}, "2001:db8:2::7"},
	{"zone in brackets", proxy, []string{"[2001:db8:2::7%25eth0]:80"}, "2001:db8:2::7"},
	{"zone of a trusted hop", proxy, []string{"203.0.113.7, fe80::1%eth0"}, "203.0.113.7"},
	{"zone of odd characters", proxy, []string{"2001:db8:2::7%a:b%]["}, "2001:db8:2::7"},
	{"zone empty", proxy, []string{"2001:db8:2::7%"}, "10.0.0.1"},
	{"zone on IPv4", proxy, []string{"203.0.113.7%eth0"}, "10.0.0.1"},
	{"zone on IPv4 with colons", proxy, []string{"203.0.113.7%a:b:c"}, "10.0.0.1"},
	{"zone on IPv4 in brackets", proxy, []string{"[203.0.113.7%a:b]"}, "10.0.0.1"},
	{"only a zone", proxy, []string{"%eth0"}, "10.0.0.1"},

	{"mapped, dotted", proxy, []string{"::ffff:203.0.113.7"}, "203.0.113.7"},
	{"mapped, hexadecimal", proxy, []string{"::ffff:cb00:7107"}, "203.0.113.7"},
	{"mapped, spelled out", proxy, []string{"0000:0000:0000:0000:0000:FFFF:CB00:7107"}, "203.0.113.7"},
	{"mapped, with a port", proxy, []string{"[::ffff:203.0.113.7]:80"}, "203.0.113.7"},
	{"mapped, with a zone", proxy, []string{"::ffff:203.0.113.7%eth0"}, "203.0.113.7"},
	{"mapped trusted hop", proxy, []string{"203.0.113.7, ::ffff:10.0.0.2"}, "203.0.113.7"},
	{"compatible is not mapped", proxy, []string{"::10.0.0.2"}, "::a00:2"},
	{"NAT64 is not mapped", proxy, []string{"64:ff9b::10.0.0.2"}, "64:ff9b::a00:2"},

	{"128 elements", proxy, []string{"203.0.113.7" + strings.Repeat(",10.0.0.2", 127)}, "203.0.113.7"},
	{"129 elements", proxy, []string{"203.0.113.7" + strings.Repeat(",10.0.0.2", 128)}, "10.0.0.1"},
	{"129 elements, mostly empty", proxy, []string{"203.0.113.7" + strings.Repeat(",", 128)}, "10.0.0.1"},
	{"129 lines, mostly empty", proxy, append([]string{"203.0.113.7"}, make([]string, 128)...), "10.0.0.1"},

	{"peer not trusted", "198.51.100.9:1", []string{"203.0.113.7"}, "198.51.100.9"},
	{"peer not trusted, hop trusted", "198.51.100.9:1", []string{"203.0.113.7, 10.0.0.2"}, "198.51.100.9"},
	{"peer IPv6 not trusted", "[2001:db8:2::9]:1", []string{"203.0.113.7"}, "2001:db8:2::9"},
	{"peer IPv6 trusted", "[2001:db8:1::9]:1", []string{"203.0.113.7"}, "203.0.113.7"},
	{"peer mapped, trusted", "[::ffff:10.0.0.1]:1", []string{"203.0.113.7"}, "203.0.113.7"},
	{"peer mapped, not trusted", "[::ffff:198.51.100.9]:1", []string{"203.0.113.7"}, "198.51.100.9"},
	{"peer with a zone, trusted", "[fe80::1%eth0]:1", []string{"203.0.113.7"}, "203.0.113.7"},
	{"peer with a zone, no field", "[fe80::1%eth0]:1", nil, "fe80::1"},
	{"peer without a port", "10.0.0.1", []string{"203.0.113.7"}, "203.0.113.7"},
	{"peer on a unix socket", "@", []string{"203.0.113.7"}, ""},
	{"peer on a named unix socket", "/run/client.sock", []string{"203.0.113.7"}, ""},
	{"peer in memory", "pipe", []string{"203.0.113.7"}, ""},
	{"peer empty", "", []string{"203.0.113.7"}, ""},
}

func TestAddr(t *testing.T) {
	v := resolver(t, trusted, nil)
	for _, tt := range listTests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(tt.remote, "X-Forwarded-For", tt.lines...)
			if got := text(v.Addr(r)); got != tt.want {
				t.Errorf("Addr of peer %q with X-Forwarded-For %q = %q, want %q", tt.remote, tt.lines, got, tt.want)
			}
		})
	}
}

func TestAddrTrustsNobodyByDefault(t *testing.T) {
	resolvers := map[string]*clientip.Resolver{
		"nil trust":     resolver(t, nil, nil),
		"empty trust":   resolver(t, []netip.Prefix{}, &clientip.Options{}),
		"Forwarded":     resolver(t, nil, &clientip.Options{Forwarded: true}),
		"SingleHeader":  resolver(t, nil, &clientip.Options{SingleHeader: "X-Real-Ip"}),
		"zero Resolver": new(clientip.Resolver),
	}
	for name, v := range resolvers {
		t.Run(name, func(t *testing.T) {
			for _, remote := range []string{"127.0.0.1:1", "10.0.0.1:1", "198.51.100.9:1"} {
				r := request(remote, "X-Forwarded-For", "203.0.113.7")
				r.Header.Set("Forwarded", "for=203.0.113.7")
				r.Header.Set("X-Real-Ip", "203.0.113.7")
				want := netip.MustParseAddrPort(remote).Addr()
				if got := v.Addr(r); got != want {
					t.Errorf("Addr of peer %s = %v, want the peer", remote, got)
				}
				if v.Trusted(r) {
					t.Errorf("Trusted of peer %s = true, want false", remote)
				}
			}
		})
	}
}

func TestTrusted(t *testing.T) {
	v := resolver(t, trusted, nil)
	for remote, want := range map[string]bool{
		proxy:                     true,
		"10.0.0.1":                true,
		"[::ffff:10.0.0.1]:1":     true,
		"[2001:db8:1::9]:1":       true,
		"[fe80::1%eth0]:1":        true,
		"192.0.2.127:1":           false,
		"[::ffff:198.51.100.9]:1": false,
		"[::10.0.0.1]:1":          false,
		"@":                       false,
		"":                        false,
	} {
		if got := v.Trusted(request(remote, "X-Forwarded-For", "10.0.0.1")); got != want {
			t.Errorf("Trusted of peer %q = %v, want %v", remote, got, want)
		}
	}
}
