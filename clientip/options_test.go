package clientip_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/goweir/weir/clientip"
)

func TestNewFaults(t *testing.T) {
	prefix := netip.MustParsePrefix
	tests := []struct {
		name  string
		trust []netip.Prefix
		opts  *clientip.Options
		want  []string // one fragment per fault, in order
	}{
		{"zero prefix", []netip.Prefix{{}}, nil, []string{"trust[0] is not a valid prefix"}},
		{
			"length too long",
			[]netip.Prefix{prefix("10.0.0.0/8"), netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), 33)}, nil,
			[]string{"trust[1] is not a valid prefix"},
		},
		{
			"everyone",
			[]netip.Prefix{prefix("0.0.0.0/0"), prefix("::/0"), prefix("::ffff:0.0.0.0/96")}, nil,
			[]string{"trust[0] is 0.0.0.0/0, which trusts everyone", "trust[1] is ::/0, which", "trust[2] is 0.0.0.0/0, which"},
		},
		{"mapped and too short", []netip.Prefix{prefix("::ffff:10.0.0.0/95")}, nil, []string{"trust[0] is ::ffff:10.0.0.0/95, an IPv4-mapped"}},
		{"two sources", nil, &clientip.Options{Header: "X-Forwarded-For", Forwarded: true}, []string{"Header and Forwarded are set"}},
		{"two other sources", nil, &clientip.Options{SingleHeader: "X-Real-Ip", Forwarded: true}, []string{"SingleHeader and Forwarded are set"}},
		{
			"three sources", nil,
			&clientip.Options{Header: "X-Forwarded-For", SingleHeader: "X-Real-Ip", Forwarded: true},
			[]string{"Header and SingleHeader and Forwarded are set in Options (at most one"},
		},
		{"no field name", nil, &clientip.Options{Header: "X Forwarded"}, []string{`Options.Header is "X Forwarded", not a field name`}},
		{"no field name, colon", nil, &clientip.Options{SingleHeader: "X-Real-Ip:"}, []string{`Options.SingleHeader is "X-Real-Ip:", not a field name`}},
		{"Forwarded as a list", nil, &clientip.Options{Header: "forwarded"}, []string{"set Options.Forwarded instead"}},
		{"Forwarded as a value", nil, &clientip.Options{SingleHeader: "FORWARDED"}, []string{"SingleHeader must not be Forwarded"}},
		{"X-Forwarded-For as a value", nil, &clientip.Options{SingleHeader: "x-forwarded-for"}, []string{"SingleHeader must not be X-Forwarded-For"}},
		{
			"all at once",
			[]netip.Prefix{{}, prefix("10.0.0.0/8"), prefix("::/0")},
			&clientip.Options{Header: "a b", SingleHeader: "Forwarded"},
			[]string{"trust[0]", "trust[2]", "Options.Header is", "SingleHeader must not be Forwarded", "Header and SingleHeader are set"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, err := clientip.New(tt.trust, tt.opts)
			if err == nil || v != nil {
				t.Fatalf("New = %v, %v, want nil and an error", v, err)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(tt.want) {
				t.Fatalf("New reports %d faults, want %d:\n%v", len(lines), len(tt.want), err)
			}
			for i, line := range lines {
				if !strings.HasPrefix(line, "clientip: ") || !strings.Contains(line, tt.want[i]) || !strings.Contains(line, "(") {
					t.Errorf("fault %d = %q, want it to begin with %q, contain %q, and say in parentheses what is allowed", i, line, "clientip: ", tt.want[i])
				}
			}
		})
	}
}

func TestTrust(t *testing.T) {
	tests := []struct {
		name    string
		trust   string
		inside  string
		outside string
	}{
		{"one address", "192.0.2.1/32", "192.0.2.1", "192.0.2.0 192.0.2.2 ::c000:201"},
		{"one IPv6 address", "::1/128", "::1", ":: ::2 127.0.0.1"},
		{"not masked", "10.1.2.3/8", "10.0.0.0 10.255.255.255", "9.255.255.255 11.0.0.0"},
		{"mapped", "::ffff:10.0.0.0/104", "10.0.0.0 ::ffff:10.255.255.255", "11.0.0.0 9.255.255.255"},
		{"IPv6 does not take in IPv4", "::/1", "::1 7fff::", "10.0.0.1 ::ffff:10.0.0.1 8000::"},
		{"both families", "10.0.0.0/8 2001:db8::/32", "10.1.1.1 2001:db8:ffff::", "0.0.0.0 255.255.255.255 2001:db9:: ::"},
		{"unsorted", "203.0.113.0/24 10.0.0.0/8 2001:db8::/32 172.16.0.0/12", "172.16.0.1 10.0.0.1 203.0.113.9 2001:db8::", "172.32.0.0 172.15.255.255"},
		{"overlapping", "10.1.0.0/16 10.0.0.0/8 10.1.2.0/24 10.0.0.0/8", "10.0.0.1 10.1.0.1 10.1.2.1 10.1.3.1 10.200.0.1", "11.0.0.1 9.1.1.1"},
		{"adjacent", "10.0.0.0/9 10.128.0.0/9", "10.127.255.255 10.128.0.0 10.255.255.255", "11.0.0.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var trust []netip.Prefix
			for s := range strings.FieldsSeq(tt.trust) {
				trust = append(trust, netip.MustParsePrefix(s))
			}
			v := resolver(t, trust, nil)
			clear(trust) // the Resolver has its own
			for addrs, want := range map[string]bool{tt.inside: true, tt.outside: false} {
				for s := range strings.FieldsSeq(addrs) {
					if got := v.Trusted(request(s, "")); got != want {
						t.Errorf("Trusted(%s) with trust %s = %v, want %v", s, tt.trust, got, want)
					}
				}
			}
		})
	}
}
