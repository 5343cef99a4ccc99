package main_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/coder/websocket"
)

// every is a configuration in which every kind of exchange can happen.
const every = `
routes:
  - {path: /, upstreams: [demo]}
  - {path: /quiet/, upstreams: [demo], strip_prefix: /quiet, capture: false}
  - path: /limited/
    upstreams: [demo]
    strip_prefix: /limited
    limits: [{name: one, key: global, rate: 1/h}]
`

func TestAudit(t *testing.T) {
	g := start(t, every)
	const sent = `{"name":"weir","nested":{"list":[1,2.50,"é","\u0000"]},"empty":null}`

	req := request(t, "POST", g.URL+"/echo?access_token=s3cret", sent)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer s3cret")
	req.Header.Set("Cookie", "session=s3cret")
	_, echoed, err := do(t, req)
	if err != nil {
		t.Fatal(err)
	}
	get(t, g.URL+"/download?size=3MiB")
	get(t, g.URL+"/quiet/echo")
	get(t, g.URL+"/limited/echo")
	get(t, g.URL+"/limited/echo")
	get(t, g.URL+"/fail")
	webSocketEcho(t, g.URL+"/ws")
	http.DefaultClient.CloseIdleConnections() // on a kept one the client would try again
	if _, _, err := do(t, request(t, "GET", g.URL+"/broken", "")); err == nil {
		t.Error("/broken ended as if it was whole")
	}
	head, err := http.Head(g.URL + "/echo")
	if err != nil {
		t.Fatal(err)
	}
	head.Body.Close()

	records := g.stop(t)
	find := func(path string, status int) record {
		t.Helper()
		for _, r := range records {
			if r.Path == path && r.Status == status {
				return r
			}
		}
		t.Fatalf("no record of %s with status %d", path, status)
		return record{}
	}
	if got, want := len(records), 9; got != want {
		t.Errorf("%d records, want %d", got, want)
	}
	for _, r := range records {
		if strings.Contains(r.line, "s3cret") {
			t.Errorf("a secret stands in %s", r.line)
		}
	}
	r := find("/echo", 200)
	if r.Request.Body != sent || r.Response.Body != string(echoed) || r.Route != "/" {
		t.Errorf("record %s\nwant the bodies %s and %s", r.line, sent, echoed)
	}
	for _, name := range []string{"Authorization", "Cookie"} {
		if len(r.Request.Header[name]) != 1 {
			t.Errorf("the record has no masked %s: %s", name, r.line)
		}
	}
	r = find("/download", 200)
	if r.Response.Size != 3<<20 || r.Response.Skipped != "attachment" || r.Response.Body != "" || r.Response.Captured != 0 {
		t.Errorf("a download is recorded as %s", r.line)
	}
	r = find("/quiet/echo", 200)
	if r.Response.Size == 0 || r.Response.Skipped == "" || r.Response.Body != "" || r.Route != "/quiet/" {
		t.Errorf("a route with capture: false is recorded as %s", r.line)
	}
	r = find("/limited/echo", 429)
	if r.RefusedBy != "one" || r.Response.Body != "" {
		t.Errorf("a refusal is recorded as %s", r.line)
	}
	r = find("/fail", 500)
	if !strings.Contains(r.Response.Body, "fails on request") {
		t.Errorf("an error of the upstream is recorded as %s", r.line)
	}
	r = find("/ws", 101)
	if r.Outcome != "hijacked" {
		t.Errorf("a WebSocket is recorded as %s", r.line)
	}
	r = find("/broken", 200)
	if r.Outcome != "abort" || r.Response.Size >= 50 {
		t.Errorf("an answer that broke off is recorded as %s", r.line)
	}
}

func TestWhatHasNoRouteIsRecorded(t *testing.T) {
	g := start(t, "routes: [{path: GET /only/, upstreams: [demo]}]")
	for _, tt := range []struct {
		method, path string
		want         int
	}{{"GET", "/", 404}, {"POST", "/only/x", 405}, {"GET", "/only", 307}} {
		req := request(t, tt.method, g.URL+tt.path, "")
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode != tt.want {
			t.Errorf("%s %s: %s, want %d", tt.method, tt.path, res.Status, tt.want)
		}
	}
	records := g.stop(t)
	if len(records) != 3 {
		t.Errorf("%d records, want 3: %v", len(records), records)
	}
}

// On standard output there is nothing but records, so that it can be piped.
func TestAuditOnStandardOutput(t *testing.T) {
	g := spawn(t, "-listen", "127.0.0.1:0", "-audit", "-")
	g.awaitListening(t, g.stderr)
	get(t, g.URL+"/echo")
	get(t, g.URL+"/echo")
	g.cmd.Process.Signal(syscall.SIGTERM)
	if code := g.wait(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if records := parseAudit(t, []byte(g.stdout.String())); len(records) != 2 {
		t.Errorf("standard output is %q, want two records", g.stdout)
	}
}

func webSocketEcho(t *testing.T, url string) {
	t.Helper()
	c, _, err := websocket.Dial(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	for _, message := range []string{"hello", strings.Repeat("x", 20_000)} {
		if err := c.Write(t.Context(), websocket.MessageText, []byte(message)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(t.Context()); err != nil || string(got) != message {
			t.Fatalf("got %.20q, %v; want %.20q", got, err, message)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
}

// A file that has grown to its size is set aside, and no more of them are kept
// than asked for. Every record is whole, in one of them.
func TestAuditRotates(t *testing.T) {
	g := start(t, `
audit: {max_size: 1MiB, keep: 2}
routes: [{path: /, upstreams: [demo]}]
`)
	body := strings.Repeat("weir ", 10_000)
	for range 60 { // of about 100 KB each
		req := request(t, "POST", g.URL+"/echo", body)
		req.Header.Set("Content-Type", "text/plain")
		if _, _, err := do(t, req); err != nil {
			t.Fatal(err)
		}
	}
	g.stop(t)
	dir := filepath.Dir(g.Audit)
	files, err := filepath.Glob(filepath.Join(dir, "audit*.jsonl"))
	if err != nil || len(files) != 3 {
		t.Fatalf("%d files (%v), want the current and two older ones", len(files), err)
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 1<<20 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has %d bytes and mode %v, want 1 MiB at most and 0600", file, info.Size(), info.Mode())
		}
		for _, r := range readAudit(t, file) {
			if r.Request.Body != body {
				t.Errorf("a record in %s has a body of %d bytes, want %d", file, len(r.Request.Body), len(body))
			}
		}
	}
}
