package limitertest

import (
	"math/big"
	"slices"
	"time"

	"github.com/goweir/weir/limiter"
)

var tokenBucket = &algorithm{
	is:       limiter.TokenBucket,
	turns:    true,
	spans:    1,
	capacity: burstOf,
	patience: func(c limiter.Charge, _ time.Duration) time.Duration { return c.MaxDelay },
	turn:     retryAfter,
	pace:     limitOf,
	most:     mostOfBucket,
	ledger:   func(p limiter.Policy) ledger { return newBucketLedger(p) },
	model:    func() model { return newBucketModel(false) },
	own:      slices.Concat(bucketVectors, turnChecks, []check{{name: "stale refund in part", run: staleRefundVector}}),
}

func num(n int64) *big.Rat { return new(big.Rat).SetInt64(n) }

func latest(a, b *big.Rat) *big.Rat {
	if a.Cmp(b) > 0 {
		return a
	}
	return b
}

func least(a, b *big.Rat) *big.Rat {
	if a.Cmp(b) < 0 {
		return a
	}
	return b
}

func sum(a, b *big.Rat) *big.Rat  { return new(big.Rat).Add(a, b) }
func diff(a, b *big.Rat) *big.Rat { return new(big.Rat).Sub(a, b) }

// cost is what units of p cost, in nanoseconds.
func cost(p limiter.Policy, units int) *big.Rat {
	c := num(int64(units))
	return c.Mul(c, big.NewRat(int64(p.Window), int64(p.Limit)))
}

// up rounds a time up to the nanosecond, and cuts it to what a Duration holds.
func up(r *big.Rat) time.Duration {
	if r.Sign() <= 0 {
		return 0
	}
	n, rest := new(big.Int).QuoRem(r.Num(), r.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		n.Add(n, big.NewInt(1))
	}
	if !n.IsInt64() {
		return limiter.Never - 1
	}
	return min(time.Duration(n.Int64()), limiter.Never-1)
}

// mostOfBucket returns Burst and what comes back in a time.
func mostOfBucket(p limiter.Policy, d time.Duration) int64 {
	n := new(big.Int).Mul(big.NewInt(int64(p.Limit)), big.NewInt(int64(d)))
	return n.Quo(n, big.NewInt(int64(p.Window))).Int64() + int64(burstOf(p))
}

// A bucketLedger is a bucket that never rounds, fed with what was admitted. It
// runs over if there are two instants between which more passed than Burst and
// what comes back in that time: with S units admitted in all before an instant
// t, that is if S - rate*t rises by more than Burst. It takes the earliest
// instant for the beginning of an interval and the latest for its end, so that
// it never accuses wrongly.
type bucketLedger struct {
	unit   *big.Rat // nanoseconds that one unit takes to come back
	span   *big.Rat // the same for Burst
	total  *big.Rat // S, as time
	lowest *big.Rat // the least S - rate*t so far
}

func newBucketLedger(p limiter.Policy) *bucketLedger {
	return &bucketLedger{unit: cost(p, 1), span: cost(p, burstOf(p)), total: new(big.Rat)}
}

func (l *bucketLedger) admit(early, late, delay time.Duration, units int) bool {
	early, late = early+delay, late+delay
	if level := diff(l.total, num(int64(early))); l.lowest == nil || level.Cmp(l.lowest) < 0 {
		l.lowest = level
	}
	l.total = sum(l.total, new(big.Rat).Mul(l.unit, num(int64(units))))
	rise := diff(diff(l.total, num(int64(late))), l.lowest)
	return rise.Cmp(l.span) <= 0
}

// A bucketModel is a token bucket or a leaky bucket, by GCRA. What a token
// bucket admits goes on as soon as it fits, what a leaky bucket admits when all
// before it has leaked.
type bucketModel struct {
	leaky   bool
	arrival *big.Rat // when it is whole again
	given   *big.Rat // what was given back since it was last whole
	turns   bool     // callers may wait for their turns up to arrival
}

func newBucketModel(leaky bool) *bucketModel {
	return &bucketModel{leaky: leaky, arrival: new(big.Rat), given: new(big.Rat)}
}

// A bucketReceipt says what a charge took, until when, and what had been given
// back by then.
type bucketReceipt struct{ paid, until, given *big.Rat }

func (m *bucketModel) take(now int64, c limiter.Charge) (limiter.Result, receipt) {
	p, n := c.Policy, num(now)
	r := limiter.Result{Limit: p.Limit}
	if p.Limit == 0 {
		r.RetryAfter = limiter.Never
		return r, nil
	}
	var got receipt
	if c.Cost > burstOf(p) {
		r.RetryAfter = limiter.Never
	} else {
		begin := latest(m.arrival, n)
		free := diff(cost(p, burstOf(p)), cost(p, max(c.Cost, 1)))
		wait := diff(diff(begin, free), n)
		delay, lack := wait, diff(wait, num(int64(c.MaxDelay)))
		if m.leaky {
			delay, lack = diff(begin, n), wait
			if c.MaxDelay > 0 {
				lack = latest(wait, diff(delay, num(int64(c.MaxDelay))))
			}
		}
		switch {
		case c.Cost == 0:
			r.Allowed, r.RetryAfter = true, up(wait)
		case lack.Sign() > 0:
			r.RetryAfter = up(lack)
		default:
			r.Allowed, r.Delay = true, up(delay)
			if sum(m.arrival, m.given).Cmp(n) <= 0 {
				m.given = new(big.Rat)
			}
			m.turns = m.leaky || c.MaxDelay > 0 || m.turns && m.arrival.Cmp(n) > 0
			paid := cost(p, c.Cost)
			m.arrival = sum(begin, paid)
			got = &bucketReceipt{paid, m.arrival, m.given}
		}
	}
	ahead := diff(m.arrival, n)
	r.ResetAfter = up(ahead)
	free := diff(cost(p, burstOf(p)), latest(ahead, new(big.Rat)))
	if free.Sign() > 0 {
		free.Quo(free, cost(p, 1))
		r.Remaining = int(new(big.Int).Quo(free.Num(), free.Denom()).Int64())
	}
	return r, got
}

func (m *bucketModel) refund(now int64, _ limiter.Charge, got receipt) {
	r, n := got.(*bucketReceipt), num(now)
	if m.turns && m.arrival.Cmp(n) > 0 {
		if m.arrival.Cmp(r.until) == 0 && m.given.Cmp(r.given) == 0 {
			m.arrival = latest(diff(m.arrival, r.paid), n)
		}
		return
	}
	left := diff(diff(r.until, diff(m.given, r.given)), n)
	if back := least(r.paid, left); back.Sign() > 0 {
		m.arrival = diff(m.arrival, back)
		m.given = sum(m.given, back)
	}
}

func (m *bucketModel) reset(now int64) {
	if back := diff(m.arrival, num(now)); back.Sign() > 0 {
		m.arrival, m.given, m.turns = num(now), sum(m.given, back), false
	}
}
