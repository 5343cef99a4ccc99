package limiter

import "time"

// A verdict is one charge on its way through Memory: judged and charged under
// the shard's lock, made into a Result after it.
type verdict struct {
	q       quota
	b       bucket // as it was before, after charge as it is
	now     int64
	price   int64
	wait    int64 // until the charge fits; meaningless if never
	allowed bool
	never   bool
	isFull  bool
	receipt Receipt
}

// closed is the answer of a quota with Limit 0.
func closed() Result {
	return Result{RetryAfter: Never, Source: SourceMemory}
}

// judge decides c against v.b. added is what this decision has charged to the
// same bucket already.
func (v *verdict) judge(c *Charge, added int64) {
	if c.Cost == 0 {
		v.allowed = true
		return
	}
	var ok bool
	if v.price, ok = v.q.price(c.Cost); !ok || added > 0 && added+v.price > v.q.capacity {
		v.never = true
		return
	}
	v.wait = v.q.wait(v.b, v.now, added, v.price)
	v.allowed = v.wait <= 0 || v.wait <= v.q.patience(int64(c.MaxDelay))
}

func (v *verdict) charge(c *Charge) {
	v.receipt = v.b.charge(v.now, v.price, c.MaxDelay > 0)
}

// full turns an admission into a refusal because there is no room for its
// state.
func (v *verdict) full(again int64) {
	v.allowed, v.isFull, v.wait = false, true, again-v.now
}

func (v *verdict) result(c *Charge, r *Result) {
	r.Allowed = v.allowed
	r.Limit = c.Policy.Limit
	r.ResetAfter = time.Duration(max(0, v.b.arrival-v.now))
	r.Source = SourceMemory
	r.Receipt = v.receipt
	switch {
	case v.isFull:
		// Nothing is known of this key but that it must wait for another's.
		r.RetryAfter = time.Duration(v.wait)
		r.ResetAfter = r.RetryAfter
		return
	case v.never:
		r.RetryAfter = Never
	case !v.allowed:
		r.RetryAfter = time.Duration(v.wait - v.q.patience(int64(c.MaxDelay)))
	case c.Cost > 0:
		r.Delay = time.Duration(max(0, v.wait))
	default:
		if price, ok := v.q.price(1); ok {
			r.RetryAfter = time.Duration(max(0, v.q.wait(v.b, v.now, 0, price)))
		}
	}
	r.Remaining = v.q.remaining(v.b, v.now)
}
