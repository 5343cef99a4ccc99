package limiter

import "time"

// A view is to windows what a verdict is to buckets; its price is in units. They
// are apart, although a TakeAll may need either, because the smaller struct and
// the shorter way make the decisions about buckets faster.
type view struct {
	verdict
	w window

	// What w says in the end.
	remaining uint64
	more      int64 // until remaining grows
	whole     int64
}

// judge decides c against the state. added is what this decision has charged to
// the same state already.
func (v *view) judge(c *Charge, added int64) {
	if c.Cost == 0 {
		v.allowed = true
		return
	}
	v.price = int64(v.w.cost(c.Cost))
	sum := uint64(added) + uint64(v.price)
	if c.Cost > c.Policy.Limit || added > 0 && sum > v.w.limit {
		v.never = true
		return
	}
	v.lack = v.w.wait(sum)
	v.allowed = v.lack <= 0
}

// charge takes the price and writes the state to s.
func (v *view) charge(s *slot) {
	v.w.birth = s.birth()
	v.receipt = v.w.charge(uint64(v.price))
	v.w.save(s)
}

// conclude notes what the result will say of w, as long as that is locked.
func (v *view) conclude() {
	v.remaining, v.whole, v.more = v.w.remaining(), v.w.whole(), 0
	if v.remaining < v.w.limit {
		v.more = v.w.wait(v.remaining + 1)
	}
}

func (v *view) result(c *Charge) Result {
	if v.isFull {
		return v.verdict.result(c)
	}
	r := Result{
		Allowed:    v.allowed,
		Limit:      c.Policy.Limit,
		Remaining:  int(v.remaining),
		ResetAfter: time.Duration(v.whole),
		MoreAfter:  time.Duration(v.more),
		Source:     SourceMemory,
		Receipt:    v.receipt,
	}
	if v.whole == 0 {
		r.Remaining = c.Policy.Limit // what was cut down does not show
	}
	switch {
	case v.never:
		r.RetryAfter = Never
	case !v.allowed:
		r.RetryAfter = time.Duration(v.lack)
	case c.Cost == 0 && v.remaining == 0:
		r.RetryAfter = r.MoreAfter
	}
	return r
}
