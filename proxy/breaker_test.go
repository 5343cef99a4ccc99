package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/proxy"
)

func breakerState(p *proxy.Proxy) proxy.BreakerState { return p.Upstreams()[0].Breaker }

// Clients that leave, before the header and within the body, never open the
// breaker, whatever the transport makes of it.
func TestStormOfLeavingClientsNeverTrips(t *testing.T) {
	f := newFleet()
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.Upstreams, cfg.WrapTransport = list(1), f.over
		cfg.Breaker = proxy.Breaker{FailureRatio: 0.01, MinRequests: 1}
		cfg.Ejection = proxy.Ejection{Failures: 1}
	})
	var leave sync.Map // by request id
	gone := func(r *http.Request) {
		cancel, _ := leave.Load(r.Header.Get("X-Id"))
		cancel.(context.CancelFunc)()
	}
	var n, recorded atomic.Int64
	for _, does := range []func(*http.Request) (*http.Response, error){
		func(r *http.Request) (*http.Response, error) { gone(r); return nil, context.Cause(r.Context()) },
		func(r *http.Request) (*http.Response, error) { gone(r); return nil, io.ErrUnexpectedEOF },
		func(r *http.Request) (*http.Response, error) { gone(r); return truncated(r) },
	} {
		f.set("a", does)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 250 {
					ctx, cancel := context.WithCancel(t.Context())
					r := httptest.NewRequest("GET", "/", nil).WithContext(ctx)
					id := string(rune(n.Add(1)))
					r.Header.Set("X-Id", id)
					leave.Store(id, cancel)
					rec := httptest.NewRecorder()
					aborting(p).ServeHTTP(rec, r)
					if rec.Code == 499 {
						recorded.Add(1)
					}
					cancel()
				}
			})
		}
		wg.Wait()
	}
	if got := breakerState(p); got != proxy.BreakerClosed {
		t.Errorf("after %d clients that left the breaker is %s", n.Load(), got)
	}
	if recorded.Load() != 4000 {
		t.Errorf("%d of 4000 were recorded as 499", recorded.Load())
	}
	f.set("a", truncated)
	serveOnce(aborting(p), nil)
	if got := breakerState(p); got != proxy.BreakerOpen {
		t.Errorf("after one real failure the breaker is %s: the test cannot fail", got)
	}
}

// An upstream that is dead is sent no more than the probes, however many
// clients come and however it is dead.
func TestDeadUpstreamGetsTheProbesOnly(t *testing.T) {
	for name, does := range map[string]func(*http.Request) (*http.Response, error){
		"refuses": breaks(errors.New("refused")),
		"hangs": func(r *http.Request) (*http.Response, error) {
			select {
			case <-time.After(3 * time.Second):
				return nil, context.DeadlineExceeded
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		},
		"truncates": truncated,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet()
				var log bytes.Buffer
				p := newProxy(t, func(cfg *proxy.Config) {
					cfg.Upstreams, cfg.WrapTransport = list(1), f.over
					cfg.Breaker = proxy.Breaker{FailureRatio: 0.5, MinRequests: 10, OpenFor: 5 * time.Second, Probes: 2}
					cfg.ErrorLog = slog.New(slog.NewTextHandler(&log, nil))
				})
				f.set("a", does)
				var wg sync.WaitGroup
				var refused atomic.Int64
				one := func() {
					rec := httptest.NewRecorder()
					aborting(p).ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
					if rec.Code == 503 {
						refused.Add(1)
						if after := rec.Header().Get("Retry-After"); after < "1" || after > "5" || len(after) != 1 {
							t.Errorf("Retry-After: %q", after)
						}
					}
				}
				for range 10 {
					wg.Go(one)
				}
				wg.Wait()
				if got := breakerState(p); got != proxy.BreakerOpen {
					t.Fatalf("after ten failures: %s", got)
				}
				f.times("a")
				for range 6000 { // 100 a second for a minute
					wg.Go(one)
					time.Sleep(10 * time.Millisecond)
				}
				wg.Wait()
				if got := f.times("a"); got < 6 || got > 2*60/5 {
					t.Errorf("a dead upstream got %d requests in a minute, want no more than two every 5 s", got)
				}
				if refused.Load() < 5900 {
					t.Errorf("%d refused", refused.Load())
				}
				f.set("a", status(200, "well"))
				time.Sleep(6 * time.Second)
				if got := breakerState(p); got != proxy.BreakerHalfOpen {
					t.Errorf("rested: %s", got)
				}
				one()
				one()
				if got := breakerState(p); got != proxy.BreakerClosed {
					t.Errorf("after two probes that went well: %s", got)
				}
				for _, want := range []string{`level=ERROR msg="proxy: breaker is open" upstream=http://a`, `msg="proxy: breaker is half-open" upstream=http://a`, `msg="proxy: breaker is closed" upstream=http://a`} {
					if !strings.Contains(log.String(), want) {
						t.Errorf("no %q in the log", want)
					}
				}
			})
		})
	}
}

// A client that takes a day to read its answer does not keep the breaker
// half-open.
func TestSlowClientOfAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Upstreams, cfg.WrapTransport = list(1), f.over
			cfg.Breaker = proxy.Breaker{FailureRatio: 1, MinRequests: 1, OpenFor: time.Second}
			cfg.Timeouts.UpstreamIdle = -1
		})
		f.set("a", status(500, ""))
		serveOnce(p, nil)
		time.Sleep(2 * time.Second)
		pr, pw := io.Pipe()
		f.set("a", func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, ContentLength: -1, Body: pr}, nil
		})
		done := make(chan bool)
		go func() { serveOnce(p, nil); close(done) }()
		synctest.Wait()
		if code, _ := serveOnce(p, nil); code != 503 {
			t.Errorf("beside the probe: %d, want 503", code)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := breakerState(p); got != proxy.BreakerClosed {
			t.Errorf("a second after the header of the probe: %s", got)
		}
		pw.Close()
		<-done
	})
}

// With several upstreams, those whose breaker is open are passed by.
func TestBreakerPassesOn(t *testing.T) {
	f := newFleet()
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.Upstreams, cfg.WrapTransport = list(1, 1), f.over
		cfg.Breaker = proxy.Breaker{FailureRatio: 1, MinRequests: 2, OpenFor: time.Hour}
	})
	f.set("a", status(503, ""))
	failed := 0
	for range 20 {
		if code, _ := serveOnce(p, nil); code != 204 {
			failed++
		}
	}
	if failed != 2 || f.times("a") != 2 {
		t.Errorf("%d of 20 failed", failed)
	}
}

// A transport that panics gives its place and its probe back.
func TestPanicGivesEverythingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Upstreams, cfg.WrapTransport = list(1), f.over
			cfg.Breaker = proxy.Breaker{FailureRatio: 1, MinRequests: 1, OpenFor: time.Second}
			cfg.InFlight.Max = 1
		})
		f.set("a", status(500, ""))
		serveOnce(p, nil)
		time.Sleep(2 * time.Second)
		f.set("a", func(*http.Request) (*http.Response, error) { panic(http.ErrAbortHandler) })
		for range 3 {
			serveOnce(aborting(p), nil)
		}
		f.set("a", nil)
		if code, _ := serveOnce(p, nil); code != 204 || breakerState(p) != proxy.BreakerClosed || p.Upstreams()[0].InFlight != 0 {
			t.Errorf("%d, %+v", code, p.Upstreams()[0])
		}
	})
}

// An upstream whose probes are all under way keeps nobody from one that is
// ejected, but can be asked.
func TestProbeLeavesTheEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Upstreams, cfg.WrapTransport = list(1, 1), f.over
			cfg.Breaker = proxy.Breaker{FailureRatio: 1, MinRequests: 2, OpenFor: time.Second}
			cfg.Ejection = proxy.Ejection{Failures: 3, For: time.Hour}
		})
		f.set("a", status(500, ""))
		for range 4 { // two of them a's, which opens its breaker
			serveOnce(p, nil)
		}
		f.set("b", status(500, ""))
		for range 3 {
			serveOnce(p, nil)
		}
		f.set("b", nil)
		if s := p.Upstreams(); s[0].Breaker != proxy.BreakerOpen || s[1].EjectedFor == 0 || s[1].Breaker != proxy.BreakerClosed {
			t.Fatalf("%+v", s)
		}
		time.Sleep(2 * time.Second)
		var cancelled atomic.Int64
		f.set("a", after(time.Minute, &cancelled, status(204, "")))
		probe := make(chan int)
		go func() { code, _ := serveOnce(p, nil); probe <- code }()
		synctest.Wait()
		if code, host := serveOnce(p, nil); code != 204 || host != "b" {
			t.Errorf("beside a's probe: %d from %q, want b's answer", code, host)
		}
		if code := <-probe; code != 204 {
			t.Errorf("the probe: %d", code)
		}
	})
}
