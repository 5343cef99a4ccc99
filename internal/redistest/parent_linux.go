package redistest

import "syscall"

// dieWithParent makes the kernel kill a child when the thread that starts it
// ends.
func dieWithParent() *syscall.SysProcAttr {
	// In a process group of its own, so that Ctrl-C reaches its parent only, which
	// may have something to ask it still.
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
