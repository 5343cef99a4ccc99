package main_test

import (
	"fmt"
	"net/http/httptest"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/goweir/weir/adapters/weirprom"
	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
)

// admin returns the URL of the listener for those who look after the gateway.
func (g *gateway) admin(t *testing.T) string {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		for line := range strings.Lines(g.stdout.String()) {
			if url, ok := strings.CutPrefix(line, "  health, metrics and profiles: "); ok && strings.HasSuffix(line, "\n") {
				return strings.TrimSpace(url)
			}
		}
	}
	t.Fatalf("there is no admin listener:\n%s", g.stdout)
	return ""
}

// A sample is one series of a scrape.
type sample struct {
	labels map[string]string
	value  float64
}

// samples are a scrape, or several, by the names of metrics.
type samples map[string][]sample

var (
	sampleLine = regexp.MustCompile(`^([a-z_A-Z0-9]+)(?:\{(.*)\})? (\S+)$`)
	labelPair  = regexp.MustCompile(`([a-z_A-Z0-9]+)="((?:[^"\\]|\\.)*)"`)
)

// add reads a scrape. Every series gets the labels that Prometheus adds.
func (s samples) add(t *testing.T, url string) {
	t.Helper()
	res, body := get(t, url)
	if res.StatusCode != 200 {
		t.Fatalf("GET %s: %s: %s", url, res.Status, body)
	}
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		m := sampleLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			t.Fatalf("the scrape has the line %q", line)
		}
		labels := map[string]string{"instance": "here", "job": "weir"}
		for _, pair := range labelPair.FindAllStringSubmatch(m[2], -1) {
			labels[pair[1]] = pair[2]
		}
		var value float64
		if _, err := fmt.Sscan(m[3], &value); err != nil {
			t.Fatalf("the scrape has the line %q: %v", line, err)
		}
		s[m[1]] = append(s[m[1]], sample{labels, value})
	}
}

// total is the sum of the series of a metric that have these labels.
func (s samples) total(name string, labels ...string) (sum float64) {
	for _, one := range s[name] {
		if matches(one.labels, labels) {
			sum += one.value
		}
	}
	return sum
}

func matches(labels map[string]string, want []string) bool {
	for i := 0; i < len(want); i += 2 {
		if labels[want[i]] != want[i+1] {
			return false
		}
	}
	return true
}

func scrape(t *testing.T, g *gateway) samples {
	t.Helper()
	s := samples{}
	s.add(t, g.admin(t)+"/metrics")
	return s
}

// Every metric that the dashboard and the alerts name, with the labels and the
// values that they ask for, is there when gateways have been through everything
// that it counts.
func TestDashboardAndAlertsFindTheirMetrics(t *testing.T) {
	all := samples{"up": {{map[string]string{"instance": "here", "job": "weir"}, 1}}} // Prometheus' own
	driveWithRedis(t, all)
	driveFaults(t, all)
	driveLost(t, all)
	driveRooms(t, all)
	driveMemory(t, all)
	selector := regexp.MustCompile(`\b((?:weir|go|process)_[a-z_0-9]+|up)\b(?:\{([^}]*)\})?`)
	grouping := regexp.MustCompile(`by \(([a-z_, ]*)\)`)
	matcher := regexp.MustCompile(`([a-z_]+)(=~|=)"([^"]*)"`)
	used := 0
	for _, q := range queries(t) {
		var found []sample
		for _, m := range selector.FindAllStringSubmatch(q.expr, -1) {
			series := all[m[1]]
			if len(series) == 0 {
				t.Errorf("%s: there is no metric %s", q.where, m[1])
				continue
			}
			used++
			for _, want := range matcher.FindAllStringSubmatch(m[2], -1) {
				pattern := regexp.MustCompile("^(?:" + want[3] + ")$")
				if want[2] == "=" {
					pattern = regexp.MustCompile("^" + regexp.QuoteMeta(want[3]) + "$")
				}
				var left []sample
				for _, s := range series {
					value, ok := s.labels[want[1]]
					if ok && (strings.HasPrefix(want[3], "$") || pattern.MatchString(value)) {
						left = append(left, s)
					}
				}
				if series = left; len(series) == 0 {
					t.Errorf("%s: %s has no series left with %s", q.where, m[1], want[0])
				}
			}
			found = append(found, series...)
		}
		for _, by := range grouping.FindAllStringSubmatch(q.expr, -1) {
			for label := range strings.SplitSeq(by[1], ", ") {
				if len(found) > 0 && !hasLabel(found, label) {
					t.Errorf("%s: what it asks about has no label %s", q.where, label)
				}
			}
		}
	}
	if used < 60 {
		t.Errorf("only %d selectors were found: does this test still read them?", used)
	}
}

func hasLabel(series []sample, label string) bool {
	for _, s := range series {
		if _, ok := s.labels[label]; ok {
			return true
		}
	}
	return false
}

// driveWithRedis: a limit on Redis, which dies, with a share in memory; the
// numbers are those of the answers.
func driveWithRedis(t *testing.T, all samples) {
	server := redistest.Start(t)
	g := start(t, fmt.Sprintf(`
admin: {listen: 127.0.0.1:0}
redis: {url: %q, when_down: local, budget: 1s}
routes:
  - {path: /, upstreams: [demo], limits: [{name: all, key: global, rate: 10/h}]}
  - {path: /free/, upstreams: [demo], strip_prefix: /free}
`, server.URL()))
	answers := burst(t, "/echo", 20, g)
	server.Kill()
	g.awaitLog(t, "Redis is away", func() { burst(t, "/echo", 1, g) })
	webSocketEcho(t, g.URL+"/free/ws")
	get(t, g.URL+"/free/fail")
	// An exchange is counted when its handler returns, a little after its client
	// has all.
	eventually(t, "both exchanges of /free/ are counted", func() bool {
		return scrape(t, g).total("weir_gateway_requests_total", "route", "/free/") == 2
	})
	all.add(t, g.admin(t)+"/metrics")
	now := scrape(t, g)
	if got, want := now.total("weir_limiter_decisions_total", "result", "denied"), float64(answers[429]); got < want {
		t.Errorf("weir_limiter_decisions_total has %v refusals, want at least the %v that were answered", got, want)
	}
	if got := now.total("weir_limiter_breaker_opened_total", "backend", "redis"); got < 1 {
		t.Errorf("the breaker opened %v times, want once", got)
	}
}

// driveFaults: nobody counts, the upstream cannot be reached, it breaks off, the
// budget for bodies is used up.
func driveFaults(t *testing.T, all samples) {
	server := redistest.Start(t)
	server.Kill()
	g := start(t, fmt.Sprintf(`
admin: {listen: 127.0.0.1:0}
audit: {budget: 1KiB}
redis: {url: %q, when_down: closed}
routes:
  - {path: /, upstreams: [demo]}
  - {path: /limited, upstreams: [demo], limits: [{name: guarded, key: global, rate: 10/h}]}
  - {path: /gone, upstreams: ["http://%s"]}
`, server.URL(), closedPort(t)))
	for path, want := range map[string]int{"/limited": 503, "/gone": 502} {
		if res, _ := get(t, g.URL+path); res.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, res.Status, want)
		}
	}
	if _, _, err := do(t, request(t, "GET", g.URL+"/broken?chunked=1", "")); err == nil {
		t.Error("/broken ended as if it was whole")
	}
	req := request(t, "POST", g.URL+"/echo", `{"a":"`+strings.Repeat("b", 64<<10)+`"}`)
	req.Header.Set("Content-Type", "application/json")
	if _, _, err := do(t, req); err != nil {
		t.Error(err)
	}
	tunnel, _, err := websocket.Dial(t.Context(), g.URL+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tunnel.CloseNow()
	eventually(t, "one tunnel is open, and nothing else is in flight", func() bool {
		now := scrape(t, g)
		return now.total("weir_proxy_open_tunnels") == 1 && now.total("weir_gateway_requests_in_flight") == 1
	})
	all.add(t, g.admin(t)+"/metrics")
}

// driveLost: the disk is full.
func driveLost(t *testing.T, all samples) {
	g := spawn(t, "-listen", "127.0.0.1:0", "-audit", "/dev/full", "-config", tempFile(t, `
admin: {listen: 127.0.0.1:0}
routes: [{path: /, upstreams: [demo], limits: [{name: client, key: ip, rate: 10/s}]}]
`))
	g.awaitListening(t, g.stdout)
	get(t, g.URL+"/echo")
	g.awaitLog(t, "exchange not recorded", func() {})
	all.add(t, g.admin(t)+"/metrics")
	if _, body := get(t, g.admin(t)+"/readyz"); !strings.Contains(string(body), `"part":"audit"`) {
		t.Errorf("/readyz does not say that records are lost: %s", body)
	}
}

// driveRooms: breakers open and the budget of retries is used up, the fallback
// answers, there is no slot, and a body is paced.
func driveRooms(t *testing.T, all samples) {
	g := start(t, fmt.Sprintf(`
admin: {listen: 127.0.0.1:0}
bandwidth: {total: 100MiB/s}
routes:
  - path: /dead
    upstreams: ["http://%s", "http://%s"]
    pool: {breaker: {failure_ratio: 0.5, min_requests: 3}, retries: {max: 2}}
    fallback: {json: '{"sorry": true}', status: 200}
  - {path: /clock, upstreams: [demo], in_flight: {name: slots, max: 1}}
  - {path: /download, upstreams: [demo]}
`, closedPort(t), closedPort(t)))
	for range 30 {
		if res, body := get(t, g.URL+"/dead"); res.StatusCode != 200 || !strings.Contains(string(body), "sorry") {
			t.Errorf("the fallback answers %s, %s", res.Status, body)
		}
	}
	get(t, g.URL+"/download?size=1MiB")
	clock := open(t, g.URL+"/clock")
	defer clock.Body.Close()
	if res, _ := get(t, g.URL+"/clock"); clock.StatusCode != 200 || res.StatusCode != 503 {
		t.Errorf("of two for one slot the answers are %s and %s, want 200 and 503", clock.Status, res.Status)
	}
	if r := g.ready(t); r.code != 200 || r.parts() != "route /dead" || !strings.Contains(r.Degraded[0].Why, "2 of 2 upstreams") {
		t.Errorf("with open breakers /readyz answers %+v", r)
	}
	all.add(t, g.admin(t)+"/metrics")
}

// driveMemory: quotas are forgotten. The memory of a gateway has room for a
// million, so this is a smaller one.
func driveMemory(t *testing.T, all samples) {
	m := weirprom.New(nil)
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	memory := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 1, Observer: m.Limiter()})
	for i := range 2000 {
		if _, err := memory.Take(t.Context(), limiter.Charge{Policy: limiter.PerHour("many", 10), Key: fmt.Sprint(i), Cost: 10}); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	defer server.Close()
	all.add(t, server.URL)
}

// closedPort returns an address where nobody listens, nor will: the port is
// taken until the test ends.
func closedPort(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	addr, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", addr.(*syscall.SockaddrInet4).Port)
}

func tempFile(t *testing.T, text string) string {
	t.Helper()
	name := t.TempDir() + "/gateway.yaml"
	writeFile(t, name, text)
	return name
}
