package proxy_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/proxy"
)

// a rig with a Stale around a Proxy to one upstream.
type staleRig struct {
	f     *fleet
	stale *proxy.Stale
	h     http.Handler
}

func newStaleRig(t *testing.T, opts *proxy.StaleOptions) *staleRig {
	t.Helper()
	s, err := proxy.NewStale(opts)
	if err != nil {
		t.Fatal(err)
	}
	f := newFleet()
	p := newProxy(t, func(cfg *proxy.Config) { cfg.Upstreams, cfg.WrapTransport, cfg.Fallback = list(1), f.over, s })
	return &staleRig{f, s, aborting(s.Middleware(p))}
}

// ask sends a GET with header lines.
func (s *staleRig) ask(lines ...string) *httptest.ResponseRecorder {
	return s.send("GET", "/x?y", lines...)
}

func (s *staleRig) send(method, target string, lines ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	rec := httptest.NewRecorder()
	s.h.ServeHTTP(rec, r)
	return rec
}

// answers makes the upstream answer with header lines.
func (s *staleRig) answers(code int, body string, lines ...string) {
	s.f.set("a", func(r *http.Request) (*http.Response, error) {
		res, err := status(code, body)(r)
		for _, line := range lines {
			name, value, _ := strings.Cut(line, ": ")
			res.Header.Add(name, value)
		}
		return res, err
	})
}

func (s *staleRig) dies() { s.f.set("a", breaks(errors.New("dead"))) }

func TestStaleRules(t *testing.T) {
	date := func(d time.Duration) string { return epoch.Add(d).UTC().Format(http.TimeFormat) }
	for _, tt := range []struct {
		name     string
		request  []string
		response []string
		again    []string
		after    time.Duration
		age      string // "" is not served
	}{
		{"fresh", nil, []string{"Cache-Control: max-age=60"}, nil, 59 * time.Second, "59"},
		{"stale, and nobody allows it", nil, []string{"Cache-Control: max-age=60"}, nil, 60 * time.Second, ""},
		{"stale-if-error", nil, []string{"Cache-Control: max-age=60, stale-if-error=600"}, nil, 659 * time.Second, "659"},
		{"stale-if-error is over", nil, []string{"Cache-Control: max-age=60, stale-if-error=600"}, nil, 660 * time.Second, ""},
		{"over two lines, upper case, quoted", nil, []string{"Cache-Control: MAX-AGE=\"60\"", "Cache-Control: Stale-If-Error=60"}, nil, 100 * time.Second, "100"},
		{"only stale-if-error", nil, []string{"Cache-Control: stale-if-error=60"}, nil, 50 * time.Second, "50"},
		{"Expires", nil, []string{"Date: " + date(0), "Expires: " + date(time.Minute)}, nil, 59 * time.Second, "59"},
		{"Expires is past", nil, []string{"Date: " + date(0), "Expires: " + date(time.Minute)}, nil, 61 * time.Second, ""},
		{"max-age goes before Expires", nil, []string{"Cache-Control: max-age=10", "Date: " + date(0), "Expires: " + date(time.Minute)}, nil, 30 * time.Second, ""},
		{"it came with an age", nil, []string{"Cache-Control: max-age=60", "Age: 50"}, nil, 5 * time.Second, "55"},
		{"it was old when it came", nil, []string{"Cache-Control: max-age=60", "Age: 50"}, nil, 10 * time.Second, ""},
		{"made a while ago", nil, []string{"Cache-Control: max-age=60", "Date: " + date(-40*time.Second)}, nil, 10 * time.Second, "50"},
		{"no word about it", nil, nil, nil, 0, ""},
		{"max-age twice", nil, []string{"Cache-Control: max-age=60, max-age=600"}, nil, time.Second, ""},
		{"max-age unreadable", nil, []string{"Cache-Control: max-age=-1"}, nil, time.Second, ""},
		{"no-store", nil, []string{"Cache-Control: no-store, max-age=60"}, nil, 0, ""},
		{"private", nil, []string{"Cache-Control: private, max-age=60"}, nil, 0, ""},
		{"no-cache", nil, []string{"Cache-Control: no-cache, max-age=60"}, nil, 0, ""},
		{"must-revalidate, fresh", nil, []string{"Cache-Control: max-age=60, stale-if-error=600, must-revalidate"}, nil, 50 * time.Second, "50"},
		{"must-revalidate, stale", nil, []string{"Cache-Control: max-age=60, stale-if-error=600, must-revalidate"}, nil, 61 * time.Second, ""},
		{"proxy-revalidate, stale", nil, []string{"Cache-Control: max-age=60, stale-if-error=600, proxy-revalidate"}, nil, 61 * time.Second, ""},
		{"s-maxage, stale", nil, []string{"Cache-Control: max-age=600, s-maxage=60, stale-if-error=600"}, nil, 61 * time.Second, ""},
		{"Set-Cookie", nil, []string{"Cache-Control: public, max-age=60", "Set-Cookie: a=b"}, nil, 0, ""},
		{"Authorization", []string{"Authorization: x"}, []string{"Cache-Control: max-age=60"}, nil, 0, ""},
		{"Authorization, public", []string{"Authorization: x"}, []string{"Cache-Control: public, max-age=60"}, nil, 0, "0"},
		{"Cookie", []string{"Cookie: x"}, []string{"Cache-Control: max-age=60"}, nil, 0, ""},
		{"request with no-store", []string{"Cache-Control: no-store"}, []string{"Cache-Control: max-age=60"}, nil, 0, ""},
		{"request for a range", []string{"Range: bytes=0-0"}, []string{"Cache-Control: max-age=60"}, nil, 0, ""},
		{"Vary: *", nil, []string{"Cache-Control: max-age=60", "Vary: *"}, nil, 0, ""},
		{"Vary, the same", []string{"Accept: a"}, []string{"Cache-Control: max-age=60", "Vary: accept, X-Other"}, []string{"Accept: a"}, 0, "0"},
		{"Vary, another", []string{"Accept: a"}, []string{"Cache-Control: max-age=60", "Vary: accept"}, []string{"Accept: b"}, 0, ""},
		{"client wants no-cache", nil, []string{"Cache-Control: max-age=60"}, []string{"Cache-Control: no-cache"}, 0, ""},
		{"client wants Pragma", nil, []string{"Cache-Control: max-age=60"}, []string{"Pragma: no-cache"}, 0, ""},
		{"client wants it young", nil, []string{"Cache-Control: max-age=60"}, []string{"Cache-Control: max-age=5"}, 6 * time.Second, ""},
		{"client wants it younger", nil, []string{"Cache-Control: max-age=60"}, []string{"Cache-Control: max-age=5"}, 5 * time.Second, "5"},
		{"client wants it to stay fresh", nil, []string{"Cache-Control: max-age=60"}, []string{"Cache-Control: min-fresh=30"}, 31 * time.Second, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStaleRig(t, nil)
				s.answers(200, "good", append(tt.response, "Content-Type: text/x", "Connection: close")...)
				if rec := s.ask(tt.request...); rec.Code != 200 || rec.Body.String() != "good" {
					t.Fatalf("%d %s", rec.Code, rec.Body)
				}
				s.dies()
				time.Sleep(tt.after)
				rec := s.ask(tt.again...)
				if tt.age == "" {
					if rec.Code != 502 || rec.Header().Get("Age") != "" {
						t.Errorf("%d, Age %q: must not be served", rec.Code, rec.Header().Get("Age"))
					}
					return
				}
				h := rec.Header()
				if rec.Code != 200 || rec.Body.String() != "good" || h.Get("Age") != tt.age || h.Get("Content-Type") != "text/x" || h.Get("Connection") != "" || h.Get("Date") == "" {
					t.Errorf("%d %s %v, want Age %s", rec.Code, rec.Body, h, tt.age)
				}
			})
		})
	}
}

func TestStaleKeepsGoodAnswersOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaleRig(t, &proxy.StaleOptions{MaxStale: time.Hour, MaxBody: 100})
		kept := func(what string, want int) {
			t.Helper()
			if n, _ := s.stale.Len(); n != want {
				t.Errorf("%s: %d kept, want %d", what, n, want)
			}
		}
		s.answers(404, "gone")
		s.ask()
		kept("404", 0)
		s.f.set("a", truncated)
		s.ask()
		kept("truncated", 0)
		s.answers(200, strings.Repeat("x", 101))
		s.ask()
		kept("too large", 0)
		s.f.set("a", func(r *http.Request) (*http.Response, error) {
			res, err := status(200, strings.Repeat("x", 101))(r)
			res.ContentLength = -1
			return res, err
		})
		s.ask()
		kept("too large, and does not say so", 0)
		s.answers(200, "first")
		s.send("HEAD", "/x?y")
		kept("HEAD", 0)
		s.ask()
		kept("good", 1)

		// Served again and again it neither gets younger nor takes its own place.
		s.answers(503, "")
		for i := range 3 {
			time.Sleep(1500 * time.Millisecond)
			if rec := s.ask(); rec.Body.String() != "first" || rec.Header().Get("Age") != fmt.Sprint((i+1)*3/2) {
				t.Errorf("time %d: %s, Age %s", i, rec.Body, rec.Header().Get("Age"))
			}
		}
		if rec := s.send("HEAD", "/x?y"); rec.Code != 200 || rec.Body.Len() != 0 || rec.Header().Get("Content-Length") != "5" {
			t.Errorf("HEAD: %d %v", rec.Code, rec.Header())
		}
		if rec := s.send("GET", "/other"); rec.Code != 503 {
			t.Errorf("another target: %d", rec.Code)
		}

		s.send("POST", "/x?y")
		kept("a POST that failed", 1)
		s.answers(200, "")
		s.send("POST", "/other")
		kept("a POST to elsewhere", 1)
		s.send("POST", "/x?y")
		kept("a POST", 0)
		time.Sleep(time.Hour)
	})
}

// Memory is bounded, and what was used lately stays.
func TestStaleIsBounded(t *testing.T) {
	s := newStaleRig(t, &proxy.StaleOptions{MaxBytes: 100 << 10, MaxBody: 10 << 10})
	s.answers(200, strings.Repeat("x", 9<<10), "Cache-Control: max-age=600")
	for i := range 100 {
		s.send("GET", fmt.Sprint("/", i))
		s.send("GET", "/0") // stays
		if n, bytes := s.stale.Len(); bytes > 100<<10 || n > 10 {
			t.Fatalf("%d answers, %d bytes", n, bytes)
		}
	}
	s.dies()
	for target, want := range map[string]int{"/0": 200, "/99": 200, "/1": 502} {
		if got := s.send("GET", target).Code; got != want {
			t.Errorf("%s: %d, want %d", target, got, want)
		}
	}
}

// What middleware outside sets is set anew, not served from what was kept.
func TestStaleLeavesOuterHeadersAlone(t *testing.T) {
	s := newStaleRig(t, nil)
	n := 0
	inner := s.h
	s.h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		w.Header().Set("X-Request-Id", fmt.Sprint(n))
		inner.ServeHTTP(w, r)
	})
	s.answers(200, "x", "Cache-Control: max-age=60", "X-Inner: i")
	s.ask()
	s.dies()
	if h := s.ask().Header(); h.Get("X-Request-Id") != "2" || h.Get("X-Inner") != "i" || len(h["X-Request-Id"]) != 1 {
		t.Errorf("%v", h)
	}
}

func TestStaleFaults(t *testing.T) {
	_, err := proxy.NewStale(&proxy.StaleOptions{MaxBytes: -1, MaxBody: -1, MaxStale: -1})
	if err == nil || strings.Count(err.Error(), "proxy: StaleOptions.Max") != 3 {
		t.Errorf("got %v", err)
	}
}

// An answer over real connections, with a fallback behind the fallback that is
// not taken for a good answer.
func TestStaleThenFixed(t *testing.T) {
	noLeaks(t)
	var broken atomic.Bool
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Cache-Control", "stale-if-error=60")
		io.WriteString(w, "good")
	}))
	stale, err := proxy.NewStale(&proxy.StaleOptions{MaxStale: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	fixed := proxy.FixedAnswer(200, nil, []byte("sorry"))
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.Fallback = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/sorry" {
				fixed.ServeHTTP(w, r)
				return
			}
			stale.ServeHTTP(w, r)
		})
	}, up.URL)
	s := serve(t, stale.Middleware(p))
	for _, tt := range []struct {
		broken     bool
		path, body string
		status     int
	}{{false, "/a", "good", 200}, {true, "/a", "good", 200}, {true, "/sorry", "sorry", 200}, {true, "/b", "", 502}} {
		broken.Store(tt.broken)
		status, _, body, err := get(s.Client(), s.URL+tt.path)
		if status != tt.status || status == 200 && body != tt.body || err != nil {
			t.Errorf("%s: %d %q, %v", tt.path, status, body, err)
		}
	}
	if n, _ := stale.Len(); n != 1 {
		t.Errorf("%d kept, want the one good answer", n)
	}
	s.Client().CloseIdleConnections()
}

// What stands between changes the request, and the answer is kept and found
// under what the client asked for all the same.
func TestStaleIsFoundByTheClientsTarget(t *testing.T) {
	s, err := proxy.NewStale(&proxy.StaleOptions{MaxStale: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	f := newFleet()
	to := func(host string) http.Handler {
		return newProxy(t, func(cfg *proxy.Config) { cfg.WrapTransport, cfg.Fallback = f.over, s }, "http://"+host)
	}
	mux := http.NewServeMux()
	mux.Handle("/", to("a"))
	mux.Handle("/api/", http.StripPrefix("/api", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("X-Tenant", "inside")
		to("b").ServeHTTP(w, r)
	})))
	rig := &staleRig{f, s, aborting(s.Middleware(mux))}
	f.set("a", status(200, "a's"))
	rig.send("GET", "/x")
	f.set("a", breaks(errors.New("dead")))
	f.set("b", breaks(errors.New("dead")))
	for _, method := range []string{"GET", "HEAD"} {
		if rec := rig.send(method, "/api/x"); rec.Code != 502 {
			t.Errorf("%s: %d %q: another target's answer is served", method, rec.Code, rec.Body)
		}
	}
	f.set("b", func(r *http.Request) (*http.Response, error) {
		res, err := status(200, "b's")(r)
		res.Header.Set("Vary", "X-Tenant")
		return res, err
	})
	rig.send("GET", "/api/x")
	f.set("b", breaks(errors.New("dead")))
	for _, method := range []string{"GET", "HEAD"} {
		if rec := rig.send(method, "/api/x"); rec.Code != 200 || rec.Header().Get("Age") != "0" || method == "GET" && rec.Body.String() != "b's" {
			t.Errorf("%s: %d %q: what was kept is not found", method, rec.Code, rec.Body)
		}
	}
}

// Half an answer is not a good one, though what recovers the panic of its break
// stands between.
func TestStaleKeepsNoHalf(t *testing.T) {
	s, err := proxy.NewStale(&proxy.StaleOptions{MaxStale: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	f := newFleet()
	p := newProxy(t, func(cfg *proxy.Config) { cfg.Upstreams, cfg.WrapTransport, cfg.Fallback = list(1), f.over, s })
	rig := &staleRig{f, s, s.Middleware(recovering(p))}
	f.set("a", func(r *http.Request) (*http.Response, error) {
		res, err := truncated(r)
		res.ContentLength = -1
		return res, err
	})
	rig.send("GET", "/x")
	f.set("a", breaks(errors.New("dead")))
	if rec := rig.send("GET", "/x"); rec.Code != 502 {
		t.Errorf("%d %q: half an answer was kept", rec.Code, rec.Body)
	}
}

// The largest of all bounds are none, not less than nothing.
func TestStaleWithoutBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newStaleRig(t, &proxy.StaleOptions{MaxBytes: math.MaxInt64, MaxBody: math.MaxInt64, MaxStale: math.MaxInt64})
		body := strings.Repeat("good", 200<<10)
		for _, lines := range [][]string{{"Cache-Control: max-age=60"}, {"Cache-Control: max-age=9999999999"}, nil} {
			rig.answers(200, body, lines...)
			rig.ask()
			rig.f.set("a", breaks(errors.New("dead")))
			time.Sleep(20 * 365 * 24 * time.Hour)
			if rec := rig.ask(); rec.Code != 200 || rec.Body.String() != body {
				t.Errorf("%q: %d with %d bytes, want what was kept", lines, rec.Code, rec.Body.Len())
			}
		}
	})
}
