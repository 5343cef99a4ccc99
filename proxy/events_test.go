package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/proxy"
)

// line is what an event says, without times.
func line(e proxy.Event) string {
	s := []string{e.Kind.String()}
	add := func(format string, v any, zero bool) {
		if !zero {
			s = append(s, fmt.Sprintf(format, v))
		}
	}
	add("%s", strings.TrimPrefix(e.Upstream, "http://"), e.Upstream == "")
	add("#%d", e.Attempt, e.Attempt == 0)
	add("(%s)", e.Trigger, e.Trigger == "")
	add("%s", e.Result, e.Result == "")
	add("%d", e.Status, e.Status == 0)
	add("by %s", e.Side, e.Side == "")
	add("in %s", e.Phase, e.Phase == "")
	add("for %s", e.Reason, e.Reason == 0)
	add("is %s", e.State, e.State == 0)
	add("up %d", e.BytesUp, e.BytesUp == 0)
	add("down %d", e.BytesDown, e.BytesDown == 0)
	return strings.Join(s, " ")
}

// What is told of a request, in order.
func TestObserver(t *testing.T) {
	broken := breaks(io.ErrUnexpectedEOF)
	dial := breaks(dialError())
	reading := func(r *http.Request) (*http.Response, error) {
		io.Copy(io.Discard, r.Body)
		return status(200, "answer")(r)
	}
	retries := func(cfg *proxy.Config) {
		cfg.Upstreams = list(1, 1)
		cfg.Retries = proxy.Retries{Max: 1, Statuses: []int{503}, Budget: 1}
	}
	fallback := func(h http.Handler) func(*proxy.Config) { return func(cfg *proxy.Config) { cfg.Fallback = h } }
	fixed := proxy.FixedAnswer(203, nil, []byte("fallback"))
	sleeping := func(r *http.Request) (*http.Response, error) {
		time.Sleep(time.Second)
		return status(204, "")(r)
	}
	for _, tt := range []struct {
		name   string
		edit   func(*proxy.Config)
		a, b   func(*http.Request) (*http.Response, error)
		first  func(*proxy.Proxy)
		beside bool // first goes on meanwhile: its events are listed last, for their turns are open
		method string
		target string
		body   string
		want   []string
	}{
		{name: "answered", a: status(200, "answer"), want: []string{"attempt a #1 (first) ok 200", "request a #1 (first) ok 200 down 6"}},
		{name: "answered without a length", a: unsized("text/plain", strings.NewReader("answer")), want: []string{"attempt a #1 (first) ok 200", "request a #1 (first) ok 200 down 6"}},
		{name: "events", a: unsized("text/event-stream", strings.NewReader("data: a\n\n")), want: []string{"attempt a #1 (first) ok 200", "request a #1 (first) ok 200 down 9"}},
		{name: "cut without a length", a: unsized("text/plain", io.MultiReader(strings.NewReader("half"), errReader{io.ErrUnexpectedEOF})), want: []string{"attempt a #1 (first) ok 200", "request a #1 (first) aborted 200 by upstream in response down 4"}},
		{name: "an upload", method: "POST", body: "upload", a: reading, want: []string{"attempt a #1 (first) ok 200", "request a #1 (first) ok 200 up 6 down 6"}},
		{name: "an answer of 500 is one", a: status(500, "x"), want: []string{"attempt a #1 (first) ok 500", "request a #1 (first) ok 500 down 1"}},
		{name: "refused by method", method: "CONNECT", want: []string{"request refused 405 by client in check"}},
		{name: "refused by path", target: "/a/../b", want: []string{"request refused 400 by client in check"}},
		{name: "cannot connect", a: dial, want: []string{"attempt a #1 (first) failed by upstream in connect", "request a #1 (first) failed 502 by upstream in connect for unreachable"}},
		{name: "broken", a: broken, want: []string{"attempt a #1 (first) failed by upstream in waiting", "request a #1 (first) failed 502 by upstream in waiting for unreachable"}},
		{name: "times out", a: breaks(context.DeadlineExceeded), want: []string{"attempt a #1 (first) failed by upstream in waiting", "request a #1 (first) failed 504 by upstream in waiting for timeout"}},
		{name: "truncated", a: truncated, want: []string{"attempt a #1 (first) ok 200", "request a #1 (first) aborted 200 by upstream in response down 4"}},
		{name: "panics", a: panics, want: []string{"request a #1 (first) panic by server in waiting"}},
		{name: "aborts", a: func(*http.Request) (*http.Response, error) { panic(http.ErrAbortHandler) }, want: []string{"request a #1 (first) aborted by server in waiting"}},
		{name: "cannot connect, sent again", edit: retries, a: dial, b: status(200, "x"), want: []string{"attempt a #1 (first) failed by upstream in connect",
			"attempt b #2 (connect) ok 200", "request b #2 (connect) ok 200 down 1"}},
		{name: "broken, sent again", edit: retries, a: broken, b: status(200, "x"), want: []string{"attempt a #1 (first) failed by upstream in waiting",
			"attempt b #2 (broken) ok 200", "request b #2 (broken) ok 200 down 1"}},
		{name: "503, sent again", edit: retries, a: status(503, "x"), b: status(200, "x"), want: []string{"attempt a #1 (first) ok 503",
			"attempt b #2 (status) ok 200", "request b #2 (status) ok 200 down 1"}},
		{name: "broken, and no budget", edit: func(cfg *proxy.Config) {
			retries(cfg)
			cfg.Retries.Budget = 0.01
		}, a: broken, want: []string{"attempt a #1 (first) failed by upstream in waiting", "no budget a #2 (broken)",
			"request a #1 (first) failed 502 by upstream in waiting for unreachable"}},
		{name: "fallback", edit: fallback(fixed), a: broken, want: []string{"attempt a #1 (first) failed by upstream in waiting", "fallback a 502 for unreachable",
			"request a #1 (first) fallback 203 by upstream in waiting for unreachable"}},
		{name: "fallback for 503", edit: fallback(fixed), a: status(503, "x"), want: []string{"attempt a #1 (first) ok 503", "fallback a 503 for failed",
			"request a #1 (first) fallback 203 by upstream in waiting for failed"}},
		{name: "fallback aborts", edit: fallback(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "half")
			panic(http.ErrAbortHandler)
		})), a: broken, want: []string{"attempt a #1 (first) failed by upstream in waiting", "fallback a 502 for unreachable",
			"request a #1 (first) aborted 200 by server in response for unreachable"}},
		{name: "fallback panics", edit: fallback(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("of a transport") })),
			a: broken, want: []string{"attempt a #1 (first) failed by upstream in waiting", "fallback a 502 for unreachable",
				"request a #1 (first) panic by server in response for unreachable"}},
		{name: "forced", edit: fallback(fixed), first: func(p *proxy.Proxy) { p.ForceFallback(true) },
			want: []string{"fallback 503 for forced", "request fallback 203 by server in check for forced"}},
		{name: "forced, without a fallback", first: func(p *proxy.Proxy) { p.ForceFallback(true) }, want: []string{"request failed 503 by server in check for forced"}},
		{name: "forced, and the fallback panics", edit: fallback(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("of a transport") })),
			first: func(p *proxy.Proxy) { p.ForceFallback(true) },
			want:  []string{"fallback 503 for forced", "request panic by server in check for forced"}},
		{name: "forced, and the fallback aborts", edit: fallback(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })),
			first: func(p *proxy.Proxy) { p.ForceFallback(true) },
			want:  []string{"fallback 503 for forced", "request aborted by server in check for forced"}},
		{name: "a wait that is worth it", edit: func(cfg *proxy.Config) { cfg.InFlight = proxy.InFlight{Max: 1, Queue: 1, Wait: time.Minute} }, a: sleeping,
			first: busy, beside: true, want: []string{"wait a ok", "attempt a #1 (first) ok 204", "request a #1 (first) ok 204", "attempt a #1 (first) ok 204", "request a #1 (first) ok 204"}},
		{name: "a wait in vain", edit: func(cfg *proxy.Config) {
			cfg.InFlight = proxy.InFlight{Max: 1, Queue: 1, Wait: 500 * time.Millisecond}
		}, a: sleeping,
			first: busy, beside: true, want: []string{"wait a timeout", "request failed 503 by server in choose for busy", "attempt a #1 (first) ok 204", "request a #1 (first) ok 204"}},
		{name: "no place to wait", edit: func(cfg *proxy.Config) { cfg.InFlight = proxy.InFlight{Max: 1} }, a: sleeping,
			first: busy, beside: true, want: []string{"wait a refused", "request failed 503 by server in choose for busy", "attempt a #1 (first) ok 204", "request a #1 (first) ok 204"}},
		{name: "ejected, and back", edit: func(cfg *proxy.Config) {
			cfg.Upstreams = list(1, 1)
			cfg.Ejection = proxy.Ejection{Failures: 1, For: time.Second}
		}, a: status(500, ""), first: func(p *proxy.Proxy) {
			serveOnce(p, nil) // a
			serveOnce(p, nil) // b
			time.Sleep(2 * time.Second)
			serveOnce(p, nil) // b, whose turn it is
		}, want: []string{"attempt a #1 (first) ok 500", "ejected a", "request a #1 (first) ok 500",
			"attempt b #1 (first) ok 204", "request b #1 (first) ok 204", "attempt b #1 (first) ok 204", "request b #1 (first) ok 204",
			"returned a", "attempt a #1 (first) ok 500", "ejected a", "request a #1 (first) ok 500"}},
		{name: "breaker", edit: func(cfg *proxy.Config) {
			cfg.Breaker = proxy.Breaker{FailureRatio: 1, MinRequests: 1, OpenFor: time.Second}
		}, first: func(p *proxy.Proxy) {
			serveOnce(p, nil)
			serveOnce(p, nil)
			time.Sleep(2 * time.Second)
		}, a: once(status(500, ""), status(204, "")), want: []string{"attempt a #1 (first) ok 500", "breaker a is open", "request a #1 (first) ok 500",
			"request failed 503 by upstream in choose for open",
			"breaker a is half-open", "attempt a #1 (first) ok 204", "breaker a is closed", "request a #1 (first) ok 204"}},
		{name: "health", edit: func(cfg *proxy.Config) {
			cfg.HealthCheck = proxy.HealthCheck{Path: "/up", Down: 2, Up: 1, Interval: time.Second}
		}, a: status(500, ""), first: func(p *proxy.Proxy) {
			ctx, stop := context.WithTimeout(context.Background(), 3500*time.Millisecond)
			defer stop()
			p.CheckHealth(ctx)
		}, want: []string{"down a", "up a", "attempt a #1 (first) ok 500", "request a #1 (first) ok 500"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, told := newFleet(), &timed{}
				p := newProxy(t, func(cfg *proxy.Config) {
					cfg.Upstreams, cfg.WrapTransport, cfg.Observer = list(1), f.over, told
					if tt.edit != nil {
						tt.edit(cfg)
					}
				})
				f.set("a", nil)
				if strings.Contains(tt.name, "sent again") { // what a retry costs, and a's turn
					serveOnce(p, nil)
					serveOnce(p, nil)
				}
				told.take()
				f.set("a", tt.a)
				f.set("b", tt.b)
				if tt.first != nil {
					tt.first(p)
				}
				method, target := tt.method, tt.target
				if method == "" {
					method = "GET"
				}
				if target == "" {
					target = "/secret?secret"
				}
				if method == "CONNECT" {
					target = "secret:443"
				}
				r := httptest.NewRequestWithContext(context.WithValue(t.Context(), requestKey{}, true), method, target, strings.NewReader(tt.body))
				if tt.body == "" {
					r.Body = http.NoBody
				}
				r.Pattern = "GET /{id}"
				func() {
					defer func() { recover() }()
					p.ServeHTTP(httptest.NewRecorder(), r)
				}()
				time.Sleep(time.Minute) // for who else is under way
				synctest.Wait()
				var got, others []string
				for _, e := range told.take() {
					if tt.beside && e.Route == "" {
						others = append(others, line(e))
					} else {
						got = append(got, line(e))
					}
					if s := fmt.Sprintf("%+v", e); strings.Contains(s, "secret") || strings.Contains(s, r.RemoteAddr) {
						t.Errorf("an event has what it must not have: %s", s)
					}
				}
				if got = append(got, others...); !slices.Equal(got, tt.want) {
					t.Errorf("observed\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(tt.want, "\n\t"))
				}
				if told.wrong != "" {
					t.Error(told.wrong)
				}
			})
		})
	}
}

type requestKey struct{}

// timed is a notebook that looks at what each event must have.
type timed struct {
	notebook
	wrong string
}

func (n *timed) Observe(ctx context.Context, e proxy.Event) {
	n.notebook.Observe(ctx, e)
	about := false
	switch e.Kind {
	case proxy.EventRequest, proxy.EventAttempt, proxy.EventFallback, proxy.EventNoBudget, proxy.EventWait:
		about = true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	of := ctx.Value(requestKey{}) != nil
	if of != (e.Route != "") || of && !about {
		n.wrong += fmt.Sprintf("%s: route %q, and the context of a request: %t\n", line(e), e.Route, of)
	}
	if e.Start.IsZero() || e.Kind != proxy.EventEjected && !e.Start.Add(e.Duration).Equal(time.Now()) {
		n.wrong += fmt.Sprintf("%s: from %v, %v\n", line(e), e.Start, e.Duration)
	}
	if (e.Err != nil) != (e.Side != "" && e.Result != proxy.OutcomeRefused && !(e.Reason == proxy.Forced && e.Result != proxy.OutcomePanic)) && e.Kind == proxy.EventRequest && e.Result != proxy.OutcomeAborted {
		n.wrong += fmt.Sprintf("%s: error %v\n", line(e), e.Err)
	}
}

// busy takes the only place for a second.
func busy(p *proxy.Proxy) {
	go serveOnce(p, nil)
	synctest.Wait()
}

// once does the one thing, and after that the other.
func once(first, then func(*http.Request) (*http.Response, error)) func(*http.Request) (*http.Response, error) {
	var n atomic.Int64
	return func(r *http.Request) (*http.Response, error) {
		if n.Add(1) == 1 {
			return first(r)
		}
		return then(r)
	}
}

// A tunnel is told to be open and to be closed, each once, with what passed and
// why the proxy closed it.
func TestObserverOfTunnels(t *testing.T) {
	up := serve(t, http.HandlerFunc(echo))
	for _, why := range []string{"the client", "shutdown", "the upstream refuses"} {
		told := &notebook{}
		p := newProxy(t, func(cfg *proxy.Config) { cfg.Observer = told }, up.URL)
		s := serve(t, p)
		if why == "the upstream refuses" {
			refusing := newProxy(t, func(cfg *proxy.Config) { cfg.Observer = told }, answer(t, "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"))
			if res := dial(t, serve(t, refusing).URL).send(t, "GET", handshake); res.StatusCode != 403 {
				t.Errorf("%d", res.StatusCode)
			}
		} else {
			c := openWS(t, s.URL, 0)
			writeFrame(c, []byte("ping"), true)
			if got, err := readFrame(c.br); string(got) != "ping" || err != nil {
				t.Errorf("frame: %q, %v", got, err)
			}
			eventually(t, "open", func() bool { return p.Tunnels() == 1 })
			if why == "shutdown" {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				p.Shutdown(ctx)
				cancel()
			}
			c.Close()
		}
		var events []proxy.Event
		eventually(t, "the end is observed", func() bool {
			events = append(events, told.take()...)
			return len(events) > 0 && events[len(events)-1].Kind == proxy.EventRequest
		})
		var got []string
		for _, e := range events {
			what := strings.ReplaceAll(line(e), strings.TrimPrefix(e.Upstream, "http://"), "a")
			if why == "shutdown" {
				// echo sends the Close frame back as a message, and may be quicker
				// than the one that is on its way to the client.
				what = strings.ReplaceAll(what, "down 10", "down 6")
			}
			got = append(got, what)
			// 4 bytes with a header of 2, and a mask of 4 on the way up; in the other
			// direction a Close frame is none of what was sent on.
			if e.Kind == proxy.EventTunnelClose && ((e.Err != nil) != (why == "shutdown") || e.Duration <= 0) {
				t.Errorf("%s: closed for %v after %v", why, e.Err, e.Duration)
			}
		}
		want := map[string][]string{
			"the client": {"attempt a #1 (first) ok 101", "tunnel open a", "tunnel close a up 10 down 6", "request a #1 (first) ok 101 up 10 down 6"},
			"shutdown": {"attempt a #1 (first) ok 101", "tunnel open a", "tunnel close a up 10 down 6",
				"request a #1 (first) aborted 101 by server in tunnel up 10 down 6"},
			"the upstream refuses": {"attempt a #1 (first) ok 403", "request a #1 (first) ok 403"},
		}[why]
		if !slices.Equal(got, want) {
			t.Errorf("%s: observed\n\t%s\nwant\n\t%s", why, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
		eventually(t, "closed", func() bool { return p.Tunnels() == 0 })
	}
}

// Each request ends once, each attempt is told once, and what is ejected or open
// is told in turn, whatever happens at the same time.
func TestObserverMissesNothing(t *testing.T) {
	f, told := newFleet(), &notebook{}
	var asked atomic.Int64
	fate := func(r *http.Request) (*http.Response, error) {
		asked.Add(1)
		switch rand.IntN(10) {
		case 0:
			return nil, dialError()
		case 1:
			return nil, io.ErrUnexpectedEOF
		case 2:
			return status(503, "busy")(r)
		case 3:
			return truncated(r)
		case 4:
			time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
		}
		return status(200, "well")(r)
	}
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.Upstreams, cfg.WrapTransport, cfg.Observer = list(1, 1, 1), f.over, told
		cfg.Retries = proxy.Retries{Max: 2, Statuses: []int{503}, Budget: 1, Hedge: time.Millisecond}
		cfg.Ejection = proxy.Ejection{Failures: 2, For: time.Millisecond}
		cfg.Breaker = proxy.Breaker{FailureRatio: 0.5, MinRequests: 5, OpenFor: time.Millisecond, Window: 20 * time.Millisecond}
		cfg.InFlight = proxy.InFlight{Max: 2, Queue: 2, Wait: time.Millisecond}
		cfg.Fallback = proxy.FixedAnswer(503, nil, nil)
	})
	for _, host := range []string{"a", "b", "c"} {
		f.set(host, fate)
	}
	const n = 4000
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range n / 8 {
				serveOnce(aborting(p), nil)
			}
		})
	}
	wg.Wait()
	eventually(t, "all places are free", func() bool {
		s := p.Upstreams()
		return s[0].InFlight+s[1].InFlight+s[2].InFlight == 0
	})
	kinds := map[proxy.EventKind]int{}
	ejected := map[string]bool{}
	breakers := map[string]proxy.BreakerState{}
	for _, e := range told.take() {
		kinds[e.Kind]++
		switch e.Kind {
		case proxy.EventBreaker:
			before := breakers[e.Upstream]
			if e.State == before || before == proxy.BreakerOpen && e.State != proxy.BreakerHalfOpen {
				t.Errorf("the breaker of %s is %s after it was %s", e.Upstream, e.State, before)
			}
			breakers[e.Upstream] = e.State
		case proxy.EventEjected:
			ejected[e.Upstream] = true
		case proxy.EventReturned:
			if !ejected[e.Upstream] {
				t.Errorf("%s is back, and was not ejected", e.Upstream)
			}
		}
	}
	if kinds[proxy.EventRequest] != n || int64(kinds[proxy.EventAttempt]) != asked.Load() {
		t.Errorf("%d requests, %d observed; %d attempts, %d observed", n, kinds[proxy.EventRequest], asked.Load(), kinds[proxy.EventAttempt])
	}
	for _, k := range []proxy.EventKind{proxy.EventFallback, proxy.EventWait, proxy.EventEjected, proxy.EventReturned, proxy.EventBreaker} {
		if kinds[k] == 0 {
			t.Errorf("no event %q: the test is too tame", k)
		}
	}
}

// A RoundTripper learns which attempt it makes.
func TestAttemptFrom(t *testing.T) {
	if n, why := proxy.AttemptFrom(t.Context()); n != 1 || why != proxy.TriggerFirst {
		t.Errorf("elsewhere: %d, %q", n, why)
	}
	var got []string
	well := true
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.Upstreams, cfg.Retries = list(1), proxy.Retries{Max: 2, Statuses: []int{503}, Budget: 1}
		cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper {
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				if well {
					return status(200, "")(r)
				}
				n, why := proxy.AttemptFrom(r.Context())
				got = append(got, fmt.Sprint(n, " ", why))
				return []func(*http.Request) (*http.Response, error){breaks(errors.New("broken")), status(503, ""), status(200, "")}[n-1](r)
			})
		}
	})
	for range 2 { // what two retries cost
		serveOnce(p, nil)
	}
	well = false
	serveOnce(p, nil)
	if want := []string{"1 first", "2 broken", "3 status"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEventKindString(t *testing.T) {
	seen := map[string]bool{}
	for k := proxy.EventRequest; k <= proxy.EventTunnelClose; k++ {
		if s := k.String(); seen[s] || strings.Contains(s, "EventKind") {
			t.Errorf("EventKind %d is %q", k, s)
		}
		seen[k.String()] = true
	}
	if s := (proxy.EventTunnelClose + 1).String(); s != "EventKind(13)" {
		t.Errorf("unknown: %q", s)
	}
}
