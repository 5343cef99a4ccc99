//go:build unix

package redislimiter_test

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/internal/faultnet"
	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/redislimiter"
)

var stateFaults = []fault{
	{name: "restarted empty", when: "it is restarted without data and scripts, between two calls", test: restartedEmpty},
	{name: "scripts flushed", when: "`SCRIPT FLUSH`, again and again", test: scriptsFlushed},
	{name: "clock set back", when: "its clock is set back by an hour (or 10 s): what is stored lies ahead", test: func(t *testing.T, f *row) {
		for _, jump := range []time.Duration{time.Hour, 10 * time.Second} {
			clockSetBack(t, f, jump)
		}
	}},
	{name: "clock set forward", when: "its clock is set forward by an hour", test: clockSetForward},
	{name: "clocks of processes", when: "the clocks of the processes differ", test: clocksOfProcesses},
	{name: "evicted", when: "maxmemory is reached under `allkeys-lru`, and quotas are evicted", test: evicted},
	{name: "two configurations", when: "two versions of an application with different limits run at once", test: twoConfigurations},
	{name: "lost time to live", when: "a key has lost its time to live (`PERSIST`)", test: lostTTL},
}

func fieldsOf(text string) []string { return strings.Fields(text) }

func restartedEmpty(t *testing.T, f *row) {
	s := redistest.Start(t)
	const nodes, limit = 4, 50
	o := fresh(redislimiter.Options{})
	var ls []*redislimiter.Limiter
	for range nodes {
		l, err := redislimiter.New(quick(t, s.Addr()), o)
		if err != nil {
			t.Fatal(err)
		}
		ls = append(ls, l)
	}
	c := one(limit)
	n := new(counts)
	round := func(times int) {
		var wg sync.WaitGroup
		for _, l := range ls {
			wg.Go(func() { n.crowd(t, 1, times, 2*time.Second, l, c) })
		}
		wg.Wait()
	}
	round(2 * limit)
	first := n.granted
	s.Restart()
	round(1)
	again := s.CommandStats()["eval"]
	round(2 * limit)
	f.fails(n.errs)
	f.hold(len(n.errs) == 0, "no call fails")
	f.hold(again >= 1 && again <= nodes, "each process sends a script at most once more", again, "by", nodes)
	f.hold(first == limit && n.granted == 2*limit, "one more burst is admitted", first, "before,", n.granted-first, "after")
}

func scriptsFlushed(t *testing.T, f *row) {
	s := redistest.Start(t)
	l := open(t, quick(t, s.Addr()), redislimiter.Options{})
	c := one(100_000)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	flushes := 0
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				s.Do("SCRIPT", "FLUSH")
				flushes++
			}
		}
	})
	n := new(counts)
	for begin := time.Now(); time.Since(begin) < time.Second; {
		n.crowd(t, 8, 25, 2*time.Second, l, c)
	}
	close(stop)
	wg.Wait()
	f.fails(n.errs)
	f.hold(len(n.errs) == 0 && flushes > 10, "no call fails", n.granted, "calls,", flushes, "flushes")
	f.neverTwice(n, used(t, l, c))
}

// shifted writes all states of a server as if they had been written that much
// later by its clock.
func shifted(s *redistest.Server, by time.Duration) {
	d := by.Microseconds()
	for _, k := range keysOf(s) {
		switch s.Do("TYPE", k) {
		case "zset":
			members := fieldsOf(s.Do("ZRANGE", k, "0", "-1"))
			for _, m := range members {
				if m != "#" {
					s.Do("ZINCRBY", k, strconv.FormatInt(d, 10), m)
				}
			}
		case "string":
			v := s.Do("GET", k)
			if parts := strings.Fields(v); len(parts) > 1 {
				end, _ := strconv.ParseInt(parts[0], 10, 64)
				parts[0] = strconv.FormatInt(end+d, 10)
				v = strings.Join(parts, " ")
			} else {
				at, _ := strconv.ParseInt(v[:16], 10, 64)
				v = fmt.Sprintf("%016d", at+d) + v[16:]
			}
			s.Do("SET", k, v)
		}
		s.Do("PEXPIRE", k, "7200000")
	}
}

// The state is written by hand as the other clock would have written it, because
// the machine's clock is not a test's to set.
func clockSetBack(t *testing.T, f *row, jump time.Duration) {
	const window = 2 * time.Second
	for a := limiter.TokenBucket; a <= limiter.SlidingLog; a++ {
		s := redistest.Start(t)
		l := open(t, quick(t, s.Addr()), redislimiter.Options{})
		c := limiter.Charge{Policy: limiter.Policy{Name: "p", Algorithm: a, Limit: 3, Window: window}, Key: "k", Cost: 1}
		for try := 1; ; try++ {
			s.Do("FLUSHALL")
			begin := clockOf(s)
			for range 3 {
				if _, err := l.Take(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			shifted(s, jump)
			n := 0
			var r limiter.Result
			for {
				var err error
				if r, err = l.Take(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				if !r.Allowed || n > 10 {
					break
				}
				n++
			}
			ttl, _ := strconv.Atoi(s.Do("PTTL", keysOf(s)[0]))
			// A new window may begin meanwhile, or a unit come back.
			if end := clockOf(s); try < 50 && (end.Sub(begin) > window/8 || !end.Truncate(window).Equal(begin.Truncate(window))) {
				continue
			}
			f.hold(r.RetryAfter <= 2*window, "nobody is locked out for longer than two windows", a, r.RetryAfter)
			f.hold(n <= 3, "at most one burst more is admitted", a, n)
			if a == limiter.TokenBucket || a == limiter.LeakyBucket {
				f.hold(r.RetryAfter <= window, "a bucket is whole again no later than after it was empty", a, r.RetryAfter)
			}
			if n > 0 && (ttl < 0 || time.Duration(ttl)*time.Millisecond > 2*window+time.Second) {
				t.Errorf("%v: the key lives for %d ms", a, ttl)
			}
			break
		}
	}
	f.errors = nil
}

// clockOf returns the time by the server's clock.
func clockOf(s *redistest.Server) time.Time {
	f := fieldsOf(s.Do("TIME"))
	seconds, _ := strconv.ParseInt(f[0], 10, 64)
	micros, _ := strconv.ParseInt(f[1], 10, 64)
	return time.UnixMicro(seconds*1e6 + micros)
}

func clockSetForward(t *testing.T, f *row) {
	for a := limiter.TokenBucket; a <= limiter.SlidingLog; a++ {
		s := redistest.Start(t)
		l := open(t, quick(t, s.Addr()), redislimiter.Options{})
		c := limiter.Charge{Policy: limiter.Policy{Name: "p", Algorithm: a, Limit: 3, Window: 30 * time.Minute}, Key: "k", Cost: 1}
		n := new(counts)
		n.crowd(t, 1, 4, time.Second, l, c)
		shifted(s, -time.Hour)
		n.crowd(t, 1, 4, time.Second, l, c)
		f.fails(n.errs)
		f.hold(n.granted == 6, "one burst more is admitted, as after that hour", a, n.granted)
	}
}

// A process cannot be given another clock, but it can be seen that it sends
// nothing of it.
func clocksOfProcesses(t *testing.T, f *row) {
	p := faultnet.New(t, redistest.Start(t).Addr())
	l := open(t, quick(t, p.Addr()), redislimiter.Options{})
	var mu sync.Mutex
	var sent []string
	p.Set(faultnet.Faults{LoseReply: func(b []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		if bytes.Contains(b, []byte("evalsha")) {
			sent = append(sent, string(b))
		}
		return false
	}})
	for a := range limiter.SlidingLog {
		c := one(1000)
		c.Policy.Algorithm = a
		used(t, l, c)
		mu.Lock()
		sent = nil
		mu.Unlock()
		n := new(counts)
		for range 3 {
			n.crowd(t, 1, 1, time.Second, l, c)
			time.Sleep(2 * time.Millisecond)
		}
		f.fails(n.errs)
		mu.Lock()
		slices.Sort(sent)
		f.hold(len(sent) == 3 && len(slices.Compact(sent)) == 1, "it does not matter: nothing that a call sends depends on the time", a)
		mu.Unlock()
	}
}

func evicted(t *testing.T, f *row) {
	s := redistest.Start(t, "--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru")
	l := open(t, quick(t, s.Addr()), redislimiter.Options{})
	err := l.Diagnose(t.Context())
	f.hold(err != nil && strings.Contains(err.Error(), "maxmemory-policy is allkeys-lru"), "`Diagnose` says so beforehand", err)
	c := one(5)
	n := new(counts)
	before := keysOf(s)
	n.crowd(t, 1, 10, time.Second, l, c)
	key := slices.DeleteFunc(keysOf(s), func(k string) bool { return slices.Contains(before, k) })[0]
	for i := 0; s.Do("EXISTS", key) == "1"; i++ {
		for j := range 100 {
			s.Do("SET", fmt.Sprint("filler ", i, " ", j), strings.Repeat("x", 4096))
		}
		if i == 200 {
			t.Fatal("nothing is evicted")
		}
	}
	n.crowd(t, 1, 10, time.Second, l, c)
	f.fails(n.errs)
	f.hold(n.granted == 10, "a quota that is evicted is whole again: one burst more for each", n.granted)
}

func twoConfigurations(t *testing.T, f *row) {
	for a := limiter.TokenBucket; a <= limiter.SlidingLog; a++ {
		s := redistest.Start(t)
		o := fresh(redislimiter.Options{})
		var ls [2]*redislimiter.Limiter
		for i := range ls {
			l, err := redislimiter.New(quick(t, s.Addr()), o)
			if err != nil {
				t.Fatal(err)
			}
			ls[i] = l
		}
		old, next := one(10), one(100)
		old.Policy.Algorithm, next.Policy.Algorithm = a, a
		var byOld, byNext counts
		for range 60 {
			byOld.crowd(t, 1, 2, time.Second, ls[0], old)
			byNext.crowd(t, 1, 2, time.Second, ls[1], next)
		}
		f.fails(append(byOld.errs, byNext.errs...))
		sum := byOld.granted + byNext.granted
		if a == limiter.TokenBucket || a == limiter.LeakyBucket {
			// A unit of the old is a tenth of the whole, one of the new a hundredth.
			sum = 10*byOld.granted + byNext.granted
		}
		f.hold(byOld.granted <= 10 && byNext.granted <= 100 && sum <= 100, "each keeps its own limit, and both count in the same quota", a, "old", byOld.granted, "new", byNext.granted)
		f.hold(sum >= 90, "neither disturbs the other", a, sum)
	}
}

func lostTTL(t *testing.T, f *row) {
	s := redistest.Start(t)
	l := open(t, quick(t, s.Addr()), redislimiter.Options{})
	for a := limiter.TokenBucket; a <= limiter.SlidingLog; a++ {
		s.Do("FLUSHALL")
		c := one(1)
		c.Policy.Algorithm = a
		n := new(counts)
		n.crowd(t, 1, 1, time.Second, l, c)
		k := keysOf(s)[0]
		s.Do("PERSIST", k)
		if s.Do("PTTL", k) != "-1" {
			t.Fatalf("%v: PERSIST has left a time to live", a)
		}
		n.crowd(t, 1, 1, time.Second, l, c)
		ttl, _ := strconv.Atoi(s.Do("PTTL", k))
		f.fails(n.errs)
		f.hold(n.denied == 1 && ttl > 0, "the next charge gives it back, although it is refused", a, ttl, "ms")
	}
}
