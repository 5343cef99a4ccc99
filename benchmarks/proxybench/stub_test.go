package proxybench

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/proxy"
)

// stub is a transport that answers from memory with 1 KiB.
type stub struct{}

var kilobyte = make([]byte, 1024)

func (stub) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: 200, ContentLength: 1024,
		Header: http.Header{"Content-Type": {"text/plain"}, "Content-Length": {"1024"}},
		Body:   io.NopCloser(bytes.NewReader(kilobyte)),
	}, nil
}

// blank is a ResponseWriter that costs nothing.
type blank struct{ h http.Header }

func (w *blank) Header() http.Header              { return w.h }
func (w *blank) WriteHeader(int)                  {}
func (w *blank) Write(p []byte) (int, error)      { return len(p), nil }
func (w *blank) SetWriteDeadline(time.Time) error { return nil }
func (w *blank) SetReadDeadline(time.Time) error  { return nil }

func browser() *http.Request {
	r, _ := http.NewRequest("GET", "http://front/a/b?c=d", nil)
	r.RemoteAddr = "192.0.2.1:1234"
	for _, f := range []string{"Accept", "Accept-Encoding", "Accept-Language", "Cache-Control", "Cookie", "Referer", "User-Agent", "X-Request-Id"} {
		r.Header.Set(f, "some value")
	}
	return r
}

func weirStub(edit func(*proxy.Config)) http.Handler {
	cfg := proxy.Config{
		Upstreams:     []proxy.Upstream{{URL: "http://upstream"}},
		WrapTransport: func(http.RoundTripper) http.RoundTripper { return stub{} },
	}
	if edit != nil {
		edit(&cfg)
	}
	return Weir(cfg)
}

func serving(h http.Handler) func(int) {
	r, w := browser(), &blank{http.Header{}}
	return func(n int) {
		for range n {
			clear(w.h)
			h.ServeHTTP(w, r)
		}
	}
}

func options() pace.Options {
	if !*measuring {
		return pace.Options{Rounds: 1, Slice: 100 * time.Microsecond, Large: true}
	}
	return pace.Options{Rounds: *rounds, Slice: 20 * time.Millisecond}
}

// TestStub compares the handlers alone.
func TestStub(t *testing.T) {
	rows := pace.Compare(options(),
		pace.Case{Name: "ReverseProxy", Run: serving(reverse("http://upstream", stub{}, nil))},
		pace.Case{Name: "ReverseProxy with a pool", Run: serving(reverse("http://upstream", stub{}, &arrayPool{}))},
		pace.Case{Name: "weir", Run: serving(weirStub(nil))},
		pace.Case{Name: "weir, everything optional off", Run: serving(weirStub(EverythingOff))},
	)
	pace.Print(t.Output(), "a request over a transport that does nothing, 8 header fields, 1 KiB", rows)
	bare, pooled, weir, off := rows[0], rows[1], rows[2], rows[3]
	t.Logf("weir: %+.1f allocations over a pooled ReverseProxy, %.1f %% fewer bytes than the default; everything optional off: %+.1f, %.1f %%",
		weir.Allocs-pooled.Allocs, 100-100*weir.Bytes/bare.Bytes, off.Allocs-pooled.Allocs, 100-100*off.Bytes/bare.Bytes)
	if got := weir.Allocs - pooled.Allocs; *measuring && got > 4.1 {
		t.Errorf("%.1f allocations over a pooled ReverseProxy, want at most 4", got)
	}
	if weir.Bytes > 0.115*bare.Bytes && *measuring {
		t.Errorf("%.0f bytes a request, want at most 0.115 of ReverseProxy's %.0f", weir.Bytes, bare.Bytes)
	}
}

// nobody is an Observer that does nothing.
type nobody struct{}

func (nobody) Observe(context.Context, proxy.Event) {}

// TestFeatures says what each option adds to a request on which it has nothing
// to do: the upstreams are well, and nobody waits.
func TestFeatures(t *testing.T) {
	eight := func(cfg *proxy.Config) {
		cfg.Upstreams = nil
		for _, n := range "abcdefgh" {
			cfg.Upstreams = append(cfg.Upstreams, proxy.Upstream{URL: "http://upstream-" + string(n)})
		}
	}
	stale := func(h http.Handler) http.Handler {
		s, err := proxy.NewStale(&proxy.StaleOptions{MaxStale: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return s.Middleware(h)
	}
	features := []struct {
		name string
		h    http.Handler
	}{
		{"everything optional off", weirStub(EverythingOff)},
		{"Timeouts.UpstreamIdle and ClientIdle", weirStub(func(cfg *proxy.Config) { cfg.Via, cfg.RequestIDHeader = "-", "-" })},
		{"RequestIDHeader", weirStub(func(cfg *proxy.Config) { EverythingOff(cfg); cfg.RequestIDHeader = "" })},
		{"Via", weirStub(func(cfg *proxy.Config) { EverythingOff(cfg); cfg.Via = "" })},
		{"Forwarded", weirStub(func(cfg *proxy.Config) { EverythingOff(cfg); cfg.Forwarded = true })},
		{"RefuseEscapedSlashes, QueryRefuse", weirStub(func(cfg *proxy.Config) {
			EverythingOff(cfg)
			cfg.RefuseEscapedSlashes, cfg.Query = true, proxy.QueryRefuse
		})},
		{"8 upstreams, RoundRobin", weirStub(func(cfg *proxy.Config) { EverythingOff(cfg); eight(cfg) })},
		{"8 upstreams, LeastInFlight", weirStub(func(cfg *proxy.Config) {
			EverythingOff(cfg)
			eight(cfg)
			cfg.Balance = proxy.LeastInFlight
		})},
		{"8 upstreams, ByKey", weirStub(func(cfg *proxy.Config) {
			EverythingOff(cfg)
			eight(cfg)
			cfg.Balance, cfg.Key = proxy.ByKey, func(r *http.Request) string { return r.Header.Get("Cookie") }
		})},
		{"InFlight", weirStub(func(cfg *proxy.Config) { EverythingOff(cfg); cfg.InFlight.Max = 10 })},
		{"Ejection", weirStub(func(cfg *proxy.Config) { EverythingOff(cfg); cfg.Ejection.Failures = 5 })},
		{"Breaker", weirStub(func(cfg *proxy.Config) { EverythingOff(cfg); cfg.Breaker.FailureRatio = 0.5 })},
		{"Retries", weirStub(func(cfg *proxy.Config) {
			EverythingOff(cfg)
			cfg.Retries = proxy.Retries{Max: 2, Statuses: []int{503}, MaxBody: 1 << 16}
		})},
		{"Retries with Hedge", weirStub(func(cfg *proxy.Config) {
			EverythingOff(cfg)
			eight(cfg)
			cfg.Retries = proxy.Retries{Max: 2, Hedge: time.Second}
		})},
		{"Timeouts.Total", weirStub(func(cfg *proxy.Config) { EverythingOff(cfg); cfg.Timeouts.Total = time.Minute })},
		{"Fallback", weirStub(func(cfg *proxy.Config) { EverythingOff(cfg); cfg.Fallback = proxy.FixedAnswer(503, nil, nil) })},
		{"Observer", weirStub(func(cfg *proxy.Config) { EverythingOff(cfg); cfg.Observer = nobody{} })},
		{"Stale", stale(weirStub(EverythingOff))},
		{"all of these", stale(weirStub(func(cfg *proxy.Config) {
			eight(cfg)
			cfg.Forwarded, cfg.RefuseEscapedSlashes, cfg.Query = true, true, proxy.QueryRefuse
			cfg.InFlight.Max, cfg.Ejection.Failures, cfg.Breaker.FailureRatio = 10, 5, 0.5
			cfg.Retries = proxy.Retries{Max: 2, Statuses: []int{503}, MaxBody: 1 << 16}
			cfg.Fallback, cfg.Observer = proxy.FixedAnswer(503, nil, nil), nobody{}
		}))},
	}
	var cases []pace.Case
	for _, f := range features {
		cases = append(cases, pace.Case{Name: f.name, Run: serving(f.h)})
	}
	rows := pace.Compare(options(), cases...)
	base := rows[0]
	t.Logf("%s: %.1f us, %.0f allocations, %.0f B", base.Name, pace.Median(base.CPU).Median/1e3, base.Allocs, base.Bytes)
	for _, r := range rows[1:] {
		added := r.Minus(base) // round by round
		t.Logf("| %s | %+.1f | %+.0f | %+.0f |", r.Name, pace.Median(added.CPU).Median/1e3, added.Allocs, added.Bytes)
	}
}
