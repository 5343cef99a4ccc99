//go:build unix

package redislimiter_test

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/redislimiter"
)

var clusterFaults = []fault{
	{name: "sentinel", when: "a master watched by sentinels is killed, its replica in sync", slow: true, test: func(t *testing.T, f *row) {
		failedOver(t, f, 100, func(s *redistest.Sentinel) {
			s.Master().AwaitReplicas()
			s.Master().Kill()
		})
	}},
	{name: "sentinel, replica empty", when: "a master watched by sentinels is killed, and its replica has nothing of what was written", slow: true, test: func(t *testing.T, f *row) {
		failedOver(t, f, 200, func(s *redistest.Sentinel) {
			r := s.Replica()
			s.Master().AwaitReplicas()
			r.Do("CONFIG", "SET", "replica-read-only", "no")
			r.Do("FLUSHALL")
			s.Master().Kill()
		})
	}},
	{name: "sentinel, planned", when: "`SENTINEL FAILOVER` while calls are under way", slow: true, test: plannedFailover},
	{name: "slot moves", when: "slots of a cluster move from master to master while calls are under way", slow: true, test: slotMoves},
	{name: "slot is open", when: "a slot has begun to move and does not get done (`ASK`)", slow: true, test: slotOpen},
	{name: "cluster master", when: "one of the three masters of a cluster is killed, its replica in sync, under `cluster-require-full-coverage no`", slow: true,
		test: func(t *testing.T, f *row) { clusterMaster(t, f, "no") }},
	{name: "cluster master, full coverage", when: "the same under `cluster-require-full-coverage yes`, Redis' default", slow: true,
		test: func(t *testing.T, f *row) { clusterMaster(t, f, "yes") }},
	{name: "two masters", when: "a decision about several quotas finds the master of the last one dead", slow: true, test: halfADecision},
}

func dial(t *testing.T, url string) *redislimiter.Limiter {
	t.Helper()
	c, err := redislimiter.Dial(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return open(t, c, redislimiter.Options{})
}

func sentinelURL(s *redistest.Sentinel) string {
	q := url.Values{"master_name": {s.MasterName()}, "addr": s.Addrs()[1:]}
	return "redis+sentinel://" + s.Addrs()[0] + "/0?" + q.Encode()
}

func clusterURL(c *redistest.Cluster) string {
	q := url.Values{"addr": c.Addrs()[1:]}
	return "redis+cluster://" + c.Addrs()[0] + "?" + q.Encode()
}

// again takes until something is granted.
func (n *counts) again(t *testing.T, l limiter.Limiter, c limiter.Charge) time.Duration {
	t.Helper()
	before := n.granted + n.denied
	return eventually(t, "decisions go on", 30*time.Second, func() bool {
		n.crowd(t, 1, 1, 100*time.Millisecond, l, c)
		return n.granted+n.denied > before
	})
}

func failedOver(t *testing.T, f *row, most int, kill func(*redistest.Sentinel)) {
	const limit = 100
	s := redistest.StartSentinel(t)
	l := dial(t, sentinelURL(s))
	c := one(limit)
	n := new(counts)
	n.crowd(t, 1, 60, time.Second, l, c)
	if n.granted != 60 {
		t.Fatalf("%d granted, %v", n.granted, n.errs)
	}
	kill(s)
	back := n.again(t, l, c)
	failed := len(n.errs)
	n.crowd(t, 8, 2*limit, time.Second, l, c)
	f.fails(n.errs, redislimiter.ErrUnreachable, redislimiter.ErrUnknown)
	f.hold(back < 20*time.Second, "decisions go on when the sentinels have made the replica the master", "after", back, "with", failed, "failed calls, each of which had 100ms")
	if most == limit {
		f.hold(n.granted <= limit, "what was taken before still counts", n.granted, "of", limit)
	} else {
		f.hold(n.granted <= most && n.granted > limit, "one more burst is admitted at most", n.granted, "of", limit)
	}
}

func plannedFailover(t *testing.T, f *row) {
	s := redistest.StartSentinel(t)
	l := dial(t, sentinelURL(s))
	c := one(1_000_000)
	n := new(counts)
	n.crowd(t, 1, 10, time.Second, l, c)
	old := s.Master()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				n.crowd(t, 4, 5, 250*time.Millisecond, l, c)
				time.Sleep(5 * time.Millisecond)
			}
		}
	})
	eventually(t, "a sentinel knows the replica well enough", 30*time.Second, func() bool {
		_, err := s.Sentinels()[0].TryDo("SENTINEL", "FAILOVER", s.MasterName())
		return err == nil
	})
	eventually(t, "the replica is the master", 30*time.Second, func() bool { return s.Master() != old })
	eventually(t, "the master is a replica", 30*time.Second, func() bool {
		// A sentinel that makes it one cuts its connections.
		role, err := old.TryDo("INFO", "replication")
		return err == nil && strings.Contains(role, "role:slave")
	})
	time.Sleep(200 * time.Millisecond)
	close(stop)
	wg.Wait()
	m := new(counts)
	m.again(t, l, c)
	before := s.Master().CommandStats()["evalsha"]
	m.crowd(t, 4, 20, 10*time.Second, l, c)
	f.fails(n.errs, redislimiter.ErrUnreachable, redislimiter.ErrUnknown, redislimiter.ErrReadOnly)
	f.hold(m.granted >= 80 && s.Master().CommandStats()["evalsha"] > before, "decisions go on at the new master", "granted", n.granted, "failed", len(n.errs))
	f.hold(n.longest <= 250*time.Millisecond+time.Second, "every call ends by its deadline", "longest", n.longest, "of 250ms")
}

func other(c *redistest.Cluster, s *redistest.Server) *redistest.Server {
	nodes := c.Nodes()[:3]
	return nodes[(slices.Index(nodes, s)+1)%3]
}

func slotMoves(t *testing.T, f *row) {
	cl := redistest.StartCluster(t, 0)
	l := dial(t, clusterURL(cl))
	c := one(1_000_000)
	n := new(counts)
	n.crowd(t, 1, 1, time.Second, l, c)
	k := l.KeyOf(c)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				n.crowd(t, 4, 5, 2*time.Second, l, c)
			}
		}
	})
	const moves = 6
	for range moves {
		cl.MoveSlot(k, other(cl, cl.Owner(k)))
		time.Sleep(20 * time.Millisecond)
	}
	close(stop)
	wg.Wait()
	f.fails(n.errs)
	f.hold(len(n.errs) == 0, "no call fails", n.granted, "calls,", moves, "moves, longest", n.longest)
	f.neverTwice(n, used(t, l, c))
}

func slotOpen(t *testing.T, f *row) {
	cl := redistest.StartCluster(t, 0)
	l := dial(t, clusterURL(cl))
	c := one(1_000_000)
	n := new(counts)
	n.crowd(t, 1, 1, time.Second, l, c)
	k := l.KeyOf(c)
	old := cl.Owner(k)
	finish := cl.OpenSlot(k, other(cl, old))
	n.crowd(t, 4, 10, 2*time.Second, l, c)
	// A key that is not there is asked for at the new master.
	if err := l.Reset(t.Context(), c); err != nil {
		t.Error(err)
	}
	old.Do("DEL", k)
	m := new(counts)
	m.crowd(t, 4, 10, 2*time.Second, l, c)
	old.ResetStats()
	m.crowd(t, 4, 10, 2*time.Second, l, c)
	f.fails(append(n.errs, m.errs...))
	f.hold(len(n.errs)+len(m.errs) == 0 && m.granted == 80, "no call fails, for keys that are still there and for those that are not", n.granted, m.granted)
	finish()
	m.crowd(t, 4, 10, 2*time.Second, l, c)
	f.neverTwice(m, used(t, l, c))
}

func clusterMaster(t *testing.T, f *row, coverage string) {
	cl := redistest.StartCluster(t, 1)
	for _, s := range cl.Nodes() {
		s.Do("CONFIG", "SET", "cluster-require-full-coverage", coverage)
	}
	l := dial(t, clusterURL(cl))
	const limit = 100
	c := one(limit)
	n := new(counts)
	n.crowd(t, 1, 60, time.Second, l, c)
	k := l.KeyOf(c)
	dead := cl.Owner(k)
	// A key on another master.
	elsewhere := one(1_000_000)
	for i := 0; cl.Owner(l.KeyOf(elsewhere)) == dead; i++ {
		elsewhere.Key = strconv.Itoa(i)
	}
	dead.AwaitReplicas()
	dead.Kill()
	m := new(counts)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				m.crowd(t, 1, 1, time.Second, l, elsewhere)
			}
		}
	})
	back := n.again(t, l, c)
	close(stop)
	wg.Wait()
	failed := len(n.errs)
	n.crowd(t, 8, 2*limit, time.Second, l, c)
	f.fails(n.errs, redislimiter.ErrUnreachable, redislimiter.ErrUnknown, redislimiter.ErrCluster)
	if coverage == "no" {
		f.hold(len(m.errs) == 0 && m.granted > 0, "quotas of the other masters are decided as ever", m.granted, "granted,", len(m.errs), "failed")
	} else {
		down := slices.ContainsFunc(m.errs, func(err error) bool { return errors.Is(err, redislimiter.ErrCluster) })
		f.hold(down && m.granted > 0, "from when the cluster has noticed until the replica has taken over, every quota's calls fail", m.granted, "granted,", len(m.errs), "failed")
	}
	f.hold(back < 20*time.Second, "decisions go on when the replica has taken over", "after", back, "with", failed, "failed calls, each of which had 100ms")
	f.hold(n.granted <= limit, "what was taken before still counts", n.granted, "of", limit)
}

func halfADecision(t *testing.T, f *row) {
	cl := redistest.StartCluster(t, 0)
	for _, s := range cl.Nodes() {
		s.Do("CONFIG", "SET", "cluster-require-full-coverage", "no")
	}
	l := dial(t, clusterURL(cl))
	alive, dead := one(10), one(10)
	for i := 0; cl.Owner(l.KeyOf(dead)) == cl.Owner(l.KeyOf(alive)); i++ {
		dead.Key = strconv.Itoa(i)
	}
	cs := []limiter.Charge{alive, dead}
	if _, err := l.TakeAll(t.Context(), cs); err != nil {
		t.Fatal(err)
	}
	cl.Owner(l.KeyOf(dead)).Kill()
	var errs []error
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := l.TakeAll(ctx, cs)
		cancel()
		if err == nil {
			t.Error("half of it is dead, but it was decided")
		}
		errs = append(errs, err)
	}
	f.fails(errs, redislimiter.ErrUnreachable, redislimiter.ErrUnknown)
	f.hold(used(t, l, alive) == 1, "what the others had granted is given back", used(t, l, alive), "of the 1 that was granted before")
}
