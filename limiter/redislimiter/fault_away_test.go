//go:build unix

package redislimiter_test

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/internal/faultnet"
	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
	"github.com/goweir/weir/limiter/redislimiter"
)

var awayFaults = []fault{
	{name: "killed", when: "the server is killed, its port refuses", alone: true, test: func(t *testing.T, f *row) {
		s := redistest.Start(t)
		outage(t, f, s.Addr(), s.Kill, s.Restart, redislimiter.ErrUnreachable, redislimiter.ErrUnknown)
	}},
	{name: "hung", when: "the server hangs: connections are accepted, nothing is answered (SIGSTOP)", alone: true, test: func(t *testing.T, f *row) {
		s := redistest.Start(t)
		outage(t, f, s.Addr(), s.Stop, s.Cont, redislimiter.ErrUnknown, redislimiter.ErrUnreachable)
	}},
	{name: "black hole", when: "the network swallows everything", alone: true, test: func(t *testing.T, f *row) {
		p := faultnet.New(t, redistest.Start(t).Addr())
		outage(t, f, p.Addr(), func() { p.Set(faultnet.Faults{BlackHole: true}) }, func() { p.Set(faultnet.Faults{}); p.Reset() },
			redislimiter.ErrUnknown, redislimiter.ErrUnreachable)
	}},
	{name: "stock", when: "the server is killed while a process has units in stock (`Lease`) and remembers refusals (`DenyCache`)", test: stock},
	{name: "instances", when: "four instances in mode `Local` lose the server, and find it again", test: fourInstances},
}

const (
	budget = failover.DefaultBudget
	grace  = 50 * time.Millisecond // for a machine that is busy with other things
)

// watch notes when the breaker did what.
type watch struct {
	mu                     sync.Mutex
	failures, probes, back int
	lastOpen, lastProbe    time.Time
}

func (w *watch) Observe(_ context.Context, e limiter.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e.Kind {
	case limiter.EventFailure:
		w.failures++
	case limiter.EventBreakerOpen:
		w.lastOpen = e.Start
	case limiter.EventBreakerHalfOpen:
		w.probes++
		w.lastProbe = e.Start
	case limiter.EventBreakerClosed:
		w.back++
	}
}

// inTurns calls f 256 times in 16 goroutines and returns how long it took, in
// ascending order.
func inTurns(f func()) []time.Duration {
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

// outage takes a server away from under a limiter behind failover, and gives it
// back.
func outage(t *testing.T, f *row, addr string, down, up func(), errs ...error) {
	backend := open(t, quick(t, addr), redislimiter.Options{})
	w := new(watch)
	l := failover.New(backend, failover.Local, &failover.Options{Observer: w})
	patient := failover.New(backend, failover.Local, &failover.Options{Failures: 1 << 30})
	closed := failover.New(backend, failover.Closed, nil)
	c := one(1_000_000)
	n := new(counts)
	n.crowd(t, 8, 10, 10*time.Second, backend, c)
	if n.granted != 80 {
		t.Fatalf("before the outage: %d granted, %v", n.granted, n.errs)
	}
	goroutines := runtime.NumGoroutine()

	down()
	// The bare backend, with the deadline of its caller.
	direct := new(counts)
	direct.crowd(t, 4, 4, budget, backend, c)
	f.fails(direct.errs, errs...)
	if direct.granted+direct.denied > 0 {
		t.Errorf("the server is away, but decided %d times", direct.granted+direct.denied)
	}

	var took, alarms []time.Duration
	for range 5 { // the machine may be busy with something else for a while
		took = inTurns(func() {
			if r, err := patient.Take(t.Context(), c); err != nil || r.Source != limiter.SourceFallback {
				t.Errorf("Take = %+v, %v, want the fallback", r, err)
			}
		})
		alarms = inTurns(func() { time.Sleep(budget) })
		if took[253] <= max(budget, alarms[253])+grace {
			break
		}
	}
	f.hold(took[253] <= max(budget, alarms[253])+grace, "every call is decided within the budget",
		"median", took[128], "p99", took[253], "longest", took[255], "- alarms of the budget alone: median", alarms[128], "p99", alarms[253], "longest", alarms[255])

	for range failover.DefaultFailures {
		l.Take(t.Context(), c)
	}
	took = took[:0]
	for range 1000 {
		start := time.Now()
		r, err := l.Take(t.Context(), c)
		took = append(took, time.Since(start))
		if err != nil || r.Source != limiter.SourceFallback {
			t.Fatalf("Take = %+v, %v while the server is away", r, err)
		}
	}
	slices.Sort(took)
	f.hold(took[500] <= 100*time.Microsecond, "after five failures in a row the breaker is open, and half of the decisions take 100 µs at most",
		"median", took[500], "p99", took[990])

	// Hammering for a while: one probe a second.
	w.mu.Lock()
	before := w.probes
	w.mu.Unlock()
	begin, calls := time.Now(), 0
	for time.Since(begin) < 2200*time.Millisecond {
		l.Take(t.Context(), c)
		calls++
		time.Sleep(time.Millisecond)
	}
	w.mu.Lock()
	probes := w.probes - before
	w.mu.Unlock()
	f.hold(probes <= int(time.Since(begin)/time.Second)+1 && probes > 0, "one call a second asks again", "calls", calls, "in", time.Since(begin), "asked", probes)
	// It has its own breaker.
	for range failover.DefaultFailures {
		closed.Take(t.Context(), c)
	}
	if _, err := closed.Take(t.Context(), c); err == nil {
		t.Error("mode Closed decides")
	}

	// Its callers are those who end the outage. How late they come is theirs.
	gap, last := time.Duration(0), time.Now()
	up()
	late := eventually(t, "the server is asked", 15*time.Second, func() bool {
		gap = max(gap, time.Since(last))
		last = time.Now()
		r, err := l.Take(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if r.Source == limiter.SourceRedis {
			n.granted++
			return true
		}
		return false
	})
	w.mu.Lock()
	wait := w.lastProbe.Sub(w.lastOpen)
	w.mu.Unlock()
	f.hold(wait <= time.Second+2*gap+grace, "the first call a second after the last probe's end asks again, and ends the outage if it is answered",
		"after", wait, "- back", late, "after the server; callers came at most", gap, "apart")

	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > goroutines+5 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	f.hold(runtime.NumGoroutine() <= goroutines+5, "no goroutines pile up", runtime.NumGoroutine(), "after,", goroutines, "before")
}

// fourInstances counts what they admit together.
func fourInstances(t *testing.T, f *row) {
	const instances, limit = 4, 10
	s := redistest.Start(t)
	o := fresh(redislimiter.Options{})
	var ls []limiter.Limiter
	for range instances {
		backend, err := redislimiter.New(quick(t, s.Addr()), o)
		if err != nil {
			t.Fatal(err)
		}
		ls = append(ls, failover.New(backend, failover.Local, &failover.Options{Instances: instances}))
	}
	c := one(limit)
	sum := func(times int) map[limiter.Source]int {
		got := map[limiter.Source]int{}
		for range times {
			for _, l := range ls {
				r, err := l.Take(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				if r.Allowed {
					got[r.Source]++
				}
			}
		}
		return got
	}
	// On a busy machine an answer may come too late before the outage, too: then it
	// is the fallback's.
	before := sum(1)
	s.Stop()
	during := sum(50)
	s.Cont()
	after := 0
	eventually(t, "all are back", 15*time.Second, func() bool {
		back := 0
		for _, l := range ls {
			r, err := l.Take(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if r.Allowed {
				after++
			}
			if r.Source == limiter.SourceRedis || r.Source == limiter.SourceDenyCache {
				back++
			}
		}
		return back == len(ls)
	})
	for _, n := range sum(10) {
		after += n
	}
	server, alone := before[limiter.SourceRedis], before[limiter.SourceFallback]+during[limiter.SourceFallback]
	f.hold(alone == instances*(limit/instances), "together they admit their shares and no more: 8 of a limit of 10", alone)
	f.hold(server+after <= limit, "what the server has counted before still counts afterwards", server, "before,", after, "after")
	f.hold(server+alone+after <= 2*limit, "in all at most one burst more than the limit", server+alone+after)
	f.fails(nil)
}

// stock counts what goes on without a server.
func stock(t *testing.T, f *row) {
	s := redistest.Start(t)
	const lease = 10
	o := fresh(redislimiter.Options{DenyCache: redislimiter.DefaultDenyCache, DenyTime: time.Hour, Lease: func(p limiter.Policy) int {
		if p.Limit > 1 {
			return lease
		}
		return 0
	}})
	l, err := redislimiter.New(quick(t, s.Addr()), o)
	if err != nil {
		t.Fatal(err)
	}
	c, drained := one(100), one(1)
	drained.Key = "drained"
	n := new(counts)
	n.crowd(t, 1, 1, time.Second, l, c)
	n.crowd(t, 1, 2, time.Second, l, drained)
	if n.granted != 2 || n.denied != 1 {
		t.Fatalf("%d granted, %d denied", n.granted, n.denied)
	}
	s.Kill()
	m := new(counts)
	m.crowd(t, 1, 2*lease, time.Second, l, c)
	f.fails(m.errs, redislimiter.ErrUnreachable, redislimiter.ErrUnknown)
	f.hold(m.granted == lease-1 && m.sources[limiter.SourceLease] == lease-1 && len(m.errs) == lease+1, "the stock is spent without an error, and no more than that", m.granted)
	m = new(counts)
	m.crowd(t, 1, 10, time.Second, l, drained)
	f.hold(m.denied == 10 && m.sources[limiter.SourceDenyCache] == 10, "who is known to be refused is refused", m.denied)
}
