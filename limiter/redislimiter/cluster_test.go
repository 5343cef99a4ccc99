package redislimiter_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/redislimiter"
)

// cluster is a Redis Cluster, its client, and a Limiter.
type cluster struct {
	*redistest.Cluster
	client *redis.ClusterClient
	l      *redislimiter.Limiter
	prefix string
}

func clusterClient(t testing.TB, c *redistest.Cluster, o redis.ClusterOptions) *redis.ClusterClient {
	t.Helper()
	o.Addrs, o.MaxRetries, o.ContextTimeoutEnabled = c.Addrs(), -1, true
	client := redis.NewClusterClient(&o)
	t.Cleanup(func() { client.Close() })
	return client
}

func (x *cluster) fresh(t *testing.T, o redislimiter.Options) {
	t.Helper()
	opts := fresh(o)
	x.prefix = opts.Prefix
	var err error
	if x.l, err = redislimiter.New(x.client, opts); err != nil {
		t.Fatal(err)
	}
}

// owner returns the node that has the quota of c, and its key.
func (x *cluster) owner(t *testing.T, c limiter.Charge) (*redistest.Server, string) {
	t.Helper()
	key := x.l.KeyOf(c)
	return x.Owner(key), key
}

// apart returns charges whose quotas are on different nodes.
func (x *cluster) apart(t *testing.T, n int, cost int) []limiter.Charge {
	t.Helper()
	var cs []limiter.Charge
	seen := map[*redistest.Server]bool{}
	for i := 0; len(cs) < n; i++ {
		c := charge(still("p", 10), fmt.Sprint(i), cost)
		if s, _ := x.owner(t, c); !seen[s] {
			seen[s] = true
			cs = append(cs, c)
		}
	}
	return cs
}

// A hook sees the calls of a client.
type hook struct{ before func(redis.Cmder) }

func (hook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		h.before(cmd)
		return next(ctx, cmd)
	}
}

func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("a cluster takes some seconds to start")
	}
	x := &cluster{Cluster: redistest.StartCluster(t, 1)}
	x.client = clusterClient(t, x.Cluster, redis.ClusterOptions{})

	t.Run("slots", func(t *testing.T) {
		x.fresh(t, redislimiter.Options{})
		for i := range 50 {
			c := charge(still("p", 10), fmt.Sprint(i), 1)
			if got, want := x.l.SlotOf(c), x.Nodes()[0].Do("CLUSTER", "KEYSLOT", x.l.KeyOf(c)); fmt.Sprint(got) != want {
				t.Errorf("slot of %q is %d, want %s", x.l.KeyOf(c), got, want)
			}
		}
	})

	t.Run("undone in order", func(t *testing.T) {
		x.fresh(t, redislimiter.Options{})
		cs := x.apart(t, 3, 4)
		take(t, x.l, charge(cs[1].Policy, cs[1].Key, 9))
		rs, err := x.l.TakeAll(t.Context(), cs)
		if err != nil || !rs[0].Allowed || rs[0].Remaining != 10 || rs[0].Receipt != (limiter.Receipt{}) ||
			rs[1].Allowed || rs[1].Remaining != 1 || rs[2].Source != 0 || !rs[2].Allowed || rs[2].Remaining != -1 {
			t.Errorf("the second of three refuses: %+v, %v", rs, err)
		}
		for i, want := range []int{10, 1, 10} {
			remaining(t, x.l, cs[i], want)
		}
	})

	t.Run("the same twice, undone", func(t *testing.T) {
		for _, a := range algorithms {
			for _, maxDelay := range []time.Duration{0, 1e6 * time.Hour} {
				x.fresh(t, redislimiter.Options{})
				full := charge(still("full", 1), "k", 1)
				take(t, x.l, full)
				at, _ := x.owner(t, full)
				c := charge(with(a, 10, 1000*time.Hour), "", 2)
				for i := 0; ; i++ {
					c.Key = fmt.Sprint(i)
					if s, _ := x.owner(t, c); s != at {
						break
					}
				}
				c.MaxDelay = maxDelay
				again := c
				again.Cost = 3
				rs, err := x.l.TakeAll(t.Context(), []limiter.Charge{c, again, c, full})
				if err != nil || rs[3].Allowed || !rs[1].Allowed || rs[1].Remaining != 10 {
					t.Fatalf("%v: %+v, %v", a, rs, err)
				}
				remaining(t, x.l, charge(c.Policy, c.Key, 0), 10)
			}
		}
	})

	t.Run("undone when the caller has left", func(t *testing.T) {
		x.fresh(t, redislimiter.Options{})
		cs := x.apart(t, 3, 4)
		ctx, cancel := context.WithCancel(t.Context())
		client := clusterClient(t, x.Cluster, redis.ClusterOptions{})
		var calls atomic.Int32
		client.AddHook(hook{func(cmd redis.Cmder) {
			if strings.HasPrefix(cmd.Name(), "eval") && calls.Add(1) == 2 {
				cancel() // after the first has been answered
			}
		}})
		l, err := redislimiter.New(client, &redislimiter.Options{Prefix: x.prefix})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x.l.TakeAll(t.Context(), x.apart(t, 3, 0)); err != nil { // the scripts are there
			t.Fatal(err)
		}
		if rs, err := l.TakeAll(ctx, cs); !errors.Is(err, context.Canceled) {
			t.Errorf("%+v, %v; want it cancelled", rs, err)
		}
		for i := range cs {
			remaining(t, x.l, cs[i], 10)
		}
	})

	t.Run("one slot", func(t *testing.T) {
		x.fresh(t, redislimiter.Options{Slot: "rules"})
		cs := make([]limiter.Charge, 5)
		for i := range cs {
			cs[i] = charge(still("p", 10), fmt.Sprint(i), 4)
		}
		if _, err := x.l.TakeAll(t.Context(), cs); err != nil {
			t.Fatal(err)
		}
		owner, _ := x.owner(t, cs[0])
		owner.ResetStats()
		if _, err := x.l.TakeAll(t.Context(), cs); err != nil {
			t.Fatal(err)
		}
		if n := owner.CommandStats()["evalsha"]; n != 1 {
			t.Errorf("five charges in one slot were %d calls", n)
		}
		if rs, err := x.l.TakeAll(t.Context(), cs); err != nil || rs[0].Allowed || rs[0].Source != limiter.SourceRedis || rs[4].Source != limiter.SourceRedis {
			t.Errorf("%+v, %v; want all refused, and asked", rs, err)
		}
	})

	t.Run("moved slots", func(t *testing.T) {
		x.fresh(t, redislimiter.Options{})
		p := still("p", 300)
		c := charge(p, "k", 1)
		take(t, x.l, c)
		_, key := x.owner(t, c)
		var admitted atomic.Int32
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					r, err := x.l.Take(t.Context(), c)
					if err != nil {
						t.Error(err)
						return
					}
					if r.Allowed {
						admitted.Add(1)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		for range 3 {
			from := x.Owner(key)
			for _, s := range x.Nodes() {
				if s != from && s.Info("replication")["role"] == "master" {
					finish := x.OpenSlot(key, s)
					// A quota that is not there yet is made where it will be: by ASK.
					for i := range 40 {
						other := charge(p, fmt.Sprint("new", i), 1)
						if x.l.SlotOf(other) == x.l.SlotOf(c) {
							take(t, x.l, other)
						}
					}
					finish()
					break
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
		close(stop)
		wg.Wait()
		remaining(t, x.l, c, 300-1-min(299, int(admitted.Load())))
	})

	t.Run("asked", func(t *testing.T) {
		x.fresh(t, redislimiter.Options{Slot: "asked"})
		p := still("p", 10)
		owner, key := x.owner(t, charge(p, "k", 0))
		for _, s := range x.Nodes() {
			if s != owner && s.Info("replication")["role"] == "master" {
				finish := x.OpenSlot(key, s)
				for i := range 5 {
					c := charge(p, fmt.Sprint(i), 3)
					take(t, x.l, c)
					remaining(t, x.l, c, 7)
				}
				finish()
				break
			}
		}
		for i := range 5 {
			remaining(t, x.l, charge(p, fmt.Sprint(i), 0), 7)
		}
	})

	t.Run("a replica is asked for a look", func(t *testing.T) {
		x.fresh(t, redislimiter.Options{})
		c := charge(still("p", 10), "k", 4)
		take(t, x.l, c)
		owner, _ := x.owner(t, c)
		replica := x.Replicas(owner)[0]
		replica.ResetStats()
		for end := time.Now().Add(20 * time.Second); ; {
			// Not every node knows of every replica at once, nor a client after
			// that.
			l, err := redislimiter.New(clusterClient(t, x.Cluster, redis.ClusterOptions{ReadOnly: true}), &redislimiter.Options{Prefix: x.prefix})
			if err != nil {
				t.Fatal(err)
			}
			r := take(t, l, charge(c.Policy, "k", 0))
			if replica.CommandStats()["evalsha_ro"] > 0 && r.Remaining == 6 {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("no replica has answered as it should: %+v, %v", r, replica.CommandStats())
			}
			time.Sleep(100 * time.Millisecond)
		}
	})

	t.Run("diagnose", func(t *testing.T) {
		x.fresh(t, redislimiter.Options{})
		if err := x.l.Diagnose(t.Context()); err != nil {
			t.Error(err)
		}
		single := open(t, client(t, x.Addrs()[0]), redislimiter.Options{})
		if err := single.Diagnose(t.Context()); err == nil || !strings.Contains(err.Error(), "make a client for clusters") {
			t.Errorf("a client for one server: %v", err)
		}
		c, err := redislimiter.Dial(t.Context(), "redis+cluster://"+x.Addrs()[0]+"?addr="+x.Addrs()[1])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, ok := c.(*redis.ClusterClient); !ok {
			t.Errorf("Dial made a %T", c)
		}
		take(t, open(t, c, redislimiter.Options{}), charge(still("p", 5), "k", 1))
	})
}
