package weirprom_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/goweir/weir/adapters/weirprom"
	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

var update = flag.Bool("update", false, "write the table of metrics into README.md")

// all returns every collector of this package.
func all(t *testing.T) []prometheus.Collector {
	t.Helper()
	p, err := proxy.New(proxy.Config{Upstreams: []proxy.Upstream{{URL: "http://127.0.0.1:1"}}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := limiter.NewInFlight(limiter.InFlightOptions{Max: 1})
	if err != nil {
		t.Fatal(err)
	}
	return []prometheus.Collector{
		weirprom.New(nil),
		weirprom.InFlight(f),
		weirprom.Memory("a", limiter.NewMemory(nil)),
		weirprom.Budget("a", capture.NewBudget(1)),
		weirprom.Queue("a", capture.Async(capture.SinkFunc(func(context.Context, *capture.Exchange) error { return nil }), nil)),
		weirprom.Upstreams("a", p),
	}
}

// Whatever is registered a second time is an error of the registry.
func TestRegisteredTwice(t *testing.T) {
	once, again := all(t), all(t)
	reg := registered(t, once...)
	for i := range once {
		for _, c := range []prometheus.Collector{once[i], again[i]} {
			if err := reg.Register(c); !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
				t.Errorf("Register(%T) again: %v, want an AlreadyRegisteredError", c, err)
			}
		}
		if !reg.Unregister(once[i]) {
			t.Errorf("Unregister(%T) did nothing", once[i])
		}
		if err := reg.Register(again[i]); err != nil {
			t.Errorf("Register(%T) after that: %v", again[i], err)
		}
	}
	// Of another name it is another.
	if err := reg.Register(weirprom.Memory("b", limiter.NewMemory(nil))); err != nil {
		t.Error(err)
	}
}

// A client cannot make a metric grow without end, whatever names are made at run
// time; and policies outlive the flood of routes.
func TestMaxSeries(t *testing.T) {
	m := weirprom.New(&weirprom.Options{MaxSeries: 10})
	reg := registered(t, m)
	observe := func(policy, route string) {
		m.Limiter().Observe(t.Context(), limiter.Event{Kind: limiter.EventDecision, Policy: policy, Route: route, Result: limiter.OutcomeAllowed, Source: limiter.SourceMemory})
	}
	for i := range 100 {
		observe("p", fmt.Sprint("/", i))
	}
	got := gathered(t, reg)
	if n := got[`weir_limiter_decisions_total{policy="p",result="allowed",route="other"}`]; n != 90 {
		t.Errorf("%v decisions of the route \"other\", want 90", n)
	}
	for i := range 100 {
		observe(fmt.Sprint("p", i), "/")
	}
	for i := range 100 {
		m.Capture().Observe(t.Context(), capture.Event{Kind: capture.EventSkipped, Part: capture.PartRequest, Skip: capture.SkipReason(fmt.Sprint(i))})
		m.Capture().Observe(t.Context(), capture.Event{Kind: capture.EventDelivered, Route: fmt.Sprint("/\xff", i)})
		m.Limiter().Observe(t.Context(), limiter.Event{Kind: limiter.EventEviction, Policy: fmt.Sprint(i), N: 1})
		for kind := proxy.EventRequest; kind <= proxy.EventTunnelClose; kind++ {
			m.Proxy().Observe(t.Context(), proxy.Event{Kind: kind, Route: fmt.Sprint("/", i), Upstream: fmt.Sprint("http://", i), Reason: proxy.Busy,
				Result: proxy.OutcomeFailed, State: proxy.BreakerOpen, Status: i})
		}
		m.Limiter().Observe(t.Context(), limiter.Event{Kind: limiter.EventHold, Policy: fmt.Sprint(i), Result: limiter.OutcomeLeft})
	}
	perMetric, sum := map[string]int{}, map[string]float64{}
	for name, value := range gathered(t, reg) {
		name, _, _ = strings.Cut(name, "{")
		perMetric[name]++
		sum[name] += value
	}
	for name, n := range perMetric {
		if n > 30 {
			t.Errorf("%s has %d series, want at most 2 * 10, and some for the words beside \"other\"", name, n)
		}
	}
	for name, want := range map[string]float64{"weir_limiter_decisions_total": 200, "weir_capture_skipped_total": 100,
		"weir_capture_exchanges_total": 100, "weir_limiter_evictions_total": 100, "weir_limiter_hold_duration_seconds": 100,
		"weir_proxy_requests_total": 100, "weir_proxy_attempts_total": 100, "weir_proxy_downs_total": 100} {
		if sum[name] != want {
			t.Errorf("%s counts %v in all, want %v", name, sum[name], want)
		}
	}
}

// Nothing is lost when many goroutines meet labels for the first time, while
// somebody scrapes.
func TestConcurrent(t *testing.T) {
	m := weirprom.New(&weirprom.Options{NativeHistograms: true, MaxSeries: 50})
	reg := registered(t, m)
	const workers, each = 8, 500
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range each {
				m.Failover(fmt.Sprint("b", i%7)).Observe(t.Context(), limiter.Event{Kind: limiter.EventDecision, Policy: fmt.Sprint(i % 100), Route: "/", Result: limiter.OutcomeAllowed, Source: limiter.SourceMemory})
				m.Capture().Observe(t.Context(), capture.Event{Kind: capture.EventThinned, Route: fmt.Sprint(i % 3), Outcome: capture.OutcomeOK})
				if i%100 == 0 {
					if _, err := reg.Gather(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	sum := map[string]float64{}
	for name, value := range gathered(t, reg) {
		name, _, _ = strings.Cut(name, "{")
		sum[name] += value
	}
	for name, want := range map[string]float64{"weir_limiter_decisions_total": workers * each, "weir_limiter_store_duration_seconds": workers * each,
		"weir_capture_exchanges_total": workers * each, "weir_capture_outcomes_total": workers * each, "weir_limiter_breaker_state": 7} {
		if sum[name] != want {
			t.Errorf("%s counts %v in all, want %v", name, sum[name], want)
		}
	}
}

func TestNegativeMaxSeries(t *testing.T) {
	defer func() {
		if v := recover(); v == nil || !strings.Contains(fmt.Sprint(v), "MaxSeries is -1; allowed: 0 (1000) or more") {
			t.Errorf("New panicked with %v", v)
		}
	}()
	weirprom.New(&weirprom.Options{MaxSeries: -1})
}

type metric struct{ name, labels, help string }

// described returns all metrics, in order.
func described(t *testing.T) (ms []metric) {
	t.Helper()
	form := regexp.MustCompile(`^Desc\{fqName: "(\w+)", help: "(.*)", unit: ".*", constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)
	for _, c := range all(t) {
		ch := make(chan *prometheus.Desc)
		go func() { c.Describe(ch); close(ch) }()
		for d := range ch {
			m := form.FindStringSubmatch(d.String())
			if m == nil {
				t.Fatalf("%v does not look as expected", d)
			}
			var labels []string
			if name, _, ok := strings.Cut(m[3], "="); ok {
				labels = append(labels, name)
			}
			if m[4] != "" {
				labels = append(labels, strings.Split(m[4], ",")...)
			}
			ms = append(ms, metric{m[1], strings.Join(labels, ", "), m[2]})
		}
	}
	slices.SortFunc(ms, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	return ms
}

// Each metric is in a test that compares its value.
func TestEveryMetricIsTested(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, f := range files {
		if f == "metrics_test.go" {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(b)
	}
	for _, m := range described(t) {
		if !strings.Contains(source.String(), "`"+m.name) {
			t.Errorf("no test looks at %s", m.name)
		}
	}
}

// The README has every metric, as it is registered: go test -run Readme -update
func TestReadmeTable(t *testing.T) {
	var table strings.Builder
	table.WriteString("| metric | labels | what it says |\n| --- | --- | --- |\n")
	for _, m := range described(t) {
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", m.name, m.labels, m.help)
	}
	const begin, end = "<!-- metrics -->\n", "<!-- /metrics -->\n"
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), begin)
	now, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("README.md has no place for the table")
	}
	if now == table.String() {
		return
	}
	if !*update {
		t.Fatalf("the table of README.md is not that of the code, which is\n%s", table.String())
	}
	if err := os.WriteFile("README.md", []byte(before+begin+table.String()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Events of each room, as their observers are told them.
var events = []struct {
	name    string
	observe func(*weirprom.Metrics) func()
}{
	{"decision", func(m *weirprom.Metrics) func() {
		o, e := m.Limiter(), limiter.Event{Kind: limiter.EventDecision, Policy: "client", Route: "GET /users/{id}", Result: limiter.OutcomeAllowed,
			Source: limiter.SourceMemory, Start: time.Now(), Duration: 900, N: 1}
		return func() { o.Observe(context.Background(), e) }
	}},
	{"fallback", func(m *weirprom.Metrics) func() {
		o, e := m.Failover("redis"), limiter.Event{Kind: limiter.EventFailure, Start: time.Now(), Duration: 50e6, N: 1}
		return func() { o.Observe(context.Background(), e) }
	}},
	{"hold", func(m *weirprom.Metrics) func() {
		o, e := m.Limiter(), limiter.Event{Kind: limiter.EventHold, Policy: "client", Result: limiter.OutcomeAllowed, Duration: 50e6, N: 1}
		return func() { o.Observe(context.Background(), e) }
	}},
	{"capture", func(m *weirprom.Metrics) func() {
		o, e := m.Capture(), capture.Event{Kind: capture.EventDelivered, Route: "GET /users/{id}", Status: 200, Outcome: capture.OutcomeOK, Duration: 1e6}
		return func() { o.Observe(context.Background(), e) }
	}},
	{"request", func(m *weirprom.Metrics) func() {
		o, e := m.Proxy(), proxy.Event{Kind: proxy.EventRequest, Route: "GET /users/{id}", Upstream: "http://10.0.0.1:80", Result: proxy.OutcomeOK,
			Status: 200, Attempt: 1, Trigger: proxy.TriggerFirst, Duration: 5e6, BytesDown: 1000}
		return func() { o.Observe(context.Background(), e) }
	}},
	{"attempt", func(m *weirprom.Metrics) func() {
		o, e := m.Proxy(), proxy.Event{Kind: proxy.EventAttempt, Upstream: "http://10.0.0.1:80", Result: proxy.OutcomeOK, Status: 200,
			Attempt: 1, Trigger: proxy.TriggerFirst, Duration: 5e6}
		return func() { o.Observe(context.Background(), e) }
	}},
	{"body", func(m *weirprom.Metrics) func() {
		o, e := m.Capture(), capture.Event{Kind: capture.EventSkipped, Part: capture.PartRequest, Skip: capture.SkipNoBody}
		return func() { o.Observe(context.Background(), e) }
	}},
}

// An event allocates nothing once its labels are known.
func TestAllocations(t *testing.T) {
	for _, ev := range events {
		for _, native := range []bool{false, true} {
			observe := ev.observe(weirprom.New(&weirprom.Options{NativeHistograms: native}))
			observe()
			if n := testing.AllocsPerRun(1000, observe); n != 0 {
				t.Errorf("%s, native %v: %v allocations an event, want 0", ev.name, native, n)
			}
		}
	}
}

func BenchmarkObserve(b *testing.B) {
	for _, ev := range events {
		b.Run(ev.name, func(b *testing.B) {
			observe := ev.observe(weirprom.New(nil))
			b.ReportAllocs()
			for b.Loop() {
				observe()
			}
		})
	}
}

// The README's code is the Example's.
func TestReadmeCode(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(blocks) == 0 {
		t.Fatal("README.md has no Go block")
	}
	for _, block := range blocks {
		code := regexp.MustCompile(`(?m)^(.)`).ReplaceAllString(block[1], "\t$1")
		if !strings.Contains(string(example), code) {
			t.Errorf("no example has this code of README.md:\n%s", block[1])
		}
	}
}
