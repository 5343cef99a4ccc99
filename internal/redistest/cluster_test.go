//go:build unix

package redistest_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/internal/redistest"
)

func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("a cluster takes two seconds to start")
	}
	t.Parallel() // mostly waits
	begin := time.Now()
	c := redistest.StartCluster(t, 0)
	t.Logf("started in %v", time.Since(begin))

	nodes := c.Nodes()
	if len(nodes) != 3 || len(c.Addrs()) != 3 {
		t.Fatalf("%d nodes at %v, want 3", len(nodes), c.Addrs())
	}
	for _, s := range nodes {
		if info := s.Do("CLUSTER", "INFO"); !strings.Contains(info, "cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:16384") {
			t.Errorf("%s: %s", s.Addr(), info)
		}
	}

	t.Run("every key has an owner, and the others say MOVED to it", func(t *testing.T) {
		owners := map[*redistest.Server]bool{}
		for i := range 30 {
			key := fmt.Sprint("key", i)
			owner := c.Owner(key)
			owners[owner] = true
			moved := fmt.Sprintf("MOVED %d %s", redistest.Slot(key), owner.Addr())
			for _, s := range nodes {
				_, err := s.TryDo("SET", key, "v")
				if s == owner && err != nil {
					t.Errorf("SET %s at its owner: %v", key, err)
				}
				if s != owner && (err == nil || err.Error() != moved) {
					t.Errorf("SET %s elsewhere: %v, want %s", key, err, moved)
				}
			}
		}
		if len(owners) != 3 {
			t.Errorf("30 keys have %d owners, want 3", len(owners))
		}
	})

	t.Run("a slot on its way says ASK, then it is elsewhere with its keys", func(t *testing.T) {
		from := c.Owner("{tag}")
		to := nodes[(slices.Index(nodes, from)+1)%3]
		for i := range 250 {
			from.Do("SET", fmt.Sprint("{tag}", i), "v")
		}
		finish := c.OpenSlot("{tag}", to)
		if got := from.Do("GET", "{tag}0"); got != "v" {
			t.Errorf("a key that has not moved yet: %q", got)
		}
		ask := fmt.Sprintf("ASK %d %s", redistest.Slot("{tag}"), to.Addr())
		if _, err := from.TryDo("GET", "{tag}none"); err == nil || err.Error() != ask {
			t.Errorf("a key that is not there: %v, want %s", err, ask)
		}
		finish()
		if owner := c.Owner("{tag}"); owner != to {
			t.Errorf("the owner is %s, want %s", owner.Addr(), to.Addr())
		}
		for i := range 250 {
			if got := to.Do("GET", fmt.Sprint("{tag}", i)); got != "v" {
				t.Errorf("key %d: %q after the move", i, got)
			}
		}
		if _, err := from.TryDo("GET", "{tag}0"); err == nil || !strings.HasPrefix(err.Error(), "MOVED ") {
			t.Errorf("the old owner: %v, want MOVED", err)
		}
		c.MoveSlot("{tag}", from)
		if owner := c.Owner("{tag}"); owner != from {
			t.Errorf("moved back, the owner is %s, want %s", owner.Addr(), from.Addr())
		}
	})

	t.Run("a node remains that node over a restart, without its keys", func(t *testing.T) {
		owner := c.Owner("k")
		owner.Do("SET", "k", "v")
		id := owner.Do("CLUSTER", "MYID")
		owner.Kill()
		if got := c.Owner("k"); got != nil {
			t.Errorf("%s owns a killed master's slot", got.Addr())
		}
		owner.Restart()
		c.AwaitOK()
		if got := owner.Do("CLUSTER", "MYID"); got != id {
			t.Errorf("its id is %s, was %s", got, id)
		}
		if got := owner.Do("GET", "k"); got != "" {
			t.Errorf("GET = %q after a restart", got)
		}
	})
}

func TestSlot(t *testing.T) {
	s := redistest.Start(t, "--cluster-enabled", "yes")
	for _, key := range []string{"", "a", "123456789", "{tag}a", "b{tag}", "{}", "{}a", "a{}{b}", "{", "a{b", "}a{b}", "{{a}}", "{a}{b}", "\x00\xff\r\n", "Ω"} {
		if got, want := strconv.Itoa(redistest.Slot(key)), s.Do("CLUSTER", "KEYSLOT", key); got != want {
			t.Errorf("the slot of %q is %s, want %s", key, got, want)
		}
	}
}

// A master's replica takes over, with the data.
func TestClusterFailover(t *testing.T) {
	if testing.Short() {
		t.Skip("a failover takes three seconds, the cluster's start two")
	}
	t.Parallel() // mostly waits
	c := redistest.StartCluster(t, 1)
	if n := len(c.Nodes()); n != 6 {
		t.Fatalf("%d nodes, want 6", n)
	}
	master := c.Owner("k")
	replicas := c.Replicas(master)
	if len(replicas) != 1 {
		t.Fatalf("%d replicas of %s, want 1", len(replicas), master.Addr())
	}
	master.Do("SET", "k", "v")
	master.AwaitReplicas()
	begin := time.Now()
	master.Kill()
	for c.Owner("k") == nil {
		if time.Since(begin) > 30*time.Second {
			t.Fatal("nobody takes over")
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("replaced after %v", time.Since(begin))
	if got := c.Owner("k"); got != replicas[0] {
		t.Errorf("%s takes over, want the replica %s", got.Addr(), replicas[0].Addr())
	}
	c.AwaitOK()
	if got := replicas[0].Do("GET", "k"); got != "v" {
		t.Errorf("GET = %q from the new master, want v", got)
	}
	master.Restart()
	c.AwaitOK()
	if got := c.Replicas(replicas[0]); len(got) != 1 || got[0] != master {
		t.Errorf("the old master comes back as no replica of the new one")
	}
}
