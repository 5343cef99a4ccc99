package limiter

import "math/bits"

// horizon is how far ahead anything is planned: 146 years in nanoseconds.
// Readings of the clock are far below it, so that their sum fits an int64.
// Prices and capacities above it are cut down to it.
const horizon = 1<<62 - 1

// fineUnit is the duration of a unit below which charges are priced by the
// ratio and not by the unit.
const fineUnit = 1000

// A quota is the arithmetic of one policy with a Limit above 0. Prices are
// nanoseconds of arrival time.
//
// A unit costs Window/Limit rounded up, so that rounding never admits more.
// Where a unit lasts a microsecond or longer, Cost units cost Cost times that
// (less than 0.1 % too much) and the capacity is Burst times that. Everything
// is then a multiple of one number: a whole quota admits exactly Burst units at
// one instant, in whatever portions, although 1 s is no multiple of 1/3 s.
//
// For shorter units that would cost up to half of the rate. There Cost units
// cost Cost*Window/Limit rounded up and the capacity is rounded down; Burst at
// once is admitted to a whole quota, while portions of it at one instant may
// lose a nanosecond each.
type quota struct {
	limit, window uint64
	burst         uint64
	unit          uint64 // 0: priced by the ratio
	capacity      int64
}

func quotaOf(p *Policy) quota {
	q := quota{limit: uint64(p.Limit), window: uint64(p.Window), burst: uint64(p.burst())}
	if unit := q.window / q.limit; unit >= fineUnit {
		if unit*q.limit != q.window {
			unit++
		}
		q.unit = unit
		hi, lo := bits.Mul64(q.burst, unit)
		q.capacity = saturated(hi, lo)
	} else {
		hi, lo := bits.Mul64(q.burst, q.window)
		if hi >= q.limit {
			q.capacity = horizon
		} else {
			lo, _ = bits.Div64(hi, lo, q.limit)
			q.capacity = saturated(0, lo)
		}
	}
	return q
}

func saturated(hi, lo uint64) int64 {
	if hi != 0 || lo > horizon {
		return horizon
	}
	return int64(lo)
}

// price returns what cost units (1 or more) cost, and false if they can never
// be had.
func (q *quota) price(cost int) (int64, bool) {
	c := uint64(cost)
	if c > q.burst {
		return 0, false
	}
	if q.unit != 0 {
		return saturated(bits.Mul64(c, q.unit)), true
	}
	hi, lo := bits.Mul64(c, q.window)
	lo, carry := bits.Add64(lo, q.limit-1, 0)
	if hi += carry; hi >= q.limit {
		return horizon, true
	}
	lo, _ = bits.Div64(hi, lo, q.limit) // at least 1, as c and window are
	return saturated(0, lo), true
}

// remaining returns how many units could be taken at once from a bucket that is
// whole after ahead.
func (q *quota) remaining(ahead int64) int {
	if ahead <= 0 {
		return int(q.burst)
	}
	if ahead >= q.capacity {
		return 0
	}
	free := uint64(q.capacity - ahead)
	if q.unit != 0 {
		return int(free / q.unit)
	}
	// free is below burst*window/limit, so this is below burst.
	hi, lo := bits.Mul64(free, q.limit)
	lo, _ = bits.Div64(hi, lo, q.window)
	return int(lo)
}

// wait returns how long after now a charge of price fits into b, 0 or less if
// it does already. added is what the same decision has charged to b before.
func (q *quota) wait(b bucket, now, added, price int64) int64 {
	return max(b.arrival, now) + added - now - max(0, q.capacity-price)
}

// patience bounds the delay that a charge may ask for so that arrival times
// stay below now + horizon.
func (q *quota) patience(maxDelay int64) int64 { return min(maxDelay, horizon-q.capacity) }

// A bucket is the state of a TokenBucket or LeakyBucket: the zero value is
// whole. Both hold the same; they differ in when the caller goes on. What a
// TokenBucket admits goes on at once, and what a LeakyBucket admits when all
// that came before has leaked, which is when the arrival time is reached that
// the charge found.
type bucket struct {
	// arrival is the theoretical arrival time of GCRA: when the quota is whole
	// again. Each charge moves it ahead by its price.
	arrival int64

	// given is the sum of what refunds have moved it back since it was last
	// whole. See refund.
	given int64

	// turns says that callers may be waiting for their turns up to arrival.
	turns bool
}

// settled reports whether b is as good as no state at all: the quota is whole,
// and so it would be if nothing had been given back.
func (b bucket) settled(now int64) bool { return b.given <= now-b.arrival }

// charge takes price from b. turn says that the caller would wait.
func (b *bucket) charge(now, price int64, turn bool) Receipt {
	if b.settled(now) {
		b.given = 0
	}
	if b.arrival <= now {
		b.arrival, b.turns = now, false
	}
	b.arrival += price
	b.turns = b.turns || turn
	return Receipt{Paid: price, Until: b.arrival, Given: b.given}
}

// refund gives back what r paid, as far as time has not done so already.
//
// Later charges queued up behind r's. Had r's not been there, theirs would have
// ended earlier, by as much as is given back; so what r may take back ends
// earlier by whatever was given back to others since r was written. Without
// that correction a refund returns time that has passed already.
//
// Where callers wait for turns, those behind r keep theirs, so only the last
// one can give back; arrival == Until alone does not say that r is the last,
// since after a refund a later charge may arrive at the same point.
func (b *bucket) refund(now int64, r Receipt) {
	if b.turns && b.arrival > now {
		if b.arrival == r.Until && b.given == r.Given {
			b.arrival -= min(r.Paid, b.arrival-now)
		}
		return
	}
	back := min(r.Paid, r.Until-(b.given-r.Given)-now)
	if back <= 0 || back > horizon-b.given {
		return
	}
	b.arrival -= back
	b.given += back
}

// reset makes b whole. It counts as giving everything back, so that receipts
// from before are worth nothing.
func (b *bucket) reset(now int64) {
	if back := b.arrival - now; back > 0 {
		b.arrival = now
		b.given = min(b.given+back, horizon)
		b.turns = false
	}
}
