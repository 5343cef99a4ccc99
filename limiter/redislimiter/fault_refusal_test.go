//go:build unix

package redislimiter_test

import (
	"context"
	"testing"
	"time"

	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
	"github.com/goweir/weir/limiter/redislimiter"
)

var refusalFaults = []fault{
	refusal("out of memory", "maxmemory is reached under `noeviction`", []error{redislimiter.ErrOutOfMemory}, func(s *redistest.Server) func() {
		s.Do("CONFIG", "SET", "maxmemory", "1")
		return func() { s.Do("CONFIG", "SET", "maxmemory", "0") }
	}),
	refusal("loading", "it reads its data after a start (`LOADING`)", []error{redislimiter.ErrLoading}, (*redistest.Server).Loading),
	refusal("busy", "another program's script runs for too long (`BUSY`)", []error{redislimiter.ErrBusy}, (*redistest.Server).Busy),
	refusal("no permission", "the ACL lacks a command that the scripts use (`NOPERM`)", []error{redislimiter.ErrPermission}, func(s *redistest.Server) func() {
		s.Do("ACL", "SETUSER", "default", "-set")
		return func() { s.Do("ACL", "SETUSER", "default", "+@all") }
	}),
	refusal("no permission for scripts", "the ACL lacks `EVALSHA`", []error{redislimiter.ErrPermission}, func(s *redistest.Server) func() {
		s.Do("ACL", "SETUSER", "default", "-evalsha", "-eval")
		return func() { s.Do("ACL", "SETUSER", "default", "+@all") }
	}),
	// It hangs up after its refusal: who is quick to ask again finds a connection
	// that is about to end.
	refusal("no password", "it wants a password that the client has not (`NOAUTH`)", []error{redislimiter.ErrAuth, redislimiter.ErrUnknown}, func(s *redistest.Server) func() {
		s.Do("CONFIG", "SET", "requirepass", "secret")
		s.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		time.Sleep(50 * time.Millisecond) // until the client has noticed
		return func() { s.Do("CONFIG", "SET", "requirepass", "") }
	}),
	refusal("read-only", "it has become a replica (`READONLY`)", []error{redislimiter.ErrReadOnly}, func(s *redistest.Server) func() {
		s.Do("REPLICAOF", "127.0.0.1", "1")
		return func() { s.Do("REPLICAOF", "NO", "ONE") }
	}),
	refusal("too few replicas", "`min-replicas-to-write` is not met", []error{redislimiter.ErrServer}, func(s *redistest.Server) func() {
		s.Do("CONFIG", "SET", "min-replicas-to-write", "1")
		return func() { s.Do("CONFIG", "SET", "min-replicas-to-write", "0") }
	}),
	{name: "wrong type", when: "another program has written to a key of the limiter's (`WRONGTYPE`)", test: wrongType},
}

// refusal is a fault in which every call is answered by an error.
func refusal(name, when string, want []error, begin func(s *redistest.Server) (end func())) fault {
	return fault{name: name, when: when, test: func(t *testing.T, f *row) {
		s := redistest.Start(t)
		backend := open(t, quick(t, s.Addr()), redislimiter.Options{})
		l := failover.New(backend, failover.Local, &failover.Options{Failures: 1 << 30})
		// With an honest budget for a machine that does much else: what is shown
		// is that errors are errors, not that they are fast.
		c := one(1000)
		n := new(counts)
		n.crowd(t, 1, 10, time.Second, backend, c)
		end := begin(s)
		during := new(counts)
		during.crowd(t, 4, 5, 2*time.Second, backend, c)
		if during.granted+during.denied > 0 {
			t.Errorf("%d calls were decided", during.granted+during.denied)
		}
		f.exactly(during.errs, want...)
		f.inBudget("behind `failover` the fallback decides, within the budget", func() *counts {
			behind := new(counts)
			behind.crowd(t, 4, 5, time.Minute, l, c)
			if n := behind.sources[limiter.SourceFallback]; n != 20 {
				t.Errorf("the fallback has decided %d times, want 20: %v", n, behind.errs)
			}
			return behind
		})
		end()
		eventually(t, "it is asked again", 10*time.Second, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			c := c
			c.Cost = 0
			_, err := backend.Take(ctx, c)
			return err == nil
		})
		f.hold(used(t, backend, c) == n.granted, "nothing was taken, and what was stored before still counts", used(t, backend, c))
	}}
}

func wrongType(t *testing.T, f *row) {
	s := redistest.Start(t)
	l := open(t, quick(t, s.Addr()), redislimiter.Options{})
	var names []string
	for a := limiter.TokenBucket; a <= limiter.SlidingLog; a++ {
		c := one(1000)
		c.Policy.Algorithm = a
		if _, err := l.Take(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		for _, k := range keysOf(s) {
			if s.Do("TYPE", k) != "hash" {
				s.Do("DEL", k)
				s.Do("HSET", k, "f", "v")
				names = append(names, k)
			}
		}
		s.ResetStats()
		n := new(counts)
		n.crowd(t, 1, 10, time.Second, l, c)
		f.fails(n.errs, redislimiter.ErrWrongType)
		if len(n.errs) != 10 {
			t.Errorf("%v: %d of 10 calls failed", a, len(n.errs))
		}
		stats := s.CommandStats()
		f.hold(stats["evalsha"] == 10 && stats["eval"] == 0, "it is asked once for each call", stats["evalsha"])
	}
	f.errors = f.errors[:1]
	// Others who share the call are not harmed.
	bad, good := one(1000), one(100_000)
	good.Key = "good"
	n, m := new(counts), new(counts)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.crowd(t, 16, 20, 5*time.Second, l, bad)
	}()
	m.crowd(t, 16, 20, 5*time.Second, l, good)
	<-done
	f.hold(len(m.errs) == 0 && m.granted == 320 && len(n.errs) == 320 && used(t, l, good) == 320, "who asks about other keys in the same call is answered", len(m.errs))
	kept := true
	for _, k := range names {
		kept = kept && s.Do("HGET", k, "f") == "v"
	}
	f.hold(kept, "the other program's key stays as it was", len(names), "keys")
}

// keysOf returns the names of all keys.
func keysOf(s *redistest.Server) []string {
	return fieldsOf(s.Do("KEYS", "*"))
}
