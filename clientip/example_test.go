package clientip_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"

	"github.com/goweir/weir/clientip"
)

// A server behind proxies in 10.0.0.0/8 that append to X-Forwarded-For.
func Example() {
	resolver, err := clientip.New([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, nil)
	if err != nil {
		log.Fatal(err)
	}
	handler := resolver.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(clientip.From(r))
	}))

	// The client claimed to be 198.51.100.1; the first proxy added the address
	// it saw, and the second proxy the address of the first.
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "10.0.0.2:40000"
	r.Header.Set("X-Forwarded-For", "198.51.100.1, 203.0.113.7, 10.0.0.1")
	handler.ServeHTTP(httptest.NewRecorder(), r)

	// From an address that is not listed the field counts for nothing.
	r.RemoteAddr = "192.0.2.1:40000"
	handler.ServeHTTP(httptest.NewRecorder(), r)
	// Output:
	// 203.0.113.7
	// 192.0.2.1
}

// Every fault of a configuration is reported, and what would be allowed.
func ExampleNew() {
	trust := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	_, err := clientip.New(trust, &clientip.Options{Header: "X-Forwarded-For", Forwarded: true})
	fmt.Println(err)
	// Output:
	// clientip: trust[0] is 0.0.0.0/0, which trusts everyone, so that any client could name its own address (want the prefixes of the proxies, 1 bit or more)
	// clientip: Header and Forwarded are set in Options (at most one of Header, Forwarded and SingleHeader is allowed)
}

// A proxy keeps the forwarding fields of trusted peers and drops all others.
func ExampleResolver_Trusted() {
	resolver, err := clientip.New([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, nil)
	if err != nil {
		log.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-Forwarded-Proto", "https")
	for _, peer := range []string{"10.0.0.2:40000", "203.0.113.7:40000"} {
		r.RemoteAddr = peer
		if !resolver.Trusted(r) {
			r.Header.Del("X-Forwarded-Proto")
		}
		fmt.Printf("%s: %q\n", peer, r.Header.Get("X-Forwarded-Proto"))
	}
	// Output:
	// 10.0.0.2:40000: "https"
	// 203.0.113.7:40000: ""
}
