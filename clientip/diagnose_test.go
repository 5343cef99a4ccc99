package clientip_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/internal/diagnose/diagnosetest"
)

func TestForwardedIgnored(t *testing.T) {
	through := func(trust []netip.Prefix, opts *clientip.Options) func(*http.Request) {
		v := resolver(t, trust, opts)
		return func(r *http.Request) {
			v.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { clientip.From(r) })).ServeHTTP(httptest.NewRecorder(), r)
		}
	}
	alone := func(r *http.Request) { clientip.From(r) }
	for _, tt := range []struct {
		name   string
		ask    func(*http.Request)
		remote string
		field  string
		want   string // a part of what is told
	}{
		{"a proxy of one's own", through(nil, nil), "10.1.2.3:1", "X-Forwarded-For", "peer=10.1.2.3"},
		{"without a Resolver", alone, "127.0.0.1:1", "X-Forwarded-For", "peer=127.0.0.1"},
		{"RFC 7239", alone, "[fd00::1]:1", "Forwarded", "has Forwarded, and nobody is trusted"},
		{"through a unix socket", alone, "@", "X-Forwarded-For", "nobody is trusted"},
		{"somebody's address is not logged", alone, "198.51.100.9:1", "X-Forwarded-For", "nobody is trusted"},
		{"no field", through(nil, nil), "10.1.2.3:1", "X-Other", ""},
		{"no field, no Resolver", alone, "10.1.2.3:1", "X-Other", ""},
		{"somebody is trusted", through(trusted, nil), "198.51.100.9:1", "X-Forwarded-For", ""},
		{"a trusted proxy", through(trusted, nil), proxy, "X-Forwarded-For", ""},
		{"the socket is trusted", through(nil, &clientip.Options{TrustUnix: true}), "@", "X-Forwarded-For", ""},
	} {
		log := diagnosetest.Record(t)
		for range 2 {
			tt.ask(request(tt.remote, tt.field, "203.0.113.7"))
		}
		text := log.Text()
		if tt.want == "" {
			if text != "" {
				t.Errorf("%s: told %s", tt.name, text)
			}
			continue
		}
		if log.Codes() != "forwarded-ignored" || !strings.Contains(text, tt.want) || strings.Contains(text, "203.0.113.7") || strings.Contains(text, "198.51.100.9") {
			t.Errorf("%s: told %s, want %q and no address of strangers", tt.name, text, tt.want)
		}
	}
}

func TestTrustsEverybody(t *testing.T) {
	for _, tt := range []struct {
		trust []string
		want  string
	}{
		{[]string{"0.0.0.0/1", "128.0.0.0/1"}, "trusts-everybody"},
		{[]string{"0.0.0.0/2", "64.0.0.0/2"}, "trusts-everybody"},
		{[]string{"::/1", "8000::/1", "198.51.100.0/24"}, "trusts-everybody"},
		{[]string{"2000::/4", "3000::/4", "198.51.100.0/24"}, "trusts-everybody"},
		{[]string{"198.51.100.0/24", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10", "::1/128"}, ""},
		{[]string{"198.51.100.9/32"}, ""},
	} {
		log := diagnosetest.Record(t)
		var trust []netip.Prefix
		for _, p := range tt.trust {
			trust = append(trust, netip.MustParsePrefix(p))
		}
		v := resolver(t, append(trust, netip.MustParsePrefix("2001:db8::/32")), nil)
		for range 2 {
			v.Addr(request("198.51.100.9:1", "X-Forwarded-For", "203.0.113.7"))
			v.Addr(request("[2001:db8::1]:1", "X-Forwarded-For", "203.0.113.7"))
		}
		if got := log.Codes(); got != tt.want {
			t.Errorf("%v: told %q, want %q", tt.trust, got, tt.want)
		}
	}
}
