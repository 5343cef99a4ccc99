package weirotel_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/goweir/weir/adapters/weirotel"
	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
	"github.com/goweir/weir/proxy"
)

var update = flag.Bool("update", false, "write the table of metrics into README.md")

// begun fails the test if gauges could not be made, and ends them with it.
func begun(t *testing.T) func(metric.Registration, error) {
	return func(reg metric.Registration, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := reg.Unregister(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLimiter(t *testing.T) {
	r := newRig(t)
	memory := limiter.NewMemory(&limiter.MemoryOptions{Observer: r.Limiter()})
	begun(t)(r.Memory("api", memory))
	limits := limiter.Middleware(memory, limiter.Rules{
		{Policy: limiter.PerDay("everyone", 100), Key: limiter.KeyGlobal},
		{Policy: limiter.PerDay("user", 1), Key: limiter.KeyByHeader("X-User")},
	}, &limiter.Options{Observer: r.Limiter()})
	s := serve(t, routed("/users/{id}", limits(hello)))
	for i, want := range []int{200, 429, 400} {
		user := "ann"
		if i == 2 {
			user = ""
		}
		if status := get(t, s.URL+fmt.Sprint("/users/", i), "X-User", user); status != want {
			t.Errorf("request %d: status %d, want %d", i, status, want)
		}
	}
	r.shows(t, map[string]float64{
		"weir.limiter.decisions{http.route=/users/{id},weir.policy=everyone,weir.result=allowed}": 1,
		"weir.limiter.decisions{http.route=/users/{id},weir.policy=everyone,weir.result=spared}":  1,
		"weir.limiter.decisions{http.route=/users/{id},weir.policy=user,weir.result=allowed}":     1,
		"weir.limiter.decisions{http.route=/users/{id},weir.policy=user,weir.result=denied}":      1,
		"weir.limiter.decisions{http.route=/users/{id},weir.policy=user,weir.result=unkeyed}":     1,
		"weir.limiter.store.duration{weir.source=memory}":                                         4,
		"weir.limiter.keys{weir.memory=api}":                                                      2,
		"weir.limiter.memory{weir.memory=api}":                                                    -1,
	})
}

func TestRoom(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		r := newRig(t)
		memory := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 1 << 10, RefuseNew: refuse, Observer: r.Limiter()})
		s := serve(t, limiter.Middleware(memory, limiter.Rules{{Policy: limiter.PerDay("p", 1), Key: limiter.KeyByHeader("X-User")}}, nil)(hello))
		for i := range 100 {
			get(t, s.URL, "X-User", fmt.Sprint(i))
		}
		want := map[string]float64{"weir.limiter.evictions{weir.policy=p}": float64(memory.Stats().Evicted)}
		if refuse {
			want = map[string]float64{"weir.limiter.no_room{weir.policy=p}": float64(memory.Stats().Refused)}
		}
		if memory.Stats().Evicted+memory.Stats().Refused == 0 {
			t.Fatal("the memory was never full")
		}
		r.shows(t, want)
	}
}

// Leases that several processes share may end before they are renewed.
func TestLapses(t *testing.T) {
	r := newRig(t)
	r.Limiter().Observe(t.Context(), limiter.Event{Kind: limiter.EventLapse, Policy: "heavy", N: 3})
	r.shows(t, map[string]float64{"weir.inflight.lapses{weir.policy=heavy}": 3})
}

// flaky is a backend that fails when it is told to.
type flaky struct {
	limiter.Limiter
	broken atomic.Bool
}

func (f *flaky) Take(ctx context.Context, c limiter.Charge) (limiter.Result, error) {
	if f.broken.Load() {
		return limiter.Result{}, errors.New("broken")
	}
	return f.Limiter.Take(ctx, c)
}

func TestFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		server := &flaky{Limiter: limiter.NewMemory(nil)}
		shared := failover.New(server, failover.Open, &failover.Options{Failures: 2, Observer: r.Failover("redis")})
		h := limiter.Middleware(shared, limiter.Rules{{
			Policy: limiter.Policy{Name: "p", Algorithm: limiter.LeakyBucket, Limit: 1, Window: time.Second, Burst: 4}, Key: limiter.KeyGlobal,
		}}, &limiter.Options{Observer: r.Limiter()})(hello)
		request := func(n int) {
			for range n {
				req, err := http.NewRequestWithContext(t.Context(), "GET", "/", nil)
				if err != nil {
					t.Fatal(err)
				}
				h.ServeHTTP(sinkhole{}, req)
			}
		}
		state := func(is string) map[string]float64 {
			return map[string]float64{"weir.limiter.breaker.state{weir.backend=redis,weir.state=" + is + "}": 1}
		}
		r.shows(t, state("closed"))
		request(2)
		server.broken.Store(true)
		request(3)
		want := state("open")
		maps.Copy(want, map[string]float64{
			"weir.limiter.backend.failures{weir.backend=redis}":                2,
			"weir.limiter.breaker.opened{weir.backend=redis}":                  1,
			"weir.limiter.decisions{weir.policy=p,weir.result=allowed}":        2,
			"weir.limiter.decisions{weir.policy=p,weir.result=local_fallback}": 3,
			"weir.limiter.store.duration{weir.source=memory}":                  2,
			"weir.limiter.store.duration{weir.source=fallback}":                3,
			"weir.limiter.hold.duration{weir.policy=p,weir.result=allowed}":    1,
		})
		r.shows(t, want)
		server.broken.Store(false)
		time.Sleep(2 * time.Second)
		request(1)
		for k, v := range state("closed") {
			if got := r.gathered(t)[k]; got != v {
				t.Errorf("%s = %v after the backend came back", k, got)
			}
		}
	})
}

func TestCapture(t *testing.T) {
	r := newRig(t)
	budget := capture.NewBudget(1 << 20)
	release := make(chan struct{})
	q := capture.Async(capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		<-release
		if x.Path == "/users/fails" {
			return errors.New("disk full")
		}
		return nil
	}), &capture.AsyncOptions{Records: 3, Observer: r.Capture()})
	begun(t)(r.Budget("audit", budget))
	begun(t)(r.Queue("audit", q))
	record := capture.Middleware(q, &capture.Options{
		Observer: r.Capture(), Budget: budget, ResponseCap: 4, RefusalsPerSecond: -1,
		Keep: func(x *capture.Exchange) bool { return x.Path != "/users/sampled" },
	})
	s := serve(t, routed("/users/{what}", record(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/users/refused":
			capture.From(req.Context()).Refused("limit")
			w.WriteHeader(429)
		case "/users/long":
			io.WriteString(w, strings.Repeat("longer than the cap", 100))
		default:
			io.WriteString(w, "ok")
		}
	}))))
	get(t, s.URL+"/users/first")
	until(t, func() bool { st := q.Stats(); return st.Waiting == 1 && st.WaitingBytes == 0 }) // it is being delivered
	for _, path := range []string{"fails", "kept", "long", "toomany", "sampled", "refused"} {
		get(t, s.URL+"/users/"+path)
	}
	until(t, func() bool { return r.gathered(t)["weir.capture.outcomes{weir.outcome=ok}"] == 7 })
	r.shows(t, map[string]float64{
		"weir.capture.exchanges{http.route=/users/{what},weir.result=dropped}":     1,
		"weir.capture.exchanges{http.route=/users/{what},weir.result=sampled_out}": 1,
		"weir.capture.exchanges{http.route=/users/{what},weir.result=thinned}":     1,
		"weir.capture.outcomes{weir.outcome=ok}":                                   7,
		"weir.capture.dropped{weir.reason=full}":                                   1,
		"weir.capture.skipped{weir.part=request,weir.reason=no_body}":              7,
		"weir.capture.skipped{weir.part=response,weir.reason=status}":              1,
		"weir.capture.truncated{weir.part=response,weir.reason=cap}":               1,
		"weir.capture.budget.in_use{weir.budget=audit}":                            -1,
		"weir.capture.queue.records{weir.queue=audit}":                             4,
		"weir.capture.queue.size{weir.queue=audit}":                                -1,
	})
	close(release)
	if err := q.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := r.gathered(t)
	for name, want := range map[string]float64{
		"weir.capture.exchanges{http.route=/users/{what},weir.result=delivered}": 3,
		"weir.capture.dropped{weir.reason=failed}":                               1,
		"weir.capture.sink.duration{weir.result=delivered}":                      3,
		"weir.capture.sink.duration{weir.result=dropped}":                        1,
		"weir.capture.budget.in_use{weir.budget=audit}":                          0,
		"weir.capture.queue.records{weir.queue=audit}":                           0,
	} {
		if got[name] != want {
			t.Errorf("in the end %s = %v, want %v", name, got[name], want)
		}
	}
}

func TestProxy(t *testing.T) {
	r := newRig(t)
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/users/half":
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "half")
		case "/users/broken":
			panic(http.ErrAbortHandler)
		default:
			io.WriteString(w, "hello")
		}
	}))
	p := newProxy(t, r, proxy.Config{
		Upstreams: []proxy.Upstream{{URL: up.URL}},
		Fallback:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }),
	})
	s := serve(t, routed("/users/{what}", p))
	for path, want := range map[string]int{"/users/good": 200, "/users/half": 0, "/users/broken": 503} {
		if status := get(t, s.URL+path); status != want {
			t.Errorf("%s: status %d, want %d", path, status, want)
		}
	}
	until(t, func() bool { return r.gathered(t)["weir.proxy.aborts{weir.phase=response,weir.side=upstream}"] == 1 })
	u := "weir.upstream=" + up.URL + "}"
	to := "http.request.method=GET,http.response.status_code=200,server.address=127.0.0.1,server.port=" + up.URL[strings.LastIndex(up.URL, ":")+1:] + ",url.scheme=http}"
	r.shows(t, map[string]float64{
		"weir.proxy.requests{weir.code_class=2xx," + u:                                                                      2,
		"weir.proxy.requests{weir.code_class=5xx," + u:                                                                      1,
		"weir.proxy.outcomes{http.route=/users/{what},weir.result=ok}":                                                      1,
		"weir.proxy.outcomes{http.route=/users/{what},weir.result=aborted}":                                                 1,
		"weir.proxy.outcomes{http.route=/users/{what},weir.result=fallback}":                                                1,
		"weir.proxy.aborts{weir.phase=response,weir.side=upstream}":                                                         1,
		"weir.proxy.failures{weir.reason=unreachable," + u:                                                                  1,
		"weir.proxy.fallbacks{weir.reason=unreachable}":                                                                     1,
		"weir.proxy.io{weir.direction=down," + u:                                                                            9,
		"weir.proxy.attempts{weir.result=ok,weir.trigger=first," + u:                                                        2,
		"weir.proxy.attempts{weir.result=failed,weir.trigger=first," + u:                                                    1,
		"http.client.request.duration{" + to:                                                                                2,
		"http.client.request.duration{" + strings.Replace("error.type=broken,"+to, "http.response.status_code=200,", "", 1): 1,
	})
}

// Who holds a slot, who waits for one, who is refused; and nobody, in the end.
func TestInFlight(t *testing.T) {
	r := newRig(t)
	f, err := limiter.NewInFlight(limiter.InFlightOptions{Name: "heavy", Max: 1, Queue: 1, MaxWait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	begun(t)(r.InFlight(f))
	gate := make(chan struct{})
	one := f.Middleware(nil, &limiter.Options{Observer: r.Limiter()})
	s := serve(t, r.server(one(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-gate }))))
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { get(t, s.URL) })
	}
	until(t, func() bool { st := f.Snapshot(); return st.InUse == 1 && st.Waiting == 1 })
	if status := get(t, s.URL); status != 503 {
		t.Errorf("the third got %d, want 503", status)
	}
	has(t, r.one(t, "server"), map[attribute.Key]string{"weir.refused_by": "heavy"})
	r.shows(t, map[string]float64{
		"weir.inflight.requests{weir.policy=heavy}":                          1,
		"weir.inflight.slots.in_use{weir.policy=heavy}":                      1,
		"weir.inflight.slots.limit{weir.policy=heavy}":                       1,
		"weir.inflight.waiting{weir.policy=heavy}":                           1,
		"weir.inflight.decisions{weir.policy=heavy,weir.result=allowed}":     1,
		"weir.inflight.decisions{weir.policy=heavy,weir.result=denied}":      1,
		"weir.inflight.refusals{weir.policy=heavy,weir.reason=full}":         1,
		"weir.inflight.wait.duration{weir.policy=heavy,weir.result=allowed}": 1,
		"weir.inflight.wait.duration{weir.policy=heavy,weir.result=denied}":  1,
	})
	close(gate)
	wg.Wait()
	until(t, func() bool { return r.gathered(t)["weir.inflight.requests{weir.policy=heavy}"] == 0 })
	for _, slot := range r.named("slot heavy") {
		if slot.EndTime().Before(slot.StartTime()) {
			t.Errorf("the wait for a slot took from %v to %v", slot.StartTime(), slot.EndTime())
		}
	}
	if n := len(r.named("slot heavy")); n != 3 {
		t.Errorf("%d spans of slots, want 3", n)
	}
}

func TestBandwidth(t *testing.T) {
	r := newRig(t)
	b, err := limiter.NewBandwidth(limiter.BandwidthOptions{
		Limits: limiter.BandwidthLimits{PerResponse: 1 << 30}, Bodies: limiter.AllBodies, Observer: r.Limiter(),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		io.WriteString(w, strings.Repeat("x", 1000))
	})))
	res, err := http.Post(s.URL, "text/plain", strings.NewReader("some bytes"))
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	want := map[string]float64{
		"weir.bandwidth.bodies{weir.class=,weir.direction=sent,weir.result=allowed}":     1,
		"weir.bandwidth.bodies{weir.class=,weir.direction=received,weir.result=allowed}": 1,
		"weir.bandwidth.io{weir.class=,weir.direction=sent}":                             1000,
		"weir.bandwidth.io{weir.class=,weir.direction=received}":                         10,
		"weir.bandwidth.wait.duration{weir.class=,weir.direction=sent}":                  1,
		"weir.bandwidth.wait.duration{weir.class=,weir.direction=received}":              1,
	}
	until(t, func() bool { return len(r.gathered(t)) == len(want) })
	r.shows(t, want)
}

// What happens to upstreams.
func TestUpstreams(t *testing.T) {
	r := newRig(t)
	good := serve(t, hello)
	p := newProxy(t, r, proxy.Config{
		Upstreams:   []proxy.Upstream{{URL: deaf}, {URL: good.URL}},
		Ejection:    proxy.Ejection{Failures: 1, For: time.Hour, Max: time.Hour},
		Breaker:     proxy.Breaker{FailureRatio: .5, MinRequests: 1, OpenFor: time.Hour},
		Retries:     proxy.Retries{Max: 1},
		InFlight:    proxy.InFlight{Max: 5},
		HealthCheck: proxy.HealthCheck{Path: "/health", Interval: time.Millisecond, Timeout: time.Minute, Down: 1},
	})
	begun(t)(r.Upstreams("users", p))
	s := serve(t, p)
	for range 3 { // one of them asks the dead one
		get(t, s.URL)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { p.CheckHealth(ctx) })
	until(t, func() bool { return p.Upstreams()[0].Down })
	got := r.gathered(t)
	of := func(name, upstream string) string {
		return "weir.proxy.upstream." + name + "{weir.proxy=users,weir.upstream=" + upstream + "}"
	}
	for name, want := range map[string]float64{
		"weir.proxy.ejections{weir.upstream=" + deaf + "}":      1,
		"weir.proxy.breaker.opened{weir.upstream=" + deaf + "}": 1,
		"weir.proxy.no_budget{weir.trigger=connect}":            1,
		"weir.proxy.downs{weir.upstream=" + deaf + "}":          1,
		of("up", deaf): 0, of("up", good.URL): 1,
		of("in_flight", deaf): 0, of("waiting", deaf): 0, of("ejected", good.URL): 0,
		"weir.proxy.upstream.breaker.state{weir.proxy=users,weir.state=open,weir.upstream=" + deaf + "}":       1,
		"weir.proxy.upstream.breaker.state{weir.proxy=users,weir.state=closed,weir.upstream=" + good.URL + "}": 1,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s = %v (there: %v), want %v", name, value, ok, want)
		}
	}
	if left := got[of("ejected", deaf)]; left <= 0 || left > 3600 {
		t.Errorf("the ejection lasts for %v s", left)
	}
}

func TestWait(t *testing.T) {
	r := newRig(t)
	gate := make(chan struct{})
	up := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-gate }))
	p := newProxy(t, r, proxy.Config{Upstreams: []proxy.Upstream{{URL: up.URL}}, InFlight: proxy.InFlight{Max: 1, Queue: 1, Wait: time.Minute}})
	s := serve(t, p)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { get(t, s.URL) })
	}
	until(t, func() bool { u := p.Upstreams()[0]; return u.InFlight == 1 && u.Waiting == 1 })
	if status := get(t, s.URL); status != 503 {
		t.Errorf("the third got %d, want 503", status)
	}
	close(gate)
	wg.Wait()
	got := r.gathered(t)
	for _, result := range []string{"ok", "refused"} {
		if n := got["weir.proxy.wait.duration{weir.result="+result+",weir.upstream="+up.URL+"}"]; n != 1 {
			t.Errorf("%v waits ended as %s, want 1", n, result)
		}
	}
}

// everything makes every instrument measure something.
func everything(t *testing.T, r *rig) {
	t.Helper()
	ctx := t.Context()
	begun(t)(r.Memory("a", limiter.NewMemory(nil)))
	f, err := limiter.NewInFlight(limiter.InFlightOptions{Max: 1})
	if err != nil {
		t.Fatal(err)
	}
	begun(t)(r.InFlight(f))
	begun(t)(r.Budget("a", capture.NewBudget(1)))
	begun(t)(r.Queue("a", capture.Async(capture.SinkFunc(func(context.Context, *capture.Exchange) error { return nil }), nil)))
	p := newProxy(t, r, proxy.Config{Upstreams: []proxy.Upstream{{URL: deaf}}, Breaker: proxy.Breaker{FailureRatio: 1}})
	begun(t)(r.Upstreams("a", p))
	get(t, serve(t, p).URL)
	get(t, serve(t, newProxy(t, r, proxy.Config{Upstreams: []proxy.Upstream{{URL: serve(t, hello).URL}}})).URL)
	for kind := limiter.EventDecision; kind <= limiter.EventLapse; kind++ {
		for _, result := range []limiter.Outcome{limiter.OutcomeAllowed, limiter.OutcomeDenied} {
			r.Failover("b").Observe(ctx, limiter.Event{Kind: kind, Policy: "p", Route: "/", Result: result, Source: limiter.SourceMemory, N: 1})
		}
	}
	for kind := capture.EventOffered; kind <= capture.EventTruncated; kind++ {
		r.Capture().Observe(ctx, capture.Event{Kind: kind, Route: "/", Outcome: capture.OutcomeOK, Part: capture.PartRequest, Skip: capture.SkipCap, Drop: capture.DropFailed})
	}
	for kind := proxy.EventRequest; kind <= proxy.EventTunnelClose; kind++ {
		r.Proxy().Observe(ctx, proxy.Event{Kind: kind, Route: "/", Upstream: "u", Result: proxy.OutcomeAborted, Side: proxy.SideServer, Phase: proxy.PhaseCheck,
			Reason: proxy.Busy, Status: 200, Trigger: proxy.TriggerFirst, State: proxy.BreakerOpen})
	}
}

// The README has every metric, as it is measured, and each is in a test that
// compares its value: go test -run Readme -update
func TestReadmeTable(t *testing.T) {
	r := newRig(t)
	everything(t, r)
	var data metricdata.ResourceMetrics
	if err := r.reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("metrics_test.go")
	if err != nil {
		t.Fatal(err)
	}
	spans, err := os.ReadFile("spans_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, m := range data.ScopeMetrics[0].Metrics {
		attributes := map[string]bool{}
		for name := range gatheredFrom(m) {
			attributes[name] = true
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |\n", m.Name, m.Unit, strings.Join(slices.Sorted(maps.Keys(attributes)), ", "), m.Description))
		if !strings.Contains(string(source)+string(spans), `"`+m.Name+`{`) && !strings.Contains(string(source), `of("`+strings.TrimPrefix(m.Name, "weir.proxy.upstream.")+`"`) {
			t.Errorf("no test looks at %s", m.Name)
		}
	}
	slices.Sort(rows)
	table := "| metric | unit | attributes | what it says |\n| --- | --- | --- | --- |\n" + strings.Join(rows, "")
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
	if now == table {
		return
	}
	if !*update {
		t.Fatalf("the table of README.md is not that of the code, which is\n%s", table)
	}
	if err := os.WriteFile("README.md", []byte(before+begin+table+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// gatheredFrom returns the names of all attributes of a metric.
func gatheredFrom(m metricdata.Metrics) map[string]bool {
	names := map[string]bool{}
	for _, match := range regexp.MustCompile(`"Key":"([^"]+)"`).FindAllStringSubmatch(asJSON(m.Data), -1) {
		names[match[1]] = true
	}
	return names
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

// Names that are made at run time do not make a metric grow without end.
func TestMaxSeries(t *testing.T) {
	r := newRig(t)
	for i := range 3000 {
		r.Limiter().Observe(t.Context(), limiter.Event{Kind: limiter.EventDecision, Policy: "p", Route: fmt.Sprint("/", i), Result: limiter.OutcomeAllowed, Source: limiter.SourceMemory})
		r.Proxy().Observe(t.Context(), proxy.Event{Kind: proxy.EventDown, Upstream: fmt.Sprint("u", i)})
	}
	got := r.gathered(t)
	if len(got) > 2010 || got["weir.limiter.decisions{http.route=other,weir.policy=p,weir.result=allowed}"] != 2000 || got["weir.proxy.downs{weir.upstream=other}"] != 2000 {
		t.Errorf("%d series", len(got))
	}
}

// Concurrent events, while somebody collects: none is lost.
func TestConcurrent(t *testing.T) {
	r := newRig(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 500 {
				r.Failover(fmt.Sprint(i%3)).Observe(t.Context(), limiter.Event{Kind: limiter.EventDecision, Policy: fmt.Sprint(i % 100), Result: limiter.OutcomeAllowed, Source: limiter.SourceMemory})
				if i%100 == 0 {
					r.gathered(t)
				}
			}
		})
	}
	wg.Wait()
	if n := r.gathered(t)["weir.limiter.store.duration{weir.source=memory}"]; n != 4000 {
		t.Errorf("%v decisions, want 4000", n)
	}
}

// An event costs what the SDK makes of it; nothing more is allocated.
func BenchmarkObserve(b *testing.B) {
	e := limiter.Event{Kind: limiter.EventDecision, Policy: "client", Route: "GET /users/{id}", Result: limiter.OutcomeAllowed,
		Source: limiter.SourceMemory, Start: time.Now(), Duration: 900, N: 1}
	b.Run("metrics", func(b *testing.B) {
		o := newRig(b).Limiter()
		b.ReportAllocs()
		for b.Loop() {
			o.Observe(context.Background(), e)
		}
	})
	b.Run("metrics and a span", func(b *testing.B) {
		r := newRig(b)
		o := r.Limiter()
		ctx, span := r.tracer.Start(context.Background(), "server")
		defer span.End()
		b.ReportAllocs()
		for b.Loop() {
			o.Observe(ctx, e)
			r.spans.Reset()
		}
	})
	b.Run("no SDK", func(b *testing.B) {
		t, err := weirotel.New(nil)
		if err != nil {
			b.Fatal(err)
		}
		o := t.Limiter()
		b.ReportAllocs()
		for b.Loop() {
			o.Observe(context.Background(), e)
		}
	})
}

func TestAllocations(t *testing.T) {
	o := newRig(t).Limiter()
	e := limiter.Event{Kind: limiter.EventDecision, Policy: "client", Route: "/", Result: limiter.OutcomeAllowed, Source: limiter.SourceMemory, Duration: 900, N: 1}
	ctx := context.Background()
	o.Observe(ctx, e)
	if n := testing.AllocsPerRun(1000, func() { o.Observe(ctx, e) }); n > 0 {
		t.Errorf("%v allocations a decision without a span, want 0", n)
	}
}

// The SDK is for the program to choose.
func TestNoSDK(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(f, "_test.go") && strings.Contains(string(b), `"go.opentelemetry.io/otel/sdk`) {
			t.Errorf("%s imports the SDK", f)
		}
	}
}
