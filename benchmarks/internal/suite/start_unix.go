//go:build unix

package suite

import (
	"os/exec"

	"github.com/goweir/weir/internal/redistest"
)

func haveRedis() bool {
	_, err := exec.LookPath("redis-server")
	return err == nil
}

func startRedis(s *stage) (url string) { return redistest.Start(s).URL() }

func startCluster(s *stage) (addrs []string) { return redistest.StartCluster(s, 0).Addrs() }
