package limitertest

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/goweir/weir/limiter"
)

var denialChecks = []check{
	{name: "denial", run: denialTakesNothing},
	{name: "never", run: never},
	{name: "closed", run: closed},
	{name: "faults", run: faults},
	{name: "cancelled", run: cancelled},
}

// denialTakesNothing asks for too much at once, and then for what is there.
func denialTakesNothing(x *trial) {
	x.untimed()
	p := x.still("p", 10)
	x.allowed(of(p, 4))
	for range 20 {
		if r := x.denied(of(p, 7)); r.Remaining != 6 {
			x.errorf("Take of 7 of 6 = %+v, want 6 remaining", r)
		}
	}
	x.remaining(of(p, 0), 6)
	x.allowed(of(p, 6))
	for range 20 {
		x.denied(of(p, 1))
	}
	x.remaining(of(p, 0), 0)
}

// never asks for more than the capacity, of a whole quota and of an empty one.
func never(x *trial) {
	x.untimed()
	p := x.still("p", 5)
	for _, n := range []int{6, 7, 100, 1000, math.MaxInt32, math.MaxInt} {
		if r := x.denied(of(p, n)); r.RetryAfter != limiter.Never {
			x.errorf("Take of %d of 5 = %+v, want RetryAfter Never", n, r)
		}
	}
	x.remaining(of(p, 0), 5)
	x.allowed(of(p, 5))
	if r := x.denied(of(p, 6)); r.RetryAfter != limiter.Never {
		x.errorf("Take of 6 of an empty 5 = %+v, want RetryAfter Never", r)
	}
	if r := x.denied(of(p, 5)); r.RetryAfter == limiter.Never {
		x.errorf("Take of 5 of an empty 5 = %+v, want a RetryAfter", r)
	}
}

// closed is a Limit of 0.
func closed(x *trial) {
	x.untimed()
	open := x.still("p", 5)
	for _, burst := range []int{0, 5} {
		shut := x.policy(0, slow, burst)
		for _, n := range []int{1, 5, math.MaxInt, 0} {
			c := of(shut, n)
			if r := x.denied(c); r.RetryAfter != limiter.Never || r.Remaining != 0 {
				x.errorf("Take(%s) = %+v, want RetryAfter Never and nothing remaining", brief(c), r)
			}
		}
		rs := x.takeAll(of(open, 1), limiter.Charge{Policy: shut, Key: "other", Cost: 1})
		if !rs[0].Allowed && !x.unasked(rs[0]) || rs[1].Allowed || rs[1].RetryAfter != limiter.Never {
			x.errorf("TakeAll of an open quota and a closed one = %+v", rs)
		}
	}
	x.remaining(of(open, 0), 5)
}

// faults are charges that mean nothing: an error, and nothing is taken.
func faults(x *trial) {
	x.untimed()
	good := x.still("good", 5)
	with := func(change func(*limiter.Charge)) limiter.Charge {
		c := of(x.still("p", 5), 1)
		change(&c)
		return c
	}
	type fault struct {
		name string
		c    limiter.Charge
	}
	tests := []fault{
		{"Cost -1", with(func(c *limiter.Charge) { c.Cost = -1 })},
		{"the least Cost", with(func(c *limiter.Charge) { c.Cost = math.MinInt })},
		{"MaxDelay -1", with(func(c *limiter.Charge) { c.MaxDelay = -1 })},
		{"Limit -1", with(func(c *limiter.Charge) { c.Policy.Limit = -1 })},
		{"the least Limit", with(func(c *limiter.Charge) { c.Policy.Limit = math.MinInt })},
		{"Burst -1", with(func(c *limiter.Charge) { c.Policy.Burst = -1 })},
		{"Window 0", with(func(c *limiter.Charge) { c.Policy.Window = 0 })},
		{"Window -1s", with(func(c *limiter.Charge) { c.Policy.Window = -time.Second })},
		{"Window 999ns", with(func(c *limiter.Charge) { c.Policy.Window = 999 })},
		{"no Name", with(func(c *limiter.Charge) { c.Policy.Name = "" })},
		{"Algorithm 200", with(func(c *limiter.Charge) { c.Policy.Algorithm = 200 })},
	}
	if x.algorithm.windowed {
		tests = append(tests, fault{"Burst 5", with(func(c *limiter.Charge) { c.Policy.Burst = 5 })})
	}
	for _, tt := range tests {
		if r, err := x.l.Take(x.ctx(), tt.c); !errors.Is(err, limiter.ErrPolicy) {
			x.errorf("%s: Take = %+v, %v; want an error that matches ErrPolicy", tt.name, r, err)
		}
		for _, cs := range [][]limiter.Charge{{tt.c}, {of(good, 1), tt.c}, {tt.c, of(good, 1)}} {
			if rs, err := x.l.TakeAll(x.ctx(), cs); !errors.Is(err, limiter.ErrPolicy) {
				x.errorf("%s: TakeAll = %+v, %v; want an error that matches ErrPolicy", tt.name, rs, err)
			}
		}
	}
	x.remaining(of(good, 0), 5)
	x.remaining(of(x.still("p", 5), 0), 5)
}

// cancelled calls with a context that has ended: the answer, or the context's
// error and nothing taken, but at once.
func cancelled(x *trial) {
	x.untimed()
	ctx, cancel := context.WithCancel(x.ctx())
	cancel()
	p, q := x.still("p", 5), x.still("q", 5)
	promptly := func(what string, f func() error) (answered bool) {
		begin := time.Now()
		err := f()
		if d := time.Since(begin); d > time.Second {
			x.errorf("%s took %v although its context had ended", what, d)
			x.late = max(x.late, d) // it may have been the machine
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			x.errorf("%s = %v, want no error or the context's", what, err)
		}
		return err == nil
	}
	left := 5
	if promptly("Take", func() error { _, err := x.l.Take(ctx, of(p, 1)); return err }) {
		left--
	}
	x.remaining(of(p, 0), left)
	both := 5
	if promptly("TakeAll", func() error {
		_, err := x.l.TakeAll(ctx, []limiter.Charge{of(p, 1), of(q, 1)})
		return err
	}) {
		left, both = left-1, both-1
	}
	x.remaining(of(p, 0), left)
	x.remaining(of(q, 0), both)

	r := x.allowed(of(p, 2))
	left -= 2
	if promptly("Refund", func() error { return x.l.Refund(ctx, of(p, 2), &r) }) {
		left += 2
	}
	x.remaining(of(p, 0), left)
	if promptly("Reset", func() error { return x.l.Reset(ctx, of(p, 0)) }) {
		left = 5
	}
	x.remaining(of(p, 0), left)
}
