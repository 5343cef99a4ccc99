package pace

import (
	"syscall"
	"time"
)

// sleep is time.Sleep that wakes up within a tenth of a millisecond: the runtime
// waits in whole milliseconds when it has nothing else to do. The thread that
// waits meanwhile is another, and only for the end of a longer sleep.
func sleep(d time.Duration) {
	const end = 2 * time.Millisecond
	if d > end {
		start := time.Now()
		time.Sleep(d - end)
		d -= time.Since(start)
	}
	if d > 0 {
		t := syscall.NsecToTimespec(int64(d))
		syscall.Nanosleep(&t, nil)
	}
}
