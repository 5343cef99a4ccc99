package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goweir/weir/internal/redistest"
)

// A readiness is the answer of /readyz.
type readiness struct {
	Status   string
	Degraded []struct{ Part, Why string }
	Config   struct {
		Hash   string
		Loaded time.Time
	}
	Build struct{ Version, Revision, Go string }
	code  int
}

func (g *gateway) ready(t *testing.T) readiness {
	t.Helper()
	res, body := get(t, g.admin(t)+"/readyz")
	r := readiness{code: res.StatusCode}
	if err := json.Unmarshal(body, &r); err != nil {
		t.Fatalf("/readyz answers %s: %v", body, err)
	}
	return r
}

// parts names what is degraded.
func (r readiness) parts() string {
	var names []string
	for _, d := range r.Degraded {
		names = append(names, d.Part)
	}
	return strings.Join(names, ", ")
}

// What is well says so, with the configuration's hash and the time it was
// loaded, which are in the log and in a metric, too.
func TestReady(t *testing.T) {
	g := start(t, `
admin: {listen: 127.0.0.1:0}
routes: [{path: /, upstreams: [demo]}]
`)
	r := g.ready(t)
	if r.code != 200 || r.Status != "ready" || len(r.Degraded) != 0 {
		t.Errorf("/readyz answers %+v, want ready", r)
	}
	if len(r.Config.Hash) != 12 || time.Since(r.Config.Loaded) > time.Minute {
		t.Errorf("the configuration is %+v, want a hash and a time just now", r.Config)
	}
	if !strings.HasPrefix(r.Build.Go, "go1.") || r.Build.Version == "" {
		t.Errorf("the build is %+v", r.Build)
	}
	g.awaitLog(t, "msg=started", func() {})
	if log := g.stderr.String(); !strings.Contains(log, "config="+r.Config.Hash) {
		t.Errorf("the log does not name the configuration:\n%s", log)
	}
	s := scrape(t, g)
	if s.total("weir_gateway_config_info", "hash", r.Config.Hash) != 1 || s.total("weir_gateway_build_info", "go", r.Build.Go) != 1 {
		t.Errorf("the metrics say %v and %v", s["weir_gateway_config_info"], s["weir_gateway_build_info"])
	}
	if at := s.total("weir_gateway_config_loaded_timestamp_seconds"); at < float64(r.Config.Loaded.Unix()) || at > float64(r.Config.Loaded.Unix()+1) {
		t.Errorf("the metric says it was loaded at %f, /readyz %v", at, r.Config.Loaded)
	}
	if res, body := get(t, g.admin(t)+"/livez"); res.StatusCode != 200 || string(body) != "ok\n" {
		t.Errorf("/livez answers %s, %q", res.Status, body)
	}
	if res, _ := get(t, g.admin(t)+"/debug/pprof/goroutine?debug=1"); res.StatusCode != 200 {
		t.Errorf("/debug/pprof answers %s", res.Status)
	}
	// Command lines have passwords in them.
	if res, _ := get(t, g.admin(t)+"/debug/pprof/cmdline"); res.StatusCode != 404 {
		t.Errorf("/debug/pprof/cmdline answers %s, want 404", res.Status)
	}
	// None of it is where clients are.
	for _, path := range []string{"/livez", "/readyz", "/metrics", "/debug/pprof/"} {
		if res, _ := get(t, g.URL+path); res.StatusCode != 404 {
			t.Errorf("clients get %s for %s, want the demo's 404", res.Status, path)
		}
	}
}

// Without admin.listen there is no such listener.
func TestNoAdminListener(t *testing.T) {
	g := start(t, "routes: [{path: /, upstreams: [demo]}]")
	g.stop(t)
	if out := g.stdout.String(); strings.Contains(out, "health, metrics") {
		t.Errorf("it listens although nobody asked:\n%s", out)
	}
}

// Redis that is away is said, and makes nobody send clients elsewhere.
func TestRedisAwayIsDegradedNotUnready(t *testing.T) {
	server := redistest.Start(t)
	g := start(t, fmt.Sprintf("admin: {listen: 127.0.0.1:0}\nredis: {url: %q}\n%s", server.URL(), sharedLimit))
	burst(t, "/echo", 1, g)
	server.Kill()
	g.awaitLog(t, "Redis is away", func() { burst(t, "/echo", 1, g) })
	if r := g.ready(t); r.code != 200 || r.Status != "degraded" || r.parts() != "redis" || !strings.Contains(r.Degraded[0].Why, "local") {
		t.Errorf("without Redis /readyz answers %+v, want degraded and why", r)
	}
	for range 5 { // probes fail, and it is away as before
		burst(t, "/echo", 1, g)
		time.Sleep(300 * time.Millisecond)
	}
	server.Restart()
	g.awaitLog(t, "Redis is back", func() { burst(t, "/echo", 1, g) })
	if r := g.ready(t); r.code != 200 || r.Status != "ready" {
		t.Errorf("with Redis again /readyz answers %+v, want ready", r)
	}
	log := g.stderr.String()
	for _, once := range []string{"Redis is away", "Redis is back"} {
		if n := strings.Count(log, once); n != 1 {
			t.Errorf("the log says %q %d times, want once", once, n)
		}
	}
}

// From the signal on /readyz answers 503, and for timeouts.leave new clients are
// served all the same: a load balancer needs that long to notice.
func TestDrainingIsNotReady(t *testing.T) {
	g := start(t, `
admin: {listen: 127.0.0.1:0}
timeouts: {leave: 1m, shutdown: 1m}
routes: [{path: /, upstreams: [demo]}]
`)
	admin := g.admin(t)
	clock := open(t, g.URL+"/clock") // keeps it draining
	g.cmd.Process.Signal(syscall.SIGTERM)
	g.awaitLog(t, "not ready any more", func() {})
	if res, body := get(t, admin+"/readyz"); res.StatusCode != 503 || !strings.Contains(string(body), `"draining"`) {
		t.Errorf("/readyz answers %s, %s; want 503 and draining", res.Status, body)
	}
	if res, _ := get(t, admin+"/livez"); res.StatusCode != 200 {
		t.Errorf("/livez answers %s, want 200: it must not be killed for draining", res.Status)
	}
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if res, err := fresh.Get(g.URL + "/echo"); err != nil || res.StatusCode != 200 {
		t.Errorf("a new client gets %v, %v while it leaves, want 200", res, err)
	} else {
		res.Body.Close()
	}
	g.cmd.Process.Signal(syscall.SIGTERM) // it has left for long enough
	g.awaitLog(t, "no new connections", func() {})
	if res, body := get(t, admin+"/readyz"); res.StatusCode != 503 || !strings.Contains(string(body), `"draining"`) {
		t.Errorf("at last /readyz answers %s, %s; want 503 and draining", res.Status, body)
	}
	g.cmd.Process.Signal(syscall.SIGTERM) // and drained
	if code := g.wait(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if _, err := io.Copy(io.Discard, clock.Body); err == nil {
		t.Error("the cut event stream has a clean end")
	}
}

// Memory above the limit is written down, once.
func TestHeapProfile(t *testing.T) {
	g := start(t, `
admin: {listen: 127.0.0.1:0, profile_above: 1MiB}
routes: [{path: /, upstreams: [demo]}]
`)
	g.awaitLog(t, "a heap profile is written", func() {})
	time.Sleep(600 * time.Millisecond) // two more looks
	files, err := filepath.Glob(filepath.Join(filepath.Dir(g.Audit), "gateway-heap-*.pprof"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the heap profiles are %q, %v; want one", files, err)
	}
	info, err := os.Stat(files[0])
	if err != nil || info.Size() == 0 || info.Mode().Perm() != 0o600 {
		t.Errorf("the profile has %d bytes and mode %v (%v), want some and 0600", info.Size(), info.Mode(), err)
	}
	if data := readFile(t, files[0]); len(data) < 2 || data[0] != 0x1f || data[1] != 0x8b {
		t.Errorf("the profile begins with % x, want gzip", data[:min(2, len(data))])
	}
	if at := scrape(t, g).total("weir_gateway_heap_profile_timestamp_seconds"); time.Since(time.Unix(int64(at), 0)) > time.Minute {
		t.Errorf("the metric says it was written at %f", at)
	}
	below := start(t, `
admin: {listen: 127.0.0.1:0, profile_above: 8GiB}
routes: [{path: /, upstreams: [demo]}]
`)
	time.Sleep(600 * time.Millisecond)
	if files, _ := filepath.Glob(filepath.Join(filepath.Dir(below.Audit), "gateway-heap-*")); len(files) > 0 {
		t.Errorf("a profile was written below the limit: %q", files)
	}
}

// A configuration that is not taken is said, counted, and harms nobody; the next
// one that is well clears it, and has another hash.
func TestRefusedConfigurationIsDegraded(t *testing.T) {
	const good = "admin: {listen: 127.0.0.1:0}\nroutes: [{path: /, upstreams: [demo], limits: [{name: a, key: ip, rate: %s}]}]\n"
	file := tempFile(t, fmt.Sprintf(good, "10/h"))
	g := spawn(t, "-listen", "127.0.0.1:0", "-audit", filepath.Join(t.TempDir(), "a.jsonl"), "-config", file)
	g.awaitListening(t, g.stdout)
	before := g.ready(t)
	get(t, g.URL+"/echo")

	writeFile(t, file, fmt.Sprintf(good, "ten"))
	g.cmd.Process.Signal(syscall.SIGHUP)
	g.awaitLog(t, "configuration refused", func() {})
	r := g.ready(t)
	if r.code != 200 || r.Status != "degraded" || r.parts() != "configuration" || !strings.Contains(r.Degraded[0].Why, ":2:") {
		t.Errorf("/readyz answers %+v, want degraded, and the line of the fault", r)
	}
	if r.Config.Hash != before.Config.Hash {
		t.Errorf("the hash has become %s from %s, though nothing has changed", r.Config.Hash, before.Config.Hash)
	}
	if got := scrape(t, g).total("weir_gateway_config_refused"); got != 1 {
		t.Errorf("weir_gateway_config_refused is %v, want 1", got)
	}

	writeFile(t, file, fmt.Sprintf(good, "20/h"))
	g.cmd.Process.Signal(syscall.SIGHUP)
	g.awaitLog(t, "configuration loaded", func() {})
	get(t, g.URL+"/echo")
	r, s := g.ready(t), scrape(t, g)
	if r.Status != "ready" || r.Config.Hash == before.Config.Hash || !r.Config.Loaded.After(before.Config.Loaded) {
		t.Errorf("/readyz answers %+v after %+v, want ready with another hash and a later time", r, before)
	}
	if n := len(s["weir_gateway_config_info"]); n != 1 || s.total("weir_gateway_config_info", "hash", r.Config.Hash) != 1 || s.total("weir_gateway_config_refused") != 0 {
		t.Errorf("the metrics have %d configurations: %v", n, s["weir_gateway_config_info"])
	}
	if got := s.total("weir_limiter_decisions_total", "policy", "a"); got != 2 {
		t.Errorf("%v decisions are counted, want those before and after: 2", got)
	}
}
