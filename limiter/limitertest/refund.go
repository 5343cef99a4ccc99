package limitertest

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/goweir/weir/limiter"
)

var refundChecks = []check{
	{name: "refund", run: refunds},
	{name: "stale refund", run: staleRefund},
	{name: "refund schedules", run: refundSchedules},
}

func refunds(x *trial) {
	x.untimed()
	fresh := func(name string) (p limiter.Policy, r limiter.Result) {
		p = x.still(name, 10)
		x.allowed(of(p, 2))
		return p, x.allowed(of(p, 4))
	}

	p, r := fresh("once")
	x.refund(of(p, 4), &r)
	x.remaining(of(p, 0), 8)

	p, r = fresh("twice")
	for range 3 {
		x.refund(of(p, 4), &r)
	}
	x.remaining(of(p, 0), 8)

	// A Result is a value; a copy serves as well, instead.
	p, r = fresh("by copy")
	same := []limiter.Result{r}
	x.refund(of(p, 4), &same[0])
	x.remaining(of(p, 0), 8)

	p, r = fresh("after a reset")
	x.reset(of(p, 0))
	x.allowed(of(p, 7))
	x.refund(of(p, 4), &r)
	x.remaining(of(p, 0), 3)

	p, _ = fresh("refused")
	r = x.denied(of(p, 5))
	x.refund(of(p, 5), &r)
	x.remaining(of(p, 0), 4)

	p, _ = fresh("looked")
	r = x.take(of(p, 0))
	x.refund(of(p, 0), &r)
	x.remaining(of(p, 0), 4)

	p, _ = fresh("nothing")
	r = limiter.Result{Allowed: true}
	x.refund(of(p, 4), &r)
	x.remaining(of(p, 0), 4)

	// A Limiter that cannot tell whose units came back gives less, never more.
	p, r = fresh("all, last first")
	r2 := x.allowed(of(p, 3))
	x.refund(of(p, 3), &r2)
	x.remaining(of(p, 0), 4)
	x.refund(of(p, 4), &r)
	if r := x.take(of(p, 0)); r.Remaining < 7 || r.Remaining > 8 {
		x.errorf("2, 4 and 3 of 10 taken, 3 and 4 given back: %+v, want 7 or 8 remaining", r)
	}

	p, r = fresh("and taken again")
	x.refund(of(p, 4), &r)
	x.allowed(of(p, 8))
	x.denied(of(p, 1))

	// Other quotas have nothing of it.
	q := x.still("other", 10)
	x.allowed(of(q, 5))
	p, r = fresh("mine")
	x.refund(of(p, 4), &r)
	x.remaining(of(q, 0), 5)

	// With another Limit by then, no more than that fits.
	for _, n := range []int{1, 3, 1000} {
		p, r = fresh("changed" + fmt.Sprint(n))
		p.Limit = n
		x.refund(of(p, 4), &r)
		x.take(of(p, 0))
		x.denied(of(p, n))
	}
}

// staleRefund gives back what time has given back already.
func staleRefund(x *trial) {
	p := x.policy(10, x.second, 0)
	x.align(p)
	r := x.allowed(of(p, 10))
	x.pause(r.ResetAfter)
	x.allowed(of(p, 7))
	x.refund(of(p, 10), &r)
	x.remaining(of(p, 0), 3)
}

// refundSchedules gives back at random: what was admitted and kept is within
// the promise.
func refundSchedules(x *trial) {
	x.untimed()
	for seed := range x.schedules(1500, 4) {
		x.refundSchedule(seed)
	}
}

func (x *trial) refundSchedule(seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 10))
	limit := []int{1, 2, 3, 5, 7, 10}[rnd.IntN(6)]
	p := x.policy(limit, []time.Duration{x.second, x.second / 7}[rnd.IntN(2)], 1+rnd.IntN(12))
	// Round numbers make different charges end at the same instant.
	unit := int64(p.Window) / int64(p.Limit)
	mode := rnd.IntN(3) // no turns, only turns, both
	type event struct {
		c           limiter.Charge
		r           limiter.Result
		early, late time.Duration
		kept        bool
	}
	var events []*event
	origin := time.Now()
	key := fmt.Sprint(seed)
	for range 60 {
		switch rnd.IntN(12) {
		case 0, 1, 2, 3:
			time.Sleep(time.Duration(min(unit*rnd.Int64N(4)/(1+rnd.Int64N(2)), int64(x.second))))
		case 4, 5:
			if len(events) > 0 {
				e := events[rnd.IntN(len(events))]
				x.refund(e.c, &e.r)
				e.kept = false
			}
		case 6:
			if rnd.IntN(8) == 0 {
				// A reset lets pass more on purpose: begin anew.
				x.reset(limiter.Charge{Policy: p, Key: key})
				for _, e := range events {
					e.kept = false
				}
			}
		default:
			c := limiter.Charge{Policy: p, Key: key, Cost: 1 + rnd.IntN(x.capacity(p))}
			if x.algorithm.turns && (mode == 1 || mode == 2 && rnd.IntN(2) == 0) {
				c.MaxDelay = time.Duration(unit * (1 + rnd.Int64N(2*int64(x.capacity(p)))))
			}
			early := time.Since(origin)
			if r := x.take(c); r.Allowed {
				events = append(events, &event{c, r, early, time.Since(origin), true})
			}
		}
	}
	l := x.algorithm.ledger(p)
	for i, e := range events {
		if e.kept && !l.admit(e.early, e.late, e.r.Delay, e.c.Cost) {
			x.fatalf("seed %d: %+v: too much by event %d of %d, at %v", seed, p, i, len(events), e.late)
		}
	}
}
