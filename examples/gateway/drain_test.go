package main_test

import (
	"bufio"
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// drainable lets requests in flight have four seconds after SIGTERM.
const drainable = `
admin: {listen: 127.0.0.1:0}
timeouts: {shutdown: 4s}
routes: [{path: /, upstreams: [demo]}, {path: /polite/, upstreams: [demo], strip_prefix: /polite}]
`

// After SIGTERM what can finish does, what cannot is cut at the deadline so that
// its client sees an error, nobody new is let in, and the audit has it all.
func TestDrain(t *testing.T) {
	g := start(t, drainable)
	clock := open(t, g.URL+"/clock")
	endless := open(t, g.URL+"/download?size=16GiB") // never done in time
	tunnel, _, err := websocket.Dial(t.Context(), g.URL+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tunnel.CloseNow()
	polite, _, err := websocket.Dial(t.Context(), g.URL+"/polite/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer polite.CloseNow()
	told := make(chan error, 1)
	go func() { // and answers, while nobody reads from the other
		_, _, err := polite.Read(context.Background())
		told <- err
	}()
	finishing := make(chan error, 1)
	go func() {
		_, body, err := do(t, request(t, "GET", g.URL+"/slow?delay=1s", ""))
		if err == nil && !strings.HasPrefix(string(body), "late by 1s") {
			t.Errorf("the slow answer is %q", body)
		}
		finishing <- err
	}()
	if line, err := bufio.NewReader(clock.Body).ReadString('\n'); err != nil || line != "event: tick\n" {
		t.Fatalf("the clock says %q, %v", line, err)
	}
	eventually(t, "all five are under way", func() bool { return scrape(t, g).total("weir_gateway_requests_in_flight") == 5 })

	began := time.Now()
	g.cmd.Process.Signal(syscall.SIGTERM)
	go io.Copy(io.Discard, io.LimitReader(endless.Body, 64<<20)) // then it stalls
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
		if err != nil {
			break
		}
		c.Close()
		if time.Now().After(deadline) {
			t.Fatal("new connections are taken after SIGTERM")
		}
	}
	if err := <-finishing; err != nil {
		t.Errorf("a request that could finish was cut: %v", err)
	}
	if code := g.wait(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if took := time.Since(began); took < 3500*time.Millisecond || took > 15*time.Second {
		t.Errorf("it ended after %v, want the 4 s of timeouts.shutdown", took)
	}
	if _, err := io.Copy(io.Discard, clock.Body); err == nil {
		t.Error("the cut event stream has a clean end")
	}
	if _, _, err := tunnel.Read(t.Context()); err == nil {
		t.Error("the WebSocket is still open")
	}
	if err := <-told; websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("a WebSocket ended with %v, want status 1001", err)
	}
	byPath := map[string]record{}
	for _, r := range readAudit(t, g.Audit) {
		byPath[r.Path] = r
	}
	for _, path := range []string{"/slow", "/clock", "/download", "/ws", "/polite/ws"} {
		r, ok := byPath[path]
		if !ok {
			t.Errorf("%s is not in the audit", path)
		}
		outcome := map[string]string{"/slow": "ok", "/polite/ws": "hijacked"}[path]
		if cut := r.Attributes["cut_by"] == "shutdown"; cut != (outcome == "") || cut == (r.Outcome == cmp.Or(outcome, "ok")) {
			t.Errorf("%s is recorded as %s", path, r.line)
		}
	}
}

// A second signal cuts at once; the audit is written all the same.
func TestSecondSignal(t *testing.T) {
	g := start(t, "routes: [{path: /, upstreams: [demo]}]") // 15 s to drain
	clock := open(t, g.URL+"/clock")
	if _, err := bufio.NewReader(clock.Body).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	g.cmd.Process.Signal(syscall.SIGTERM)
	time.Sleep(300 * time.Millisecond)
	g.cmd.Process.Signal(syscall.SIGINT)
	if code := g.wait(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it ended after %v, want at once", took)
	}
	if records := readAudit(t, g.Audit); len(records) != 1 || records[0].Path != "/clock" {
		t.Errorf("the records are %+v, want one of the clock", records)
	}
}

// open returns an answer as soon as its header is there.
func open(t *testing.T, url string) *http.Response {
	t.Helper()
	res, err := http.DefaultClient.Do(request(t, "GET", url, ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}
