package weir_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/internal/stdtest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

// TestChainIsTransparent runs Go's own net/http tests with every handler behind
// the whole chain but the proxy. Header fields about quotas are off, because
// some of those tests compare whole headers.
func TestChainIsTransparent(t *testing.T) {
	stdtest.NetHTTP(t, stdtest.Variant{Name: "chain", Source: `package shim

import (
	"context"
	"net/http"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/limiter"
)

var (
	who   clientip.Resolver // trusts nobody
	audit = capture.Middleware(capture.SinkFunc(func(context.Context, *capture.Exchange) error { return nil }), nil)
	limit = limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{{
		Policy:   limiter.PerSecond("all", 1e9),
		Key:      limiter.KeyGlobal,
		RefundIf: func(status int) bool { return status >= 500 }, // so that it looks at the response
	}}, &limiter.Options{Headers: limiter.NoHeaders})
)

func Wrap(next http.Handler) http.Handler { return who.Middleware(audit(limit(next))) }
`})
}

// chainEvents are what the limits of a chain told.
type chainEvents struct {
	mu  sync.Mutex
	all []limiter.Event
}

func (c *chainEvents) Observe(_ context.Context, e limiter.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, e)
}

func (c *chainEvents) of(kind limiter.EventKind, result limiter.Outcome) (n int, last limiter.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.all {
		if e.Kind == kind && e.Result == result {
			n, last = n+1, e
		}
	}
	return n, last
}

// TestChainOfAllLimits has rules, a limit in flight and a pace between a record
// and a proxy, and each of them refuses, waits or paces.
func TestChainOfAllLimits(t *testing.T) {
	const size = 96 << 10
	body := strings.Repeat("0123456789abcdef", size/16)
	begin := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-begin
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, body)
	}))
	defer upstream.Close()
	forward, err := proxy.New(proxy.Config{Upstreams: []proxy.Upstream{{URL: upstream.URL}}})
	if err != nil {
		t.Fatal(err)
	}
	who, err := clientip.New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var told chainEvents
	var lines strings.Builder
	queue := capture.Async(capture.JSONL(&lines), nil)
	refused := func(r *http.Request, d limiter.Decision) {
		by := "downloads"
		if d.Rule >= 0 {
			by = "client"
		}
		if !d.Allowed {
			capture.From(r.Context()).Refused(by)
		}
	}
	rules := limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{{Policy: limiter.PerDay("client", 2), Key: limiter.KeyByClientIP}},
		&limiter.Options{OnDecision: refused, Observer: &told})
	downloads, err := limiter.NewInFlight(limiter.InFlightOptions{Name: "downloads", Max: 1, Queue: 1, MaxWait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	pace, err := limiter.NewBandwidth(limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{PerResponse: 256 << 10, Total: 1 << 20}, Observer: &told})
	if err != nil {
		t.Fatal(err)
	}
	h := who.Middleware(capture.Middleware(queue, nil)(rules(
		downloads.Middleware(nil, &limiter.Options{OnDecision: refused, Observer: &told})(pace.Middleware()(forward)))))
	front := httptest.NewServer(h)
	defer front.Close()

	type answer struct {
		status int
		header http.Header
		body   string
	}
	get := func(ctx context.Context, path string) answer {
		r, _ := http.NewRequestWithContext(ctx, "GET", front.URL+path, nil)
		res, err := front.Client().Do(r)
		if err != nil {
			return answer{}
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Error(err)
		}
		return answer{res.StatusCode, res.Header, string(b)}
	}
	until := func(what string, ok func(limiter.InFlightSnapshot) bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !ok(downloads.Snapshot()); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v", what, downloads.Snapshot())
			}
		}
	}
	whole := make(chan answer, 1)
	go func() { whole <- get(t.Context(), "/whole") }()
	until("it has the slot", func(s limiter.InFlightSnapshot) bool { return s.InUse == 1 })
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan answer, 1)
	go func() { left <- get(ctx, "/left") }()
	until("it waits", func(s limiter.InFlightSnapshot) bool { return s.Waiting == 1 })

	// Both have taken what the rules have.
	if a := get(t.Context(), "/rules"); a.status != 429 || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, `"client"`) {
		t.Errorf("beyond the rules: %+v", a)
	}
	leave()
	<-left
	until("it has left", func(s limiter.InFlightSnapshot) bool { return s.Waiting == 0 })
	// What it took is there again, in a moment, for one who then waits and is
	// refused: its place is taken by somebody without a request.
	place, vacate := context.WithCancel(t.Context())
	defer vacate()
	go downloads.Acquire(place, limiter.Slot{})
	until("the place is taken", func(s limiter.InFlightSnapshot) bool { return s.Waiting == 1 })
	var busy answer
	for deadline := time.Now().Add(20 * time.Second); busy.status != 503 && time.Now().Before(deadline); {
		busy = get(t.Context(), "/busy")
	}
	if policies := strings.Join(busy.header.Values("RateLimit-Policy"), ", "); busy.status != 503 || busy.header.Get("Retry-After") != "60" ||
		!strings.Contains(busy.body, `#temporary-reduced-capacity"`) || !strings.Contains(busy.body, `["downloads"]`) ||
		!strings.Contains(policies, `"downloads";q=1;qu="concurrent-requests"`) || !strings.Contains(policies, `"client";q=2`) {
		t.Errorf("no place to wait: %+v", busy)
	}
	vacate()
	close(begin)
	if a := <-whole; a.status != 200 || a.body != body || !strings.Contains(a.header.Get("RateLimit"), `"client"`) {
		t.Errorf("the whole: %d, %v, %d bytes", a.status, a.header, len(a.body))
	}
	until("the slot is free", func(s limiter.InFlightSnapshot) bool { return s.InUse == 0 && s.Waiting == 0 })
	// Of two units a day one is left: the one who left and the one who was
	// refused have given theirs back.
	if a := get(t.Context(), "/last"); a.status != 200 || a.header.Get("RateLimit") == "" {
		t.Errorf("the last: %d, %v", a.status, a.header)
	}
	if a := get(t.Context(), "/over"); a.status != 429 {
		t.Errorf("beyond the rules: %+v", a)
	}
	front.Close()
	queue.Close(context.Background())

	if n, e := told.of(limiter.EventSent, limiter.OutcomeAllowed); n != 2 || e.N != size || e.Duration <= 0 {
		t.Errorf("%d bodies sent, the last %+v; want 2 of %d bytes that had to wait", n, e, size)
	}
	for _, want := range []struct {
		kind   limiter.EventKind
		result limiter.Outcome
		n      int
	}{
		{limiter.EventSlot, limiter.OutcomeAllowed, 2}, {limiter.EventSlot, limiter.OutcomeLeft, 1}, {limiter.EventSlot, limiter.OutcomeDenied, 1},
		{limiter.EventRelease, 0, 2},
	} {
		if n, _ := told.of(want.kind, want.result); n != want.n {
			t.Errorf("told of %d times %v %v, want %d", n, want.kind, want.result, want.n)
		}
	}
	if strings.Contains(lines.String(), "weir: refused") {
		t.Error("a record has the mark of a refusal")
	}
	var records []string
	for line := range strings.Lines(lines.String()) {
		var x struct {
			Path, Outcome string
			Status        int
			RefusedBy     string `json:"refused_by"`
		}
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			t.Fatal(err)
		}
		if x.Path == "/busy" && x.Status == 429 {
			continue // it had to ask again
		}
		if x.Outcome != "ok" {
			x.Status = 0
		}
		records = append(records, fmt.Sprintf("%s %s %d %q", x.Path, x.Outcome, x.Status, x.RefusedBy))
	}
	slices.Sort(records)
	want := []string{
		`/busy ok 503 "downloads"`, `/last ok 200 ""`, `/left client_gone 0 ""`, `/over ok 429 "client"`, `/rules ok 429 "client"`, `/whole ok 200 ""`,
	}
	if !slices.Equal(records, want) {
		t.Errorf("records %q\nwant    %q", records, want)
	}
}
