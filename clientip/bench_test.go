package clientip_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/goweir/weir/clientip"
)

const mebibyte = 1 << 20 // the default of http.Server.MaxHeaderBytes

// costs are the requests that are measured; none may allocate but those that
// say so.
var costs = []struct {
	name   string
	opts   *clientip.Options
	remote string
	field  string
	value  string
	allocs float64
}{
	{"peer not trusted", nil, "198.51.100.9:1", "X-Forwarded-For", "203.0.113.7", 0},
	{"no field", nil, proxy, "X-Other", "203.0.113.7", 0},
	{"one hop", nil, proxy, "X-Forwarded-For", "203.0.113.7", 0},
	{"three hops", nil, proxy, "X-Forwarded-For", "203.0.113.7, 2001:db8:1::5, 10.0.0.2", 0},
	{"client wrote a mebibyte", nil, proxy, "X-Forwarded-For", strings.Repeat("198.51.100.1,", mebibyte/13) + "203.0.113.7", 0},
	{"unknown", nil, proxy, "X-Forwarded-For", "203.0.113.7, unknown", 0},
	{"not an address", nil, proxy, "X-Forwarded-For", "203.0.113.7, 1.2.3.999", 1},
	{"unix socket", nil, "@", "X-Forwarded-For", "203.0.113.7", 0},
	{"Forwarded one hop", &clientip.Options{Forwarded: true}, proxy, "Forwarded", `for=203.0.113.7;proto=https`, 0},
	{"Forwarded three hops", &clientip.Options{Forwarded: true}, proxy, "Forwarded", `for=203.0.113.7;proto=https, for="[2001:db8:1::5]:80", for=10.0.0.2;by=10.0.0.1`, 0},
	{"Forwarded client wrote a mebibyte", &clientip.Options{Forwarded: true}, proxy, "Forwarded", strings.Repeat(`for="\"",`, mebibyte/9) + "for=203.0.113.7", 0},
	{"SingleHeader", &clientip.Options{SingleHeader: "CF-Connecting-Ip"}, proxy, "Cf-Connecting-Ip", "203.0.113.7", 0},

	// What only a trusted peer can send, or one that passes on a client's field.
	{"mebibyte of trusted hops", nil, proxy, "X-Forwarded-For", strings.Repeat("10.0.0.2,", mebibyte/9), 0},
	{"mebibyte of commas", nil, proxy, "X-Forwarded-For", strings.Repeat(",", mebibyte), 0},
	{"mebibyte of spaces", nil, proxy, "X-Forwarded-For", "x" + strings.Repeat(" ", mebibyte), 0},
	{"mebibyte of one element", nil, proxy, "X-Forwarded-For", strings.Repeat("1", mebibyte), 0},
	{"mebibyte of a zone", nil, proxy, "X-Forwarded-For", "2001:db8:2::7%" + strings.Repeat("z", mebibyte), 0},
	{"mebibyte of a port", nil, proxy, "X-Forwarded-For", "203.0.113.7:_" + strings.Repeat("1", mebibyte), 0},
	{"Forwarded mebibyte of quotes", &clientip.Options{Forwarded: true}, proxy, "Forwarded", strings.Repeat(`"`, mebibyte), 0},
	{"Forwarded mebibyte of backslashes", &clientip.Options{Forwarded: true}, proxy, "Forwarded", `for="` + strings.Repeat(`\\`, mebibyte/2) + `"`, 0},
	{"Forwarded mebibyte of escaped quotes", &clientip.Options{Forwarded: true}, proxy, "Forwarded", `for="` + strings.Repeat(`\"`, mebibyte/2) + `"`, 0},
	{"Forwarded mebibyte of semicolons", &clientip.Options{Forwarded: true}, proxy, "Forwarded", strings.Repeat(";", mebibyte), 0},
}

func TestAllocs(t *testing.T) {
	for _, tt := range costs {
		t.Run(tt.name, func(t *testing.T) {
			v := resolver(t, trusted, tt.opts)
			r := request(tt.remote, tt.field, tt.value)
			if got := testing.AllocsPerRun(10, func() { v.Addr(r) }); got > tt.allocs {
				t.Errorf("Addr allocates %v times, want at most %v", got, tt.allocs)
			}
			if got := testing.AllocsPerRun(10, func() { v.Trusted(r) }); got > 0 {
				t.Errorf("Trusted allocates %v times, want 0", got)
			}
		})
	}
	t.Run("Middleware", func(t *testing.T) {
		v := resolver(t, trusted, nil)
		r, w := request(proxy, "X-Forwarded-For", "203.0.113.7"), httptest.NewRecorder()
		var addr netip.Addr
		h := v.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { addr = clientip.From(r) }))
		if got := testing.AllocsPerRun(10, func() { h.ServeHTTP(w, r) }); got > 2 {
			t.Errorf("Middleware and From allocate %v times, want at most 2: the context and the request's copy", got)
		}
		if addr != netip.MustParseAddr("203.0.113.7") {
			t.Errorf("From = %v, want 203.0.113.7", addr)
		}
	})
}

func BenchmarkAddr(b *testing.B) {
	for _, bb := range costs {
		b.Run(bb.name, func(b *testing.B) {
			v := resolver(b, trusted, bb.opts)
			r := request(bb.remote, bb.field, bb.value)
			b.ReportAllocs()
			for b.Loop() {
				v.Addr(r)
			}
		})
	}
}

// A list of the size that large clouds publish.
func BenchmarkAddrManyPrefixes(b *testing.B) {
	trust := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for i := range 8192 {
		trust = append(trust, netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(i >> 8), byte(i), 0}), 24))
	}
	v := resolver(b, trust, nil)
	r := request(proxy, "X-Forwarded-For", "203.0.113.7, 100.16.4.1, 100.0.255.1")
	b.ReportAllocs()
	for b.Loop() {
		v.Addr(r)
	}
}

func BenchmarkMiddleware(b *testing.B) {
	v := resolver(b, trusted, nil)
	h := v.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { clientip.From(r) }))
	w := httptest.NewRecorder()
	for _, hops := range []int{1, 4} {
		value := "203.0.113.7" + strings.Repeat(", 10.0.0.2", hops-1)
		b.Run("hops="+strconv.Itoa(hops), func(b *testing.B) {
			b.ReportAllocs()
			r := request(proxy, "X-Forwarded-For", value)
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
		})
		b.Run("parallel/hops="+strconv.Itoa(hops), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				r := request(proxy, "X-Forwarded-For", value)
				for pb.Next() {
					h.ServeHTTP(w, r)
				}
			})
		})
	}
}
