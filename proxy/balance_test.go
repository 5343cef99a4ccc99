package proxy_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/proxy"
)

// asked returns how often a transport without a network was asked for each host.
type asked struct {
	mu    sync.Mutex
	hosts map[string]int
}

// over answers 204 for every host.
func (a *asked) over(http.RoundTripper) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.hosts == nil {
			a.hosts = map[string]int{}
		}
		a.hosts[r.URL.Host]++
		return &http.Response{StatusCode: 204, Header: http.Header{"Host": {r.URL.Host}}, Body: http.NoBody}, nil
	})
}

func list(weights ...int) (upstreams []proxy.Upstream) {
	for i, w := range weights {
		upstreams = append(upstreams, proxy.Upstream{URL: "http://" + string(rune('a'+i)), Weight: w})
	}
	return upstreams
}

// serveOnce returns the host that answered.
func serveOnce(h http.Handler, edit func(*http.Request)) (status int, host string) {
	r := httptest.NewRequest("GET", "/", nil)
	if edit != nil {
		edit(r)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec.Code, rec.Header().Get("Host")
}

func TestWeights(t *testing.T) {
	var key atomic.Int64
	for _, balance := range []proxy.Balance{proxy.RoundRobin, proxy.LeastInFlight, proxy.ByKey} {
		var a asked
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Upstreams, cfg.Balance, cfg.WrapTransport = list(5, 1, 0, 3), balance, a.over
			if balance == proxy.ByKey {
				cfg.Key = func(*http.Request) string { return strconv.FormatInt(key.Add(1), 10) }
			}
		})
		const n = 10_000
		for range n {
			serveOnce(p, nil)
		}
		for host, weight := range map[string]float64{"a": 5, "b": 1, "c": 1, "d": 3} {
			want, slack := weight/10, 0.03
			if balance == proxy.RoundRobin {
				slack = 0 // exactly
			}
			if got := float64(a.hosts[host]) / n; math.Abs(got-want) > slack {
				t.Errorf("balance %d: %s got %.3f of the requests, want %.3f", balance, host, got, want)
			}
		}
	}
}

func TestRoundRobinIsSmooth(t *testing.T) {
	var a asked
	p := newProxy(t, func(cfg *proxy.Config) { cfg.Upstreams, cfg.WrapTransport = list(3, 1), a.over })
	var got strings.Builder
	for range 8 {
		_, host := serveOnce(p, nil)
		got.WriteString(host)
	}
	if got.String() != "aabaaaba" {
		t.Errorf("in turn: %s", got.String())
	}
}

// A key stays where it is, in another Proxy too, and when an upstream goes only
// its own keys move.
func TestByKeyIsSticky(t *testing.T) {
	var a asked
	with := func(upstreams []proxy.Upstream) *proxy.Proxy {
		return newProxy(t, func(cfg *proxy.Config) {
			cfg.Upstreams, cfg.Balance, cfg.WrapTransport = upstreams, proxy.ByKey, a.over
			cfg.Key = func(r *http.Request) string { return r.Header.Get("X-Tenant") }
		})
	}
	p, other := with(list(1, 1, 1, 1)), with(list(1, 1, 1, 1))
	before := map[string]string{}
	where := func(p http.Handler, tenant string) string {
		_, host := serveOnce(p, func(r *http.Request) { r.Header.Set("X-Tenant", tenant) })
		return host
	}
	for i := range 1000 {
		tenant := fmt.Sprint("tenant-", i)
		before[tenant] = where(p, tenant)
		if again, elsewhere := where(p, tenant), where(other, tenant); again != before[tenant] || elsewhere != before[tenant] {
			t.Fatalf("%s moves from %s to %s, and is at %s elsewhere", tenant, before[tenant], again, elsewhere)
		}
	}
	if err := p.SetUpstreams(list(1, 1, 1)); err != nil {
		t.Fatal(err)
	}
	moved := 0
	for tenant, host := range before {
		if now := where(p, tenant); now != host {
			moved++
			if host != "d" {
				t.Fatalf("%s moved from %s, which is still there, to %s", tenant, host, now)
			}
		}
	}
	if moved < 200 || moved > 300 {
		t.Errorf("%d of 1000 keys were at the upstream that went, want about 250", moved)
	}
	if p.Upstreams()[2].Name != "http://c" {
		t.Errorf("state: %+v", p.Upstreams())
	}
}

// Of two upstreams, one of which does not answer, the other gets all the rest.
func TestLeastInFlightAvoidsTheSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a, b atomic.Int64
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Upstreams, cfg.Balance = list(1, 1), proxy.LeastInFlight
			cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper {
				return roundTrip(func(r *http.Request) (*http.Response, error) {
					if r.URL.Host == "a" {
						a.Add(1)
						time.Sleep(time.Hour)
					}
					b.Add(1)
					time.Sleep(time.Millisecond)
					return &http.Response{StatusCode: 204, Body: http.NoBody}, nil
				})
			}
		})
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { serveOnce(p, nil) })
			time.Sleep(10 * time.Millisecond)
		}
		if a.Load() != 1 || b.Load() < 99 {
			t.Errorf("the slow one got %d, the other %d; want 1 and 99", a.Load(), b.Load())
		}
		if s := p.Upstreams()[0]; s.InFlight != 1 {
			t.Errorf("in flight at the slow one: %d", s.InFlight)
		}
		wg.Wait()
		if s := p.Upstreams(); s[0].InFlight != 0 || s[1].InFlight != 0 {
			t.Errorf("still in flight: %+v", s)
		}
	})
}

func TestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Upstreams, cfg.InFlight = list(1), proxy.InFlight{Max: 3, Queue: 4, Wait: 10 * time.Second}
			cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper {
				return roundTrip(func(r *http.Request) (*http.Response, error) {
					n := now.Add(1)
					most.Store(max(most.Load(), n))
					pr, pw := io.Pipe()
					go func() { // the header at once; the body keeps the place
						time.Sleep(6 * time.Second)
						now.Add(-1)
						pw.Close()
					}()
					return &http.Response{StatusCode: 200, Header: http.Header{}, ContentLength: -1, Body: pr}, nil
				})
			}
		})
		type end struct {
			status int
			after  time.Duration
			retry  string
		}
		ends := make([]end, 9)
		var wg sync.WaitGroup
		start := time.Now()
		for i := range ends {
			wg.Go(func() {
				rec := httptest.NewRecorder()
				p.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
				ends[i] = end{rec.Code, time.Since(start), rec.Header().Get("Retry-After")}
			})
			synctest.Wait()
		}
		if s := p.Upstreams()[0]; s.InFlight != 3 || s.Waiting != 4 {
			t.Errorf("%d in flight, %d wait; want 3, 4", s.InFlight, s.Waiting)
		}
		wg.Wait()
		for i, want := range []end{
			{200, 6 * time.Second, ""}, {200, 6 * time.Second, ""}, {200, 6 * time.Second, ""},
			{200, 12 * time.Second, ""}, {200, 12 * time.Second, ""}, {200, 12 * time.Second, ""},
			{503, 10 * time.Second, "1"}, // waited in vain
			{503, 0, "1"}, {503, 0, "1"}, // the line was full
		} {
			if ends[i] != want {
				t.Errorf("request %d: %+v, want %+v", i, ends[i], want)
			}
		}
		if most.Load() != 3 {
			t.Errorf("%d under way at once, want 3", most.Load())
		}
		if s := p.Upstreams()[0]; s.InFlight != 0 || s.Waiting != 0 {
			t.Errorf("state: %+v", s)
		}
	})
}

// A full upstream is passed by for one that has room.
func TestInFlightOverflowsToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a asked
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Upstreams, cfg.InFlight = list(1, 1), proxy.InFlight{Max: 2}
			cfg.WrapTransport = func(rt http.RoundTripper) http.RoundTripper {
				inner := a.over(rt)
				return roundTrip(func(r *http.Request) (*http.Response, error) {
					res, err := inner.RoundTrip(r)
					time.Sleep(time.Second)
					return res, err
				})
			}
			cfg.Balance, cfg.Key = proxy.ByKey, func(*http.Request) string { return "same" }
		})
		var wg sync.WaitGroup
		var refused atomic.Int64
		for range 5 {
			wg.Go(func() {
				if status, _ := serveOnce(p, nil); status == 503 {
					refused.Add(1)
				}
			})
		}
		wg.Wait()
		if a.hosts["a"] != 2 || a.hosts["b"] != 2 || refused.Load() != 1 {
			t.Errorf("asked %v, refused %d", a.hosts, refused.Load())
		}
	})
}

// A client that leaves the line gives its place up.
func TestClientLeavesTheLine(t *testing.T) {
	noLeaks(t)
	arrived, release := make(chan bool), make(chan bool)
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { arrived <- true; <-release }))
	p := newProxy(t, func(cfg *proxy.Config) { cfg.InFlight = proxy.InFlight{Max: 1, Queue: 1, Wait: time.Minute} }, up.URL)
	seen := statuses{got: make(chan int, 2)}
	s := serve(t, seen.middleware(p))
	first, second := dial(t, s.URL), dial(t, s.URL)
	io.WriteString(first, getRoot)
	<-arrived
	io.WriteString(second, getRoot)
	eventually(t, "the second waits", func() bool { return p.Upstreams()[0].Waiting == 1 })
	second.Close()
	if got := <-seen.got; got != 499 {
		t.Errorf("who left the line is recorded as %d, want 499", got)
	}
	release <- true
	if got := <-seen.got; got != 200 {
		t.Errorf("the first got %d", got)
	}
	first.Close()
	eventually(t, "all places are free", func() bool { s := p.Upstreams()[0]; return s.InFlight == 0 && s.Waiting == 0 })
}

// The list is replaced again and again under load, and no request fails.
func TestSetUpstreamsDropsNothing(t *testing.T) {
	for name, start := range map[string]func(testing.TB, http.Handler) *httptest.Server{"HTTP/1.1": serve, "HTTP/2": serveH2} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			var urls []proxy.Upstream
			roots := x509.NewCertPool()
			for range 3 {
				s := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Write(make([]byte, 1000))
					w.(http.Flusher).Flush()
					w.Write(make([]byte, 1000))
				}))
				if s.TLS != nil {
					roots.AddCert(s.Certificate())
				}
				urls = append(urls, proxy.Upstream{URL: s.URL})
			}
			p := newProxy(t, func(cfg *proxy.Config) { cfg.Upstreams, cfg.TLS = urls, &tls.Config{RootCAs: roots} })
			setUpstreamsUnderLoad(t, p, urls)
		})
	}
}

func setUpstreamsUnderLoad(t *testing.T, p *proxy.Proxy, urls []proxy.Upstream) {
	s := serve(t, p)
	stop := make(chan bool)
	var wg sync.WaitGroup
	var served atomic.Int64
	for range 4 {
		wg.Go(func() {
			c := &http.Client{Transport: &http.Transport{}}
			defer c.CloseIdleConnections()
			for {
				select {
				case <-stop:
					return
				default:
				}
				status, _, body, err := get(c, s.URL)
				if status != 200 || len(body) != 2000 || err != nil {
					t.Errorf("%d, %d bytes, %v", status, len(body), err)
					return
				}
				served.Add(1)
			}
		})
	}
	for i := 0; i < 200 || served.Load() < 200; i++ {
		next := []proxy.Upstream{urls[i%3], urls[(i+1)%3]}
		if i%2 == 0 {
			next = next[:1]
		}
		if err := p.SetUpstreams(next); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	close(stop)
	wg.Wait()
	if p.SetUpstreams([]proxy.Upstream{urls[0], urls[0], {URL: "ftp://x"}, {URL: "http://h", Weight: 2000}}) == nil || len(p.Upstreams()) > 2 {
		t.Error("a bad list was taken")
	}
	if err := p.SetUpstreams(nil); err == nil || err.Error() != "proxy: Upstreams is empty: at least one is needed" {
		t.Errorf("an empty list: %v", err)
	}
}

// After ConnAge new requests are sent on new connections, even if the old one
// was always busy, and the old one is closed when it is done.
func TestConnectionsAge(t *testing.T) {
	noLeaks(t)
	var mu sync.Mutex
	states := map[net.Conn]http.ConnState{}
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(time.Millisecond) }))
	up.Config.ConnState = func(c net.Conn, s http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		states[c] = s
	}
	up.Start()
	defer up.Close()
	p := newProxy(t, func(cfg *proxy.Config) { cfg.Timeouts.ConnAge = 50 * time.Millisecond }, up.URL)
	count := func() (made, open int) {
		mu.Lock()
		defer mu.Unlock()
		for _, s := range states {
			if s != http.StateClosed {
				open++
			}
		}
		return len(states), open
	}
	eventually(t, "the third connection", func() bool {
		serveOnce(p, nil)
		made, _ := count()
		return made >= 3
	})
	eventually(t, "one connection is left", func() bool { _, open := count(); return open == 1 })
}
