package limitertest

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/goweir/weir/limiter"
)

var admissionChecks = []check{
	{name: "capacity", run: capacity},
	{name: "countdown", run: countdown},
	{name: "bound", run: bound},
	{name: "pace", run: pace},
	{name: "retry", run: retry},
	{name: "retry not late", run: retryNotLate, exact: true},
	{name: "hammering", run: hammering},
	{name: "whole again", run: wholeAgain},
}

// policies are for checks at one instant: whole and broken units, a capacity
// below and above Limit. None gives a unit back while a check runs.
func (x *trial) policies() []limiter.Policy {
	var ps []limiter.Policy
	for _, p := range []struct{ limit, burst int }{{1, 0}, {3, 0}, {7, 0}, {10, 10}, {60, 7}, {11, 1}, {3, 20}, {97, 0}} {
		policy := x.policy(p.limit, slow, p.burst)
		policy.Name = fmt.Sprintf("%d burst %d", p.limit, p.burst)
		ps = append(ps, policy)
	}
	return ps
}

// capacity takes a whole quota unit by unit, in random portions, and at once.
func capacity(x *trial) {
	x.untimed()
	for i, p := range x.policies() {
		n := x.capacity(p)
		x.remaining(of(p, 0), n)
		for left := n - 1; left >= 0; left-- {
			if r := x.allowed(of(p, 1)); r.Remaining != left {
				x.errorf("Take of 1 of %+v = %+v, want %d remaining", p, r, left)
			}
		}
		x.denied(of(p, 1))

		rnd := rand.New(rand.NewPCG(uint64(i), 1))
		c := limiter.Charge{Policy: p, Key: "in portions"}
		for left := n; left > 0; left -= c.Cost {
			c.Cost = 1 + rnd.IntN(left)
			x.remaining(c, left)
			x.allowed(c)
		}
		c.Cost = 1
		x.denied(c)

		c = limiter.Charge{Policy: p, Key: "at once", Cost: n}
		x.allowed(c)
		x.denied(c)
		c.Cost = 1
		x.denied(c)
	}
}

// countdown is ulule's suite for stores: look and take 3, 2, 1, 0, refused, and
// reset.
func countdown(x *trial) {
	x.untimed()
	p := x.still("p", 3)
	for range 2 {
		for left := 3; left > 0; left-- {
			x.remaining(of(p, 0), left)
			if r := x.allowed(of(p, 1)); r.Remaining != left-1 {
				x.errorf("Take = %+v, want %d remaining", r, left-1)
			}
		}
		x.remaining(of(p, 0), 0)
		x.denied(of(p, 1))
		x.reset(of(p, 1))
	}
	x.remaining(of(p, 0), 3)
}

// bound adds up what is admitted on random schedules, with awkward units.
func bound(x *trial) {
	x.untimed()
	for seed := range x.schedules(150, 8) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		limit := []int{1, 2, 3, 7, 10, 60, 999, 1009}[rnd.IntN(8)]
		window := []time.Duration{x.second, x.second / 7, 3 * x.second / 2}[rnd.IntN(3)]
		p := x.policy(limit, window, rnd.IntN(2)*(1+rnd.IntN(2*limit)))
		unit := max(1, int64(window)/int64(limit))
		c := limiter.Charge{Policy: p, Key: fmt.Sprint(seed)}
		l, origin := x.algorithm.ledger(p), time.Now()
		for i := range 100 {
			if rnd.IntN(3) == 0 {
				time.Sleep(time.Duration(min(rnd.Int64N(3*unit+1), int64(x.second)/10)))
			}
			c.Cost = 1 + rnd.IntN(min(3, x.capacity(p)))
			if rnd.IntN(5) == 0 {
				c.Cost = 1 + rnd.IntN(x.capacity(p))
			}
			early := time.Since(origin)
			r := x.take(c)
			if late := time.Since(origin); r.Allowed && !l.admit(early, late, r.Delay, c.Cost) {
				x.fatalf("seed %d, step %d: too much of %+v was admitted with %+v", seed, i, p, r)
			}
		}
	}
}

// pace is a client below the rate, who is never refused.
func pace(x *trial) {
	for i, tt := range []struct {
		limit, burst int
		window       time.Duration
	}{
		{10, 1, x.second}, {7, 1, x.second / 2}, {5, 1, 3 * x.second}, {3, 3, x.second}, {13, 0, x.second},
	} {
		p := x.policy(tt.limit, tt.window, tt.burst)
		c := limiter.Charge{Policy: p, Key: fmt.Sprint(i), Cost: 1}
		unit := tt.window/time.Duration(x.algorithm.pace(p)) + 1
		steps := 200
		if x.tolerance > 0 {
			steps = 4
		}
		for range steps {
			x.allowed(c)
			x.pause(unit + x.opts.Rounding + unit/1000)
		}
	}
}

// schedule calls f with charges on random policies.
func (x *trial) schedule(in uint64, f func(c limiter.Charge, rnd *rand.Rand)) {
	for seed := range x.schedules(300, 6) {
		rnd := rand.New(rand.NewPCG(seed, in))
		limit := []int{1, 2, 3, 7, 10, 17}[rnd.IntN(6)]
		window := []time.Duration{x.second, x.second / 7, 3 * x.second / 2}[rnd.IntN(3)]
		p := x.policy(limit, window, rnd.IntN(2)*(1+rnd.IntN(2*limit)))
		c := limiter.Charge{Policy: p, Key: fmt.Sprintf("%d %d", in, seed), Cost: 1 + rnd.IntN(x.capacity(p))}
		if x.algorithm.turns && rnd.IntN(3) == 0 {
			c.MaxDelay = time.Duration(rnd.Int64N(int64(window)))
		}
		f(c, rnd)
	}
}

// drain takes all that c's policy and patience allow, and returns the refusal.
func (x *trial) drain(c limiter.Charge) limiter.Result {
	for range 100 {
		if r := x.take(c); r.RetryAfter == limiter.Never {
			x.fatalf("Take(%s) = %+v, but it can fit", brief(c), r)
		} else if !r.Allowed {
			return r
		}
	}
	x.fatalf("Take(%s) was allowed 100 times in a row", brief(c))
	panic("unreachable")
}

// retry sleeps for exactly RetryAfter.
func retry(x *trial) {
	x.schedule(3, func(c limiter.Charge, _ *rand.Rand) {
		for range 3 {
			r := x.drain(c)
			x.pause(r.RetryAfter)
			if again := x.take(c); !again.Allowed {
				x.fatalf("Take(%s) = %+v, want it allowed, because RetryAfter was %v and has passed", brief(c), again, r.RetryAfter)
			}
		}
	})
}

// retryNotLate sleeps for a little less than RetryAfter.
func retryNotLate(x *trial) {
	x.schedule(4, func(c limiter.Charge, _ *rand.Rand) {
		r := x.drain(c)
		early := r.RetryAfter - x.opts.Rounding*time.Duration(c.Cost) - r.RetryAfter/1000
		if early <= 0 {
			return
		}
		x.pause(early)
		if again := x.take(c); again.Allowed {
			x.fatalf("Take(%s) was denied with RetryAfter %v, but is allowed %v before: %+v", brief(c), r.RetryAfter, r.RetryAfter-early, again)
		}
	})
}

// hammering asks all the time: refusals take nothing and put nothing off.
func hammering(x *trial) {
	x.schedule(5, func(c limiter.Charge, rnd *rand.Rand) {
		r := x.drain(c)
		begin := time.Now()
		for time.Since(begin) < r.RetryAfter {
			time.Sleep(1 + time.Duration(rnd.Int64N(int64(r.RetryAfter)/10+1)))
			if time.Since(begin) >= r.RetryAfter {
				break
			}
			c := c
			c.Cost = min(c.Cost+rnd.IntN(3), x.capacity(c.Policy))
			if x.tolerance > 0 {
				c.Cost += x.capacity(c.Policy) // it may be allowed by the time it arrives
			}
			if r := x.take(c); r.Allowed {
				x.fatalf("Take(%s) = %+v, want it denied until RetryAfter", brief(c), r)
			}
		}
		if again := x.take(c); !again.Allowed {
			x.fatalf("Take(%s) = %+v, want it allowed, because RetryAfter was %v; there were only refusals since", brief(c), again, r.RetryAfter)
		}
	})
}

// wholeAgain sleeps for exactly ResetAfter.
func wholeAgain(x *trial) {
	x.schedule(6, func(c limiter.Charge, _ *rand.Rand) {
		c.MaxDelay = 0
		r := x.take(c)
		x.pause(r.ResetAfter)
		n := x.capacity(c.Policy)
		x.remaining(c, n)
		c.Cost = n
		x.allowed(c)
	})
}
