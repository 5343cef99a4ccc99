package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

// A hundred requests at once against a limit of ten: ten pass, ninety are told
// when to come back.
func TestLimitIsExact(t *testing.T) {
	g := start(t, `
routes:
  - path: /
    upstreams: [demo]
    limits: [{name: client, key: "header:X-Run", rate: 10/h, burst: 10}]
`+unhurried)
	const runs, clients, limit = 10, 100, 10
	for run := range runs {
		var (
			wg     sync.WaitGroup
			mu     sync.Mutex
			counts = map[int]int{}
		)
		for range clients {
			wg.Go(func() {
				req := request(t, "GET", g.URL+"/echo", "")
				req.Header.Set("X-Run", strconv.Itoa(run))
				res, body, err := do(t, req)
				if err != nil {
					t.Error(err)
					return
				}
				if res.StatusCode == http.StatusTooManyRequests {
					checkRefusal(t, res, body)
				}
				mu.Lock()
				defer mu.Unlock()
				counts[res.StatusCode]++
			})
		}
		wg.Wait()
		if counts[200] != limit || counts[429] != clients-limit || len(counts) != 2 {
			t.Errorf("run %d: answers by status are %v, want 10 of 200 and 90 of 429", run, counts)
		}
	}
	refused := 0
	for _, r := range g.stop(t) {
		if r.Status != 429 {
			continue
		}
		refused++
		if r.RefusedBy != "client" || r.Route != "/" || r.Response.Body != "" || r.Request.Body != "" {
			t.Errorf("the record of a refusal is %s", r.line)
		}
	}
	// Of refusals beyond a hundred a second there are no records.
	if most := runs * (clients - limit); refused < 100 || refused > most {
		t.Errorf("%d refusals are recorded, want 100 to %d", refused, most)
	}
}

// Each algorithm that the configuration can name counts, and the leaky bucket
// holds the second request until its turn.
func TestAlgorithms(t *testing.T) {
	g := start(t, `
routes:
  - {path: /token_bucket, upstreams: [demo], limits: [{name: a, key: global, rate: 2/h}]}
  - {path: /leaky_bucket, upstreams: [demo], limits: [{name: b, key: global, rate: 5/s, burst: 2, algorithm: leaky_bucket}]}
  - {path: /fixed_window, upstreams: [demo], limits: [{name: c, key: global, rate: 2/24000h, algorithm: fixed_window}]}
  - {path: /sliding_window, upstreams: [demo], limits: [{name: d, key: global, rate: 2/24000h, algorithm: sliding_window}]}
  - {path: /sliding_log, upstreams: [demo], limits: [{name: e, key: global, rate: 2/h, algorithm: sliding_log}]}
`)
	get := func(path string) int {
		t.Helper()
		res, _, err := do(t, request(t, "GET", g.URL+path, ""))
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode
	}
	for _, name := range []string{"token_bucket", "fixed_window", "sliding_window", "sliding_log"} {
		for i, want := range []int{404, 404, 429} { // 404 is the demo's
			if got := get("/" + name); got != want {
				t.Errorf("%s: answer %d is %d, want %d", name, i+1, got, want)
			}
		}
	}
	begin := time.Now()
	first, second := get("/leaky_bucket"), get("/leaky_bucket")
	if took := time.Since(begin); first != 404 || second != 404 || took < 200*time.Millisecond {
		t.Errorf("leaky_bucket: %d and %d within %v, want 404 twice, 200ms apart", first, second, took)
	}
}

// Whose quota is charged: by address a forwarding field counts only if it comes
// from whom the configuration trusts; one name is one quota on all routes; and
// without a key there is no quota to charge.
func TestWhoIsCharged(t *testing.T) {
	const routes = `
routes:
  - {path: /a, upstreams: [demo], limits: [{name: client, key: ip, rate: 1/h}]}
  - {path: /b, upstreams: [demo], limits: [{name: client, key: ip, rate: 1/h}]}
  - {path: /keyed, upstreams: [demo], limits: [{name: account, key: "header:X-Api-Key", rate: 1/h}]}
`
	stranger, trusted := start(t, routes), start(t, "trust: [127.0.0.1]"+routes)
	for i, tt := range []struct {
		g                 *gateway
		path, name, value string
		want              int // 404 is the demo's
	}{
		{stranger, "/a", "X-Forwarded-For", "192.0.2.1", 404},
		{stranger, "/a", "X-Forwarded-For", "192.0.2.2", 429},
		{stranger, "/b", "X-Forwarded-For", "192.0.2.3", 429},
		{trusted, "/a", "X-Forwarded-For", "192.0.2.1", 404},
		{trusted, "/a", "X-Forwarded-For", "192.0.2.2", 404},
		{trusted, "/b", "X-Forwarded-For", "192.0.2.1", 429},
		{stranger, "/keyed", "X-Api-Key", "one", 404},
		{stranger, "/keyed", "X-Api-Key", "two", 404},
		{stranger, "/keyed", "X-Api-Key", "one", 429},
		{stranger, "/keyed", "X-Other", "one", 400},
	} {
		req := request(t, "GET", tt.g.URL+tt.path, "")
		req.Header.Set(tt.name, tt.value)
		res, _, err := do(t, req)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != tt.want {
			t.Errorf("request %d, %s with %s: %s: %s, want %d", i, tt.path, tt.name, tt.value, res.Status, tt.want)
		}
	}
	for _, r := range stranger.stop(t) {
		want := ""
		switch {
		case r.Status != 404 && r.Path == "/keyed":
			want = "account"
		case r.Status != 404:
			want = "client"
		}
		if r.RefusedBy != want {
			t.Errorf("the record says refused by %q, want %q: %s", r.RefusedBy, want, r.line)
		}
	}
}

func checkRefusal(t *testing.T, res *http.Response, body []byte) {
	t.Helper()
	if after, err := strconv.Atoi(res.Header.Get("Retry-After")); err != nil || after < 1 || after > 3600 {
		t.Errorf("Retry-After is %q, want seconds up to an hour", res.Header.Get("Retry-After"))
	}
	for name, want := range map[string]string{
		"RateLimit-Policy": `"client";q=10;w=3600`,
		"Content-Type":     "application/problem+json",
		"Cache-Control":    "no-store",
	} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	var r, after int
	if _, err := fmt.Sscanf(res.Header.Get("RateLimit"), `"client";r=%d;t=%d`, &r, &after); err != nil || r != 0 {
		t.Errorf("RateLimit is %q, want nothing left", res.Header.Get("RateLimit"))
	}
	var problem struct {
		Type             string
		Status           int
		ViolatedPolicies []string `json:"violated-policies"`
	}
	if err := json.Unmarshal(body, &problem); err != nil || problem.Status != 429 || len(problem.ViolatedPolicies) != 1 ||
		problem.Type != "https://iana.org/assignments/http-problem-types#quota-exceeded" {
		t.Errorf("the body is %s (%v)", body, err)
	}
}
