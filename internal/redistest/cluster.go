//go:build unix

package redistest

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// masters is how many a cluster starts with: the fewest that can vote.
const masters = 3

const slots = 16384

// A Cluster is a Redis Cluster of three masters and their replicas. Its methods
// are safe for concurrent use and fail the test where nothing else is said.
type Cluster struct {
	t     testing.TB
	nodes []*Server
}

// StartCluster starts a cluster whose masters have so many replicas each, all of
// them in sync. It takes a little over two seconds, which is what a master waits
// before it serves.
//
// A master counts as failed after two seconds, and a replica takes its place
// about a second later.
func StartCluster(t testing.TB, replicas int) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	for range masters * (1 + replicas) {
		c.nodes = append(c.nodes, Start(t,
			"--cluster-enabled", "yes",
			"--cluster-node-timeout", "2000",
			"--cluster-announce-ip", "127.0.0.1",
			"--cluster-allow-replica-migration", "no",
			"--repl-diskless-sync-delay", "0",
		))
	}
	for i, s := range c.nodes {
		// Different epochs from the start save the nodes from settling it.
		s.Do("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		if i < masters {
			s.Do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/masters), strconv.Itoa((i+1)*slots/masters-1))
		}
	}
	// Gossip alone would take a second or two to make them known to all.
	for i, s := range c.nodes {
		for _, other := range c.nodes[:i] {
			host, port, _ := strings.Cut(other.Addr(), ":")
			s.Do("CLUSTER", "MEET", host, port)
		}
	}
	await(t, "all nodes know each other", func() bool {
		return c.everyNode(func(s *Server) bool {
			return s.clusterInfo()["cluster_known_nodes"] == strconv.Itoa(len(c.nodes)) &&
				!strings.Contains(s.Do("CLUSTER", "NODES"), "handshake")
		})
	})
	for i, s := range c.nodes[masters:] {
		s.Do("CLUSTER", "REPLICATE", c.nodes[i%masters].Do("CLUSTER", "MYID"))
	}
	await(t, "the cluster is complete", func() bool {
		return c.ok() && c.everyNode(func(s *Server) bool {
			return strings.Count(s.Do("CLUSTER", "NODES"), "slave ") == len(c.nodes)-masters
		})
	})
	return c
}

// Nodes returns all nodes: the three that started as masters, by slots, then one
// replica of each, and so on.
func (c *Cluster) Nodes() []*Server { return slices.Clone(c.nodes) }

// Addrs returns the addresses of all nodes, in the same order.
func (c *Cluster) Addrs() []string {
	var addrs []string
	for _, s := range c.nodes {
		addrs = append(addrs, s.Addr())
	}
	return addrs
}

// Owner returns the node that takes itself for the master of a key, or nil while
// none does. Nodes that are killed or stopped are not asked.
func (c *Cluster) Owner(key string) *Server {
	slot := Slot(key)
	for _, s := range c.nodes {
		if s.answers() && s.owns(slot) {
			return s
		}
	}
	return nil
}

// owns reads what a node says of itself. One that is just ending owns nothing.
func (s *Server) owns(slot int) bool {
	text, err := s.TryDo("CLUSTER", "NODES")
	if err != nil {
		return false
	}
	for line := range strings.Lines(text) {
		// id addr flags master ping pong epoch link-state slots...
		fields := strings.Fields(line)
		if len(fields) < 8 || !strings.Contains(fields[2], "myself,master") {
			continue
		}
		for _, r := range fields[8:] {
			from, to, ok := strings.Cut(r, "-")
			if !ok {
				to = from
			}
			low, err1 := strconv.Atoi(from)
			high, err2 := strconv.Atoi(to)
			if err1 == nil && err2 == nil && low <= slot && slot <= high {
				return true
			}
		}
	}
	return false
}

// Slot returns the hash slot of a key, in [0, 16384): CRC-16/XMODEM of the key,
// or of what stands in its first braces, as the Redis Cluster specification has
// it under "Hash tags".
func Slot(key string) int {
	if _, after, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(after, "}"); ok && tag != "" {
			key = tag
		}
	}
	var crc uint16
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			carry := crc >> 15
			crc = crc<<1 ^ carry*0x1021
		}
	}
	return int(crc) % slots
}

// Replicas returns the running nodes that replicate a master.
func (c *Cluster) Replicas(master *Server) []*Server {
	var replicas []*Server
	for _, s := range c.nodes {
		if s.answers() {
			text, _ := s.TryDo("INFO", "replication")
			info := parseInfo(text)
			if info["role"] == "slave" && info["master_host"]+":"+info["master_port"] == master.Addr() {
				replicas = append(replicas, s)
			}
		}
	}
	return replicas
}

// AwaitOK waits until all nodes that answer find the cluster whole: every slot
// has a master that is alive, and every replica is in sync. After a Kill it
// returns at once unless the others have noticed; wait for another Owner first.
func (c *Cluster) AwaitOK() {
	c.t.Helper()
	await(c.t, "the cluster is whole", c.ok)
}

func (c *Cluster) ok() bool {
	return c.everyNode(func(s *Server) bool {
		info := s.Info("replication")
		return s.clusterInfo()["cluster_state"] == "ok" &&
			(info["role"] == "master" || info["master_link_status"] == "up")
	})
}

// OpenSlot begins to move the slot of a key to another master and returns a
// function that ends it. Until then the old master serves the keys it has and
// answers ASK for others; finish moves what it has and tells all masters.
func (c *Cluster) OpenSlot(key string, to *Server) (finish func()) {
	c.t.Helper()
	from := c.Owner(key)
	if from == nil || from == to {
		c.t.Fatalf("redistest: the slot of %q is not one to move to %s", key, to.Addr())
	}
	slot := strconv.Itoa(Slot(key))
	toID := to.Do("CLUSTER", "MYID")
	to.Do("CLUSTER", "SETSLOT", slot, "IMPORTING", from.Do("CLUSTER", "MYID"))
	from.Do("CLUSTER", "SETSLOT", slot, "MIGRATING", toID)
	return func() {
		c.t.Helper()
		host, port, _ := strings.Cut(to.Addr(), ":")
		for {
			keys := from.Do("CLUSTER", "GETKEYSINSLOT", slot, "100")
			if keys == "" {
				break
			}
			args := []string{"MIGRATE", host, port, "", "0", "5000", "AUTH2", user, "", "KEYS"}
			from.Do(append(args, strings.Split(keys, "\n")...)...)
		}
		// The new owner first, so that no moment is without one.
		to.Do("CLUSTER", "SETSLOT", slot, "NODE", toID)
		for _, s := range c.nodes {
			if s != to && s.answers() && s.Info("replication")["role"] == "master" {
				s.Do("CLUSTER", "SETSLOT", slot, "NODE", toID)
			}
		}
	}
}

// MoveSlot moves the slot of a key, with all its keys, to another master.
func (c *Cluster) MoveSlot(key string, to *Server) {
	c.t.Helper()
	c.OpenSlot(key, to)()
}

// everyNode asks the nodes that answer, at once.
func (c *Cluster) everyNode(ok func(*Server) bool) bool {
	results := make([]bool, len(c.nodes))
	var wg sync.WaitGroup
	for i, s := range c.nodes {
		wg.Go(func() { results[i] = !s.answers() || ok(s) })
	}
	wg.Wait()
	return !slices.Contains(results, false)
}

func (s *Server) clusterInfo() map[string]string {
	s.t.Helper()
	return parseInfo(s.Do("CLUSTER", "INFO"))
}
