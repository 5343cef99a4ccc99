package failover

import (
	"cmp"
	"context"
	"math/bits"
	"time"

	"github.com/goweir/weir/limiter"
)

// standIn decides in the backend's place.
func (f *failover) standIn(ctx context.Context, c limiter.Charge, failure error) (limiter.Result, error) {
	switch f.mode {
	case Open:
		return uncounted(&c, 0), nil
	case Local:
		share := f.share(c, 0, 0)
		r, err := f.local.Take(ctx, share)
		f.whole(&r, &c, &share)
		return r, err
	}
	return limiter.Result{}, unavailable(failure)
}

func (f *failover) standInAll(ctx context.Context, cs []limiter.Charge, failure error) (rs []limiter.Result, err error) {
	switch f.mode {
	case Open:
		rs = make([]limiter.Result, len(cs))
		for i := range cs {
			asked := 0
			for j := range cs[:i] {
				if same(&cs[i], &cs[j]) {
					asked = sum(asked, cs[j].Cost)
				}
			}
			rs[i] = uncounted(&cs[i], asked)
		}
	case Local:
		shares := f.shares(cs)
		rs, err = f.local.TakeAll(ctx, shares)
		for i := range rs {
			f.whole(&rs[i], &cs[i], &shares[i])
		}
	default:
		err = unavailable(failure)
	}
	return rs, err
}

// uncounted is the Result of mode Open for a charge to a quota of which the same
// decision has asked for some units already.
func uncounted(c *limiter.Charge, asked int) limiter.Result {
	r := limiter.Result{Allowed: true, Source: limiter.SourceFallback, Limit: c.Policy.Limit, Remaining: -1}
	if c.Policy.Limit == 0 || c.Cost > 0 && sum(asked, c.Cost) > capacity(&c.Policy) {
		r.Allowed, r.RetryAfter = false, limiter.Never
	}
	return r
}

// whole makes r, about share, a Result about c.
func (f *failover) whole(r *limiter.Result, c, share *limiter.Charge) {
	r.Source = limiter.SourceFallback
	r.Limit = c.Policy.Limit
	if r.Allowed && c.Cost > 0 {
		r.RetryAfter = 0 // a charge that became a look, because others took the share
	}
	if f.instances > 1 && c.Policy.Algorithm < limiter.FixedWindow && r.ResetAfter > 0 {
		r.MoreAfter = moreAfter(&share.Policy, r)
	}
}

// moreAfter returns when a bucket of p has one unit more. It is when all units
// but those that are missing then are back.
func moreAfter(p *limiter.Policy, r *limiter.Result) time.Duration {
	unit := (uint64(p.Window) + uint64(p.Limit) - 1) / uint64(p.Limit)
	hi, missing := bits.Mul64(uint64(max(0, capacity(p)-r.Remaining-1)), unit)
	if hi > 0 || missing >= uint64(r.ResetAfter) {
		return 1 // rounding: at any moment
	}
	return r.ResetAfter - time.Duration(missing)
}

// shares returns the charges to this instance's shares. The same quota twice
// counts as the sum here too.
func (f *failover) shares(cs []limiter.Charge) []limiter.Charge {
	shares := make([]limiter.Charge, len(cs))
	for i := range cs {
		asked, taken := 0, 0
		for j := range cs[:i] {
			if same(&cs[i], &cs[j]) {
				asked = sum(asked, cs[j].Cost)
				taken = sum(taken, shares[j].Cost)
			}
		}
		shares[i] = f.share(cs[i], asked, taken)
	}
	return shares
}

// share returns the charge to this instance's share of c's quota, of which the
// same decision has asked for some units already and taken others from the
// share. What can never fit stays so.
func (f *failover) share(c limiter.Charge, asked, taken int) limiter.Charge {
	whole := capacity(&c.Policy)
	if c.Policy.Limit > 0 {
		c.Policy.Limit = max(1, c.Policy.Limit/f.instances)
	}
	if c.Policy.Burst > 0 {
		c.Policy.Burst = max(1, c.Policy.Burst/f.instances)
	}
	if sum(asked, c.Cost) <= whole {
		c.Cost = min(c.Cost, max(0, capacity(&c.Policy)-taken))
	}
	return c
}

// capacity returns how many units of a quota can be taken at once at most.
func capacity(p *limiter.Policy) int { return cmp.Or(p.Burst, p.Limit) }

// same reports whether a and b are charged to the same quota.
func same(a, b *limiter.Charge) bool {
	return a.Key == b.Key && a.Policy.Name == b.Policy.Name && a.Policy.Algorithm == b.Policy.Algorithm &&
		(a.Policy.Window == b.Policy.Window || a.Policy.Algorithm < limiter.FixedWindow)
}

// sum adds what is not negative, saturating.
func sum(a, b int) int {
	if s := a + b; s >= a {
		return s
	}
	return int(^uint(0) >> 1)
}
