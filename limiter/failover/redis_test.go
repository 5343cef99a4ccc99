//go:build unix

package failover_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
	"github.com/goweir/weir/limiter/redislimiter"
)

// A counter is a backend that lets a Redis server count, with one connection for
// each call that is under way. It is as careless as it may be: a reply that
// never comes breaks the connection and nothing else.
type counter struct {
	limiter.Limiter
	addr  string
	heeds bool // its context; else a call takes up to 5 s, as clients do by default

	mu   sync.Mutex
	idle []*conn
}

type conn struct {
	net.Conn
	r *bufio.Reader
}

func (b *counter) do(ctx context.Context, command string) (n int, err error) {
	until := time.Now().Add(5 * time.Second)
	if d, ok := ctx.Deadline(); ok && b.heeds {
		until = d
	}
	var c *conn
	b.mu.Lock()
	if k := len(b.idle); k > 0 {
		c, b.idle = b.idle[k-1], b.idle[:k-1]
	}
	b.mu.Unlock()
	if c == nil {
		dialed, err := (&net.Dialer{Deadline: until}).Dial("tcp", b.addr)
		if err != nil {
			return 0, err
		}
		c = &conn{dialed, bufio.NewReader(dialed)}
	}
	defer func() {
		if err != nil {
			c.Close()
			return
		}
		b.mu.Lock()
		b.idle = append(b.idle, c)
		b.mu.Unlock()
	}()
	c.SetDeadline(until)
	if _, err = fmt.Fprintf(c, "%s\r\n", command); err != nil {
		return 0, err
	}
	line, err := c.r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, ":")))
}

func (b *counter) Take(ctx context.Context, c limiter.Charge) (limiter.Result, error) {
	n, err := b.do(ctx, "INCRBY "+c.Key+" "+strconv.Itoa(c.Cost))
	if err != nil {
		return limiter.Result{}, err
	}
	return limiter.Result{
		Allowed: true, Source: limiter.SourceRedis, Limit: c.Policy.Limit, Remaining: c.Policy.Limit - n,
		Receipt: limiter.Receipt{Paid: int64(c.Cost)},
	}, nil
}

func (b *counter) Refund(ctx context.Context, c limiter.Charge, r *limiter.Result) error {
	_, err := b.do(ctx, "DECRBY "+c.Key+" "+strconv.FormatInt(r.Receipt.Paid, 10))
	r.Receipt = limiter.Receipt{}
	return err
}

func (b *counter) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.idle {
		c.Close()
	}
}

// inParallel calls f 256 times, in 16 goroutines, and returns how long each call
// took, in ascending order.
func inParallel(f func()) []time.Duration {
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * budget / 16)
			for range 16 {
				start := time.Now()
				f()
				d := time.Since(start)
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took
}

// A server that accepts connections and answers nothing: decisions keep the
// budget, nothing piles up, and when it goes on, it is asked again.
func TestBlackHole(t *testing.T) {
	for _, tt := range []struct {
		name string
		open func(t *testing.T, addr string) limiter.Limiter
		all  bool // late grants are given back
	}{
		{"careful client", func(t *testing.T, addr string) limiter.Limiter {
			b := &counter{addr: addr, heeds: true}
			t.Cleanup(b.close)
			return b
		}, false},
		{"careless client", func(t *testing.T, addr string) limiter.Limiter {
			b := &counter{addr: addr}
			t.Cleanup(b.close)
			return b
		}, true},
		{"redislimiter", func(t *testing.T, addr string) limiter.Limiter {
			client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, ContextTimeoutEnabled: true})
			t.Cleanup(func() { client.Close() })
			l, err := redislimiter.New(client, nil)
			if err != nil {
				t.Fatal(err)
			}
			return l
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := redistest.Start(t)
			backend := tt.open(t, server.Addr())
			const limit = 1000 // one comes back in 86 s
			c := of(day(limit), 1)
			patient := failover.New(backend, failover.Local, &failover.Options{Failures: 1 << 30})
			var told notebook
			l := failover.New(backend, failover.Local, &failover.Options{Observer: &told})
			granted := 0 // by the server
			for range 10 {
				if r := take(t, l, c); r.Source == limiter.SourceRedis {
					granted++
				}
			}
			goroutines := runtime.NumGoroutine()

			server.Stop()
			took := inParallel(func() {
				if r, err := patient.Take(t.Context(), c); err != nil || r.Source != limiter.SourceFallback {
					t.Errorf("Take = %+v, %v", r, err)
				}
			})
			// How late the machine is at best, right afterwards.
			alarms := inParallel(func() { time.Sleep(budget) })
			t.Logf("hung: median %v, p99 %v, longest %v; alarms of %v: median %v, p99 %v, longest %v",
				took[128], took[253], took[255], budget, alarms[128], alarms[253], alarms[255])
			if took[0] < budget || took[128] > 2*max(budget, alarms[128]) {
				t.Errorf("decisions took %v or longer, half of them %v, want the budget of %v and little more", took[0], took[128], budget)
			}

			for range failover.DefaultFailures {
				take(t, l, c)
			}
			took = took[:0]
			for range 1000 {
				start := time.Now()
				r := take(t, l, c)
				took = append(took, time.Since(start))
				if r.Source != limiter.SourceFallback {
					t.Fatalf("Take = %+v while the server hangs", r)
				}
			}
			slices.Sort(took)
			t.Logf("breaker open: median %v, p99 %v", took[500], took[990])
			if took[500] > 100*time.Microsecond {
				t.Errorf("with the breaker open, half of the decisions took %v or longer, want 100µs at most", took[500])
			}

			time.Sleep(1500 * ms) // there was a probe meanwhile
			take(t, l, c)
			server.Cont()
			start := time.Now()
			before, gap, last := len(told.kinds()), time.Duration(0), start
			for take(t, l, c).Source != limiter.SourceRedis {
				time.Sleep(ms)
				gap, last = max(gap, time.Since(last)), time.Now()
				if time.Since(start) > 20*time.Second {
					t.Fatal("20s after SIGCONT the server is not asked")
				}
			}
			granted++
			back := time.Since(start)
			gap = max(gap, time.Since(last))
			probes := 0 // a busy machine may not answer the first in time
			for _, k := range told.kinds()[before:] {
				if k == limiter.EventBreakerHalfOpen {
					probes++
				}
			}
			t.Logf("back %v after SIGCONT, by %d probes", back, probes)
			if most := time.Duration(probes) * (time.Second + budget + 2*gap); back > most {
				t.Errorf("back after %v and %d probes, want %v at most: callers came at most %v apart", back, probes, most, gap)
			}

			// Those that were lost have come back, and with them the units that
			// were granted too late, unless their replies were cut off.
			deadline := time.Now().Add(10 * time.Second)
			for runtime.NumGoroutine() > goroutines+5 && time.Now().Before(deadline) {
				time.Sleep(10 * ms)
			}
			if n := runtime.NumGoroutine(); n > goroutines+5 {
				t.Errorf("%d goroutines, %d before the outage", n, goroutines)
			}
			r, err := backend.Take(t.Context(), of(day(limit), 0))
			if err != nil {
				t.Fatal(err)
			}
			n := limit - r.Remaining
			t.Logf("the server has counted %d, and granted %d in time", n, granted)
			if tt.all && n != granted || n < granted {
				t.Errorf("the server has counted %d, but granted %d in time", n, granted)
			}
		})
	}
}

// What a failover costs beside a server.
func BenchmarkRedis(b *testing.B) {
	server := redistest.Start(b)
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1, ContextTimeoutEnabled: true})
	defer client.Close()
	bare, err := redislimiter.New(client, nil)
	if err != nil {
		b.Fatal(err)
	}
	for name, l := range map[string]limiter.Limiter{
		"bare":    bare,
		"healthy": failover.New(bare, failover.Local, &failover.Options{Budget: time.Minute}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.Take(b.Context(), of(plenty, 1)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
