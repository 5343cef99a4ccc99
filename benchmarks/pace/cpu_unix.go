//go:build unix

package pace

import (
	"syscall"
	"time"
)

// cpuTime returns what all threads of this process have used so far, user and
// system.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
