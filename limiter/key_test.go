package limiter_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/limiter"
)

func TestKeys(t *testing.T) {
	type ctxKey struct{}
	account := limiter.KeyByContext(func(ctx context.Context) string {
		s, _ := ctx.Value(ctxKey{}).(string)
		return s
	})
	as := func(who string) func(*http.Request) *http.Request {
		return func(r *http.Request) *http.Request {
			return r.WithContext(context.WithValue(r.Context(), ctxKey{}, who))
		}
	}
	with := func(change func(r *http.Request)) func(*http.Request) *http.Request {
		return func(r *http.Request) *http.Request { change(r); return r }
	}
	peer := func(addr string) func(*http.Request) *http.Request {
		return with(func(r *http.Request) { r.RemoteAddr = addr })
	}
	header := func(name string, values ...string) func(*http.Request) *http.Request {
		return with(func(r *http.Request) { r.Header[name] = values })
	}
	plain := with(func(*http.Request) {})
	failing := func(*http.Request) (string, error) { return "", errors.New("broken") }
	long := strings.Repeat("x", 257)

	tests := []struct {
		name    string
		key     limiter.KeyFunc
		request func(*http.Request) *http.Request
		want    string
		fails   bool
	}{
		{"global", limiter.KeyGlobal, plain, "*", false},

		{"route", limiter.KeyByRoute, with(func(r *http.Request) { r.Pattern = "GET /a/{id}" }), "GET /a/{id}", false},
		{"route, none", limiter.KeyByRoute, plain, "", true},

		{"path", limiter.KeyByPath, plain, "/a/b c", false},

		{"IPv4", limiter.KeyByClientIP, peer("192.0.2.1:80"), "192.0.2.1", false},
		{"IPv4 mapped", limiter.KeyByClientIP, peer("[::ffff:192.0.2.1]:80"), "192.0.2.1", false},
		{"IPv4 mapped with zone", limiter.KeyByClientIP, peer("[::ffff:192.0.2.1%eth0]:80"), "192.0.2.1", false},
		{"IPv6", limiter.KeyByClientIP, peer("[2001:DB8::21f:5bff:febf:ce22:8a2e]:80"), "2001:db8:0:21f::/64", false},
		{"IPv6 with zone", limiter.KeyByClientIP, peer("[fe80::1%eth0]:80"), "fe80::/64", false},
		{"IPv4-compatible", limiter.KeyByClientIP, peer("[::192.0.2.1]:80"), "::/64", false},
		{"NAT64", limiter.KeyByClientIP, peer("[64:ff9b::192.0.2.1]:80"), "64:ff9b::/64", false},
		{"full", limiter.KeyByClientIP, peer("[f:f:f:f:f:f:f:f]:80"), "f:f:f:f::/64", false},
		{"no address", limiter.KeyByClientIP, peer("@"), "", true},
		{"unresolved header", limiter.KeyByClientIP, header("X-Forwarded-For", "198.51.100.9"), "192.0.2.1", false},

		{"IPv4 net", limiter.KeyByClientNet(24, 56), peer("192.0.2.77:80"), "192.0.2.0/24", false},
		{"IPv6 net", limiter.KeyByClientNet(24, 56), peer("[2001:db8:0:2ff::1]:80"), "2001:db8:0:200::/56", false},
		{"IPv6 address", limiter.KeyByClientNet(32, 128), peer("[2001:db8::1%1]:80"), "2001:db8::1", false},
		{"all IPv4", limiter.KeyByClientNet(0, 0), peer("192.0.2.77:80"), "0.0.0.0/0", false},
		{"all IPv6", limiter.KeyByClientNet(0, 0), peer("[2001:db8::1]:80"), "::/0", false},

		{"header", limiter.KeyByHeader("x-api-key"), header("X-Api-Key", "a", "b"), "a", false},
		{"header, none", limiter.KeyByHeader("X-Api-Key"), plain, "", false},
		{"header, empty", limiter.KeyByHeader("X-Api-Key"), header("X-Api-Key", "", "b"), "", false},
		{"header, case kept", limiter.KeyByHeader("X-Api-Key"), header("X-Api-Key", " Ab "), " Ab ", false},
		{"header, long", limiter.KeyByHeader("X-Api-Key"), header("X-Api-Key", long), "sha256:", false},
		{"host", limiter.KeyByHeader("host"), plain, "example.com", false},

		{"cookie", limiter.KeyByCookie("id"), header("Cookie", "x=1; id=7; id=8"), "7", false},
		{"cookie, none", limiter.KeyByCookie("id"), header("Cookie", "x=1"), "", false},

		{"context", account, as("ann"), "ann", false},
		{"context, none", account, plain, "", false},

		{"first", limiter.KeyFirst(account, limiter.KeyByClientIP), as("ann"), "0:ann", false},
		{"second", limiter.KeyFirst(account, limiter.KeyByClientIP), plain, "1:192.0.2.1", false},
		{"neither", limiter.KeyFirst(account, limiter.KeyByCookie("id")), plain, "", false},
		{"first fails", limiter.KeyFirst(failing, limiter.KeyByClientIP), plain, "", true},

		{"join", limiter.JoinKeys(account, limiter.KeyByClientIP), as("ann"), "3:ann9:192.0.2.1", false},
		{"join, one empty", limiter.JoinKeys(account, limiter.KeyByClientIP), plain, "", false},
		{"join, one fails", limiter.JoinKeys(limiter.KeyByClientIP, failing), plain, "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), "GET", "http://example.com/a/b%20c", nil)
			got, err := tt.key(tt.request(r))
			if tt.want == "sha256:" && len(got) == len("sha256:")+64 {
				got = got[:len("sha256:")]
			}
			if got != tt.want || (err != nil) != tt.fails {
				t.Errorf("key = %q, %v; want %q, error %v", got, err, tt.want, tt.fails)
			}
		})
	}
}

// Behind a trusted proxy the address is the one that clientip has found.
func TestKeyByClientIPResolved(t *testing.T) {
	resolver, err := clientip.New([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]string{
		"203.0.113.7":                      "203.0.113.7",
		"2001:db8::1":                      "2001:db8::/64",
		"evil, ::ffff:203.0.113.7":         "203.0.113.7",
		"1.1.1.1, 203.0.113.7, 10.0.0.200": "203.0.113.7",
	} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		r.RemoteAddr = "10.0.0.1:1"
		r.Header.Set("X-Forwarded-For", field)
		resolver.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if got, err := limiter.KeyByClientIP(r); got != want || err != nil {
				t.Errorf("X-Forwarded-For %q: key = %q, %v; want %q", field, got, err, want)
			}
		})).ServeHTTP(httptest.NewRecorder(), r)
	}
}

func TestKeyMakersPanic(t *testing.T) {
	for name, f := range map[string]func(){
		"KeyByHeader":      func() { limiter.KeyByHeader("") },
		"KeyByCookie":      func() { limiter.KeyByCookie("") },
		"KeyByContext":     func() { limiter.KeyByContext(nil) },
		"KeyFirst":         func() { limiter.KeyFirst() },
		"KeyFirst nil":     func() { limiter.KeyFirst(nil) },
		"JoinKeys":         func() { limiter.JoinKeys() },
		"JoinKeys nil":     func() { limiter.JoinKeys(limiter.KeyGlobal, nil) },
		"KeyByClientNet 1": func() { limiter.KeyByClientNet(-1, 64) },
		"KeyByClientNet 2": func() { limiter.KeyByClientNet(33, 64) },
		"KeyByClientNet 3": func() { limiter.KeyByClientNet(32, 129) },
	} {
		func() {
			defer func() {
				if msg, ok := recover().(string); !ok || !strings.HasPrefix(msg, "limiter: Key") && !strings.HasPrefix(msg, "limiter: JoinKeys") {
					t.Errorf("%s: panic %v", name, msg)
				}
			}()
			f()
		}()
	}
}

// constant returns a KeyFunc with a fixed result.
func constant(key string) limiter.KeyFunc {
	return func(*http.Request) (string, error) { return key, nil }
}

// No two different combinations have the same key.
func FuzzJoinKeys(f *testing.F) {
	f.Add("x:y", "z", "x", "y:z")
	f.Add("1:a", "1:b", "1:a1:b", "")
	f.Add("a", "b", "ab", "")
	f.Add("a|b", "c", "a", "b|c")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		join := func(parts ...string) string {
			var keys []limiter.KeyFunc
			for _, p := range parts {
				if p != "" {
					keys = append(keys, constant(p))
				}
			}
			if len(keys) == 0 {
				return ""
			}
			key, err := limiter.JoinKeys(keys...)(nil)
			if err != nil {
				t.Fatal(err)
			}
			return key
		}
		same := a == c && b == d || a == "" && c != "" && d == "" && b == c || b == "" && d != "" && c == "" && a == d
		if x, y := join(a, b), join(c, d); (x == y) != same && (x != "" || y != "") {
			t.Errorf("(%q, %q) is %q, (%q, %q) is %q", a, b, x, c, d, y)
		}
		first := func(keys ...limiter.KeyFunc) string {
			key, _ := limiter.KeyFirst(keys...)(nil)
			return key
		}
		if a != "" && c != "" {
			if x, y := first(constant(a)), first(constant(""), constant(c)); x == y {
				t.Errorf("first %q is %q, second %q is %q", a, x, c, y)
			}
		}
	})
}

// A long key is replaced by its hash, and nobody gets at it by sending the hash.
func TestHashOfALongKeyIsAnotherKey(t *testing.T) {
	key := func(value string) string {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-Api-Key", value)
		k, err := limiter.KeyByHeader("X-Api-Key")(r)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	long := key(strings.Repeat("x", 300))
	if again := key(long); again == long {
		t.Errorf("sending %s gives the key of whom it stands for", again)
	}
}
