package limitertest_test

import (
	"cmp"
	"context"
	"errors"
	"math"
	"math/bits"
	"sync"
	"time"

	"github.com/goweir/weir/limiter"
)

// naive is a token bucket as one writes it in ten minutes: it has no turns,
// multiplies without care unless wide, believes every reading of the clock, of
// which every other one is late by skew, and gives back what was taken as far
// as it is not yet due, whatever others gave back.
type naive struct {
	wide bool
	skew time.Duration

	mu      sync.Mutex
	start   time.Time
	late    bool
	arrival map[[2]string]int64
}

func (n *naive) now() int64 {
	if n.arrival == nil {
		n.arrival, n.start = make(map[[2]string]int64), time.Now().Add(-n.skew)
	}
	now := time.Since(n.start)
	if n.late = !n.late; n.late {
		now -= n.skew
	}
	return int64(now)
}

func (n *naive) price(p limiter.Policy, cost int) int64 {
	if !n.wide {
		return int64(cost) * int64(p.Window) / int64(p.Limit)
	}
	hi, lo := bits.Mul64(uint64(cost), uint64(p.Window))
	lo, carry := bits.Add64(lo, uint64(p.Limit)-1, 0)
	if hi+carry >= uint64(p.Limit) {
		return math.MaxInt64 / 4
	}
	quo, _ := bits.Div64(hi+carry, lo, uint64(p.Limit))
	return int64(min(quo, math.MaxInt64/4))
}

func (n *naive) Take(_ context.Context, c limiter.Charge) (limiter.Result, error) {
	if err := c.Policy.Validate(); err != nil {
		return limiter.Result{}, err
	}
	if c.Cost < 0 || c.MaxDelay < 0 {
		return limiter.Result{}, limiter.ErrPolicy
	}
	r := limiter.Result{Limit: c.Policy.Limit, Source: limiter.SourceMemory}
	if c.Policy.Limit == 0 {
		r.RetryAfter = limiter.Never
		return r, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	now, id := n.now(), [2]string{c.Policy.Name, c.Key}
	capacity := n.price(c.Policy, cmp.Or(c.Policy.Burst, c.Policy.Limit))
	arrival := max(n.arrival[id], now)
	price := n.price(c.Policy, max(1, c.Cost))
	wait := time.Duration(arrival + price - capacity - now)
	switch {
	case c.Cost == 0:
		r.Allowed, r.RetryAfter = true, max(0, wait)
	case price > capacity:
		r.RetryAfter = limiter.Never
	case wait > c.MaxDelay:
		r.RetryAfter = wait - c.MaxDelay
	default:
		r.Allowed, r.Delay = true, max(0, wait)
		arrival += price
		n.arrival[id] = arrival
		r.Receipt = limiter.Receipt{Paid: price, Until: arrival}
	}
	r.ResetAfter = time.Duration(arrival - now)
	r.Remaining = int(max(0, capacity-(arrival-now)) / max(1, n.price(c.Policy, 1)))
	return r, nil
}

func (n *naive) TakeAll(ctx context.Context, cs []limiter.Charge) ([]limiter.Result, error) {
	rs := make([]limiter.Result, 0, len(cs))
	var errs error
	for _, c := range cs {
		r, err := n.Take(ctx, c)
		rs, errs = append(rs, r), errors.Join(errs, err)
	}
	return rs, errs
}

func (n *naive) Refund(_ context.Context, c limiter.Charge, r *limiter.Result) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := [2]string{c.Policy.Name, c.Key}
	n.arrival[id] -= max(0, min(r.Receipt.Paid, r.Receipt.Until-n.now()))
	r.Receipt = limiter.Receipt{}
	return nil
}

func (n *naive) Reset(_ context.Context, c limiter.Charge) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.arrival, [2]string{c.Policy.Name, c.Key})
	return nil
}
