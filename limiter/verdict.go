package limiter

import "time"

// A verdict is one charge to a bucket on its way through Memory: judged and
// charged under the shard's lock, made into a Result after it.
type verdict struct {
	q       quota
	b       bucket // as it was before, after charge as it is
	now     int64
	price   int64 // nanoseconds of a bucket, units of a window
	delay   int64 // until the caller may go on, if it is allowed
	lack    int64 // until it would be allowed: 0 or less if it is; meaningless if never
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
	wait := v.q.wait(v.b, v.now, added, v.price)
	if c.Policy.Algorithm == LeakyBucket {
		v.delay = max(v.b.arrival, v.now) + added - v.now
		v.lack = wait
		if c.MaxDelay > 0 {
			v.lack = max(wait, v.delay-int64(c.MaxDelay))
		}
	} else {
		v.delay = max(0, wait)
		v.lack = wait - v.q.patience(int64(c.MaxDelay))
	}
	v.allowed = v.lack <= 0
}

func (v *verdict) charge(c *Charge) {
	v.receipt = v.b.charge(v.now, v.price, c.MaxDelay > 0 || c.Policy.Algorithm == LeakyBucket)
}

// full turns an admission into a refusal because there is no room for its
// state.
func (v *verdict) full(again int64) {
	v.allowed, v.isFull, v.lack = false, true, again-v.now
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
		r.RetryAfter = time.Duration(v.lack)
		r.ResetAfter = r.RetryAfter
		return
	case v.never:
		r.RetryAfter = Never
	case !v.allowed:
		r.RetryAfter = time.Duration(v.lack)
	case c.Cost > 0:
		r.Delay = time.Duration(v.delay)
	default:
		if price, ok := v.q.price(1); ok {
			r.RetryAfter = time.Duration(max(0, v.q.wait(v.b, v.now, 0, price)))
		}
	}
	r.Remaining = v.q.remaining(v.b.arrival - v.now)
}
