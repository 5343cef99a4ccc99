package redislimiter

import (
	"cmp"
	"math"
	"math/bits"
	"strconv"
	"time"

	"github.com/goweir/weir/limiter"
)

// The server counts time in microseconds, and in Lua numbers, which are exact
// below 2^53. Readings of the clock stay below 2^52 until the year 2112, and so
// does whatever is planned: together they fit.
const (
	horizon = 1<<52 - 1   // 142 years: longer prices, capacities and delays are cut down to it
	longest = horizon / 2 // 71 years: the same for windows, two of which are added up
	maxTime = horizon     // what a client's clock may say

	maxUnits        = 1<<52 - 1 // FixedWindow and SlidingLog: Limits and Costs are cut down to it
	maxSlidingUnits = 1<<37 - 1 // SlidingWindow: as in memory, where it is the size of a field
)

// fineUnit is the duration of a unit, in nanoseconds, below which charges are
// priced by the ratio and not by the unit. A unit that is rounded up costs less
// than 0.1 % too much from there on, as in memory.
const fineUnit = 1000 * 1000

// A quota is the arithmetic of a bucket with a Limit above 0: that of package
// limiter (bucket.go there), in microseconds. Window stays in nanoseconds, so
// that only what is charged is rounded.
type quota struct {
	limit, window uint64
	burst         uint64
	unit          uint64 // 0: priced by the ratio
	capacity      int64
}

func quotaOf(p *limiter.Policy) quota {
	q := quota{limit: uint64(p.Limit), window: uint64(p.Window), burst: uint64(cmp.Or(p.Burst, p.Limit))}
	if q.window/q.limit >= fineUnit {
		// Rounding up twice is rounding up once.
		q.unit = ceilDiv(ceilDiv(q.window, q.limit), 1000)
		q.capacity = saturated(bits.Mul64(q.burst, q.unit))
		return q
	}
	hi, lo := bits.Mul64(q.burst, q.window)
	if hi >= q.limit {
		q.capacity = horizon
	} else {
		lo, _ = bits.Div64(hi, lo, q.limit)
		q.capacity = saturated(0, lo/1000)
	}
	return q
}

func ceilDiv(a, b uint64) uint64 {
	q := a / b
	if q*b != a {
		q++
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
	lo, _ = bits.Div64(hi, lo, q.limit)
	return saturated(0, ceilDiv(lo, 1000)), true
}

// remaining returns how many units could be taken at once when the arrival is so
// far ahead.
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
	hi, lo := bits.Mul64(free*1000, q.limit)
	lo, _ = bits.Div64(hi, lo, q.window)
	return int(lo)
}

// room returns how far ahead the arrival may be for a charge of price to fit at
// once.
func (q *quota) room(price int64) int64 { return max(0, q.capacity-price) }

// most returns how far ahead the arrival may be for a charge of price to be
// admitted, at once or after a delay that the caller is ready for.
func (q *quota) most(c *limiter.Charge, price int64) int64 {
	room := q.room(price)
	if c.Policy.Algorithm == limiter.LeakyBucket {
		if c.MaxDelay > 0 {
			room = min(room, c.MaxDelay.Microseconds())
		}
		return room
	}
	return room + min(c.MaxDelay.Microseconds(), horizon-q.capacity)
}

// reachSteps is how many steps there are from one power of two to the next.
const reachSteps = 18

// reachOf returns the smallest step that is no less than how far ahead an
// arrival may be, in three digits, for the server to tell later whether its
// clock was set back since.
func reachOf(most int64) string {
	step := max(0, int(math.Ceil(reachSteps*math.Log2(float64(max(1, most)))+0.001)))
	s := strconv.Itoa(step)
	return "000"[min(3, len(s)):] + s
}

// micros returns n microseconds.
func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
