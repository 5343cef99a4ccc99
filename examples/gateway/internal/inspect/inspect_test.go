package inspect

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/limiter"
)

func newInspector(t *testing.T, o Options) *Inspector {
	t.Helper()
	o.Token, o.Log = "token", slog.New(slog.DiscardHandler)
	in, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// ask returns the answer to an API request.
func ask[T any](t *testing.T, in *Inspector, path string) (v T) {
	t.Helper()
	r := httptest.NewRequest("GET", "http://127.0.0.1/api/"+path, nil)
	r.Header.Set("Authorization", "Bearer token")
	w := httptest.NewRecorder()
	in.ServeHTTP(w, r)
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Code != 200 {
		t.Fatalf("%s: %d %s, %v", path, w.Code, w.Body, err)
	}
	return v
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := New(Options{})
	if err == nil || !strings.Contains(err.Error(), "Token") || !strings.Contains(err.Error(), "Log") {
		t.Errorf("New: %v, want both faults", err)
	}
}

func TestOwnHost(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:9090": true, "[::1]:9090": true, "[::1]": true, "localhost:1": true, "LOCALHOST": true,
		"10.1.2.3:80": true, "": false, "evil.example": false, "127.0.0.1.evil.example:9090": false, "localhost.evil.example": false,
		"127.0.0.1@evil.example": false, "127.1": false, "2130706433": false,
	} {
		if got := ownHost(host); got != want {
			t.Errorf("ownHost(%q) = %v, want %v", host, got, want)
		}
	}
}

// chain is a handler behind limits and capture, as in a gateway.
func chain(in *Inspector, limits *Limits, h http.HandlerFunc) http.Handler {
	opts := &capture.Options{Observer: in.CaptureObserver()}
	return in.Middleware(capture.Middleware(in.Sink(), opts)(limits.Middleware(h)))
}

func serve(h http.Handler, path string) int {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Code
}

func ok(http.ResponseWriter, *http.Request) {}

// A rule that is turned to shadow lets pass what it would refuse, and when it is
// turned back its quota is as it was: nothing was forgotten in between.
func TestShadowKeepsTheQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInspector(t, Options{Actions: true})
		rules := limiter.Rules{
			{Policy: limiter.PerHour("wide", 100), Key: limiter.KeyGlobal},
			{Policy: limiter.PerHour("narrow", 2), Key: limiter.KeyGlobal},
		}
		limits := in.Limits("/", limiter.NewMemory(nil), rules, []string{"global", "global"}, nil)
		in.Show([]Route{{Pattern: "/", Limits: limits}})
		h := chain(in, limits, ok)
		act := func(on bool) {
			t.Helper()
			r := httptest.NewRequest("POST", "http://127.0.0.1/api/shadow", strings.NewReader(fmt.Sprintf(`{"route":"/","policy":"narrow","on":%v}`, on)))
			r.Header.Set("Authorization", "Bearer token")
			w := httptest.NewRecorder()
			in.ServeHTTP(w, r)
			if w.Code != 200 {
				t.Fatalf("shadow: %d %s", w.Code, w.Body)
			}
		}
		var got []int
		for range 3 {
			got = append(got, serve(h, "/"))
		}
		act(true)
		got = append(got, serve(h, "/"))
		act(false)
		got = append(got, serve(h, "/"))
		if want := "[200 200 429 200 429]"; fmt.Sprint(got) != want {
			t.Errorf("answers %v, want %s", got, want)
		}
		s := ask[state](t, in, "state")
		want := ruleState{Policy: "narrow", Rate: "2/h", Algorithm: "token bucket", By: "global", Allowed: 2, Refused: 2, Shadowed: 1}
		if len(s.Routes) != 1 || s.Routes[0].Rules[1] != want {
			t.Errorf("the rule is shown as %+v, want %+v", s.Routes, want)
		}
		if wide := s.Routes[0].Rules[0]; wide.Allowed != 3 || wide.Spared != 2 {
			t.Errorf("the other rule is shown as %+v, want 3 allowed and 2 spared", wide)
		}
		// Another configuration goes on with the numbers, and with what was
		// switched by hand unless it says something else itself.
		act(true)
		want.Shadow = true
		load := func() *Limits {
			l := in.Limits("/", limits.limiter, rules, limits.by, nil)
			in.Show([]Route{{Pattern: "/", Limits: l}})
			return l
		}
		if got := load().state()[1]; got != want {
			t.Errorf("after another load the rule is shown as %+v, want %+v", got, want)
		}
		rules[1].Shadow = true
		load()
		rules[1].Shadow = false
		want.Shadow = false
		if got := load().state()[1]; got != want {
			t.Errorf("after the configuration has changed it the rule is shown as %+v, want %+v", got, want)
		}
	})
}

// The level that is drawn is the limiter's own: what a bucket holds by the time
// until it is whole is what it says remains, for every algorithm.
func TestLevelIsWhatRemains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiter.NewMemory(nil)
		for a := limiter.TokenBucket; a <= limiter.SlidingLog; a++ {
			p := limiter.Policy{Name: a.String(), Algorithm: a, Limit: 10, Window: time.Minute}
			if a == limiter.TokenBucket {
				p.Burst = 7
			}
			refused := false
			for i := range 40 {
				time.Sleep(time.Duration(i%5) * 900 * time.Millisecond)
				res, err := l.Take(t.Context(), limiter.Charge{Policy: p, Key: "k", Cost: 1})
				if err != nil {
					t.Fatal(err)
				}
				refused = refused || !res.Allowed
				if level := levelOf(p, res); int(level+1e-6) != res.Remaining || level > float64(capacityOf(p)) {
					t.Errorf("%v, step %d: level %v, the limiter says %d remain of %+v", a, i, level, res.Remaining, res)
				}
			}
			if !refused {
				t.Errorf("%v: nothing was refused", a)
			}
		}
	})
}

// Whatever keys a flood brings, memory stays bounded and who is busy stays known.
func TestBusyKeysSurviveAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeys()
		p := limiter.PerMinute("p", 60)
		for i := range 5000 {
			time.Sleep(time.Millisecond)
			k.note(nil, limiter.Charge{Policy: p, Key: fmt.Sprint("stranger ", i), Cost: 1}, limiter.Result{}, "refused", 0, time.Now())
			if i%4 == 0 {
				k.note(nil, limiter.Charge{Policy: p, Key: "busy", Cost: 1}, limiter.Result{}, "allowed", 1, time.Now())
			}
		}
		if len(k.known) > maxKeys {
			t.Errorf("%d keys are known, want %d at most", len(k.known), maxKeys)
		}
		top := k.top(3, time.Now())
		if len(top) == 0 || top[0].Allowed < 1000 {
			t.Errorf("the busiest are %+v, want the one with 1250 requests", top)
		}
		for id, s := range k.known {
			if len(s.samples) > maxSamples || s.hash == "" || strings.Contains(s.hash, id.key) {
				t.Fatalf("%v: %d samples, hash %q", id, len(s.samples), s.hash)
			}
		}
	})
}

// A flood against one key leaves a past that can be drawn.
func TestSamplesSpanTheCurve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeys()
		p := limiter.Policy{Name: "p", Limit: 1, Window: time.Second, Burst: 5} // whole in 5 s
		l := limiter.NewMemory(nil)
		var hash string
		for range 8000 {
			time.Sleep(time.Millisecond)
			c := limiter.Charge{Policy: p, Key: "k", Cost: 1}
			res, _ := l.Take(t.Context(), c)
			verdict := "allowed"
			if !res.Allowed {
				verdict = "refused"
			}
			hash, _ = k.note(l, c, res, verdict, levelOf(p, res), time.Now())
		}
		var samples []sample
		if !k.find("p", hash, func(s *keyState) { samples = s.samples }) || len(samples) < 20 {
			t.Fatalf("%d samples", len(samples))
		}
		if span := samples[len(samples)-1].At - samples[0].At; span < 5000 {
			t.Errorf("the samples span %d ms, want the 5 s that the bucket takes to fill", span)
		}
	})
}

func record(t *testing.T, in *Inspector, n int) {
	t.Helper()
	for i := range n {
		if err := in.Sink().Record(t.Context(), &capture.Exchange{Method: "GET", Path: fmt.Sprint("/", i), Status: 200, Start: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
}

// A blocked is a browser that does not read until it is let.
type blocked struct {
	http.ResponseWriter
	gate chan struct{}
	mu   sync.Mutex
	text strings.Builder
}

func (b *blocked) Flush() {}

func (b *blocked) Write(p []byte) (int, error) {
	<-b.gate
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// A browser that does not read makes nobody wait, and is told later how many rows
// it has missed.
func TestSlowBrowserIsToldWhatItMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInspector(t, Options{Ring: capture.RingOptions{Records: 20}})
		record(t, in, 5)
		ctx, cancel := context.WithCancel(t.Context())
		w := &blocked{ResponseWriter: httptest.NewRecorder(), gate: make(chan struct{})}
		done := make(chan struct{})
		go func() {
			defer close(done)
			in.feed(w, httptest.NewRequest("GET", "/api/feed", nil).WithContext(ctx))
		}()
		synctest.Wait() // it is stuck in its first write
		began := time.Now()
		record(t, in, 1000)
		if took := time.Since(began); took != 0 {
			t.Errorf("the records took %v of waiting", took)
		}
		close(w.gate)
		time.Sleep(time.Second)
		cancel()
		<-done
		seen, lost := 0, int64(0)
		for event := range strings.SplitSeq(w.text.String(), "\n\n") {
			data, ok := strings.CutPrefix(event, "event: rows\ndata: ")
			if !ok {
				continue
			}
			var rows struct {
				Rows []row
				Lost int64
			}
			if err := json.Unmarshal([]byte(data), &rows); err != nil {
				t.Fatal(err)
			}
			seen, lost = seen+len(rows.Rows), lost+rows.Lost
		}
		if seen != 20 || lost != 985 {
			t.Errorf("%d rows were seen and %d lost, want 20 and 985", seen, lost)
		}
	})
}

func TestFeedsAreBounded(t *testing.T) {
	in := newInspector(t, Options{})
	s := httptest.NewServer(in)
	t.Cleanup(s.Close) // when the feeds have ended
	get := func() *http.Response {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/api/feed", nil)
		req.Header.Set("Authorization", "Bearer token")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	for range maxStreams {
		if res := get(); res.StatusCode != 200 {
			t.Fatalf("a feed: %s", res.Status)
		}
	}
	res := get()
	if body, _ := io.ReadAll(res.Body); res.StatusCode != 503 {
		t.Errorf("one too many: %s %s", res.Status, body)
	}
}

// The counters count what there is no record of, too.
func TestRefusalsThatAreOnlyCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInspector(t, Options{})
		limits := in.Limits("/", limiter.NewMemory(nil), limiter.Rules{{Policy: limiter.PerHour("none", 0), Key: limiter.KeyGlobal}}, []string{"global"},
			func(limiter.Rules) *limiter.Options {
				return &limiter.Options{OnDecision: func(r *http.Request, d limiter.Decision) { capture.From(r.Context()).Refused("none") }}
			})
		h := chain(in, limits, ok)
		for range 150 {
			serve(h, "/")
		}
		time.Sleep(2 * time.Second)
		s := ask[state](t, in, "state")
		if s.Total != 150 || s.Thinned != 50 || s.Last != 100 {
			t.Errorf("%d in all, %d only counted, %d recorded; want 150, 50, 100", s.Total, s.Thinned, s.Last)
		}
		var refused int
		for _, c := range s.Seconds {
			refused += c[classRefused]
		}
		if refused != 150 {
			t.Errorf("the last minute has %d refusals, want 150", refused)
		}
		detail := ask[struct {
			Row   row
			Trace struct{ Decisions []decision }
		}](t, in, "exchanges/1")
		if detail.Row.Verdict != "refused" || detail.Row.Policy != "none" || detail.Row.Remaining != nil || len(detail.Trace.Decisions) != 1 {
			t.Errorf("a refusal is shown as %+v", detail)
		}
	})
}

// A decision is noted for the rule it is of, also where a rule before it does not
// apply and knows quotas of the callers' own.
func TestDecisionsAreNotedForTheirRules(t *testing.T) {
	in := newInspector(t, Options{})
	rules := limiter.Rules{
		{Policy: limiter.PerHour("plans", 5), Key: limiter.KeyGlobal, Match: func(*http.Request) bool { return false },
			PolicyFor: func(*http.Request) (limiter.Policy, bool) { return limiter.Policy{}, false }},
		{Policy: limiter.PerHour("all", 1), Key: limiter.KeyGlobal},
	}
	limits := in.Limits("/", limiter.NewMemory(nil), rules, []string{"global", "global"}, nil)
	h := chain(in, limits, ok)
	serve(h, "/")
	serve(h, "/")
	if got := limits.state(); got[0].Allowed+got[0].Refused != 0 || got[1].Allowed != 1 || got[1].Refused != 1 {
		t.Errorf("the rules are shown as %+v", got)
	}
}
