package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/proxy"
)

// after answers as does a while later, unless the request is cancelled, and
// counts in cancelled if it is.
func after(d time.Duration, cancelled *atomic.Int64, does func(*http.Request) (*http.Response, error)) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return does(r)
		case <-r.Context().Done():
			cancelled.Add(1)
			return nil, context.Cause(r.Context())
		}
	}
}

const hedgeAfter = 100 * time.Millisecond

// hedging is a Proxy to hosts of f that hedges, and has saved up what that takes.
func hedging(t *testing.T, f *fleet, hosts int, edit func(*proxy.Config)) *proxy.Proxy {
	t.Helper()
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.Upstreams, cfg.WrapTransport = list([]int{1, 1, 1, 1}[:hosts]...), f.over
		cfg.Retries = proxy.Retries{Max: 1, Hedge: hedgeAfter, Statuses: []int{503}, Budget: 1}
		if edit != nil {
			edit(cfg)
		}
	})
	for range 10 * hosts {
		serveOnce(p, nil)
	}
	for _, host := range []string{"a", "b", "c", "d"} {
		f.times(host)
	}
	return p
}

// The first good header wins, whatever the other attempt does, and what the
// other held is given back at once.
func TestHedge(t *testing.T) {
	const ms = time.Millisecond
	refused := breaks(dialError())
	for _, tt := range []struct {
		name           string
		method         string
		a, b           func(n *atomic.Int64) func(*http.Request) (*http.Response, error)
		status         int
		host           string // whose answer it is
		asked          int    // of b
		cancelled      int64
		took           time.Duration
		first, second  proxy.Outcome // of the attempts; empty if there is none
		failedA, failB bool          // is counted against the upstream
	}{
		{name: "the first is quick", a: slow(50*ms, status(200, "a")), b: slow(0, status(200, "b")), status: 200, host: "a", took: 50 * ms, first: "ok"},
		{name: "the first is slow", a: slow(time.Hour, status(200, "a")), b: slow(10*ms, status(200, "b")), status: 200, host: "b", asked: 1,
			cancelled: 1, took: 110 * ms, first: "outrun", second: "ok"},
		{name: "HEAD", method: "HEAD", a: slow(time.Hour, status(200, "")), b: slow(10*ms, status(200, "")), status: 200, host: "b", asked: 1,
			cancelled: 1, took: 110 * ms, first: "outrun", second: "ok"},
		{name: "both are slow, and the first less so", a: slow(150*ms, status(200, "a")), b: slow(time.Hour, status(200, "b")), status: 200, host: "a", asked: 1,
			cancelled: 1, took: 150 * ms, first: "ok", second: "outrun"},
		{name: "the second refuses", a: slow(150*ms, status(200, "a")), b: slow(0, refused), status: 200, host: "a", asked: 1,
			took: 150 * ms, first: "ok", second: "failed", failB: true},
		{name: "the second answers with 500", a: slow(150*ms, status(200, "a")), b: slow(0, status(500, "b")), status: 200, host: "a", asked: 1,
			took: 150 * ms, first: "ok", second: "ok", failB: true},
		{name: "the second changes the protocol", a: slow(150*ms, status(200, "a")), b: slow(0, status(101, "b")), status: 200, host: "a", asked: 1,
			took: 150 * ms, first: "ok", second: "ok", failB: true},
		{name: "the second panics", a: slow(150*ms, status(200, "a")), b: slow(0, panics), status: 200, host: "a", asked: 1,
			took: 150 * ms, first: "ok", second: "failed"},
		{name: "the first breaks", a: slow(150*ms, breaks(io.ErrUnexpectedEOF)), b: slow(100*ms, status(200, "b")), status: 200, host: "b", asked: 1,
			took: 200 * ms, first: "failed", second: "ok", failedA: true},
		{name: "the first answers with 503", a: slow(150*ms, status(503, "a")), b: slow(100*ms, status(200, "b")), status: 200, host: "b", asked: 1,
			took: 200 * ms, first: "ok", second: "ok", failedA: true},
		{name: "both fail", a: slow(150*ms, status(500, "a")), b: slow(100*ms, breaks(io.ErrUnexpectedEOF)), status: 500, host: "a", asked: 1,
			took: 200 * ms, first: "ok", second: "failed", failedA: true, failB: true},
		{name: "both fail, and one has an answer", a: slow(150*ms, breaks(io.ErrUnexpectedEOF)), b: slow(100*ms, status(500, "b")), status: 500, host: "b", asked: 1,
			took: 200 * ms, first: "failed", second: "ok", failedA: true, failB: true},
		{name: "neither answers", a: slow(150*ms, breaks(io.ErrUnexpectedEOF)), b: slow(100*ms, breaks(io.ErrUnexpectedEOF)), status: 502, asked: 1,
			took: 200 * ms, first: "failed", second: "failed", failedA: true, failB: true},
		{name: "POST", method: "POST", a: slow(time.Second, status(200, "a")), b: slow(0, status(200, "b")), status: 200, host: "a", took: time.Second, first: "ok"},
		{name: "PUT", method: "PUT", a: slow(time.Second, status(200, "a")), b: slow(0, status(200, "b")), status: 200, host: "a", took: time.Second, first: "ok"},
		{name: "OPTIONS", method: "OPTIONS", a: slow(time.Second, status(200, "a")), b: slow(0, status(200, "b")), status: 200, host: "a", took: time.Second, first: "ok"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, told := newFleet(), &notebook{}
				p := hedging(t, f, 2, func(cfg *proxy.Config) {
					cfg.Observer = told
					cfg.InFlight.Max = 1 // a place that is not given back is missed at once
					cfg.Ejection = proxy.Ejection{Failures: 1, Share: 1, For: time.Hour}
				})
				told.take()
				var cancelled atomic.Int64
				f.set("a", tt.a(&cancelled))
				f.set("b", tt.b(&cancelled))
				method := tt.method
				if method == "" {
					method = "GET"
				}
				start := time.Now()
				rec := httptest.NewRecorder()
				p.ServeHTTP(rec, httptest.NewRequest(method, "/", nil))
				took := time.Since(start)
				synctest.Wait()
				if host := rec.Header().Get("Host"); rec.Code != tt.status || host != tt.host || took != tt.took {
					t.Errorf("%d from %q after %v, want %d from %q after %v", rec.Code, host, took, tt.status, tt.host, tt.took)
				}
				if body := rec.Body.String(); method == "GET" && tt.host != "" && body != tt.host {
					t.Errorf("the body is %q, want %s's", body, tt.host)
				}
				if a, b := f.times("a"), f.times("b"); a != 1 || b != tt.asked || cancelled.Load() != tt.cancelled {
					t.Errorf("a was asked %d times, b %d times, %d were cancelled; want 1, %d, %d", a, b, cancelled.Load(), tt.asked, tt.cancelled)
				}
				states := p.Upstreams()
				if states[0].InFlight+states[1].InFlight != 0 {
					t.Errorf("in flight: %d, %d", states[0].InFlight, states[1].InFlight)
				}
				// With two of two failing, one is spared.
				if a, b := states[0].EjectedFor > 0, states[1].EjectedFor > 0; (a || b) != (tt.failedA || tt.failB) || a && !tt.failedA || b && !tt.failB {
					t.Errorf("ejected: a %t, b %t; failed: %t, %t", a, b, tt.failedA, tt.failB)
				}
				var first, second proxy.Outcome
				ends := 0
				for _, e := range told.take() {
					switch {
					case e.Kind == proxy.EventRequest:
						ends++
					case e.Kind != proxy.EventAttempt:
					case e.Trigger == proxy.TriggerFirst && e.Attempt == 1 && e.Upstream == "http://a":
						first = e.Result
					case e.Trigger == proxy.TriggerHedge && e.Attempt == 2 && e.Upstream == "http://b":
						second = e.Result
					default:
						t.Errorf("an attempt too many: %+v", e)
					}
				}
				if first != tt.first || second != tt.second || ends != 1 {
					t.Errorf("attempts observed: %q, %q, and %d ends; want %q, %q, and one", first, second, ends, tt.first, tt.second)
				}
			})
		})
	}
}

func slow(d time.Duration, does func(*http.Request) (*http.Response, error)) func(*atomic.Int64) func(*http.Request) (*http.Response, error) {
	return func(cancelled *atomic.Int64) func(*http.Request) (*http.Response, error) {
		return after(d, cancelled, does)
	}
}

func panics(*http.Request) (*http.Response, error) { panic("of a transport") }

// What stands in the way of a second attempt, so that there is none.
func TestNoHedge(t *testing.T) {
	for name, tt := range map[string]struct {
		hosts   int
		edit    func(*proxy.Config)
		prepare func(t *testing.T, f *fleet, p *proxy.Proxy)
		request func() *http.Request
		early   bool // the first upstream sends an informational response
	}{
		"nobody else":  {hosts: 1},
		"no budget":    {hosts: 2, edit: func(cfg *proxy.Config) { cfg.Retries.Budget = 0.001 }},
		"switched off": {hosts: 2, edit: func(cfg *proxy.Config) { cfg.Retries.Hedge = 0 }},
		"a body": {hosts: 2, request: func() *http.Request {
			return httptest.NewRequest("GET", "/", strings.NewReader("body"))
		}},
		"an answer has begun": {hosts: 2, early: true},
		"the other's breaker is open": {hosts: 2, edit: func(cfg *proxy.Config) {
			cfg.Breaker = proxy.Breaker{FailureRatio: 0.01, MinRequests: 1, OpenFor: time.Hour}
			cfg.Retries.Statuses = nil
		}, prepare: func(t *testing.T, f *fleet, p *proxy.Proxy) {
			f.set("b", status(500, ""))
			serveOnce(p, nil)
			serveOnce(p, nil)
			f.set("b", nil)
			if s := p.Upstreams(); s[0].Breaker != proxy.BreakerClosed || s[1].Breaker != proxy.BreakerOpen {
				t.Fatalf("breakers: %s, %s", s[0].Breaker, s[1].Breaker)
			}
		}},
		"the other is full": {hosts: 2, edit: func(cfg *proxy.Config) { cfg.InFlight = proxy.InFlight{Max: 1, Queue: 10, Wait: time.Hour} },
			prepare: func(t *testing.T, f *fleet, p *proxy.Proxy) {
				var n atomic.Int64
				f.set("b", after(time.Minute, &n, status(204, "")))
				serveOnce(p, nil) // a
				go func() {
					rec := httptest.NewRecorder() // POST, or it would be hedged itself
					p.ServeHTTP(rec, httptest.NewRequest("POST", "/", nil))
				}()
				synctest.Wait()
			}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, told := newFleet(), &notebook{}
				p := hedging(t, f, tt.hosts, func(cfg *proxy.Config) {
					cfg.Observer = told
					if tt.edit != nil {
						tt.edit(cfg)
					}
				})
				if tt.prepare != nil {
					tt.prepare(t, f, p)
				}
				for _, host := range []string{"a", "b"} {
					f.times(host)
				}
				told.take()
				var cancelled atomic.Int64
				f.set("a", func(r *http.Request) (*http.Response, error) {
					if tt.early {
						httptrace.ContextClientTrace(r.Context()).Got1xxResponse(103, nil)
					}
					return after(time.Second, &cancelled, status(200, "a"))(r)
				})
				r := httptest.NewRequest("GET", "/", nil)
				if tt.request != nil {
					r = tt.request()
				}
				rec := &tally{ResponseRecorder: httptest.NewRecorder()}
				p.ServeHTTP(rec, r)
				if rec.Code != 200 || rec.Body.String() != "a" || cancelled.Load() != 0 {
					t.Errorf("%d %q, %d cancelled", rec.Code, rec.Body, cancelled.Load())
				}
				if a, b := f.times("a"), f.times("b"); a != 1 || b != 0 {
					t.Errorf("a was asked %d times, b %d times; want no hedge", a, b)
				}
				refused := told.take(proxy.EventNoBudget)
				if (len(refused) == 1 && refused[0].Trigger == proxy.TriggerHedge) != (name == "no budget") {
					t.Errorf("budget: %+v", refused)
				}
				time.Sleep(time.Hour)
				for i, s := range p.Upstreams() {
					if s.InFlight != 0 {
						t.Errorf("upstream %d: %d in flight", i, s.InFlight)
					}
				}
			})
		})
	}
}

// Informational responses that come while both are under way are nobody's, and
// are counted all the same.
func TestHedgeMutesInformational(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		p := hedging(t, f, 2, nil)
		hints := func(n int, d time.Duration, body string) func(*http.Request) (*http.Response, error) {
			return func(r *http.Request) (*http.Response, error) {
				time.Sleep(d)
				for range n {
					if err := httptrace.ContextClientTrace(r.Context()).Got1xxResponse(103, nil); err != nil {
						return nil, err
					}
				}
				return status(200, body)(r)
			}
		}
		for _, tt := range []struct{ n, status int }{{4, 200}, {9, 502}} {
			f.set("a", hints(tt.n, 2*hedgeAfter, "a"))
			f.set("b", hints(tt.n, 2*hedgeAfter, "b"))
			w := &tally{ResponseRecorder: httptest.NewRecorder()}
			p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			if w.Code != tt.status || w.informational != 0 {
				t.Errorf("%d each: %d after %d informational responses, want %d and none", tt.n, w.Code, w.informational, tt.status)
			}
			synctest.Wait()
		}
	})
}

// tally counts informational responses.
type tally struct {
	*httptest.ResponseRecorder
	informational int
}

func (c *tally) WriteHeader(status int) {
	if status < 200 {
		c.informational++
		return
	}
	c.ResponseRecorder.WriteHeader(status)
}

// What a second attempt says after its end is not passed on as if the third had
// said it.
func TestInformationalOfAHedgeThatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		p := hedging(t, f, 3, func(cfg *proxy.Config) { cfg.Retries.Max = 2 })
		var cancelled atomic.Int64
		var late *httptrace.ClientTrace
		f.set("a", after(2*hedgeAfter, &cancelled, breaks(io.ErrUnexpectedEOF)))
		f.set("b", func(r *http.Request) (*http.Response, error) {
			late = httptrace.ContextClientTrace(r.Context())
			return nil, io.ErrUnexpectedEOF
		})
		f.set("c", func(r *http.Request) (*http.Response, error) {
			late.Got1xxResponse(103, nil)
			httptrace.ContextClientTrace(r.Context()).Got1xxResponse(103, nil)
			return status(204, "")(r)
		})
		w := &tally{ResponseRecorder: httptest.NewRecorder()}
		p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if w.Code != 204 || w.informational != 1 {
			t.Errorf("%d after %d informational responses, want 204 after the one of the third attempt", w.Code, w.informational)
		}
	})
}

// shut is a body that says when it is closed.
type shut struct {
	io.Reader
	closed *atomic.Int64
}

func (s shut) Close() error { s.closed.Add(1); return nil }

// The loser is ended when the winner's header is there, not when its body is, and
// an answer that comes all the same is closed.
func TestHedgeEndsTheLoserAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		p := hedging(t, f, 2, nil)
		var cancelled, closed atomic.Int64
		answer := func(code int, body io.Reader) func(*http.Request) (*http.Response, error) {
			return func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: code, Header: http.Header{}, ContentLength: -1, Body: shut{body, &closed}}, nil
			}
		}
		stubborn := func(d time.Duration, does func(*http.Request) (*http.Response, error)) func(*http.Request) (*http.Response, error) {
			return func(r *http.Request) (*http.Response, error) { time.Sleep(d); return does(r) }
		}
		for _, tt := range []struct {
			name      string
			a, b      func(body io.Reader) func(*http.Request) (*http.Response, error)
			cancelled int64
			closed    int64 // before the winner's body has ended
			code      int
			inFlight  [2]int
		}{
			{"the first wins", func(body io.Reader) func(*http.Request) (*http.Response, error) {
				return after(2*hedgeAfter, &cancelled, answer(200, body))
			}, func(io.Reader) func(*http.Request) (*http.Response, error) {
				return after(time.Hour, &cancelled, answer(200, nil))
			}, 1, 0, 200, [2]int{1, 0}},
			{"the first wins, and the second does not heed it", func(body io.Reader) func(*http.Request) (*http.Response, error) {
				return after(2*hedgeAfter, &cancelled, answer(200, body))
			}, func(io.Reader) func(*http.Request) (*http.Response, error) {
				return stubborn(3*hedgeAfter, answer(200, strings.NewReader("wrong")))
			}, 0, 1, 200, [2]int{1, 0}},
			{"the second wins, and the first does not heed it", func(io.Reader) func(*http.Request) (*http.Response, error) {
				return stubborn(3*hedgeAfter, answer(200, strings.NewReader("wrong")))
			}, func(body io.Reader) func(*http.Request) (*http.Response, error) {
				return after(hedgeAfter, &cancelled, answer(200, body))
			}, 0, 1, 200, [2]int{0, 1}},
			{"both fail", func(body io.Reader) func(*http.Request) (*http.Response, error) {
				return after(3*hedgeAfter, &cancelled, answer(500, body))
			}, func(io.Reader) func(*http.Request) (*http.Response, error) {
				return after(hedgeAfter, &cancelled, answer(500, strings.NewReader("wrong")))
			}, 0, 1, 500, [2]int{1, 0}},
		} {
			cancelled.Store(0)
			closed.Store(0)
			pr, pw := io.Pipe()
			f.set("a", tt.a(pr))
			f.set("b", tt.b(pr))
			rec := httptest.NewRecorder()
			done := make(chan struct{})
			go func() {
				defer close(done)
				p.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
			}()
			time.Sleep(10 * hedgeAfter)
			if s := p.Upstreams(); cancelled.Load() != tt.cancelled || closed.Load() != tt.closed || [2]int{s[0].InFlight, s[1].InFlight} != tt.inFlight {
				t.Errorf("%s: while the answer is under way %d are cancelled, %d closed, %d and %d in flight; want %d, %d, %v", tt.name,
					cancelled.Load(), closed.Load(), s[0].InFlight, s[1].InFlight, tt.cancelled, tt.closed, tt.inFlight)
			}
			io.WriteString(pw, "right")
			pw.Close()
			<-done
			if rec.Code != tt.code || rec.Body.String() != "right" || closed.Load() != tt.closed+1 {
				t.Errorf("%s: %d %q, %d bodies closed", tt.name, rec.Code, rec.Body, closed.Load())
			}
			f.set("a", nil)
			f.set("b", nil)
			for range 2 { // the next turn is a's again, and a hedge is saved up
				if _, host := serveOnce(p, nil); host == "b" {
					break
				}
			}
		}
	})
}

// A hedge is one of Max, and who was asked in vain, by whichever attempt, is not
// asked again while there is somebody else.
func TestHedgeAmongRetries(t *testing.T) {
	for _, tt := range []struct {
		name         string
		max          int
		a            time.Duration // until it fails
		asked        [4]int
		status       int
		number       int // of the attempt that was the last
		trigger      proxy.Trigger
		again, quick bool // b is slow instead of failing; c is not
		busy         bool // b answers with 503, which is adopted
	}{
		{name: "both fail, and there is a third", max: 2, a: 2 * hedgeAfter, asked: [4]int{1, 1, 1}, status: 204, number: 3, trigger: "broken", quick: true},
		{name: "both fail, and that is all", max: 1, a: 2 * hedgeAfter, asked: [4]int{1, 1, 0}, status: 502, number: 1, trigger: "first", quick: true},
		{name: "a retry is hedged", max: 2, asked: [4]int{1, 1, 1}, status: 204, number: 3, trigger: "hedge", again: true, quick: true},
		{name: "a retry that is the last is not", max: 1, asked: [4]int{1, 1, 0}, status: 204, number: 2, trigger: "broken", again: true},
		{name: "both fail, one with an answer", max: 2, a: 2 * hedgeAfter, asked: [4]int{1, 1, 1}, status: 204, number: 3, trigger: "status", quick: true, busy: true},
		{name: "one hedge only", max: 9, a: 2 * hedgeAfter, asked: [4]int{1, 1, 1}, status: 204, number: 3, trigger: "broken"},
	} {
		synctest.Test(t, func(t *testing.T) {
			f, told := newFleet(), &notebook{}
			p := hedging(t, f, 4, func(cfg *proxy.Config) { cfg.Retries.Max, cfg.Observer = tt.max, told })
			var cancelled atomic.Int64
			f.set("a", after(tt.a, &cancelled, breaks(io.ErrUnexpectedEOF)))
			f.set("b", after(hedgeAfter/2, &cancelled, breaks(io.ErrUnexpectedEOF)))
			if tt.again {
				f.set("b", after(10*hedgeAfter, &cancelled, status(204, "")))
			}
			if tt.busy {
				f.set("b", after(3*hedgeAfter, &cancelled, status(503, "")))
			}
			if !tt.quick {
				f.set("c", after(10*hedgeAfter, &cancelled, status(204, "")))
			}
			told.take()
			code, _ := serveOnce(p, nil)
			synctest.Wait()
			if asked := [4]int{f.times("a"), f.times("b"), f.times("c"), f.times("d")}; code != tt.status || asked != tt.asked {
				t.Errorf("%s: %d, asked %v; want %d, %v", tt.name, code, asked, tt.status, tt.asked)
			}
			if e := told.take(proxy.EventRequest); len(e) != 1 || e[0].Attempt != tt.number || e[0].Trigger != tt.trigger {
				t.Errorf("%s: observed %+v, want attempt %d by %q", tt.name, e, tt.number, tt.trigger)
			}
			for i, s := range p.Upstreams() {
				if s.InFlight != 0 {
					t.Errorf("%s: upstream %d: %d in flight", tt.name, i, s.InFlight)
				}
			}
		})
	}
}

// A client that leaves while two attempts are under way ends both, and is held
// against nobody.
func TestHedgeAndLeavingClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, told := newFleet(), &notebook{}
		p := hedging(t, f, 2, func(cfg *proxy.Config) {
			cfg.Observer = told
			cfg.Ejection = proxy.Ejection{Failures: 1, Share: 1}
		})
		told.take()
		var cancelled atomic.Int64
		f.set("a", after(time.Hour, &cancelled, status(200, "a")))
		f.set("b", after(time.Hour, &cancelled, status(200, "b")))
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, context.Canceled)
		defer cancel()
		leaving, leave := context.WithCancel(t.Context())
		context.AfterFunc(ctx, leave)
		rec := httptest.NewRecorder()
		p.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil).WithContext(leaving))
		synctest.Wait()
		if s := p.Upstreams(); rec.Code != 499 || cancelled.Load() != 2 || s[0].InFlight+s[1].InFlight != 0 || s[0].EjectedFor+s[1].EjectedFor != 0 {
			t.Errorf("%d, %d cancelled, %+v", rec.Code, cancelled.Load(), s)
		}
		for _, e := range told.take(proxy.EventAttempt, proxy.EventRequest) {
			if e.Result != proxy.OutcomeLeft || e.Side != proxy.SideClient {
				t.Errorf("%s: %q on the side %q", e.Kind, e.Result, e.Side)
			}
		}
	})
}

// An attempt that panics on the handler's goroutine ends the other, too.
func TestHedgeAndPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		p := hedging(t, f, 2, func(cfg *proxy.Config) { cfg.InFlight.Max = 1 })
		var cancelled atomic.Int64
		for _, b := range []func(*http.Request) (*http.Response, error){
			after(time.Hour, &cancelled, status(200, "b")), // is under way
			status(500, "b"), // has failed, and waits for the first
		} {
			f.set("a", after(2*hedgeAfter, &cancelled, panics))
			f.set("b", b)
			rec := httptest.NewRecorder()
			func() {
				defer func() {
					if v := recover(); v != "of a transport" {
						t.Errorf("panic: %v", v)
					}
				}()
				p.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
			}()
			synctest.Wait()
			if s := p.Upstreams(); s[0].InFlight+s[1].InFlight != 0 {
				t.Errorf("%+v", s)
			}
			f.set("a", nil)
			f.set("b", nil)
			serveOnce(p, nil) // b's turn
		}
		if cancelled.Load() != 1 {
			t.Errorf("%d cancelled", cancelled.Load())
		}
	})
}

// What is outrun counts neither for nor against an upstream, and a probe that is
// outrun makes room for another.
func TestHedgeLeavesBreakersExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		p := hedging(t, f, 2, func(cfg *proxy.Config) {
			cfg.Breaker = proxy.Breaker{FailureRatio: 1, MinRequests: 5, Window: time.Hour, OpenFor: time.Second}
			cfg.Balance, cfg.Key = proxy.ByKey, func(r *http.Request) string { return r.Header.Get("X-Key") }
			cfg.Retries.Statuses = nil
		})
		key := ""
		for i := 0; key == ""; i++ { // one that is a's
			k := fmt.Sprint(i)
			if _, host := serveOnce(p, func(r *http.Request) { r.Header.Set("X-Key", k) }); host == "a" {
				key = k
			}
		}
		time.Sleep(2 * time.Hour) // what went well is forgotten
		one := func() (int, string) {
			return serveOnce(p, func(r *http.Request) { r.Header.Set("X-Key", key) })
		}
		var cancelled atomic.Int64
		hangs := after(time.Hour, &cancelled, status(200, "a"))
		f.set("a", hangs)
		for i := range 8 { // what is saved up suffices
			if status, host := one(); status != 204 || host != "b" {
				t.Errorf("request %d: %d from %q", i, status, host)
			}
		}
		f.set("a", status(500, "a"))
		for i := range 5 {
			if got := breakerState(p); got != proxy.BreakerClosed {
				t.Errorf("after %d failures and 8 that were outrun: %s", i, got)
			}
			one()
		}
		if got := breakerState(p); got != proxy.BreakerOpen {
			t.Errorf("after five failures and 8 that were outrun: %s", got)
		}
		for range 30 { // b's, which save up for hedges
			one()
		}
		time.Sleep(2 * time.Second)
		f.set("a", hangs)
		for i := range 3 {
			if status, host := one(); status != 204 || host != "b" || breakerState(p) != proxy.BreakerHalfOpen {
				t.Errorf("probe %d: %d from %q, and the breaker is %s", i, status, host, breakerState(p))
			}
		}
		f.set("a", nil)
		if status, host := one(); status != 204 || host != "a" || breakerState(p) != proxy.BreakerClosed {
			t.Errorf("a probe that went well: %d from %q, and the breaker is %s", status, host, breakerState(p))
		}
		if cancelled.Load() != 11 {
			t.Errorf("%d were outrun, want 8 and 3", cancelled.Load())
		}
	})
}

// Over real connections, with one upstream that is slow half of the time and
// another that breaks now and then: the load is bounded, each client gets one
// answer from one upstream, and everything is given back.
func TestHedgeUnderLoad(t *testing.T) {
	noLeaks(t)
	const n = 1500
	var asked atomic.Int64
	upstream := func(name string, late, broken int) string {
		return script(t, func(c *net.TCPConn, br *bufio.Reader, r *http.Request) {
			for {
				asked.Add(1)
				dice := rand.IntN(100)
				if dice < late {
					time.Sleep(30 * time.Millisecond)
				}
				if dice >= 100-broken {
					io.WriteString(c, "HTTP/1.1") // or http.Transport would send it again itself
					return
				}
				body := strings.Repeat(name, 1+rand.IntN(20_000))
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-Name: %s\r\nContent-Length: %d\r\n\r\n%s", name, len(body), body)
				var err error
				if r, err = http.ReadRequest(br); err != nil {
					return
				}
			}
		})
	}
	told := &notebook{}
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.Retries = proxy.Retries{Max: 2, Hedge: 5 * time.Millisecond}
		cfg.InFlight = proxy.InFlight{Max: 20, Queue: 20, Wait: 10 * time.Second}
		cfg.Breaker = proxy.Breaker{FailureRatio: 0.9, MinRequests: 50}
		cfg.Observer = told
	}, upstream("a", 50, 0), upstream("b", 5, 5))
	s := serve(t, p)
	var wg sync.WaitGroup
	var good atomic.Int64
	for range 8 {
		wg.Go(func() {
			c := &http.Client{Transport: &http.Transport{}}
			defer c.CloseIdleConnections()
			for range n / 8 {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				if rand.IntN(20) == 0 {
					time.AfterFunc(time.Duration(rand.IntN(20))*time.Millisecond, cancel)
				}
				r, _ := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
				res, err := c.Do(r)
				if err == nil {
					var body []byte
					body, err = io.ReadAll(res.Body)
					res.Body.Close()
					if name := res.Header.Get("X-Name"); err == nil && res.StatusCode == 200 {
						good.Add(1)
						if strings.Trim(string(body), name) != "" || int64(len(body)) != res.ContentLength {
							t.Errorf("an answer of %s has a body of others", name)
						}
					}
				}
				if err != nil && ctx.Err() == nil && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	eventually(t, "all places are free", func() bool {
		s := p.Upstreams()
		return s[0].InFlight+s[1].InFlight+s[0].Waiting+s[1].Waiting == 0
	})
	outrun, requests := 0, 0
	for _, e := range told.take() {
		if e.Result == proxy.OutcomeOutrun {
			outrun++
		}
		if e.Kind == proxy.EventRequest {
			requests++
		}
		if e.Kind == proxy.EventBreaker {
			t.Errorf("a breaker is %s, and no upstream fails so often", e.State)
		}
	}
	t.Logf("%d requests, %d well; the upstreams were asked %d times; %d attempts were outrun", requests, good.Load(), asked.Load(), outrun)
	if got := asked.Load(); float64(got) > 1.2*float64(requests) {
		t.Errorf("%d requests were sent %d times, want 1.2 times as many at most", requests, got)
	}
	if outrun < 50 || good.Load() < n*8/10 {
		t.Error("the test is too tame")
	}
}

func TestHedgeFaults(t *testing.T) {
	for _, r := range []proxy.Retries{{Max: 1, Hedge: -1}, {Hedge: time.Second}} {
		_, err := proxy.New(proxy.Config{Upstreams: list(1), Retries: r})
		if err == nil || !strings.Contains(err.Error(), "Retries.Hedge") {
			t.Errorf("%+v: %v", r, err)
		}
	}
}
