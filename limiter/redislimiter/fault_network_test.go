//go:build unix

package redislimiter_test

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/internal/faultnet"
	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
	"github.com/goweir/weir/limiter/redislimiter"
)

var networkFaults = []fault{
	{name: "slow", when: "30 ms of latency are added to every round trip", test: func(t *testing.T, f *row) {
		p := faultnet.New(t, redistest.Start(t).Addr())
		l := open(t, quick(t, p.Addr()), redislimiter.Options{})
		c := one(1000)
		used(t, l, c) // connected
		p.Set(faultnet.Faults{Latency: 15 * time.Millisecond})
		before := p.Stats().RoundTrips
		n := new(counts)
		n.crowd(t, 1, 20, time.Second, l, c)
		f.fails(n.errs)
		f.hold(p.Stats().RoundTrips-before == 20, "a decision takes one round trip, also with several charges", "longest", n.longest)
		cs := []limiter.Charge{c, c, c, c, c}
		for i := range cs {
			cs[i].Key = string(rune('a' + i))
		}
		before = p.Stats().RoundTrips
		if _, err := l.TakeAll(t.Context(), cs); err != nil {
			t.Fatal(err)
		}
		if got := p.Stats().RoundTrips - before; got != 1 {
			t.Errorf("five charges took %d round trips", got)
		}
		f.neverTwice(n, used(t, l, c))
	}},
	{name: "lost by FIN", when: "5 % of the replies are lost, the connection with them (closed)", test: func(t *testing.T, f *row) {
		lostReplies(t, f, faultnet.FIN)
	}},
	{name: "lost by RST", when: "5 % of the replies are lost, the connection with them (reset)", test: func(t *testing.T, f *row) {
		lostReplies(t, f, faultnet.RST)
	}},
	{name: "lost in silence", when: "5 % of the replies are lost, and the connection stays open in silence", test: func(t *testing.T, f *row) {
		lostReplies(t, f, faultnet.Hang)
	}},
	{name: "late", when: "replies come after the budget, behind `failover`", test: lateReplies},
	{name: "narrow", when: "1 KB/s of bandwidth, behind `failover`", test: func(t *testing.T, f *row) {
		p := faultnet.New(t, redistest.Start(t).Addr())
		backend := open(t, quick(t, p.Addr()), redislimiter.Options{})
		c := one(1000)
		used(t, backend, c)
		p.Set(faultnet.Faults{Bandwidth: 1000})
		l := failover.New(backend, failover.Local, &failover.Options{Failures: 1 << 30})
		n := f.inBudget("every call is decided within the budget", func() *counts {
			n := new(counts)
			n.crowd(t, 8, 5, time.Minute, l, c)
			if n.granted != 40 {
				t.Errorf("%d granted, want 40: %v", n.granted, n.errs)
			}
			return n
		})
		f.fails(n.errs)
		p.Set(faultnet.Faults{})
		p.Reset()
		ours := 0
		eventually(t, "the server is asked", 10*time.Second, func() bool {
			r, err := l.Take(t.Context(), c)
			if err == nil && r.Source == limiter.SourceRedis {
				ours++
			}
			return ours > 0
		})
		f.hold(ours > 0, "it is asked again when it answers in time")
	}},
}

// lostReplies loses replies to decisions on their way back, when the server has
// decided already.
func lostReplies(t *testing.T, f *row, end faultnet.End) {
	p := faultnet.New(t, redistest.Start(t).Addr())
	l := open(t, quick(t, p.Addr()), redislimiter.Options{})
	c := one(100_000)
	used(t, l, c)
	var mu sync.Mutex
	rnd, lost := rand.New(rand.NewPCG(7, uint64(end))), 0
	p.Set(faultnet.Faults{End: end, LoseReply: func(sent []byte) bool {
		if !bytes.Contains(sent, []byte("evalsha")) {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		if rnd.IntN(20) > 0 {
			return false
		}
		lost++
		return true
	}})
	n := new(counts)
	// One at a time first, so that a lost reply is one lost decision.
	times, patience := 60, 100*time.Millisecond
	if end != faultnet.Hang {
		times, patience = 300, 10*time.Second // the end of the connection is noticed
	}
	n.crowd(t, 1, times, patience, l, c)
	alone := len(n.errs)
	n.crowd(t, 8, times, patience, l, c)
	p.Set(faultnet.Faults{})
	mu.Lock()
	defer mu.Unlock()
	f.fails(n.errs, redislimiter.ErrUnknown, redislimiter.ErrUnreachable)
	if alone == 0 || alone > lost {
		t.Errorf("%d of %d calls failed, %d replies were lost", alone, times, lost)
	}
	f.neverTwice(n, used(t, l, c))
	// Nobody left, so nothing was given back: what was lost was taken.
	if end != faultnet.Hang {
		f.hold(used(t, l, c) == n.granted+n.unknown, "what was lost had been taken, once", used(t, l, c))
	}
}

// lateReplies counts what the server gave when nobody waited any more.
func lateReplies(t *testing.T, f *row) {
	p := faultnet.New(t, redistest.Start(t).Addr())
	backend := open(t, quick(t, p.Addr()), redislimiter.Options{})
	l := failover.New(backend, failover.Local, &failover.Options{Failures: 1 << 30})
	c := one(100_000)
	used(t, backend, c)
	p.Set(faultnet.Faults{Latency: 2 * budget})
	n := new(counts)
	n.crowd(t, 8, 10, time.Minute, l, c)
	p.Set(faultnet.Faults{})
	f.fails(n.errs)
	f.hold(n.sources[limiter.SourceFallback] == 80, "the fallback decides, and the call that was late is not asked again", "sources", n.sources)
	time.Sleep(6 * budget)
	got := used(t, backend, c)
	f.hold(got <= 80, "the server counts each call at most once", got, "of 80")
}
