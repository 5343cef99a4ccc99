package limitertest_test

import (
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/limitertest"
)

// A Limiter in this process is tested in bubbles, where time is exact.
func ExampleRun() {
	var t *testing.T // the parameter of a test, say TestLimiter

	limitertest.Run(t, func(*testing.T) limiter.Limiter {
		return limiter.NewMemory(nil)
	}, nil)
}

// One with its state on a server is tested in real time, within a tolerance.
func ExampleRun_server() {
	var t *testing.T // the parameter of a test, say TestLimiter

	// connect stands for what makes such a Limiter: each with a prefix of its
	// own, so that it is empty, and closed by t.Cleanup.
	connect := func(t *testing.T) limiter.Limiter { return limiter.NewMemory(nil) }

	limitertest.Run(t, connect, &limitertest.Options{
		RealTime:  true,
		Tolerance: 20 * time.Millisecond, // an answer seldom takes longer
		Rounding:  time.Microsecond,      // it counts in microseconds
	})
}
