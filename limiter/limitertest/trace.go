package limitertest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/goweir/weir/limiter"
)

var traceChecks = []check{{name: "trace", run: traces, exact: true}}

// traces compares the Limiter with the reference on random walks over one key.
// Units are whole numbers of microseconds and so are pauses, so that no Limiter
// has anything to round.
func traces(x *trial) {
	for seed := range x.schedules(400, 0) {
		x.trace(seed, 120)
	}
}

// whole returns a random policy whose unit is a whole number of microseconds.
func (x *trial) whole(rnd *rand.Rand) limiter.Policy {
	unit := []time.Duration{1, 5, 1000, 250_000, 1_000_000, 60_000_000}[rnd.IntN(6)] * time.Microsecond
	limit := []int{1, 2, 3, 7, 10, 60, 100, 999}[rnd.IntN(8)]
	return x.policy(limit, unit*time.Duration(limit), rnd.IntN(2)*(1+rnd.IntN(2*limit)))
}

func (x *trial) trace(seed uint64, steps int) {
	rnd := rand.New(rand.NewPCG(seed, 12))
	p, m := x.whole(rnd), x.algorithm.model()
	key := fmt.Sprint(seed)
	now := func() int64 { return time.Now().UnixNano() }
	type held struct {
		c limiter.Charge
		r limiter.Result
		m receipt
	}
	var open []held
	for i := range steps {
		unit := max(time.Microsecond, (p.Window / time.Duration(p.Limit)).Truncate(time.Microsecond))
		switch n := rnd.IntN(24); {
		case n < 6:
			time.Sleep(time.Duration(rnd.Int64N(int64(2*unit/time.Microsecond)+1)) * time.Microsecond)
		case n == 6:
			time.Sleep(time.Duration(rnd.Int64N(int64(p.Window/time.Microsecond)+1)) * time.Microsecond)
		case n == 7 && rnd.IntN(3) == 0:
			q := x.whole(rnd)
			p.Limit, p.Burst = q.Limit, q.Burst
			if !x.algorithm.windowed {
				p.Window = unit * time.Duration(q.Limit)
			}
		case n == 8 && rnd.IntN(3) == 0:
			x.reset(limiter.Charge{Policy: p, Key: key})
			m.reset(now())
		case n < 13 && len(open) > 0:
			k := rnd.IntN(len(open))
			h := open[k]
			open = slices.Delete(open, k, k+1)
			x.refund(h.c, &h.r)
			m.refund(now(), h.c, h.m)
		default:
			c := limiter.Charge{Policy: p, Key: key, Cost: rnd.IntN(4)}
			if rnd.IntN(4) == 0 {
				c.Cost = rnd.IntN(x.capacity(p) + 2)
			}
			if x.algorithm.turns && rnd.IntN(4) == 0 {
				c.MaxDelay = time.Duration(rnd.Int64N(int64(3*unit/time.Microsecond)+1)) * time.Microsecond
			}
			got := x.take(c)
			want, r := m.take(now(), c)
			if !x.same(got, want) {
				x.fatalf("seed %d, step %d: Take(%s)\n got %+v\nwant %+v", seed, i, brief(c), got, want)
			}
			if r != nil {
				open = append(open, held{c, got, r})
			}
		}
	}
}

// same compares with the reference. Only when part of a window has passed may
// be no whole number of microseconds.
func (x *trial) same(got, want limiter.Result) bool {
	rounded := func(got, want time.Duration) bool {
		return got == want || want != limiter.Never && got > want && got-want <= x.opts.Rounding
	}
	if !rounded(got.RetryAfter, want.RetryAfter) || got.MoreAfter != 0 && !rounded(got.MoreAfter, want.MoreAfter) {
		return false
	}
	want.RetryAfter, want.MoreAfter = got.RetryAfter, got.MoreAfter
	want.Source, want.Receipt = got.Source, got.Receipt
	return got == want
}
