package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/adapters/weirprom"
	"github.com/goweir/weir/examples/gateway/internal/config"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
	"github.com/goweir/weir/limiter/redislimiter"
)

// diagnosis bounds the questions to the server at the start.
const diagnosis = 5 * time.Second

// A store is where quotas are counted.
type store struct {
	limiter.Limiter
	backend *redislimiter.Limiter          // nil: in memory
	memory  *limiter.Memory                // nil: on a server
	outages *outages                       // of the server
	leases  atomic.Pointer[map[string]int] // by the name of the quota
	about   string                         // for people; empty: in memory
	close   []func()
}

// quotas returns the store of the configuration, with all that is counted there
// unless it is another one than before.
func (b *builder) quotas() (*store, error) {
	leases, id := b.Leases(), config.Identity(b.Redis)
	if b.Redis.URL == "" {
		id += config.Identity(b.Memory)
	}
	s, kept, err := reuse(b, "store", id, func() (*store, func(), error) {
		s, err := openStore(b.Memory, b.Redis, leases, b.dry, b.log, b.observe)
		if err != nil {
			return nil, nil, b.At(b.Redis.Pos, "redis", err)
		}
		return s, s.Close, nil
	})
	if kept {
		b.commit = append(b.commit, func() error { s.leases.Store(&leases); return nil })
	}
	return s, err
}

// openStore returns the store that the configuration asks for. It does not wait
// for a Redis server: the gateway starts without it, as it goes on without it.
func openStore(m config.Memory, c config.Redis, leases map[string]int, dry bool, log *slog.Logger, watch observers) (*store, error) {
	s := new(store)
	s.leases.Store(&leases)
	url := c.URL
	switch url {
	case "":
		o := m.Options()
		o.Observer = watch.limiter
		s.memory = limiter.NewMemory(&o)
		s.Limiter = s.memory
		return s, nil
	case config.Embedded:
		server, err := miniredis.Run()
		if err != nil {
			return nil, err
		}
		s.close = append(s.close, server.Close)
		url = "redis://" + server.Addr()
		s.about = "limits are counted by the Redis inside this process, which is for trying out only: they end with it, and no other gateway shares them"
	default:
		s.about = fmt.Sprintf("limits are shared through Redis; while it is away: %v", failover.Mode(c.WhenDown))
	}
	redis.SetLogger(poolLog{seldom(log)})
	client, err := redislimiter.Open(url)
	if err != nil {
		s.Close()
		return nil, err
	}
	s.close = append(s.close, func() { client.Close() })
	backend, err := redislimiter.New(client, c.Options(func(p limiter.Policy) int { return (*s.leases.Load())[p.Name] }))
	if err != nil {
		s.Close()
		return nil, err
	}
	s.backend = backend
	if c.URL != config.Embedded && !dry {
		ctx, cancel := context.WithTimeout(context.Background(), diagnosis)
		ended := make(chan struct{})
		s.close = append(s.close, func() { cancel(); <-ended })
		go func() {
			defer close(ended)
			defer cancel()
			diagnose(ctx, backend, log)
		}()
	}
	s.outages = &outages{log: log, noisy: seldom(log), whenDown: failover.Mode(c.WhenDown)}
	o, breaker := c.Failover(), s.outages.watch("redis", watch)
	o.Observer = breaker
	s.close = append(s.close, breaker.end)
	s.Limiter = failover.New(backend, failover.Mode(c.WhenDown), &o)
	return s, nil
}

// diagnose logs what is wrong with the server, a line for each finding.
func diagnose(ctx context.Context, backend *redislimiter.Limiter, log *slog.Logger) {
	err := backend.Diagnose(ctx)
	if err == nil || errors.Is(context.Cause(ctx), context.Canceled) {
		return
	}
	findings := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		findings = joined.Unwrap()
	}
	for _, finding := range findings {
		log.Warn("Redis is not as it should be", "finding", finding)
	}
}

// Close lets go of the server; the last that was opened first.
func (s *store) Close() {
	for i := range s.close {
		s.close[len(s.close)-1-i]()
	}
}

// probes says when the server is away.
func (s *store) probes() []probe {
	if s.outages == nil {
		return nil
	}
	return []probe{{"redis", s.outages.why}}
}

// collectors returns what is asked at each scrape.
func (s *store) collectors() []prometheus.Collector {
	if s.memory == nil {
		return nil
	}
	return []prometheus.Collector{weirprom.Memory("quotas", s.memory)}
}

// outages logs when the server goes away and when it is back, once each, and
// what it fails with in between at most once a second. It is away while any of
// the breakers in front of it is open: that of quotas, those of shared slots.
type outages struct {
	log, noisy *slog.Logger
	whenDown   failover.Mode
	since      atomic.Pointer[time.Time] // nil: it is not away

	mu   sync.Mutex
	open int // breakers
}

func (o *outages) opened() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open++; o.open == 1 {
		now := time.Now()
		o.since.Store(&now)
		o.log.Error("Redis is away: see redis.when_down for how limits are held meanwhile", "when_down", o.whenDown.String())
	}
}

func (o *outages) closed(back bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open--; o.open > 0 {
		return
	}
	if since := o.since.Swap(nil); back {
		o.log.Info("Redis is back", "after", time.Since(*since))
	}
}

// A breakerWatch tells outages of one breaker.
type breakerWatch struct {
	*outages
	next limiter.Observer // of the breaker; nil: nobody
	all  limiter.Observer // of all limits; nil: nobody
	open atomic.Bool
}

// watch returns the observer of a breaker; backend is what metrics call it.
func (o *outages) watch(backend string, observe observers) *breakerWatch {
	w := &breakerWatch{outages: o, all: observe.limiter}
	if observe.failover != nil {
		w.next = observe.failover(backend)
	}
	return w
}

func (w *breakerWatch) Observe(ctx context.Context, e limiter.Event) {
	next := w.next
	switch e.Kind {
	case limiter.EventFailure:
		w.noisy.Warn("Redis did not answer", "error", e.Err)
	case limiter.EventBreakerOpen:
		if w.open.CompareAndSwap(false, true) { // else a probe failed, and it is away as before
			w.opened()
		}
	case limiter.EventBreakerClosed:
		if w.open.CompareAndSwap(true, false) {
			w.closed(true)
		}
	case limiter.EventLapse:
		w.noisy.Warn("slots were renewed too late: others may have had them meanwhile", "limit", e.Policy, "slots", e.N)
		next = w.all
	}
	if next != nil {
		next.Observe(ctx, e)
	}
}

// end says that there is no such breaker any more: one that is open is nothing to
// wake anybody for.
func (w *breakerWatch) end() {
	if !w.open.CompareAndSwap(true, false) {
		return
	}
	w.closed(false)
	if w.next != nil {
		w.next.Observe(context.Background(), limiter.Event{Kind: limiter.EventBreakerClosed})
	}
}

// A poolLog takes what go-redis would write to standard error by itself: a line
// for each connection that cannot be opened.
type poolLog struct{ log *slog.Logger }

func (p poolLog) Printf(_ context.Context, format string, args ...any) {
	p.log.Warn("the Redis client", "says", fmt.Sprintf(format, args...))
}

// why is empty while the server answers.
func (o *outages) why() string {
	since := o.since.Load()
	if since == nil {
		return ""
	}
	return fmt.Sprintf("Redis has been away since %s; redis.when_down is %v", since.UTC().Format(time.RFC3339), o.whenDown)
}

// describe prints where quotas are counted, unless it is in memory.
func (s *store) describe(w io.Writer) {
	if s.about != "" {
		fmt.Fprintf(w, "  %s\n", s.about)
	}
}
