//go:build unix

package redistest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// masterName is what the sentinels call their master.
const masterName = "weir"

// A Sentinel is a master and its replica, watched by three sentinels. Its
// methods are safe for concurrent use and fail the test where nothing else is
// said.
type Sentinel struct {
	t         testing.TB
	servers   []*Server
	sentinels []*Server
}

// StartSentinel starts a master, its replica in sync, and three sentinels of
// which two must agree. It takes less than 0.1 s.
//
// The sentinels give up a master after a second without an answer; the replica
// takes its place one to three seconds later.
func StartSentinel(t testing.TB) *Sentinel {
	t.Helper()
	options := []string{"--repl-diskless-sync-delay", "0"}
	master := Start(t, options...)
	host, port, _ := strings.Cut(master.Addr(), ":")
	replica := Start(t, append(options, "--replicaof", host, port)...)
	await(t, "the replica is in sync", func() bool {
		return replica.Info("replication")["master_link_status"] == "up"
	})

	s := &Sentinel{t: t, servers: []*Server{master, replica}}
	for range 3 {
		s.sentinels = append(s.sentinels, startSentinel(t, host, port))
	}
	// They would find each other when they say hello, every two seconds.
	for _, from := range s.sentinels {
		fromHost, fromPort, _ := strings.Cut(from.Addr(), ":")
		hello := strings.Join([]string{fromHost, fromPort, from.Do("SENTINEL", "MYID"), "0", masterName, host, port, "0"}, ",")
		for _, to := range s.sentinels {
			if to != from {
				to.Do("PUBLISH", "__sentinel__:hello", hello)
			}
		}
	}
	await(t, "the sentinels know each other and the replica", func() bool {
		for _, sentinel := range s.sentinels {
			info := sentinel.master()
			if info["num-other-sentinels"] != "2" || info["num-slaves"] != "1" || info["flags"] != "master" {
				return false
			}
		}
		return true
	})
	return s
}

func startSentinel(t testing.TB, host, port string) *Server {
	t.Helper()
	config := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf(`sentinel monitor %[1]s %[2]s %[3]s 2
sentinel down-after-milliseconds %[1]s 1000
sentinel failover-timeout %[1]s 5000
`, masterName, host, port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, []string{config, "--sentinel"})
}

// master returns what a sentinel knows of the master.
func (s *Server) master() map[string]string {
	s.t.Helper()
	info := map[string]string{}
	fields := strings.Split(s.Do("SENTINEL", "MASTER", masterName), "\n")
	for pair := range slices.Chunk(fields, 2) {
		info[pair[0]] = pair[len(pair)-1]
	}
	return info
}

// MasterName returns the name by which sentinels know the master.
func (s *Sentinel) MasterName() string { return masterName }

// Addrs returns the addresses of the sentinels.
func (s *Sentinel) Addrs() []string {
	var addrs []string
	for _, sentinel := range s.sentinels {
		addrs = append(addrs, sentinel.Addr())
	}
	return addrs
}

// Sentinels returns the sentinels themselves.
func (s *Sentinel) Sentinels() []*Server { return slices.Clone(s.sentinels) }

// Master returns the server that the first sentinel to answer calls the master.
func (s *Sentinel) Master() *Server {
	s.t.Helper()
	for _, sentinel := range s.sentinels {
		if !sentinel.answers() {
			continue
		}
		addr, err := sentinel.TryDo("SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName)
		if err != nil {
			continue // just ending
		}
		host, port, _ := strings.Cut(addr, "\n")
		for _, server := range s.servers {
			if server.Addr() == net.JoinHostPort(host, port) {
				return server
			}
		}
		s.t.Fatalf("redistest: the master is said to be at %s:%s", host, port)
	}
	s.t.Fatal("redistest: no sentinel answers")
	return nil
}

// Replica returns the other server.
func (s *Sentinel) Replica() *Server {
	s.t.Helper()
	if s.Master() == s.servers[0] {
		return s.servers[1]
	}
	return s.servers[0]
}
