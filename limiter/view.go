package limiter

import "time"

// A view is to windows what a verdict is to buckets; its price is in units. They
// are apart, although a TakeAll may need either, because the smaller struct and
// the shorter way make the decisions about buckets faster.
type view struct {
	verdict
	w window
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

// result tells what became of c, from w as it is now.
func (v *view) result(c *Charge) Result {
	if v.isFull {
		return v.verdict.result(c)
	}
	r := Result{
		Allowed:    v.allowed,
		Source:     SourceMemory,
		Limit:      c.Policy.Limit,
		Remaining:  c.Policy.Limit, // if it is whole; what was cut down does not show
		ResetAfter: time.Duration(v.w.whole()),
		Receipt:    v.receipt,
	}
	if r.ResetAfter > 0 {
		left := v.w.remaining()
		r.Remaining = int(left)
		if left < v.w.limit {
			r.MoreAfter = time.Duration(v.w.wait(left + 1))
		}
	}
	switch {
	case v.never:
		r.RetryAfter = Never
	case !v.allowed:
		r.RetryAfter = time.Duration(v.lack)
	case c.Cost == 0 && r.Remaining == 0:
		r.RetryAfter = r.MoreAfter
	}
	return r
}
