package main_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// configFile is the file that a gateway of start reads.
func (g *gateway) configFile() string { return g.cmd.Args[len(g.cmd.Args)-1] }

// replace puts another configuration in the place of the file, whole at once.
func (g *gateway) replace(t *testing.T, text string) {
	t.Helper()
	next := g.configFile() + ".next"
	writeFile(t, next, text)
	if err := os.Rename(next, g.configFile()); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// reloaded is a configuration of which every edition says something else and
// keeps the same quotas, slots and tunnels.
func reloaded(edition int) string {
	return fmt.Sprintf(`
# %[2]s
audit: {max_body: %[1]dKiB}
bandwidth: {per_response: %[1]dGiB/s, classes: [{name: all, weight: %[1]d}]}
in_flight: {max: %[3]d}
routes:
  - path: /version
    upstreams: [demo]
    fallback: {json: '%[1]d', status: 200, forced: true}
  - path: /
    upstreams: [{url: demo, weight: %[4]d}]
  - path: /quota/
    upstreams: [demo]
    strip_prefix: /quota
    limits:
      - {name: log, key: global, rate: 100/h, algorithm: sliding_log}
      - {name: bucket, key: ip, rate: 200/h, burst: 300}
  - path: /slot/
    upstreams: [{url: demo, weight: %[4]d}]
    strip_prefix: /slot
    in_flight: {max: 1, queue: %[1]d, wait: 1ms}
`, edition, strings.Repeat("x", edition), 1000+edition, 1+edition%1000) + unhurried
}

// reloads is how often the gateway has read its configuration since it started.
func (g *gateway) reloads() int {
	log := g.stderr.String()
	return strings.Count(log, "configuration loaded") + strings.Count(log, "configuration refused")
}

// Twenty times a second the configuration is replaced, each fourth time by one
// that is not well, while clients come. No request fails; what was used of
// quotas stays used; a tunnel and a slot that were taken before stay so.
//
// It takes 3 s, 1 s with -short, and 10 s if WEIR_SOAK is set.
func TestReloadUnderLoad(t *testing.T) {
	span := 3 * time.Second
	switch {
	case os.Getenv("WEIR_SOAK") != "":
		span = 10 * time.Second
	case testing.Short():
		span = time.Second
	}
	g := start(t, reloaded(1))
	tunnel, _, err := websocket.Dial(t.Context(), g.URL+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tunnel.CloseNow()
	slot := open(t, g.URL+"/slot/clock") // for as long as it lasts

	var (
		wg              sync.WaitGroup
		done            = make(chan struct{})
		passed, refused atomic.Int64
		served          atomic.Int64
	)
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				for _, path := range []string{"/echo", "/quota/echo", "/version"} {
					res, body, err := do(t, request(t, "GET", g.URL+path, ""))
					switch {
					case err != nil:
						t.Errorf("GET %s: %v", path, err)
						return
					case path == "/quota/echo" && res.StatusCode == 200:
						passed.Add(1)
					case path == "/quota/echo" && res.StatusCode == 429:
						refused.Add(1)
					case res.StatusCode != 200:
						t.Errorf("GET %s: %s %s", path, res.Status, body)
						return
					}
					served.Add(1)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	edition, invalid := 1, 0
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(span); time.Now().Before(end); <-tick.C {
		if edition%4 == 3 && invalid <= edition/4 {
			invalid++
			g.replace(t, "routes: [{path: /, upstream: [demo]}]")
		} else {
			edition++
			g.replace(t, reloaded(edition))
		}
		before := g.reloads()
		g.cmd.Process.Signal(syscall.SIGHUP)
		eventually(t, "it has looked", func() bool { return g.reloads() > before })
		if err := tunnel.Write(t.Context(), websocket.MessageText, []byte("still there")); err != nil {
			t.Fatal(err)
		}
		if _, echo, err := tunnel.Read(t.Context()); err != nil || string(echo) != "still there" {
			t.Fatalf("the tunnel says %q, %v", echo, err)
		}
	}
	g.replace(t, reloaded(edition+1))
	g.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, "the last edition answers", func() bool {
		_, body := get(t, g.URL+"/version")
		return string(body) == fmt.Sprint(edition+1)
	})
	eventually(t, "the quota is used up", func() bool { return refused.Load() > 0 })
	close(done)
	wg.Wait()
	if passed.Load() != 100 {
		t.Errorf("of a quota of 100 an hour %d passed and %d were refused", passed.Load(), refused.Load())
	}
	if res, _ := get(t, g.URL+"/slot/echo"); res.StatusCode != 503 {
		t.Errorf("with the only slot in use the status is %s", res.Status)
	}
	loads := strings.Count(g.stderr.String(), "configuration loaded")
	refusals := strings.Count(g.stderr.String(), `unknown field \"upstream\"`)
	if loads < edition/2 || refusals == 0 {
		t.Errorf("%d editions were loaded of %d, and %d refused of %d", loads, edition, refusals, invalid)
	}
	t.Logf("%d requests, %d configurations loaded, %d refused", served.Load(), loads, refusals)
	slot.Body.Close()
	tunnel.CloseNow()
	if records := g.stop(t); int64(len(records)) < served.Load()-refused.Load() {
		t.Errorf("%d records of %d requests", len(records), served.Load())
	}
}

// A file that is saved is read without a signal; one that is not well changes
// nothing and says where the fault is.
func TestReloadOnChange(t *testing.T) {
	g := start(t, reloaded(1))
	g.replace(t, "routes:\n  - {path: /, upstreams: [demo], burst: 1}\n")
	eventually(t, "the fault is in the log", func() bool {
		return strings.Contains(g.stderr.String(), `gateway.yaml:2:34: routes[0]: unknown field`)
	})
	if _, body := get(t, g.URL+"/version"); string(body) != "1" {
		t.Errorf("after a fault edition %s answers", body)
	}
	g.replace(t, reloaded(2))
	eventually(t, "the second edition answers", func() bool {
		_, body := get(t, g.URL+"/version")
		return string(body) == "2"
	})
	g.replace(t, "log: {requests: true}\n"+strings.Replace(reloaded(3), "{read_header", "{leave: 1s, read_header", 1))
	eventually(t, "the third edition answers", func() bool {
		_, body := get(t, g.URL+"/version")
		return string(body) == "3"
	})
	g.awaitLog(t, "field=log", func() {})
	for _, field := range []string{"timeouts.leave", "log"} {
		if n := strings.Count(g.stderr.String(), "takes effect with the next start only\" field="+field+"\n"); n != 1 {
			t.Errorf("that %s waits for the next start is said %d times", field, n)
		}
	}
	g.stop(t)
}

// What is known of an upstream survives a configuration in which it still is.
func TestReloadKeepsBreaker(t *testing.T) {
	var hits atomic.Int64
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		w.WriteHeader(500)
	}))
	defer broken.Close()
	config := func(more string) string {
		return fmt.Sprintf(`
routes:
  - path: /
    upstreams: [%q%s]
    pool: {breaker: {failure_ratio: 0.5, min_requests: 5, open_for: 1h}}
    limits: [{name: a, key: ip, rate: 1000/s%s}]
`, broken.URL, more, map[bool]string{true: ", burst: 2000"}[more != ""])
	}
	g := start(t, config(""))
	for range 10 {
		get(t, g.URL)
	}
	if res, _ := get(t, g.URL); res.StatusCode != 503 || hits.Load() != 5 {
		t.Fatalf("the breaker is not open: %s after %d requests", res.Status, hits.Load())
	}
	g.replace(t, config(`, {url: "http://127.0.0.1:1", weight: 2}`))
	g.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, "it is loaded", func() bool { return strings.Contains(g.stderr.String(), "configuration loaded") })
	for range 10 {
		get(t, g.URL)
	}
	if hits.Load() != 5 {
		t.Errorf("the upstream got %d more requests", hits.Load()-5)
	}
	g.stop(t)
}

// SIGHUP goes on with a new file where the old one was moved away.
func TestReopen(t *testing.T) {
	for _, size := range []string{"0", "1MiB"} {
		g := start(t, "audit: {max_size: "+size+"}\nroutes: [{path: /, upstreams: [demo]}]")
		get(t, g.URL+"/echo?before")
		eventually(t, "the first is recorded", func() bool { data, _ := os.ReadFile(g.Audit); return len(data) > 0 })
		moved := filepath.Join(t.TempDir(), "moved")
		if err := os.Rename(g.Audit, moved); err != nil {
			t.Fatal(err)
		}
		g.cmd.Process.Signal(syscall.SIGHUP)
		eventually(t, "it has looked", func() bool { return strings.Contains(g.stderr.String(), "configuration loaded") })
		get(t, g.URL+"/echo?after")
		if after := g.stop(t); len(after) != 1 || after[0].Query != "after" {
			t.Errorf("max_size %s: the new file has %v", size, after)
		}
		if before := readAudit(t, moved); len(before) != 1 || before[0].Query != "before" {
			t.Errorf("max_size %s: the file that was moved has %v", size, before)
		}
	}
}

// Where audit, redis or a proxy changes, requests that began before end as if
// nothing had happened.
func TestReloadLetsRequestsEnd(t *testing.T) {
	g := start(t, "admin: {listen: 127.0.0.1:0}\nroutes: [{path: /, upstreams: [demo]}]")
	slow := make(chan string, 1)
	go func() {
		res, err := http.Get(g.URL + "/slow?delay=2s")
		if err != nil {
			slow <- err.Error()
			return
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		slow <- fmt.Sprint(string(body), err)
	}()
	eventually(t, "it is under way", func() bool { return scrape(t, g).total("weir_gateway_requests_in_flight") == 1 })
	har := filepath.Join(t.TempDir(), "a.har")
	g.replace(t, fmt.Sprintf("admin: {listen: 127.0.0.1:0}\naudit: {har: %q}\nredis: {url: embedded}\ntimeouts: {stall: 5s}\nroutes: [{path: /, upstreams: [demo], timeouts: {header: 1s}}]", har))
	g.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, "it is loaded", func() bool { return strings.Contains(g.stderr.String(), "configuration loaded") })
	if res, _ := get(t, g.URL+"/slow?delay=3s"); res.StatusCode != 504 {
		t.Errorf("with a limit of 1 s the status is %s", res.Status)
	}
	if got := <-slow; !strings.HasPrefix(got, "late by 2s") {
		t.Errorf("the request from before got %q", got)
	}
	if records := g.stop(t); len(records) != 2 {
		t.Errorf("%d records, want 2", len(records))
	}
	if data, err := os.ReadFile(har); err != nil || !strings.Contains(string(data), "delay=3s") || strings.Contains(string(data), "delay=2s") {
		t.Errorf("the archive is %s, %v", data, err)
	}
}
