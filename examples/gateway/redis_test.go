package main_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/internal/redistest"
)

const sharedLimit = unhurried + `
routes:
  - path: /
    upstreams: [demo]
    limits: [{name: all, key: global, rate: 10/h}]
`

// patient returns the URL of a server that is given all the time that a busy
// machine may take.
func patient(server *redistest.Server) string {
	return server.URL() + "?dial_timeout=20s&read_timeout=20s&write_timeout=20s&pool_timeout=20s"
}

// burst sends requests to all gateways at once and counts the answers by status.
func burst(t *testing.T, path string, each int, gateways ...*gateway) map[int]int {
	t.Helper()
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		counts = map[int]int{}
	)
	for _, g := range gateways {
		for range each {
			wg.Go(func() {
				res, _, err := do(t, request(t, "GET", g.URL+path, ""))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				counts[res.StatusCode]++
			})
		}
	}
	wg.Wait()
	return counts
}

// Two gateways on one Redis are one limit; without it each has its own.
func TestSharedLimit(t *testing.T) {
	server := redistest.Start(t)
	// With time enough for a busy machine: nothing but Redis decides.
	config := "redis: {budget: 20s, when_down: closed}" + sharedLimit
	one, other := start(t, config, "-redis", patient(server)), start(t, config, "-redis", patient(server))
	if got := burst(t, "/echo", 50, one, other); got[200] != 10 || got[429] != 90 {
		t.Errorf("answers of two gateways on one Redis by status are %v, want 10 of 200 and 90 of 429", got)
	}
	if strings.Contains(server.Do("KEYS", "*"), "all") {
		t.Error("the name of the limit can be read in Redis")
	}
	one, other = start(t, sharedLimit), start(t, sharedLimit)
	if got := burst(t, "/echo", 50, one, other); got[200] != 20 {
		t.Errorf("answers of two gateways in memory by status are %v, want 20 of 200", got)
	}
}

// A gateway starts without its Redis, holds its share meanwhile, asks Redis when
// it is there, and goes on when it dies.
func TestRedisComesAndGoes(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	g := start(t, fmt.Sprintf(`
redis: {url: "%s", when_down: local, instances: 5, budget: 20s}
%s`, patient(server), sharedLimit))
	if got := burst(t, "/echo", 20, g); got[200] != 2 || got[429] != 18 {
		t.Errorf("without Redis the answers by status are %v, want a fifth of 10 of 200", got)
	}
	server.Restart()
	g.awaitLog(t, "Redis is back", func() { burst(t, "/echo", 1, g) })
	if got := burst(t, "/echo", 20, g); got[200] > 10 || got[200] < 8 || got[200]+got[429] != 20 {
		t.Errorf("with Redis the answers by status are %v, want 10 of 200, less those that asked whether it is back", got)
	}
	server.Kill()
	g.awaitLog(t, "Redis is away", func() { burst(t, "/echo", 1, g) })
	if got := burst(t, "/echo", 5, g); got[429] != 5 {
		t.Errorf("without Redis again the answers by status are %v, want 429: the share is used up", got)
	}
}

// Closed refuses what nobody counts, and Open lets it pass without fields.
func TestWhenDown(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	for mode, want := range map[string]int{"closed": 503, "open": 200} {
		g := start(t, fmt.Sprintf("redis: {url: %q, when_down: %s}\n%s", server.URL(), mode, sharedLimit))
		res, _ := get(t, g.URL+"/echo")
		if res.StatusCode != want || res.Header.Get("RateLimit") != "" {
			t.Errorf("%s: %s with RateLimit %q, want %d and none", mode, res.Status, res.Header.Get("RateLimit"), want)
		}
	}
}

// The Redis inside counts like a real one, and says what it is.
func TestEmbeddedRedis(t *testing.T) {
	g := start(t, "redis: {budget: 20s, when_down: closed}"+sharedLimit, "-redis", "embedded")
	if got := burst(t, "/echo", 50, g); got[200] != 10 || got[429] != 40 {
		t.Errorf("answers by status are %v, want 10 of 200 and 40 of 429", got)
	}
	if out := g.stdout.String(); !strings.Contains(out, "for trying out only") {
		t.Errorf("it does not say what the embedded Redis is:\n%s", out)
	}
	g.stop(t)
}

// awaitLog does something again and again until the log has a text.
func (g *gateway) awaitLog(t *testing.T, text string, do func()) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if strings.Contains(g.stderr.String(), text) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the log never says %q", text)
		}
		do()
		time.Sleep(20 * time.Millisecond)
	}
}
