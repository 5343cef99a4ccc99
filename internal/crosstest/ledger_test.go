package crosstest

import (
	"sort"
	"time"

	"github.com/goweir/weir/limiter"
)

// A ledger is a window of any kind: it has everything that was ever charged and
// not given back, and counts anew whenever it is asked.
type ledger struct{ entries []*booking }

type booking struct {
	at    time.Time
	units int
}

func windowed(a limiter.Algorithm) bool { return a >= limiter.FixedWindow }

// used returns how many units weigh after d, if nothing comes in between.
func (l *ledger) used(p limiter.Policy, d time.Duration) int64 {
	now, length := time.Now().Add(d).UnixNano(), int64(p.Window)
	var within, current, before int64
	for _, e := range l.entries {
		at, units := e.at.UnixNano(), int64(e.units)
		if now-at < length {
			within += units
		}
		switch now/length - at/length {
		case 0:
			current += units
		case 1:
			before += units
		}
	}
	switch p.Algorithm {
	case limiter.FixedWindow:
		return current
	case limiter.SlidingWindow:
		left := length - now%length
		return current + (before*left+length-1)/length
	default:
		return within
	}
}

// until returns how long it takes until no more than most units weigh. Without
// new ones there are never more later, and none after two windows.
func (l *ledger) until(p limiter.Policy, most int64) time.Duration {
	return time.Duration(sort.Search(int(2*p.Window), func(d int) bool { return l.used(p, time.Duration(d)) <= most }))
}

// judge decides about c after others units of the same decision.
func (l *ledger) judge(c limiter.Charge, others int) (r limiter.Result) {
	sum, limit := others+c.Cost, c.Policy.Limit
	switch {
	case c.Cost == 0:
		r.Allowed = true
	case sum > limit:
		r.RetryAfter = limiter.Never
	default:
		r.RetryAfter = l.until(c.Policy, int64(limit-sum))
		r.Allowed = r.RetryAfter == 0
	}
	return r
}

// tell fills in what r says about the state in the end.
func (l *ledger) tell(c limiter.Charge, r *limiter.Result) {
	limit := int64(c.Policy.Limit)
	r.Remaining = int(max(0, limit-l.used(c.Policy, 0)))
	r.ResetAfter = l.until(c.Policy, 0)
	if r.Remaining < c.Policy.Limit {
		r.MoreAfter = l.until(c.Policy, limit-int64(r.Remaining)-1)
	}
	if c.Cost == 0 {
		r.RetryAfter = l.until(c.Policy, limit-1)
	}
}

func (l *ledger) charge(units int) *booking {
	e := &booking{time.Now(), units}
	l.entries = append(l.entries, e)
	return e
}

// reset strikes out everything, so that nothing is left to give back.
func (l *ledger) reset() {
	for _, e := range l.entries {
		e.units = 0
	}
}
