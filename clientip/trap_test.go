package clientip_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/goweir/weir/clientip"
)

// Traps that rate limiters have been caught in; the numbers are those of the
// project's list of them.

// Two IPv4 clients in IPv4-mapped spelling are two clients, each the same as in
// the plain spelling, and a zone does not make a third.
func TestTrapLimiter20_MappedIPv6(t *testing.T) {
	v := resolver(t, trusted, nil)
	spellings := map[string][]string{
		"1.2.3.4": {"1.2.3.4", "::ffff:1.2.3.4", "::ffff:102:304", "[::FFFF:1.2.3.4]:80", "::ffff:1.2.3.4%eth0"},
		"5.6.7.8": {"5.6.7.8", "::ffff:5.6.7.8", "0:0:0:0:0:ffff:506:708", "[::ffff:5.6.7.8%eth0]"},
		"2002::1": {"2002::1", "2002::1%eth0", "[2002::1%1]:80"},
	}
	for want, list := range spellings {
		for _, s := range list {
			if got := text(v.Addr(request(proxy, "X-Forwarded-For", s))); got != want {
				t.Errorf("Addr with X-Forwarded-For %q = %q, want %q", s, got, want)
			}
			if got := text(clientip.From(request(s, ""))); got != want {
				t.Errorf("From of peer %q = %q, want %q", s, got, want)
			}
		}
	}
}

// A client that changes its headers with every request stays one client, with
// and without a proxy before this server.
func TestTrapLimiter21_Spoofing(t *testing.T) {
	names := []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "Cf-Connecting-Ip", "True-Client-Ip"}
	tests := []struct {
		name     string
		opts     *clientip.Options
		field    string
		remote   string
		appended string // by the proxy, to field
	}{
		{"direct", nil, "", "203.0.113.7:1", ""},
		{"direct, Forwarded", &clientip.Options{Forwarded: true}, "", "203.0.113.7:1", ""},
		{"direct, SingleHeader", &clientip.Options{SingleHeader: "X-Real-Ip"}, "", "203.0.113.7:1", ""},
		{"behind a proxy", nil, "X-Forwarded-For", proxy, ", 203.0.113.7"},
		{"behind two proxies", nil, "X-Forwarded-For", proxy, ", 203.0.113.7, 10.0.0.2"},
		{"behind a proxy, Forwarded", &clientip.Options{Forwarded: true}, "Forwarded", proxy, ", for=203.0.113.7"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := resolver(t, trusted, tt.opts)
			seen := map[netip.Addr]int{}
			for i := range 1000 {
				forged := fmt.Sprintf("198.51.%d.%d", i/256, i%256)
				r := request(tt.remote, "")
				for _, name := range names {
					r.Header.Set(name, forged)
				}
				r.Header.Set("Forwarded", "for="+forged)
				if tt.field != "" {
					r.Header.Set(tt.field, r.Header.Get(tt.field)+tt.appended)
				}
				seen[v.Addr(r)]++
			}
			if len(seen) != 1 || seen[netip.MustParseAddr("203.0.113.7")] != 1000 {
				t.Errorf("1000 requests of one client come from %d addresses, want 1, its own: %v", len(seen), seen)
			}
		})
	}
}
