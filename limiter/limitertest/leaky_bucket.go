package limitertest

import (
	"math/big"
	"slices"
	"time"

	"github.com/goweir/weir/limiter"
)

var leakyBucket = &algorithm{
	is:       limiter.LeakyBucket,
	turns:    true,
	spans:    1,
	capacity: burstOf,
	patience: leakyPatience,
	turn:     func(r limiter.Result) time.Duration { return r.ResetAfter },
	pace:     limitOf,
	most:     mostOfBucket,
	ledger:   newLeakyLedger,
	model:    func() model { return newBucketModel(true) },
	own: slices.Concat(bucketVectors, []check{
		{name: "smooth", run: func(x *trial) { x.smooth(20) }},
		{name: "shape", run: shape},
	}),
}

// leakyPatience is MaxDelay, but no longer than Burst units take to leak.
func leakyPatience(c limiter.Charge, rounding time.Duration) time.Duration {
	each := cost(c.Policy, 1)
	each.Mul(each, big.NewRat(1001, 1000))
	each.Add(each, num(int64(rounding)))
	longest := up(each.Mul(each, num(int64(burstOf(c.Policy)))))
	if c.MaxDelay > 0 {
		longest = min(longest, c.MaxDelay)
	}
	return longest
}

// A leakyLedger is two buckets: no more comes in at an instant than Burst and
// what has leaked, and what goes out does so when all before it has leaked.
type leakyLedger struct{ in, out *bucketLedger }

func newLeakyLedger(p limiter.Policy) ledger {
	l := leakyLedger{newBucketLedger(p), newBucketLedger(p)}
	l.out.span = new(big.Rat)
	return l
}

func (l leakyLedger) admit(early, late, delay time.Duration, units int) bool {
	in := l.in.admit(early, late, 0, units)
	// A charge goes out at once, whatever its Cost; it is the next one that has
	// to wait until that has leaked.
	out := l.out.admit(early, late, delay, 0)
	l.out.total = sum(l.out.total, new(big.Rat).Mul(l.out.unit, num(int64(units))))
	return in && out
}

// shape charges at once what then goes on at an even pace.
func shape(x *trial) {
	d := x.second / 5
	p := x.policy(5, x.second, 4)
	turn := func(cost int, maxDelay, want time.Duration) limiter.Result {
		c := of(p, cost)
		c.MaxDelay = maxDelay
		r := x.allowed(c)
		if !x.near(r.Delay, want) {
			x.fatalf("Take(%s) = %+v, want Delay %v", brief(c), r, want)
		}
		return r
	}
	x.begin()
	turn(1, 0, 0)
	turn(2, 0, d)
	turn(1, 0, 3*d)
	if r := x.denied(of(p, 1)); !x.near(r.RetryAfter, d) {
		x.errorf("Take behind Burst units = %+v, want RetryAfter %v", r, d)
	}
	x.until(2 * d)
	impatient := of(p, 1)
	impatient.MaxDelay = d
	if r := x.denied(impatient); !x.near(r.RetryAfter, d) {
		x.errorf("Take(%s) two units before its turn = %+v, want RetryAfter %v", brief(impatient), r, d)
	}
	last := turn(2, 3*d, 2*d)
	x.denied(of(p, 1))

	// Who leaves as the last one gives up the place; anybody else does not.
	x.refund(of(p, 2), &last)
	first := turn(1, 0, 2*d)
	turn(1, 0, 3*d)
	x.refund(of(p, 1), &first)
	if r := x.denied(of(p, 1)); !x.near(r.RetryAfter, d) {
		x.errorf("Take behind Burst units = %+v, want RetryAfter %v", r, d)
	}
	x.until(10 * d)
	x.remaining(of(p, 0), 4)
	turn(4, 0, 0)
}
