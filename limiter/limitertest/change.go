package limitertest

import (
	"fmt"
	"time"

	"github.com/goweir/weir/limiter"
)

var changeChecks = []check{
	{name: "reset", run: reset},
	{name: "changed limit", run: changedLimit},
	{name: "identity", run: identity},
}

// reset makes one quota whole, used or not, and no other.
func reset(x *trial) {
	x.untimed()
	p, q := x.still("p", 5), x.still("q", 5)
	other := limiter.Charge{Policy: p, Key: "other", Cost: 2}
	x.reset(of(p, 1)) // nothing is stored
	x.remaining(of(p, 0), 5)
	x.allowed(of(p, 5))
	x.allowed(of(q, 2))
	x.allowed(other)
	x.denied(of(p, 1))
	for range 2 {
		x.reset(of(p, 0))
		x.remaining(of(p, 0), 5)
	}
	x.remaining(of(q, 0), 3)
	x.remaining(other, 3)
	x.allowed(of(p, 5))
	x.denied(of(p, 1))
}

// changedLimit changes Limit and Burst while the quota is in use: what was used
// stays used.
func changedLimit(x *trial) {
	x.untimed()
	for _, to := range []int{1, 5, 20, 1000} {
		name := fmt.Sprint("to ", to)
		before, after := x.still(name, 10), x.still(name, to)
		x.allowed(of(before, 10))
		left := 0 // all is used of a bucket
		if x.algorithm.windowed {
			left = max(0, to-10)
		}
		x.denied(of(after, left+1))
		x.remaining(of(after, 0), left)
		x.denied(of(before, 1))
		x.reset(of(after, 1))
		x.remaining(of(before, 0), 10)
	}
	// Looks with another Limit, and refusals, change nothing.
	p := x.still("p", 10)
	x.allowed(of(p, 4))
	for _, n := range []int{1, 2, 100, 1 << 40} {
		other := x.still("p", n)
		x.take(of(other, 0))
		x.denied(of(other, n))
	}
	x.remaining(of(p, 0), 6)
}

// identity changes what makes another quota of the same Name and Key, and what
// does not.
func identity(x *trial) {
	x.untimed()
	p := x.still("p", 5)
	x.allowed(of(p, 5))
	for _, is := range x.opts.Algorithms {
		for i := range time.Duration(5) {
			other := limiter.Policy{Name: "p", Algorithm: is, Limit: 5, Window: slow + i*time.Microsecond}
			mine := is == p.Algorithm && (i == 0 || !x.algorithm.windowed)
			if r, err := x.l.Take(x.ctx(), of(other, 1)); err != nil || r.Allowed == mine {
				x.errorf("after %v of %v was used up, Take of 1 of %v of %v: %+v, %v", p.Algorithm, p.Window, is, other.Window, r, err)
			}
		}
	}
}
