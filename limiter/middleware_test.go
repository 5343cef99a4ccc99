package limiter_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })

func serve(h http.Handler, r *http.Request) *http.Response {
	rec := httptest.NewRecorder()
	h.ServeHTTP(informed{rec}, r)
	return rec.Result()
}

// informed lets 1xx pass as a server does; ResponseRecorder takes the first
// status for the final one.
type informed struct{ *httptest.ResponseRecorder }

func (w informed) WriteHeader(status int) {
	if status >= 200 || status == 101 {
		w.ResponseRecorder.WriteHeader(status)
	}
}

func status(t *testing.T, h http.Handler, r *http.Request, want int) *http.Response {
	t.Helper()
	res := serve(h, r)
	if res.StatusCode != want {
		body, _ := io.ReadAll(res.Body)
		t.Fatalf("status %d, want %d; header %v, body %s", res.StatusCode, want, res.Header, body)
	}
	return res
}

// global returns rules with one, of a policy that comes back slowly.
func global(name string, n int) limiter.Rules {
	return limiter.Rules{{Policy: limiter.PerHour(name, n), Key: limiter.KeyGlobal}}
}

func TestRefusal(t *testing.T) {
	inTime(t, func(t *testing.T) {
		h := limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{
			{Policy: named("client", 60, time.Minute, 2), Key: limiter.KeyByClientIP},
		}, nil)(hello)
		for i, want := range []string{`"client";r=1;t=1`, `"client";r=0;t=1`} {
			res := status(t, h, request(t), 200)
			if got := res.Header.Get("RateLimit"); got != want {
				t.Errorf("request %d: RateLimit %s, want %s", i, got, want)
			}
			if got := res.Header.Get("Retry-After"); got != "" {
				t.Errorf("request %d: Retry-After %s", i, got)
			}
		}
		res := status(t, h, request(t), 429)
		want := http.Header{
			"Content-Type":           {"application/problem+json"},
			"Content-Length":         {"191"},
			"Cache-Control":          {"no-store"},
			"X-Content-Type-Options": {"nosniff"},
			"Retry-After":            {"1"},
			"Ratelimit":              {`"client";r=0;t=1`},
			"Ratelimit-Policy":       {`"client";q=60;w=60`},
		}
		if !reflect.DeepEqual(res.Header, want) {
			t.Errorf("header %v\nwant   %v", res.Header, want)
		}
		var body map[string]any
		if err := json.NewDecoder(res.Body).Decode(&body); err != nil {
			t.Fatal(err)
		}
		if wantBody := (map[string]any{
			"type":              "https://iana.org/assignments/http-problem-types#quota-exceeded",
			"title":             "Request cannot be satisfied as assigned quota has been exceeded",
			"status":            429.0,
			"violated-policies": []any{"client"},
		}); !reflect.DeepEqual(body, wantBody) {
			t.Errorf("body %v\nwant %v", body, wantBody)
		}
		time.Sleep(time.Second)
		status(t, h, request(t), 200)
	})
}

// 100 requests at once against a limit of 10: exactly 10 pass.
func TestHundredAtOnce(t *testing.T) {
	for run := range 10 {
		h := limiter.Middleware(limiter.NewMemory(nil), global("everyone", 10), nil)(hello)
		var wg sync.WaitGroup
		var ok, refused atomic.Int64
		start := make(chan struct{})
		for range 100 {
			wg.Go(func() {
				<-start
				switch res := serve(h, request(t)); res.StatusCode {
				case 200:
					ok.Add(1)
				case 429:
					if res.Header.Get("Retry-After") != "" && res.Header.Get("RateLimit") != "" && res.Header.Get("RateLimit-Policy") != "" {
						refused.Add(1)
					}
				}
			})
		}
		close(start)
		wg.Wait()
		if ok.Load() != 10 || refused.Load() != 90 {
			t.Fatalf("run %d: %d times 200 and %d times 429, want 10 and 90", run, ok.Load(), refused.Load())
		}
	}
}

func TestCosts(t *testing.T) {
	tests := []struct {
		name      string
		limit     int
		costs     []int
		status    []int
		remaining []string
	}{
		{"0", 3, []int{0, 0, 0, 0}, []int{200, 200, 200, 200}, []string{"3", "3", "3", "3"}},
		{"1", 3, []int{1, 1, 1, 1}, []int{200, 200, 200, 429}, []string{"2", "1", "0", "0"}},
		{"2", 3, []int{2, 2, 2, 1, 1}, []int{200, 429, 429, 200, 429}, []string{"1", "1", "1", "0", "0"}},
		{"4", 3, []int{4, 4, 3}, []int{429, 429, 200}, []string{"3", "3", "0"}},
		{"mixed", 5, []int{2, 2, 1, 2, 10, 1}, []int{200, 200, 200, 429, 429, 429}, []string{"3", "1", "0", "0", "0", "0"}},
		{"free although nothing remains", 1, []int{1, 0}, []int{200, 200}, []string{"0", "0"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				cost := 0
				rules := global("p", tt.limit)
				rules[0].Cost = func(*http.Request) int { return cost }
				h := limiter.Middleware(limiter.NewMemory(nil), rules, &limiter.Options{Headers: limiter.XRateLimit})(hello)
				for i, c := range tt.costs {
					cost = c
					res := status(t, h, request(t), tt.status[i])
					if got := res.Header.Get("X-RateLimit-Remaining"); got != tt.remaining[i] {
						t.Errorf("request %d: remaining %s, want %s", i, got, tt.remaining[i])
					}
					if got := res.Header.Get("Retry-After") == ""; got != (tt.status[i] == 200 || c > tt.limit) {
						t.Errorf("request %d: Retry-After %q", i, res.Header.Get("Retry-After"))
					}
				}
			})
		})
	}
}

func TestSeveralRules(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m := limiter.NewMemory(nil)
		var decisions []limiter.Decision
		rules := limiter.Rules{
			{Policy: limiter.PerHour("all", 100), Key: limiter.KeyGlobal},
			{Policy: limiter.PerMinute("route", 2), Key: limiter.KeyByPath},
			{Policy: limiter.PerHour("user", 2), Key: limiter.KeyByHeader("X-User")},
		}
		h := limiter.Middleware(m, rules, &limiter.Options{
			OnDecision: func(_ *http.Request, d limiter.Decision) { decisions = append(decisions, d) },
		})(hello)
		res := status(t, h, request(t, "X-User", "ann"), 200)
		if got, want := res.Header.Get("RateLimit"), `"all";r=99;t=36, "route";r=1;t=30, "user";r=1;t=1800`; got != want {
			t.Errorf("RateLimit %s, want %s", got, want)
		}
		if got, want := res.Header.Get("RateLimit-Policy"), `"all";q=100;w=3600, "route";q=2;w=60, "user";q=2;w=3600`; got != want {
			t.Errorf("RateLimit-Policy %s, want %s", got, want)
		}
		status(t, h, request(t, "X-User", "ann"), 200)
		res = status(t, h, request(t, "X-User", "ann"), 429)
		var body struct {
			Violated []string `json:"violated-policies"`
		}
		if err := json.NewDecoder(res.Body).Decode(&body); err != nil || !reflect.DeepEqual(body.Violated, []string{"route", "user"}) {
			t.Errorf("violated %v, %v; want route and user", body.Violated, err)
		}
		if got := res.Header.Get("Retry-After"); got != "1800" {
			t.Errorf("Retry-After %s, want 1800: until neither refuses", got)
		}
		if d := decisions[2]; d.Allowed || d.Rule != 1 || d.Results[0].Remaining != 98 {
			t.Errorf("decision %+v, want a refusal by rule 1 and nothing taken from all", d)
		}
		res = status(t, h, request(t, "X-User", "bob"), 429)
		if got := res.Header.Get("Retry-After"); got != "30" {
			t.Errorf("Retry-After %s, want 30", got)
		}
	})
}

// Whatever is set inside and outside of each other is on the response.
func TestSeveralMiddlewares(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m := limiter.NewMemory(nil)
		outer := limiter.Middleware(m, global("outer", 3), nil)
		inner := limiter.Middleware(m, global("inner", 2), nil)
		h := outer(inner(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("RateLimit", `"upstream";r=1`)
		})))
		res := status(t, h, request(t), 200)
		if got, want := res.Header["Ratelimit"], []string{`"upstream";r=1`, `"inner";r=1;t=1800`, `"outer";r=2;t=1200`}; !reflect.DeepEqual(got, want) {
			t.Errorf("RateLimit %q, want %q", got, want)
		}
		if got, want := res.Header["Ratelimit-Policy"], []string{`"inner";q=2;w=3600`, `"outer";q=3;w=3600`}; !reflect.DeepEqual(got, want) {
			t.Errorf("RateLimit-Policy %q, want %q", got, want)
		}
		status(t, h, request(t), 200)
		res = status(t, h, request(t), 429)
		if got, want := res.Header["Ratelimit"], []string{`"inner";r=0;t=1800`, `"outer";r=0;t=1200`}; !reflect.DeepEqual(got, want) {
			t.Errorf("RateLimit %q, want %q", got, want)
		}
		// X-RateLimit speaks of the tighter one, on whichever side.
		for _, n := range [][2]int{{5, 3}, {3, 5}} {
			m := limiter.NewMemory(nil)
			x := &limiter.Options{Headers: limiter.XRateLimit}
			h := limiter.Middleware(m, global("outer", n[0]), x)(limiter.Middleware(m, global("inner", n[1]), x)(hello))
			res := status(t, h, request(t), 200)
			for name, want := range map[string]string{"Limit": "3", "Remaining": "2", "Reset": "1200"} {
				if got := res.Header["X-Ratelimit-"+name]; !reflect.DeepEqual(got, []string{want}) {
					t.Errorf("X-RateLimit-%s %q, want %s", name, got, want)
				}
			}
		}
	})
}

func TestNoHeaders(t *testing.T) {
	h := limiter.Middleware(limiter.NewMemory(nil), global("p", 1), &limiter.Options{Headers: limiter.NoHeaders})(hello)
	if res := status(t, h, request(t), 200); len(res.Header) != 1 {
		t.Errorf("header %v, want Content-Type alone", res.Header)
	}
	res := status(t, h, request(t), 429)
	if res.Header.Get("Retry-After") == "" || res.Header.Get("RateLimit") != "" || res.Header.Get("RateLimit-Policy") != "" {
		t.Errorf("header %v, want Retry-After and no RateLimit", res.Header)
	}
}

// Header fields reach the final response however the handler comes to it.
func TestHeaderIsAddedLast(t *testing.T) {
	const want = `"p";r=9;t=360`
	tests := []struct {
		name    string
		handler http.HandlerFunc
	}{
		{"nothing", func(w http.ResponseWriter, r *http.Request) {}},
		{"write", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("x")) }},
		{"header", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) }},
		{"header twice", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404); w.WriteHeader(200) }},
		{"flush", func(w http.ResponseWriter, r *http.Request) { http.NewResponseController(w).Flush() }},
		{"copy", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, strings.NewReader("x")) }},
		{"after 1xx, as a proxy does it", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</a>")
			w.WriteHeader(103)
			clear(w.Header())
			w.WriteHeader(204)
		}},
		{"header map replaced", func(w http.ResponseWriter, r *http.Request) {
			clear(w.Header())
			w.Write([]byte("x"))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				h := limiter.Middleware(limiter.NewMemory(nil), global("p", 10), nil)(tt.handler)
				if got := serve(h, request(t)).Header["Ratelimit"]; !reflect.DeepEqual(got, []string{want}) {
					t.Errorf("RateLimit %q, want %q", got, want)
				}
			})
		})
	}
}

// hijackable is a ResponseWriter whose connection can be taken over after a
// number of failures.
type hijackable struct {
	*httptest.ResponseRecorder
	failures int
}

func (h *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if h.failures--; h.failures >= 0 {
		return nil, nil, errors.New("not yet")
	}
	a, b := net.Pipe()
	b.Close()
	return a, bufio.NewReadWriter(bufio.NewReader(a), bufio.NewWriter(a)), nil
}

func TestHeaderOfUpgrade(t *testing.T) {
	for _, failures := range []int{0, 2} {
		for _, announced := range []bool{false, true} {
			m := limiter.NewMemory(nil)
			var statuses []int
			rules := global("p", 10)
			rules[0].RefundIf = func(status int) bool { statuses = append(statuses, status); return false }
			h := limiter.Middleware(m, rules, nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if announced {
					w.WriteHeader(101)
				}
				for {
					conn, _, err := http.NewResponseController(w).Hijack()
					if err == nil {
						conn.Close()
						break
					}
				}
				// A reverse proxy sends the map itself, now.
				if got := w.Header()["Ratelimit"]; len(got) != 1 || got[0] != `"p";r=9;t=360` {
					t.Errorf("failures %d, announced %v: RateLimit %q", failures, announced, got)
				}
			}))
			h.ServeHTTP(&hijackable{httptest.NewRecorder(), failures}, request(t))
			if !reflect.DeepEqual(statuses, []int{101}) {
				t.Errorf("statuses %v, want 101", statuses)
			}
		}
	}
}

func TestOnLimit(t *testing.T) { inTime(t, testOnLimit) }

func testOnLimit(t *testing.T) {
	m := limiter.NewMemory(nil)
	var order []string
	mw := limiter.Middleware(m, global("p", 1), &limiter.Options{
		OnDecision: func(_ *http.Request, d limiter.Decision) { order = append(order, fmt.Sprint("decision ", d.Allowed)) },
		OnLimit: func(w http.ResponseWriter, r *http.Request, d limiter.Decision) {
			order = append(order, "limit")
			if d.Rule != 0 || d.Charges[0].Policy.Name != "p" {
				t.Errorf("decision %+v", d)
			}
			if r.Header.Get("X-Later") != "" {
				w.Header().Set("Retry-After", "7")
			}
			// As a fallback behind a proxy would.
			w.WriteHeader(103)
			w.Header().Del("RateLimit")
			w.WriteHeader(302)
		},
	})
	h := mw(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { order = append(order, "handler") }))
	status(t, h, request(t), 200)
	res := status(t, h, request(t), 302)
	if res.Header.Get("RateLimit") == "" || res.Header.Get("RateLimit-Policy") == "" || res.Header.Get("Retry-After") != "3600" {
		t.Errorf("header %v", res.Header)
	}
	if got := status(t, h, request(t, "X-Later", "1"), 302).Header["Retry-After"]; !reflect.DeepEqual(got, []string{"7"}) {
		t.Errorf("Retry-After %q, want 7", got)
	}
	want := []string{"decision true", "handler", "decision false", "limit", "decision false", "limit"}
	if !reflect.DeepEqual(order, want) {
		t.Errorf("order %q, want %q", order, want)
	}
}

// Copies that hooks get cannot give anything back, and stay as they are.
func TestHooksGetCopies(t *testing.T) {
	m := limiter.NewMemory(nil)
	var kept limiter.Decision
	rules := global("p", 2)
	rules[0].RefundIf = func(status int) bool { return status == 404 }
	h := limiter.Middleware(m, rules, &limiter.Options{
		OnDecision: func(r *http.Request, d limiter.Decision) {
			kept = d
			if d.Results[0].Receipt != (limiter.Receipt{}) {
				t.Error("the hook got the receipt")
			}
			if err := d.Refund(r.Context()); err != nil {
				t.Error(err)
			}
			h := http.Header{}
			d.SetHeader(h)
			if h.Get("RateLimit") == "" {
				t.Error("the copy cannot set header fields")
			}
		},
	})(http.NotFoundHandler())
	for range 5 {
		status(t, h, request(t), 404)
	}
	if kept.Results[0].Remaining != 1 || kept.Charges[0].Key != "*" {
		t.Errorf("kept %+v", kept)
	}
}

func TestLimiterFails(t *testing.T) {
	secret := errors.New("dial tcp 10.1.2.3:6379: password incorrect")
	for _, rules := range []limiter.Rules{global("p", 1), append(global("p", 1), global("q", 1)...)} {
		var seen []limiter.Decision
		opts := &limiter.Options{OnDecision: func(_ *http.Request, d limiter.Decision) { seen = append(seen, d) }}
		h := limiter.Middleware(failing{secret}, rules, opts)(hello)
		res := status(t, h, request(t), 503)
		body, _ := io.ReadAll(res.Body)
		if res.Header.Get("Retry-After") != "1" || res.Header.Get("Content-Type") != "application/problem+json" ||
			!strings.Contains(string(body), "#temporary-reduced-capacity") || strings.Contains(fmt.Sprint(string(body), res.Header), "10.1") {
			t.Errorf("header %v, body %s", res.Header, body)
		}
		if len(seen) != 1 || seen[0].Err != secret || seen[0].Allowed || seen[0].Rule != -1 || len(seen[0].Charges) != len(rules) {
			t.Errorf("decisions %+v", seen)
		}
		opts.OnError = func(_ *http.Request, err error) bool { return err == secret }
		h = limiter.Middleware(failing{secret}, rules, opts)(hello)
		if res := status(t, h, request(t), 200); res.Header.Get("RateLimit") != "" {
			t.Errorf("header %v, want none about quotas that nobody counted", res.Header)
		}
		if len(seen) != 2 || !seen[1].Allowed || seen[1].Err != secret {
			t.Errorf("decisions %+v", seen)
		}
	}
}

func TestUnkeyed(t *testing.T) {
	broken := errors.New("the directory is at 10.1.2.3")
	key := func(r *http.Request) (string, error) {
		if r.Header.Get("X-Broken") != "" {
			return "", broken
		}
		return r.Header.Get("X-User"), nil
	}
	byUser := limiter.Rule{Policy: limiter.PerHour("user", 1), Key: key}
	for _, rules := range []limiter.Rules{{byUser}, {{Policy: limiter.PerHour("all", 100), Key: limiter.KeyGlobal}, byUser}} {
		m := limiter.NewMemory(nil)
		var last limiter.Decision
		opts := &limiter.Options{OnDecision: func(_ *http.Request, d limiter.Decision) { last = d }}
		h := limiter.Middleware(m, rules, opts)(hello)
		for range 3 {
			status(t, h, request(t), 400)
			if _, ok := errors.AsType[*limiter.KeyError](last.Err); !ok || last.Allowed || last.Rule != len(rules)-1 || !errors.Is(last.Err, limiter.ErrNoKey) {
				t.Fatalf("decision %+v", last)
			}
			res := status(t, h, request(t, "X-Broken", "1"), 500)
			if body, _ := io.ReadAll(res.Body); strings.Contains(string(body), "10.1") || !errors.Is(last.Err, broken) {
				t.Fatalf("body %s, decision %+v", body, last)
			}
		}
		if m.Stats().Keys != 0 {
			t.Errorf("something was charged")
		}
		status(t, h, request(t, "X-User", "ann"), 200)
		status(t, h, request(t, "X-User", "ann"), 429)

		opts.Unkeyed = limiter.SkipUnkeyed
		h = limiter.Middleware(m, rules, opts)(hello)
		for range 3 {
			status(t, h, request(t), 200)
			status(t, h, request(t, "X-Broken", "1"), 200)
			if !errors.Is(last.Err, broken) || !last.Allowed {
				t.Errorf("decision %+v, want the error reported", last)
			}
		}
		status(t, h, request(t, "X-User", "ann"), 429)
	}
}

func TestMatchAndPolicyFor(t *testing.T) {
	m := limiter.NewMemory(nil)
	rules := limiter.Rules{{
		Policy: limiter.PerHour("free", 1),
		Key:    limiter.KeyByHeader("X-User"),
		Match:  func(r *http.Request) bool { return r.URL.Path != "/health" },
		PolicyFor: func(r *http.Request) (limiter.Policy, bool) {
			switch r.Header.Get("X-Plan") {
			case "paid":
				return limiter.PerHour("paid", 3), true
			case "bad":
				return limiter.Policy{}, true
			}
			return limiter.Policy{}, false
		},
	}}
	h := limiter.Middleware(m, rules, nil)(hello)
	status(t, h, request(t, "X-User", "ann"), 200)
	res := status(t, h, request(t, "X-User", "ann"), 429)
	if body, _ := io.ReadAll(res.Body); !strings.Contains(string(body), `"violated-policies":["free"]`) {
		t.Errorf("body %s", body)
	}
	for range 3 {
		status(t, h, request(t, "X-User", "ann", "X-Plan", "paid"), 200)
	}
	res = status(t, h, request(t, "X-User", "ann", "X-Plan", "paid"), 429)
	if body, _ := io.ReadAll(res.Body); !strings.Contains(string(body), `"violated-policies":["paid"]`) {
		t.Errorf("body %s", body)
	}
	status(t, h, request(t, "X-User", "ann", "X-Plan", "bad"), 503)
	for range 3 {
		r := request(t)
		r.URL.Path = "/health"
		if res := status(t, h, r, 200); res.Header.Get("RateLimit") != "" {
			t.Errorf("header %v", res.Header)
		}
	}
}

// A shadow decides and reports; responses are as if it were not there.
func TestShadow(t *testing.T) {
	shadow := limiter.Rule{Policy: limiter.PerHour("shadow", 1), Key: limiter.KeyGlobal, Shadow: true}
	unkeyed := limiter.Rule{Policy: limiter.PerHour("unkeyed", 1), Key: limiter.KeyByRoute, Shadow: true}
	enforced := global("enforced", 3)[0]
	for _, tt := range []struct {
		name      string
		rules     limiter.Rules
		shadow    int // its index among the charges
		wantLimit int
	}{
		{"alone", limiter.Rules{shadow}, 0, 100},
		{"before", limiter.Rules{shadow, unkeyed, enforced}, 0, 3},
		{"behind", limiter.Rules{enforced, shadow}, 1, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				var last limiter.Decision
				m := limiter.NewMemory(nil)
				h := limiter.Middleware(m, tt.rules, &limiter.Options{
					OnDecision: func(_ *http.Request, d limiter.Decision) { last = d },
				})(hello)
				var plain http.Handler = hello
				if tt.wantLimit == 3 {
					plain = limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{enforced}, nil)(hello)
				}
				for i := range 5 {
					res, want := serve(h, request(t)), serve(plain, request(t))
					if res.StatusCode != want.StatusCode || !reflect.DeepEqual(res.Header, want.Header) {
						t.Errorf("request %d: %d %v, without the shadow %d %v", i, res.StatusCode, res.Header, want.StatusCode, want.Header)
					}
					got := last.Results[tt.shadow]
					refused := i >= tt.wantLimit
					if got.Allowed != (i == 0 || refused) || (got.Source == 0) != refused {
						t.Errorf("request %d: result %+v", i, got)
					}
				}
			})
		})
	}
	// A shadow whose Limiter fails refuses nobody.
	broken := errors.New("broken")
	var last limiter.Decision
	h := limiter.Middleware(failing{broken}, limiter.Rules{shadow}, &limiter.Options{
		OnDecision: func(_ *http.Request, d limiter.Decision) { last = d },
	})(hello)
	status(t, h, request(t), 200)
	if last.Err != broken || !last.Allowed {
		t.Errorf("decision %+v", last)
	}
}

func TestRefundIf(t *testing.T) {
	tests := []struct {
		name    string
		handler http.HandlerFunc
		want    int
	}{
		{"empty", func(w http.ResponseWriter, r *http.Request) {}, 200},
		{"404", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) }, 404},
		{"1xx first", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(103); w.WriteHeader(500) }, 500},
		{"written", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "x") }, 200},
		{"panic", func(w http.ResponseWriter, r *http.Request) { panic("oops") }, 0},
		{"abort", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, 0},
		{"panic after the header", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(201); panic("oops") }, 201},
		{"departure", func(w http.ResponseWriter, r *http.Request) {
			r.Context().Value(leave{}).(context.CancelFunc)()
		}, 0},
		{"departure after the header", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(201)
			r.Context().Value(leave{}).(context.CancelFunc)()
		}, 201},
	}
	for _, form := range []limiter.HeaderForm{limiter.Draft10, limiter.NoHeaders} {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				m := limiter.NewMemory(nil)
				asked := 0
				give := true
				rules := append(global("refunded", 2), global("kept", 2)...)
				rules[0].RefundIf = func(status int) bool {
					asked++
					if status != tt.want {
						t.Errorf("status %d, want %d", status, tt.want)
					}
					return give
				}
				h := limiter.Middleware(m, rules, &limiter.Options{Headers: form})(tt.handler)
				run := func() (panicked any) {
					defer func() { panicked = recover() }()
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					h.ServeHTTP(httptest.NewRecorder(), request(t).WithContext(context.WithValue(ctx, leave{}, cancel)))
					return nil
				}
				if p := run(); (p != nil) != strings.HasPrefix(tt.name, "panic") && p != http.ErrAbortHandler {
					t.Errorf("panic %v", p)
				}
				give = false
				run()
				run() // refused by the other rule: not asked
				if asked != 2 {
					t.Errorf("asked %d times, want 2", asked)
				}
				c := limiter.Charge{Policy: rules[0].Policy, Key: "*"}
				remaining(t, m, c, 1)
				c.Policy = rules[1].Policy
				remaining(t, m, c, 0)
			})
		}
	}
}

type leave struct{}

// A hook that panics leaves nothing charged that RefundIf would give back.
func TestHookPanics(t *testing.T) {
	m := limiter.NewMemory(nil)
	rules := global("p", 1)
	rules[0].RefundIf = func(status int) bool { return status == 0 }
	h := limiter.Middleware(m, rules, &limiter.Options{
		OnDecision: func(*http.Request, limiter.Decision) { panic("oops") },
	})(hello)
	func() {
		defer func() { recover() }()
		serve(h, request(t))
	}()
	remaining(t, m, limiter.Charge{Policy: rules[0].Policy, Key: "*"}, 1)
}

// The request is the one that came in: what routers set on it later is seen by
// whoever stands outside.
func TestRequestIsNotCopied(t *testing.T) {
	var got *http.Request
	h := limiter.Middleware(limiter.NewMemory(nil), global("p", 1), nil)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r }))
	r := request(t)
	serve(h, r)
	if got != r {
		t.Error("the handler got another request")
	}
}

// Adapters wrap once per request.
func TestStateIsOutsideOfTheClosure(t *testing.T) {
	mw := limiter.Middleware(limiter.NewMemory(nil), global("p", 1), nil)
	status(t, mw(hello), request(t), 200)
	status(t, mw(hello), request(t), 429)
}

func TestMiddlewarePanics(t *testing.T) {
	m := limiter.NewMemory(nil)
	bad := limiter.Rules{{}}
	for name, f := range map[string]func(){
		"nil Limiter": func() { limiter.Middleware(nil, nil, nil) },
		"bad rules":   func() { limiter.Middleware(m, bad, nil) },
		"bad Headers": func() { limiter.Middleware(m, nil, &limiter.Options{Headers: 99}) },
		"bad Unkeyed": func() { limiter.Middleware(m, nil, &limiter.Options{Unkeyed: 99}) },
	} {
		func() {
			defer func() {
				p := recover()
				if p == nil {
					t.Errorf("%s: no panic", name)
				}
				if err, ok := p.(error); name == "bad rules" && (!ok || err.Error() != bad.Validate().Error()) {
					t.Errorf("%s: panic %v, want the error of Validate", name, p)
				}
			}()
			f()
		}()
	}
	// Changing the slice later changes nothing.
	rules := global("p", 1)
	h := limiter.Middleware(m, rules, nil)(hello)
	rules[0] = limiter.Rule{}
	status(t, h, request(t), 200)
}

// nowhere is a ResponseWriter that costs nothing.
type nowhere struct{ header http.Header }

func (n *nowhere) Header() http.Header         { return n.header }
func (n *nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (n *nowhere) WriteHeader(int)             {}

func TestMiddlewareAllocations(t *testing.T) {
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	byHeader := func(limit int) limiter.Rules {
		return limiter.Rules{{Policy: limiter.PerHour("p", limit), Key: limiter.KeyByHeader("X-User")}}
	}
	byAddress := byHeader(1 << 30)
	byAddress[0].Key = limiter.KeyByClientIP
	three := append(append(byHeader(1<<30), global("q", 1<<30)...), global("r", 1<<30)...)
	tests := []struct {
		name  string
		rules limiter.Rules
		opts  *limiter.Options
		most  float64
	}{
		{"no header fields", byHeader(1 << 30), &limiter.Options{Headers: limiter.NoHeaders}, 0},
		{"no header fields, by address", byAddress, &limiter.Options{Headers: limiter.NoHeaders}, 1},
		{"header fields", byHeader(1 << 30), nil, 2},
		{"header fields, by address", byAddress, nil, 3},
		{"three rules", three, nil, 5},
		{"refused", byHeader(1), nil, 3},
		{"refused, no header fields", byHeader(1), &limiter.Options{Headers: limiter.NoHeaders}, 3},
	}
	for _, tt := range tests {
		h := limiter.Middleware(limiter.NewMemory(nil), tt.rules, tt.opts)(nothing)
		r, w := request(t, "X-User", "ann"), &nowhere{http.Header{}}
		for range 1000 { // the first of them are looked at
			h.ServeHTTP(w, r)
		}
		got := testing.AllocsPerRun(200, func() {
			clear(w.header)
			h.ServeHTTP(w, r)
		})
		t.Logf("%s: %v", tt.name, got)
		if got > tt.most {
			t.Errorf("%s: %v allocations, want at most %v", tt.name, got, tt.most)
		}
	}
}
