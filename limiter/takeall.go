package limiter

import (
	"context"
	"slices"
)

// few charges are decided without allocating anything but the results.
const few = 4

// An entry is one charge of a TakeAll.
type entry struct {
	verdict
	id     identity
	before bucket // what undo restores
	closed bool   // Limit 0: nothing to look up
}

// TakeAll implements [Limiter]. It decides in one step: the shards of all
// charges are locked together, always in the same order, so that it cannot
// deadlock with itself. It allocates the results, and for more than 4 charges
// some working memory.
func (m *Memory) TakeAll(_ context.Context, cs []Charge) ([]Result, error) {
	for i := range cs {
		if !cs[i].countable() {
			return nil, cs[i].check()
		}
	}
	var (
		entriesArray [few]entry
		shardsArray  [few]uint64
		entries      = entriesArray[:]
		shards       = shardsArray[:0]
	)
	if len(cs) > few {
		entries = make([]entry, len(cs))
	}
	entries = entries[:len(cs)]
	for i := range cs {
		e := &entries[i]
		if e.closed = cs[i].Policy.Limit == 0; e.closed {
			continue
		}
		pl := m.planOf(&cs[i].Policy)
		e.q = pl.q
		e.id = m.identityOf(&pl, cs[i].Key)
		if n := e.id.check & m.mask; !slices.Contains(shards, n) {
			shards = append(shards, n)
		}
	}
	slices.Sort(shards)

	now := m.now()
	for _, n := range shards {
		m.shards[n].mu.Lock()
	}
	if m.judgeAllLocked(cs, entries, now) {
		m.chargeAllLocked(cs, entries)
	}
	for _, n := range shards {
		m.shards[n].mu.Unlock()
	}

	results := make([]Result, len(cs))
	for i := range entries {
		if e := &entries[i]; e.closed {
			results[i] = closed()
		} else {
			e.result(&cs[i], &results[i])
		}
	}
	return results, nil
}

func (m *Memory) judgeAllLocked(cs []Charge, entries []entry, now int64) (allowed bool) {
	allowed = true
	for i := range entries {
		e := &entries[i]
		if e.closed {
			allowed = false
			continue
		}
		s := m.shardOf(e.id)
		e.now = s.tickLocked(now)
		if at, found := s.findLocked(e.id); found {
			e.b = s.slots[at].bucket()
		}
		added := int64(0)
		for j := range entries[:i] {
			if entries[j].id == e.id && entries[j].allowed {
				added += entries[j].price
			}
		}
		e.judge(&cs[i], added)
		allowed = allowed && e.allowed
	}
	return allowed
}

// chargeAllLocked charges what judgeAllLocked has admitted. It can still fail,
// for want of room: then it undoes what it did, and the locks hide that.
func (m *Memory) chargeAllLocked(cs []Charge, entries []entry) {
	for i := range entries {
		e := &entries[i]
		if cs[i].Cost == 0 {
			continue
		}
		s := m.shardOf(e.id)
		var slot *slot
		if at, found := s.findLocked(e.id); found {
			slot = &s.slots[at]
			e.b = slot.bucket()
		} else {
			var again int64
			if slot, again = s.insertLocked(e.id, e.now, m.refuse); slot == nil {
				e.full(again)
				m.undoLocked(cs, entries[:i])
				return
			}
		}
		e.before = e.b
		e.charge(&cs[i])
		slot.store(e.b)
	}
	// The same quota more than once: all its results tell the end.
	for i := range entries {
		for j := range entries[:i] {
			if entries[j].id == entries[i].id {
				entries[j].b = entries[i].b
			}
		}
	}
}

func (m *Memory) undoLocked(cs []Charge, entries []entry) {
	for i, e := range slices.Backward(entries) {
		if cs[i].Cost == 0 {
			continue
		}
		s := m.shardOf(e.id)
		if at, found := s.findLocked(e.id); found {
			s.slots[at].store(e.before)
		}
		entries[i].receipt = Receipt{}
		for j := range entries {
			if entries[j].id == e.id {
				entries[j].b = e.before
			}
		}
	}
}
