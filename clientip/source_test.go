package clientip_test

import (
	"testing"

	"github.com/goweir/weir/clientip"
)

// Each source reads its own field and none of the others.
func TestSourcesAreNotMixed(t *testing.T) {
	r := request(proxy, "X-Forwarded-For", "203.0.113.1")
	r.Header.Set("Forwarded", "for=203.0.113.2")
	r.Header.Set("X-Real-Ip", "203.0.113.3")
	r.Header.Set("X-Client-Chain", "203.0.113.4, 10.0.0.2")
	tests := []struct {
		name  string
		field string
		opts  *clientip.Options
		want  string
	}{
		{"nil", "X-Forwarded-For", nil, "203.0.113.1"},
		{"zero", "X-Forwarded-For", &clientip.Options{}, "203.0.113.1"},
		{"Header default", "X-Forwarded-For", &clientip.Options{Header: "x-forwarded-for"}, "203.0.113.1"},
		{"Forwarded", "Forwarded", &clientip.Options{Forwarded: true}, "203.0.113.2"},
		{"SingleHeader", "X-Real-Ip", &clientip.Options{SingleHeader: "X-Real-IP"}, "203.0.113.3"},
		{"Header", "X-Client-Chain", &clientip.Options{Header: "x-client-chain"}, "203.0.113.4"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := resolver(t, trusted, tt.opts)
			if got := text(v.Addr(r)); got != tt.want {
				t.Errorf("Addr = %q, want %q", got, tt.want)
			}
			without := r.Clone(r.Context())
			without.Header.Del(tt.field)
			if got := text(v.Addr(without)); got != "10.0.0.1" {
				t.Errorf("Addr without %s = %q, want the peer and no other field", tt.field, got)
			}
		})
	}
}

func TestSingleHeader(t *testing.T) {
	tests := []struct {
		name   string
		remote string
		lines  []string
		want   string
	}{
		{"one value", proxy, []string{"203.0.113.7"}, "203.0.113.7"},
		{"white space", proxy, []string{" 203.0.113.7\t"}, "203.0.113.7"},
		{"port", proxy, []string{"203.0.113.7:80"}, "203.0.113.7"},
		{"IPv6", proxy, []string{"2001:db8:2::7"}, "2001:db8:2::7"},
		{"mapped", proxy, []string{"::ffff:203.0.113.7"}, "203.0.113.7"},
		{"zone", proxy, []string{"2001:db8:2::7%eth0"}, "2001:db8:2::7"},
		{"a trusted address", proxy, []string{"10.5.5.5"}, "10.5.5.5"},
		{"peer not trusted", "198.51.100.9:1", []string{"203.0.113.7"}, "198.51.100.9"},
		{"peer without an address", "@", []string{"203.0.113.7"}, ""},
		{"absent", proxy, nil, "10.0.0.1"},
		{"empty", proxy, []string{""}, "10.0.0.1"},
		{"two lines", proxy, []string{"198.51.100.1", "203.0.113.7"}, "10.0.0.1"},
		{"two equal lines", proxy, []string{"203.0.113.7", "203.0.113.7"}, "10.0.0.1"},
		{"two lines, one empty", proxy, []string{"", "203.0.113.7"}, "10.0.0.1"},
		{"two values", proxy, []string{"198.51.100.1, 203.0.113.7"}, "10.0.0.1"},
		{"one value and a comma", proxy, []string{"203.0.113.7,"}, "10.0.0.1"},
		{"comma in a zone", proxy, []string{"2001:db8:2::7%a,203.0.113.7"}, "10.0.0.1"},
		{"unknown", proxy, []string{"unknown"}, "10.0.0.1"},
		{"garbage", proxy, []string{"203.0.113.7 x"}, "10.0.0.1"},
	}
	v := resolver(t, trusted, &clientip.Options{SingleHeader: "CF-Connecting-IP"})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(tt.remote, "CF-Connecting-IP", tt.lines...)
			if got := text(v.Addr(r)); got != tt.want {
				t.Errorf("Addr of peer %q with %q = %q, want %q", tt.remote, tt.lines, got, tt.want)
			}
		})
	}
}
