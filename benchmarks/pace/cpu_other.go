//go:build !unix

package pace

import "time"

var start = time.Now()

// cpuTime is the wall clock where the system call is another.
func cpuTime() time.Duration { return time.Since(start) }
