package limitertest

import (
	"math/rand/v2"
	"time"

	"github.com/goweir/weir/limiter"
)

var resultChecks = []check{
	{name: "look", run: look},
	{name: "look agrees", run: lookAgrees, exact: true},
}

// look takes nothing, however often.
func look(x *trial) {
	x.untimed()
	p := x.still("p", 5)
	for range 10 {
		x.remaining(of(p, 0), 5)
	}
	x.allowed(of(p, 3))
	for range 10 {
		x.remaining(of(p, 0), 2)
	}
	x.allowed(of(p, 2))
	denied := x.denied(of(p, 1))
	for range 10 {
		r := x.take(of(p, 0))
		if !r.Allowed || r.Remaining != 0 || !alike(r.RetryAfter, denied.RetryAfter) || !alike(r.ResetAfter, denied.ResetAfter) {
			x.errorf("a look at an empty quota = %+v, want it allowed, and RetryAfter and ResetAfter as of a refused unit: %+v", r, denied)
		}
	}
}

// alike reports whether two long times are the same but for what passed between
// two calls.
func alike(a, b time.Duration) bool { return (a - b).Abs() <= time.Minute }

// lookAgrees looks before each charge: what fits is allowed, one more is not.
func lookAgrees(x *trial) {
	x.schedule(7, func(c limiter.Charge, rnd *rand.Rand) {
		c.MaxDelay = 0
		unit := int64(c.Policy.Window) / int64(c.Policy.Limit)
		for range 20 {
			time.Sleep(time.Duration(rnd.Int64N(2 * unit)))
			c.Cost = 0
			seen := x.take(c)
			if c.Cost = seen.Remaining + 1; c.Cost <= x.capacity(c.Policy) {
				if r := x.take(c); r.Allowed || r.Remaining != seen.Remaining || c.Cost == 1 && r.RetryAfter != seen.RetryAfter {
					x.fatalf("Take(%s) = %+v after a look: %+v", brief(c), r, seen)
				}
			}
			if seen.Remaining > 0 {
				c.Cost = 1 + rnd.IntN(seen.Remaining)
				if r := x.take(c); !r.Allowed || r.Remaining != seen.Remaining-c.Cost {
					x.fatalf("Take(%s) = %+v after a look: %+v", brief(c), r, seen)
				}
			}
		}
	})
}
