package limitertest

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/goweir/weir/limiter"
)

var extremeChecks = []check{
	{name: "extremes", run: extremes},
	{name: "slow and fast", run: slowAndFast, exact: true},
}

const century = 100 * 365 * 24 * time.Hour

// extremes multiplies the largest and smallest of everything: no error, no
// overflow, and Results that are consistent.
func extremes(x *trial) {
	x.untimed()
	limits := []int{1, 2, 1000, 1 << 31, 1<<53 + 1, 1 << 62, math.MaxInt}
	windows := []time.Duration{time.Microsecond, 1500, time.Second, 24 * time.Hour, century, math.MaxInt64}
	costs := []int{1, 2, 106_752, 1 << 31, 1 << 62, math.MaxInt}
	rnd := rand.New(rand.NewPCG(1, 14))
	for _, limit := range limits {
		for _, window := range windows {
			for i, burst := range limits {
				if x.algorithm.windowed && i > 0 || x.tolerance > 0 && rnd.IntN(10) > 0 {
					continue // there is no Burst, or each answer takes time
				}
				p := x.policy(limit, window, burst)
				n := x.capacity(p)
				x.reset(of(p, 0))
				x.remaining(of(p, 0), n)
				for _, cost := range costs {
					c := of(p, cost)
					if x.algorithm.turns {
						c.MaxDelay = math.MaxInt64
					}
					x.reset(c)
					r := x.take(c)
					if r.Allowed != (cost <= n) || r.Delay != 0 {
						x.fatalf("Take(%s) of a whole quota = %+v", brief(c), r)
					}
					if !r.Allowed {
						continue
					}
					x.take(c) // a second one may have a turn, or not
					c.MaxDelay = 0
					x.take(c)
					x.take(of(p, 0))
					x.refund(c, &r)
					x.take(of(p, 0))
				}
				// All of it, and then one more at the same instant.
				x.reset(of(p, 0))
				x.allowed(of(p, n))
				if r := x.take(of(p, n)); r.Allowed && x.tolerance == 0 {
					x.fatalf("Take of %d of %+v = %+v, twice at one instant", n, p, r)
				}
			}
		}
	}
	c := limiter.Charge{Policy: x.policy(1<<62, time.Microsecond, 0), Key: "again", Cost: 1 << 62}
	rs := x.takeAll(c, c)
	if rs[1].RetryAfter != limiter.Never {
		x.errorf("TakeAll of twice the capacity = %+v, want the second never", rs)
	}
}

// slowAndFast lets a century pass with one unit in it, and a microsecond.
func slowAndFast(x *trial) {
	for _, window := range []time.Duration{time.Microsecond, time.Millisecond, 366 * 24 * time.Hour, century} {
		p := x.policy(1, window, 1)
		p.Name = window.String()
		x.allowed(of(p, 1))
		r := x.denied(of(p, 1))
		if longest := x.algorithm.spans * window; r.RetryAfter > longest+x.opts.Rounding+longest/1000 {
			x.errorf("Take of 1 of 1 in %v = %+v, want a RetryAfter of at most %v", window, r, longest)
		}
		if window >= 24*time.Hour {
			x.pause(time.Hour)
			x.denied(of(p, 1))
			r = x.denied(of(p, 1))
		}
		x.pause(r.RetryAfter)
		x.allowed(of(p, 1))
		x.denied(of(p, 1))
	}
}
