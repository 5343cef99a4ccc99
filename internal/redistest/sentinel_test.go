//go:build unix

package redistest_test

import (
	"testing"
	"time"

	"github.com/goweir/weir/internal/redistest"
)

func TestSentinel(t *testing.T) {
	if testing.Short() {
		t.Skip("a failover takes seconds")
	}
	t.Parallel() // mostly waits
	begin := time.Now()
	s := redistest.StartSentinel(t)
	t.Logf("started in %v", time.Since(begin))
	if len(s.Addrs()) != 3 {
		t.Fatalf("%d sentinels, want 3", len(s.Addrs()))
	}
	master, replica := s.Master(), s.Replica()
	if m, r := master.Info("replication")["role"], replica.Info("replication")["role"]; m != "master" || r != "slave" {
		t.Fatalf("the roles are %s and %s", m, r)
	}
	for _, sentinel := range s.Sentinels() {
		if got := sentinel.Do("SENTINEL", "CKQUORUM", s.MasterName()); got != "OK 3 usable Sentinels. Quorum and failover authorization can be reached" {
			t.Errorf("%s: %s", sentinel.Addr(), got)
		}
	}

	master.Do("SET", "k", "v")
	master.AwaitReplicas()
	begin = time.Now()
	master.Kill()
	for s.Master() == master {
		if time.Since(begin) > 30*time.Second {
			t.Fatal("nobody takes over")
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("replaced after %v", time.Since(begin))
	if s.Master() != replica || s.Replica() != master {
		t.Errorf("the master is %s, want %s", s.Master().Addr(), replica.Addr())
	}
	if got := replica.Do("SET", "k2", "v"); got != "OK" {
		t.Errorf("SET at the new master: %s", got)
	}
	if got := replica.Do("GET", "k"); got != "v" {
		t.Errorf("GET = %q from the new master, want v", got)
	}
}
