package limiter

import (
	"context"
	"time"
)

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

// takeWindow is Take for windows.
func (m *Memory) takeWindow(ctx context.Context, c *Charge) Result {
	var v view
	id := m.identityOf(c)
	s := m.shardOf(id)
	now := m.now()

	s.mu.Lock()
	v.now = s.tickLocked(now)
	before := s.roomCounts()
	at := m.loadLocked(s, id, &v.w, &c.Policy, v.now)
	v.judge(c, 0)
	if v.allowed && c.Cost > 0 {
		m.chargeLocked(s, id, at, &v)
	}
	r := v.result(c)
	after := s.roomCounts()
	s.mu.Unlock()
	if m.observer != nil && after != before {
		m.observeRoom(ctx, &c.Policy, before, after)
	}
	return r
}

// loadLocked reads the window of id, and returns its slot or nil.
func (m *Memory) loadLocked(s *shard, id identity, w *window, p *Policy, now int64) *slot {
	w.look(p, m.epoch, now)
	i, found := s.findLocked(id)
	if !found {
		return nil
	}
	w.load(&s.slots[i], s.logLocked(&s.slots[i]))
	return &s.slots[i]
}

// chargeLocked charges what v has admitted to the slot of id; at is nil if there
// is none yet. It reports false if there is no room for it, and v says so.
func (m *Memory) chargeLocked(s *shard, id identity, at *slot, v *view) bool {
	fresh := at == nil
	if fresh {
		var again int64
		if at, again = s.insertLocked(id, v.now, m.refuse); at == nil {
			v.full(again)
			return false
		}
	}
	if v.w.kind == SlidingLog {
		if again, ok := m.logRoomLocked(s, id, v); !ok {
			if fresh {
				s.dropLocked(id)
			}
			v.full(again)
			return false
		}
		i, _ := s.findLocked(id)
		at = &s.slots[i]
	}
	v.charge(at)
	return true
}

// refundLocked gives back what r took from a window.
func (m *Memory) refundLocked(s *shard, i int, p *Policy, now int64, r Receipt) {
	var w window
	w.look(p, m.epoch, now)
	w.load(&s.slots[i], s.logLocked(&s.slots[i]))
	w.refund(r)
	w.save(&s.slots[i])
}
