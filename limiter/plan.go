package limiter

import (
	"hash/maphash"
	"sync/atomic"
	"time"
	"unsafe"
)

// A plan is what a Memory derives from a Policy alone: it costs as much as the
// rest of a decision, and a program has few policies.
type plan struct {
	policy       Policy
	q            quota
	price, slack int64  // of one unit: see cost
	key, check   uint64 // the Policy's part of an identity
	shape        uint64 // in its place
}

// plans remembers a few of them. Nothing is locked: an entry is replaced as a
// whole, and what is not there is derived again.
type plans struct {
	entries [16]atomic.Pointer[plan]
	misses  atomic.Uint32
}

func (m *Memory) entryOf(p *Policy) *atomic.Pointer[plan] {
	mix := uint64(p.Limit)<<8 ^ uint64(p.Window) ^ uint64(len(p.Name))
	return &m.plans.entries[mix*0x9e3779b97f4a7c15>>60]
}

// known returns the plan of p if it is remembered, or nil.
func (m *Memory) known(p *Policy) *plan {
	if pl := m.entryOf(p).Load(); pl != nil && pl.is(p) {
		return pl
	}
	return nil
}

// is reports whether pl is of p. Mostly the names are the same string, and then
// there is no need to call for a comparison.
func (pl *plan) is(p *Policy) bool {
	o := &pl.policy
	return o.Limit == p.Limit && o.Window == p.Window && o.Burst == p.Burst && o.Algorithm == p.Algorithm &&
		len(o.Name) == len(p.Name) && (unsafe.StringData(o.Name) == unsafe.StringData(p.Name) || o.Name == p.Name)
}

// planOf returns the plan of p, which must be valid.
func (m *Memory) planOf(p *Policy) plan {
	if pl := m.known(p); pl != nil {
		return *pl
	}
	pl := m.hashesOf(p)
	pl.policy = *p
	if !p.Algorithm.windowed() {
		pl.q = quotaOf(p)
		pl.price, _ = pl.q.price(1)
		pl.slack = max(0, pl.q.capacity-pl.price)
	}
	// Quotas of one's own for many callers would replace each other all the
	// time: now and then is enough to follow a change of configuration.
	if m.plans.misses.Add(1)%64 == 1 {
		m.remember(pl)
	}
	return pl
}

// hashesOf returns a plan that has only the part of an identity that is p's. It
// does not care whether p is valid.
func (m *Memory) hashesOf(p *Policy) (pl plan) {
	pl.key = maphash.String(m.seeds[0], p.Name) ^ uint64(p.Algorithm)
	pl.check = maphash.String(m.seeds[2], p.Name)
	if p.Algorithm.windowed() {
		pl.key ^= uint64(p.Window)
	}
	pl.shape = shapeOf(p.Algorithm) << shapeShift
	return pl
}

func (m *Memory) remember(pl plan) { m.entryOf(&pl.policy).Store(&pl) }

// cost returns what units (1 or more) cost of a bucket, and how far ahead its
// arrival may be for them to fit. It reports false if they never do.
func (pl *plan) cost(units int) (price, slack int64, ok bool) {
	if units == 1 {
		return pl.price, pl.slack, true
	}
	if price, ok = pl.q.price(units); !ok {
		return 0, 0, false
	}
	return price, max(0, pl.q.capacity-price), true
}

// tell writes to r what became of a charge to a bucket whose arrival is so far
// ahead now. wait is above 0 if it did not fit.
func (pl *plan) tell(r *Result, ahead, wait int64) {
	r.Allowed = wait <= 0
	r.Source = SourceMemory
	r.Limit = pl.policy.Limit
	r.Remaining = pl.q.remaining(ahead)
	r.RetryAfter = time.Duration(max(0, wait))
	r.ResetAfter = time.Duration(ahead)
}
