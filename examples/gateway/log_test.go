package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// An accessRecord is a line of the log about a request.
type accessRecord struct {
	Level, Msg, Client, Method, Path, Route, Outcome string
	Status, Sent                                     int
	RefusedBy                                        string  `json:"refused_by"`
	Duration                                         float64 `json:"duration_ms"`
}

// In JSON every line of the log is an object, each request has one, and no
// secret stands in any.
func TestLogOfRequests(t *testing.T) {
	g := start(t, `
admin: {listen: 127.0.0.1:0}
log: {format: json, requests: true}
redis: {url: "redis://user:s3cret@127.0.0.1:1/0", secret: s3cret}
routes:
  - {path: /, upstreams: [demo]}
  - {path: /limited/, upstreams: [demo], strip_prefix: /limited, limits: [{name: one, key: "header:X-Api-Key", rate: 1/h}]}
`)
	for _, path := range []string{"/echo?access_token=s3cret", "/limited/echo", "/limited/echo", "/none/\n\"x"} {
		req := request(t, "POST", g.URL, `{"password":"s3cret"}`)
		req.URL.Path, req.URL.RawQuery, _ = strings.Cut(path, "?")
		req.Header.Set("X-Api-Key", "s3cret")
		req.Header.Set("Authorization", "Bearer s3cret")
		req.Header.Set("Cookie", "session=s3cret")
		if _, _, err := do(t, req); err != nil {
			t.Fatal(err)
		}
	}
	_, page := get(t, g.admin(t)+"/readyz")
	_, metrics := get(t, g.admin(t)+"/metrics")
	g.stop(t)
	for where, text := range map[string]string{"log": g.stderr.String(), "standard output": g.stdout.String(), "/readyz": string(page), "/metrics": string(metrics)} {
		if strings.Contains(text, "s3cret") {
			t.Errorf("a secret stands in the %s:\n%s", where, text)
		}
	}
	var lines []accessRecord
	for line := range strings.Lines(g.stderr.String()) {
		var r accessRecord
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Errorf("%v in the line %q", err, line)
		}
		if r.Msg == "request" {
			lines = append(lines, r)
		}
	}
	want := []string{"/echo / 200 ", "/limited/echo /limited/ 200 ", "/limited/echo /limited/ 429 one", "/none/%0A%22x / 404 "}
	if len(lines) != len(want) {
		t.Fatalf("%d lines about requests, want %d: %+v", len(lines), len(want), lines)
	}
	for i, r := range lines {
		if got := fmt.Sprintf("%s %s %d %s", r.Path, r.Route, r.Status, r.RefusedBy); got != want[i] {
			t.Errorf("line %d says %q, want %q", i, got, want[i])
		}
		if r.Client != "127.0.0.1" || r.Method != "POST" || r.Outcome != "ok" || r.Sent == 0 || r.Duration <= 0 {
			t.Errorf("line %d is %+v", i, r)
		}
	}
}

// Without asking there is no line about a request that is well.
func TestLogIsQuiet(t *testing.T) {
	g := start(t, "routes: [{path: /, upstreams: [demo]}]")
	for range 5 {
		get(t, g.URL+"/echo")
	}
	g.stop(t)
	if n := strings.Count(g.stderr.String(), "\n"); n > 3 { // started; not ready; no new connections
		t.Errorf("the log has %d lines:\n%s", n, g.stderr)
	}
}

// A dead upstream is a line a second, however many requests it fails, and the
// number of those left out.
func TestLogOfDeadUpstreamIsSeldom(t *testing.T) {
	g := start(t, fmt.Sprintf("routes: [{path: /, upstreams: [\"http://%s\"]}]", closedPort(t)))
	began := time.Now()
	for n := 0; n < 300 || strings.Count(g.stderr.String(), "request failed") < 2 && time.Since(began) < 20*time.Second; n++ {
		if res, _ := get(t, g.URL+"/"); res.StatusCode != http.StatusBadGateway {
			t.Fatalf("%s, want 502", res.Status)
		}
	}
	log := g.stderr.String()
	seconds := int(time.Since(began)/time.Second) + 1
	if n := strings.Count(log, "request failed"); n < 2 || n > seconds {
		t.Errorf("%d lines in %d s, want one a second", n, seconds)
	}
	if !strings.Contains(log, "left_out=") {
		t.Errorf("the log does not say how much was left out:\n%s", log)
	}
}

// What is not safe is said at the start, and what is safe is not.
func TestUnsafeIsSaid(t *testing.T) {
	for _, tt := range []struct {
		name, config string
		want         []string
	}{
		{"safe", "admin: {listen: 127.0.0.1:0}\nroutes: [{path: /, upstreams: [demo]}]", nil},
		{"everything", `
trust: [128.0.0.0/1]
admin: {listen: "127.0.0.1:0", inspector: true, token: short, actions: true}
audit: {max_size: 0}
redis: {url: "redis://192.0.2.1:6379", when_down: open}
routes: [{path: /, upstreams: [demo]}]
`, []string{"trust has 128.0.0.0/1", "admin.actions", "admin.token has 5 characters", "audit.max_size", "redis.url is not encrypted", "redis.secret", "redis.when_down is open"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := start(t, tt.config)
			g.stop(t)
			log := g.stderr.String()
			if n := strings.Count(log, "unsafe: "); n != len(tt.want) {
				t.Errorf("%d warnings, want %d:\n%s", n, len(tt.want), log)
			}
			for _, want := range tt.want {
				if !strings.Contains(log, want) {
					t.Errorf("the log does not say %q", want)
				}
			}
		})
	}
}
