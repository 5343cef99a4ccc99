package main_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/internal/redistest"
)

// An arrival is a request of the load, and what became of it.
type arrival struct {
	start, end time.Time
	status     int
}

// A load sends requests to all gateways, each at its own pace, until it is
// ended. They are many more than the limit lets pass.
type load struct {
	mu       sync.Mutex
	arrivals []arrival
	stop     chan struct{}
	stopping sync.Once
	wg       sync.WaitGroup
}

func startLoad(t *testing.T, path string, every time.Duration, gateways ...*gateway) *load {
	l := &load{stop: make(chan struct{})}
	t.Cleanup(func() { l.end() }) // before the gateways end
	for _, g := range gateways {
		client := &http.Client{Transport: &http.Transport{}}
		t.Cleanup(client.CloseIdleConnections)
		l.wg.Go(func() {
			ticker := time.NewTicker(every)
			defer ticker.Stop()
			for {
				select {
				case <-l.stop:
					return
				case <-ticker.C:
				}
				a := arrival{start: time.Now()}
				res, err := client.Get(g.URL + path)
				if err != nil {
					t.Errorf("a request failed: %v", err)
					continue
				}
				res.Body.Close()
				a.end, a.status = time.Now(), res.StatusCode
				l.mu.Lock()
				l.arrivals = append(l.arrivals, a)
				l.mu.Unlock()
			}
		})
	}
	return l
}

// shows reports whether since an instant enough has passed and been refused to
// show that there is a limit.
func (l *load) shows(from time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	in := within(l.arrivals, from, time.Now())
	return count(in, 200) >= 2 && count(in, 429) >= 2
}

// end stops the load and returns what became of it.
func (l *load) end() []arrival {
	l.stopping.Do(func() { close(l.stop) })
	l.wg.Wait()
	return l.arrivals
}

// within returns those that began and ended between two instants.
func within(as []arrival, from, to time.Time) []arrival {
	var in []arrival
	for _, a := range as {
		if !a.start.Before(from) && !a.end.After(to) {
			in = append(in, a)
		}
	}
	return in
}

func count(as []arrival, status int) (n int) {
	for _, a := range as {
		if a.status == status {
			n++
		}
	}
	return n
}

// Two gateways on one Redis, under load: the limit they share holds; Redis is
// killed, and each holds its half; it comes back, and the limit is one again. No
// request is lost on the way, and none waits.
func TestTwoGatewaysOneRedis(t *testing.T) {
	const (
		rate, burst = 4, 4
		budget      = time.Second // a busy machine is no outage
	)
	server := redistest.Start(t)
	config := fmt.Sprintf(`
admin: {listen: 127.0.0.1:0}
redis: {url: %q, secret: fleet, when_down: local, instances: 2, budget: %v}
routes:
  - {path: /, upstreams: [demo], limits: [{name: all, key: global, rate: %d/s, burst: %d}]}
`+unhurried, server.URL(), budget, rate, burst)
	one, other := start(t, config), start(t, config)
	phase := 2 * time.Second
	if testing.Short() {
		phase = time.Second
	}
	l := startLoad(t, "/echo", 40*time.Millisecond, one, other, one, other, one, other, one, other)

	// span lets a phase last, and longer where the machine is too busy for the load.
	span := func(from time.Time) (to time.Time) {
		time.Sleep(phase)
		for !l.shows(from) {
			if time.Since(from) > time.Minute {
				t.Fatal("in a minute not two requests passed and two were refused")
			}
			time.Sleep(20 * time.Millisecond)
		}
		return time.Now()
	}
	shared := time.Now()
	killed := span(shared)
	server.Kill()
	for _, g := range []*gateway{one, other} {
		g.awaitLog(t, "Redis is away", func() {})
	}
	away := time.Now()
	restarted := span(away)
	server.Restart()
	for _, g := range []*gateway{one, other} {
		g.awaitLog(t, "Redis is back", func() {})
	}
	back := time.Now()
	ended := span(back)
	all := l.end()

	// What may pass in a span: the burst, and the rate for as long. Without Redis
	// each gateway has half of both; what passes is the same.
	most := func(from, to time.Time, bursts int) int {
		return bursts*burst + int(rate*to.Sub(from).Seconds()) + 2 // one of each gateway that is begun
	}
	// While one has noticed a change and the other has not, one has its half and
	// the other all of what Redis gives.
	between := int(rate / 2 * (away.Sub(killed) + back.Sub(restarted)).Seconds())
	for _, p := range []struct {
		name     string
		from, to time.Time
		most     int
	}{
		{"with Redis", shared, killed, most(shared, killed, 1)},
		{"without Redis", away, restarted, most(away, restarted, 1)},
		{"with Redis again, which has forgotten", back, ended, most(back, ended, 1)},
		// At each of the two changes what the other side has admitted is unknown.
		{"in all", shared, ended, most(shared, ended, 3) + between},
	} {
		in := within(all, p.from, p.to)
		passed, refused := count(in, 200), count(in, 429)
		t.Logf("%-40s %6.2f s: %4d requests, %3d passed (at most %3d), %4d refused", p.name, p.to.Sub(p.from).Seconds(), len(in), passed, p.most, refused)
		if passed > p.most {
			t.Errorf("%s: %d passed, want at most %d", p.name, passed, p.most)
		}
		// Half of the rate is room enough for a machine that is busy; one that is
		// too busy to send ten times the rate may do nothing for a while.
		if least := int(rate * p.to.Sub(p.from).Seconds() / 2); passed < least && len(in) > 20*least {
			t.Errorf("%s: only %d passed, want %d and more", p.name, passed, least)
		}
		if passed+refused != len(in) {
			t.Errorf("%s: %d requests got something else than 200 or 429", p.name, len(in)-passed-refused)
		}
		if refused == 0 {
			t.Errorf("%s: nobody was refused: the load was too small to show anything", p.name)
		}
	}
	var took []time.Duration
	for _, a := range within(all, killed, restarted) {
		took = append(took, a.end.Sub(a.start))
	}
	slices.Sort(took)
	t.Logf("from the kill on: half of %d requests took %v or less, the slowest %v", len(took), took[len(took)/2], took[len(took)-1])
	var usual []time.Duration
	for _, a := range within(all, shared, killed) {
		usual = append(usual, a.end.Sub(a.start))
	}
	slices.Sort(usual)
	if half := took[len(took)/2]; half > max(budget/4, 3*usual[len(usual)/2]) {
		t.Errorf("half of the requests took %v and more from the kill on: they wait for Redis", half)
	}
	for i, g := range []*gateway{one, other} {
		s := scrape(t, g)
		if s.total("weir_limiter_decisions_total", "result", "local_fallback") == 0 || s.total("weir_limiter_breaker_opened_total") == 0 {
			t.Errorf("gateway %d does not count what it decided without Redis", i)
		}
		if r := g.ready(t); r.Status != "ready" {
			t.Errorf("gateway %d is %+v at the end, want ready", i, r)
		}
		if records := g.stop(t); len(records) == 0 {
			t.Errorf("gateway %d has recorded nothing", i)
		}
	}
}
