package limitertest_test

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/goweir/weir/limiter"
)

// coarse is a Memory as a server would have it: it counts in microseconds, and
// answers come late.
type coarse struct {
	limiter.Limiter
	latency time.Duration
}

// up rounds up to the microsecond.
func up(d time.Duration) time.Duration {
	if d > limiter.Never-time.Microsecond {
		return d
	}
	return (d + time.Microsecond - 1).Truncate(time.Microsecond)
}

func (c coarse) wait() {
	if c.latency > 0 {
		time.Sleep(rand.N(c.latency))
	}
}

// charge lets a unit cost a whole number of microseconds.
func (c coarse) charge(ch limiter.Charge) limiter.Charge {
	p := &ch.Policy
	if p.Algorithm > limiter.LeakyBucket || p.Limit <= 0 || p.Window <= 0 {
		return ch
	}
	unit := p.Window / time.Duration(p.Limit)
	if unit < time.Microsecond || up(unit) == unit && unit*time.Duration(p.Limit) == p.Window {
		return ch
	}
	if unit = up(unit + 1); unit < limiter.Never/time.Duration(p.Limit) {
		p.Window = unit * time.Duration(p.Limit)
	}
	return ch
}

func (c coarse) answer(r limiter.Result) limiter.Result {
	r.RetryAfter, r.ResetAfter, r.MoreAfter = up(r.RetryAfter), up(r.ResetAfter), up(r.MoreAfter)
	return r
}

func (c coarse) Take(ctx context.Context, ch limiter.Charge) (limiter.Result, error) {
	c.wait()
	r, err := c.Limiter.Take(ctx, c.charge(ch))
	return c.answer(r), err
}

func (c coarse) TakeAll(ctx context.Context, cs []limiter.Charge) ([]limiter.Result, error) {
	charged := make([]limiter.Charge, len(cs))
	for i, ch := range cs {
		charged[i] = c.charge(ch)
	}
	c.wait()
	rs, err := c.Limiter.TakeAll(ctx, charged)
	for i := range rs {
		rs[i] = c.answer(rs[i])
	}
	return rs, err
}

func (c coarse) Refund(ctx context.Context, ch limiter.Charge, r *limiter.Result) error {
	c.wait()
	return c.Limiter.Refund(ctx, c.charge(ch), r)
}
