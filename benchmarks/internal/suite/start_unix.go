//go:build unix

package suite

import (
	"os/exec"
	"syscall"

	"github.com/goweir/weir/internal/redistest"
)

func haveRedis() bool {
	_, err := exec.LookPath("redis-server")
	return err == nil
}

func startRedis(s *stage) (url string) { return redistest.Start(s).URL() }

func startCluster(s *stage) (addrs []string) { return redistest.StartCluster(s, 0).Addrs() }

// endTogether has a command end with all that it has started, when its context
// does.
func endTogether(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
