package clientip_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"

	"github.com/goweir/weir/clientip"
)

// The classic mistakes, each of which lets a client choose its address: to take
// the leftmost value, which the client wrote; to take the whole field as a key;
// and to believe the field, wherever the connection came from. Get also returns
// only the first of several lines, which again is the client's.
func ExampleResolver_Addr_incorrect() {
	incorrect := map[string]func(*http.Request) string{
		"leftmost": func(r *http.Request) string {
			first, _, _ := strings.Cut(r.Header.Get("X-Forwarded-For"), ",")
			return first
		},
		"field":  func(r *http.Request) string { return r.Header.Get("X-Forwarded-For") },
		"single": func(r *http.Request) string { return r.Header.Get("X-Real-Ip") },
	}
	resolver, err := clientip.New([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, nil)
	if err != nil {
		log.Fatal(err)
	}

	// One client, 203.0.113.7, sends ten requests and makes up an address for
	// each. The proxy appends the truth.
	seen := map[string]map[string]bool{"leftmost": {}, "field": {}, "single": {}, "clientip": {}}
	for i := range 10 {
		forged := fmt.Sprintf("198.51.100.%d", i)
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "10.0.0.2:40000"
		r.Header.Set("X-Real-Ip", forged)
		r.Header.Set("X-Forwarded-For", forged+", 203.0.113.7")
		for name, key := range incorrect {
			seen[name][key(r)] = true
		}
		seen["clientip"][resolver.Addr(r).String()] = true
	}
	for _, name := range []string{"leftmost", "field", "single", "clientip"} {
		fmt.Printf("%s: %d clients\n", name, len(seen[name]))
	}
	// Output:
	// leftmost: 10 clients
	// field: 10 clients
	// single: 10 clients
	// clientip: 1 clients
}
