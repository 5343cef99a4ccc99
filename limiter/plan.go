package limiter

import (
	"hash/maphash"
	"sync/atomic"
)

// A plan is what a Memory derives from a Policy alone: it costs as much as the
// rest of a decision, and a program has few policies.
type plan struct {
	policy     Policy
	q          quota
	key, check uint64 // the Policy's part of an identity
	shape      uint64 // in its place
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
	if pl := m.entryOf(p).Load(); pl != nil && pl.policy == *p {
		return pl
	}
	return nil
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
