package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/proxy"
)

// A fleet is a transport whose hosts each do as they are told.
type fleet struct {
	mu    sync.Mutex
	does  map[string]func(*http.Request) (*http.Response, error) // nil: 204
	asked map[string]int
}

func newFleet() *fleet {
	return &fleet{does: map[string]func(*http.Request) (*http.Response, error){}, asked: map[string]int{}}
}

func (f *fleet) set(host string, does func(*http.Request) (*http.Response, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.does[host] = does
}

// times returns how often a host was asked since the last call.
func (f *fleet) times(host string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.asked[host]
	f.asked[host] = 0
	return n
}

func (f *fleet) over(http.RoundTripper) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		f.mu.Lock()
		f.asked[r.URL.Host]++
		does := f.does[r.URL.Host]
		f.mu.Unlock()
		if does == nil {
			does = status(204, "")
		}
		res, err := does(r)
		if res != nil {
			res.Header.Set("Host", r.URL.Host)
		}
		return res, err
	})
}

func status(code int, body string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) {
		res := &http.Response{StatusCode: code, Header: http.Header{}, ContentLength: int64(len(body)), Body: http.NoBody}
		if body != "" {
			res.Body = io.NopCloser(strings.NewReader(body))
		}
		return res, nil
	}
}

func breaks(err error) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

// truncated answers and breaks off.
func truncated(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{}, ContentLength: 10,
		Body: io.NopCloser(io.MultiReader(strings.NewReader("half"), errReader{io.ErrUnexpectedEOF}))}, nil
}

// unsized answers once, without a length.
func unsized(kind string, body io.Reader) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {kind}}, ContentLength: -1, Body: io.NopCloser(body)}, nil
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// aborting lets http.ErrAbortHandler pass for an answer that was broken off, as
// a server does.
func aborting(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil && v != http.ErrAbortHandler {
				panic(v)
			}
		}()
		h.ServeHTTP(w, r)
	})
}

func TestEjection(t *testing.T) {
	for name, does := range map[string]func(*http.Request) (*http.Response, error){
		"unreachable": breaks(errors.New("refused")),
		"500":         status(500, "x"),
		"503":         status(503, ""),
		"truncated":   truncated,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet()
				var log bytes.Buffer
				p := newProxy(t, func(cfg *proxy.Config) {
					cfg.Upstreams, cfg.WrapTransport = list(1, 1, 1, 1), f.over
					cfg.Ejection = proxy.Ejection{Failures: 3, For: time.Second, Max: 3 * time.Second}
					cfg.ErrorLog = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
				})
				h := aborting(p)
				round := func() { // each usable one is asked once, or more
					for range 12 {
						serveOnce(h, nil)
					}
				}
				f.set("b", does)
				for i, want := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second} {
					round()
					if got := f.times("b"); i == 0 && got != 3 || i > 0 && got != 1 {
						t.Errorf("ejection %d came after %d requests", i, got)
					}
					if got := p.Upstreams()[1].EjectedFor; got != want {
						t.Errorf("ejection %d is for %s, want %s", i, got, want)
					}
					time.Sleep(want - 1)
					round()
					if got := f.times("b"); got != 0 {
						t.Errorf("ejected, and got %d requests", got)
					}
					time.Sleep(1)
				}
				f.set("b", nil)
				round()
				if f.times("b") != 3 || p.Upstreams()[1].EjectedFor != 0 {
					t.Error("not taken back")
				}
				f.set("b", does)
				round() // has to fail as often as in the beginning
				if got := p.Upstreams()[1].EjectedFor; got != time.Second {
					t.Errorf("the next time it is for %s, want 1s", got)
				}
				if !strings.Contains(log.String(), `msg="proxy: upstream ejected" upstream=http://b for=1s`) {
					t.Errorf("log: %s", log.String())
				}
			})
		})
	}
}

func TestEjectionLeavesSome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			n, want int
			share   float64
		}{{1, 0, 1}, {2, 1, 0}, {2, 1, 1}, {5, 2, 0}, {5, 4, 1}, {4, 1, 0.25}, {4, 0, 0.2}} {
			f := newFleet()
			p := newProxy(t, func(cfg *proxy.Config) {
				cfg.Upstreams, cfg.WrapTransport = list(make([]int, tt.n)...), f.over
				cfg.Ejection = proxy.Ejection{Failures: 1, Share: tt.share}
			})
			for i := range tt.n {
				f.set(string(rune('a'+i)), breaks(errors.New("down")))
			}
			for range 20 {
				if code, _ := serveOnce(p, nil); code != 502 {
					t.Errorf("%d", code)
				}
			}
			out := 0
			for _, s := range p.Upstreams() {
				if s.EjectedFor > 0 {
					out++
				}
			}
			if out != tt.want {
				t.Errorf("of %d with a share of %v, %d are ejected, want %d", tt.n, tt.share, out, tt.want)
			}
		}
	})
}

// A client that leaves says nothing about the upstream, before and within the
// answer.
func TestClientsEjectNobody(t *testing.T) {
	f := newFleet()
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.Upstreams, cfg.WrapTransport = list(1, 1), f.over
		cfg.Ejection = proxy.Ejection{Failures: 1, Share: 1}
	})
	var leave func()
	for _, does := range []func(r *http.Request) (*http.Response, error){
		func(r *http.Request) (*http.Response, error) { leave(); return nil, context.Cause(r.Context()) },
		func(r *http.Request) (*http.Response, error) { leave(); return truncated(r) },
	} {
		f.set("a", does)
		f.set("b", does)
		for range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			leave = cancel
			serveOnce(aborting(p), func(r *http.Request) { *r = *r.WithContext(ctx) })
			cancel()
		}
	}
	for _, s := range p.Upstreams() {
		if s.EjectedFor != 0 {
			t.Errorf("%s was ejected", s.Name)
		}
	}
}

func TestCheckHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		var log bytes.Buffer
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Upstreams = []proxy.Upstream{{URL: "http://a/base"}, {URL: "http://b/base"}}
			cfg.WrapTransport = f.over
			cfg.HealthCheck = proxy.HealthCheck{Path: "/health%20z", Interval: time.Second, Timeout: 500 * time.Millisecond}
			cfg.ErrorLog = slog.New(slog.NewTextHandler(&log, nil))
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("stop")
		done := make(chan error)
		go func() { done <- p.CheckHealth(ctx) }()
		synctest.Wait()
		if err := p.CheckHealth(ctx); err == nil {
			t.Error("a second CheckHealth runs")
		}
		down := func(want ...bool) {
			t.Helper()
			synctest.Wait()
			for i, s := range p.Upstreams() {
				if s.Down != want[i] {
					t.Errorf("after %s: %s down %t, want %t", time.Since(epoch), s.Name, s.Down, want[i])
				}
			}
		}
		down(false, false)
		asked := make(chan string, 1)
		f.set("a", func(r *http.Request) (*http.Response, error) {
			select {
			case asked <- r.Method + " " + r.URL.String():
			default:
			}
			return status(301, "")(r)
		})
		time.Sleep(2 * time.Second)
		down(false, false)
		time.Sleep(time.Second) // the third bad answer
		down(true, false)
		if got := <-asked; got != "GET http://a/base/health%20z" {
			t.Errorf("asked for %s", got)
		}
		f.times("a")
		for range 10 {
			if code, host := serveOnce(p, nil); code != 204 || host != "b" {
				t.Errorf("%d from %s", code, host)
			}
		}
		if got := f.times("a"); got != 0 {
			t.Errorf("an upstream that is down got %d requests", got)
		}
		f.set("b", func(r *http.Request) (*http.Response, error) { // hangs
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		time.Sleep(4 * time.Second)
		down(true, true)
		if code, _ := serveOnce(p, nil); code != 503 {
			t.Errorf("with all down: %d, want 503", code)
		}
		f.set("a", status(299, "ok"))
		time.Sleep(time.Second)
		down(true, true)
		time.Sleep(time.Second)
		down(false, true)
		cancel(stop)
		if err := <-done; err != stop {
			t.Errorf("CheckHealth returned %v", err)
		}
		down(false, false)
		for _, want := range []string{`msg="proxy: upstream is down" upstream=http://a/base error="health check was answered with status 301"`,
			`msg="proxy: upstream is up" upstream=http://a/base`} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("no %q in the log: %s", want, log.String())
			}
		}
	})
}

// epoch is when time begins in a bubble.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func TestCheckHealthNeedsAPath(t *testing.T) {
	if err := newProxy(t, nil, "http://a").CheckHealth(t.Context()); err == nil {
		t.Error("no error")
	}
}

// If all that are not ejected are down, an ejected one is better than none.
func TestEjectedOnesAreUsedRatherThanNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Upstreams, cfg.WrapTransport = list(1, 1), f.over
			cfg.Ejection = proxy.Ejection{Failures: 1, For: time.Hour}
			cfg.HealthCheck = proxy.HealthCheck{Path: "/", Down: 1, Interval: time.Hour}
		})
		f.set("a", breaks(errors.New("down")))
		serveOnce(p, nil)
		if p.Upstreams()[0].EjectedFor == 0 {
			t.Fatal("not ejected")
		}
		f.set("a", nil)
		f.set("b", breaks(errors.New("down")))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.CheckHealth(ctx) }()
		synctest.Wait()
		if code, host := serveOnce(p, nil); code != 204 || host != "a" {
			t.Errorf("%d from %q", code, host)
		}
		cancel()
		<-done
	})
}

// An upstream that switches protocols when it is asked for its health is not
// well, and keeps nobody waiting: such a connection has no end of its own.
func TestCheckHealthOfOneThatSwitches(t *testing.T) {
	noLeaks(t)
	closed := make(chan bool, 10)
	up := script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
		io.WriteString(c, switching)
		io.Copy(io.Discard, br)
		closed <- true
	})
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.HealthCheck = proxy.HealthCheck{Path: "/health", Interval: 10 * time.Millisecond, Timeout: 10 * time.Second, Down: 2}
	}, up)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error)
	go func() { done <- p.CheckHealth(ctx) }()
	<-closed
	eventually(t, "the upstream is down", func() bool { return p.Upstreams()[0].Down })
	cancel()
	<-done
}

// tardy is an Observer that is slow to hear of ejections.
type tardy struct{ notebook }

func (o *tardy) Observe(ctx context.Context, e proxy.Event) {
	if e.Kind == proxy.EventEjected {
		time.Sleep(time.Minute)
	}
	o.notebook.Observe(ctx, e)
}

// An upstream is not said to be back before it is said to be out.
func TestReturnIsToldAfterEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, told := newFleet(), &tardy{}
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Upstreams, cfg.WrapTransport, cfg.Observer = list(1, 1), f.over, told
			cfg.Ejection = proxy.Ejection{Failures: 1, For: time.Second}
		})
		f.set("a", status(500, ""))
		go serveOnce(p, nil)
		time.Sleep(10 * time.Second)
		f.set("a", nil)
		for range 4 {
			serveOnce(p, nil)
		}
		time.Sleep(2 * time.Minute)
		for range 2 {
			serveOnce(p, nil)
		}
		var got []proxy.EventKind
		for _, e := range told.take(proxy.EventEjected, proxy.EventReturned) {
			got = append(got, e.Kind)
		}
		if want := []proxy.EventKind{proxy.EventEjected, proxy.EventReturned}; !slices.Equal(got, want) {
			t.Errorf("observed %v, want %v", got, want)
		}
	})
}
