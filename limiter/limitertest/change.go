package limitertest

import (
	"time"

	"github.com/goweir/weir/limiter"
)

var changeChecks = []check{
	{name: "reset", run: reset},
	{name: "changed limit", run: changedLimit},
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
		name := "p" + time.Duration(to).String()
		before, after := x.still(name, 10), x.still(name, to)
		x.allowed(of(before, 10))
		x.denied(of(after, 1))
		x.remaining(of(after, 0), 0)
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
