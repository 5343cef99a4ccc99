package limiter_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/goweir/weir/internal/diagnose/diagnosetest"
	"github.com/goweir/weir/limiter"
)

// uncomparable is a Limiter that == panics about.
type uncomparable struct {
	limiter.Limiter
	_ []int
}

func TestChargedTwice(t *testing.T) {
	user := limiter.Rules{{Policy: limiter.PerHour("user", 100), Key: limiter.KeyByHeader("X-User")}}
	other := limiter.Rules{{Policy: limiter.PerHour("other", 100), Key: limiter.KeyByHeader("X-User")}}
	host := limiter.Rules{{Policy: limiter.PerHour("user", 100), Key: limiter.KeyByHeader("Host")}}
	looks := limiter.Rules{{Policy: limiter.PerHour("user", 100), Key: limiter.KeyByHeader("X-User"), Cost: func(*http.Request) int { return 0 }}}
	shadow := limiter.Rules{{Policy: limiter.PerHour("user", 100), Key: limiter.KeyByHeader("X-User"), Shadow: true}}
	shared := limiter.NewMemory(nil)
	of := func(l limiter.Limiter, rules limiter.Rules, opts *limiter.Options) func(http.Handler) http.Handler {
		return limiter.Middleware(l, rules, opts)
	}
	silent := &limiter.Options{Headers: limiter.NoHeaders}
	once, quiet, odd := of(shared, user, nil), of(shared, user, silent), of(uncomparable{Limiter: shared}, user, nil)
	tests := []struct {
		name         string
		outer, inner func(http.Handler) http.Handler
		twice        bool
	}{
		{"the same middleware", once, once, true},
		{"the same, without header fields", quiet, quiet, true},
		{"the same, of a Limiter that cannot be compared", odd, odd, true},
		{"the same quota of the same Limiter", of(shared, user, nil), of(shared, append(other, user...), nil), true},
		{"the same quota, once without header fields", of(shared, user, silent), of(shared, user, nil), true},
		{"a shadow of the same quota", of(shared, user, nil), of(shared, shadow, nil), true},
		{"another quota", of(shared, user, nil), of(shared, other, nil), false},
		{"another key", of(shared, user, nil), of(shared, host, nil), false},
		{"another Limiter", of(shared, user, nil), of(limiter.NewMemory(nil), user, nil), false},
		{"Limiters that cannot be compared", of(uncomparable{Limiter: shared}, user, nil), of(uncomparable{Limiter: shared}, user, nil), false},
		{"looked at, not charged", of(shared, user, nil), of(shared, looks, nil), false},
		{"one after the other", once, func(h http.Handler) http.Handler { return h }, false},
	}
	for _, tt := range tests {
		log := diagnosetest.Record(t)
		h := tt.outer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			tt.inner(hello).ServeHTTP(w, r) // adapters build it for each request
		}))
		for range 2 {
			h.ServeHTTP(httptest.NewRecorder(), request(t, "X-User", "ann"))
		}
		want := ""
		if tt.twice {
			want = "charged-twice"
		}
		if got := log.Codes(); got != want || tt.twice && (!strings.Contains(log.Text(), "policy=user") || strings.Contains(log.Text(), "ann")) {
			t.Errorf("%s: told %q, want %q:\n%s", tt.name, got, want, log.Text())
		}
	}
}

// After the first thousand requests nobody looks any more; but who still does
// sees the others.
func TestTrialEnds(t *testing.T) {
	rules := limiter.Rules{{Policy: limiter.PerHour("user", 1e6), Key: limiter.KeyGlobal}}
	log := diagnosetest.Record(t)
	mw := limiter.Middleware(limiter.NewMemory(nil), rules, nil)
	for range 1000 {
		mw(hello).ServeHTTP(httptest.NewRecorder(), request(t))
	}
	mw(mw(hello)).ServeHTTP(httptest.NewRecorder(), request(t))
	if got := log.Codes(); got != "" {
		t.Errorf("told %q after a thousand requests", got)
	}
}

func TestNoKey(t *testing.T) {
	failing := func(*http.Request) (string, error) { return "", errors.New("no session") }
	for _, tt := range []struct {
		name string
		key  limiter.KeyFunc
		opts *limiter.Options
		want string // a part of what is told
	}{
		{"empty", limiter.KeyByHeader("X-User"), nil, "the request has no key"},
		{"failed", failing, nil, "no session"},
		{"in front of the router", limiter.KeyByRoute, nil, "the limiter stands in front of the router"},
		{"left out by choice", limiter.KeyByHeader("X-User"), &limiter.Options{Unkeyed: limiter.SkipUnkeyed}, ""},
		{"there", limiter.KeyGlobal, nil, ""},
	} {
		for _, more := range []limiter.Rules{nil, {{Policy: limiter.PerHour("all", 100), Key: limiter.KeyGlobal}}} {
			log := diagnosetest.Record(t)
			rules := append(limiter.Rules{{Policy: limiter.PerHour("p", 100), Key: tt.key}}, more...)
			h := limiter.Middleware(limiter.NewMemory(nil), rules, tt.opts)(hello)
			for range 3 {
				h.ServeHTTP(httptest.NewRecorder(), request(t))
			}
			if tt.want == "" {
				if log.Text() != "" {
					t.Errorf("%s: told %s", tt.name, log.Text())
				}
				continue
			}
			if text := log.Text(); log.Codes() != "no-key" || !strings.Contains(text, "policy=p") || !strings.Contains(text, tt.want) {
				t.Errorf("%s: told %s, want %q", tt.name, text, tt.want)
			}
		}
	}
}

// A limiter that is made for each request limits nothing. One for each route,
// made when it is first needed, is no mistake.
func TestLimiterPerRequest(t *testing.T) {
	rules := limiter.Rules{{Policy: limiter.PerHour("p", 1), Key: limiter.KeyGlobal}}
	requests := func(n int, protocol string) string {
		log := diagnosetest.Record(t)
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			limiter.Middleware(limiter.NewMemory(nil), rules, nil)(hello).ServeHTTP(w, r)
		}))
		s.EnableHTTP2 = protocol == "HTTP/2.0"
		s.StartTLS()
		defer s.Close()
		for range n {
			res, err := s.Client().Get(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != 200 || res.Proto != protocol {
				t.Fatalf("%s %s", res.Proto, res.Status)
			}
		}
		return log.Codes()
	}
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		if got := requests(16, protocol); got != "" {
			t.Errorf("%s: told %q after 16 requests", protocol, got)
		}
		if got := requests(20, protocol); got != "limiter-per-request" {
			t.Errorf("%s: told %q after 20 requests, want limiter-per-request", protocol, got)
		}
	}
	// Elsewhere anybody may make as many as they like.
	log := diagnosetest.Record(t)
	for range 100 {
		limiter.NewMemory(nil)
	}
	if got := log.Codes(); got != "" {
		t.Errorf("told %q outside a server", got)
	}
}
