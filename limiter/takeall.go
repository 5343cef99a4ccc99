package limiter

import (
	"context"
	"slices"
)

// few charges are decided without allocating anything but the results.
const few = 4

// An entry is one charge of a TakeAll.
type entry struct {
	view
	id       identity
	before   bucket // what undo restores of a bucket
	windowed bool
	closed   bool // Limit 0: nothing to look up
}

// TakeAll implements [Limiter]. It decides in one step: the shards of all
// charges are locked together, always in the same order, so that it cannot
// deadlock with itself. It allocates the results, and for more than 4 charges
// some working memory.
func (m *Memory) TakeAll(ctx context.Context, cs []Charge) ([]Result, error) {
	for i := range cs {
		if !cs[i].countable() {
			return nil, cs[i].check()
		}
	}
	if results := m.takeAllKnown(cs); results != nil {
		return results, nil
	}
	return m.takeAllAny(ctx, cs), nil
}

// takeAllAny is TakeAll for charges that are valid.
func (m *Memory) takeAllAny(ctx context.Context, cs []Charge) []Result {
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
	windowed := false
	var crowded []crowding
	for i := range cs {
		e := &entries[i]
		if e.closed = cs[i].Policy.Limit == 0; e.closed {
			continue
		}
		pl := m.planOf(&cs[i].Policy)
		e.q = pl.q
		e.id = m.identityOf(&pl, cs[i].Key)
		e.windowed = cs[i].Policy.Algorithm.windowed()
		windowed = windowed || e.windowed
		shards = insertOnce(shards, e.id.check&m.mask)
	}
	results := make([]Result, len(cs))

	now := m.now()
	for _, n := range shards {
		m.shards[n].mu.Lock()
	}
	if m.judgeAllLocked(cs, entries, now) {
		crowded = m.chargeAllLocked(cs, entries)
	}
	if windowed {
		m.tellAllLocked(cs, entries, results)
	}
	for _, n := range shards {
		m.shards[n].mu.Unlock()
	}

	for _, c := range crowded {
		m.observeRoom(ctx, &cs[c.charge].Policy, c.before, c.after)
	}

	for i := range entries {
		if e := &entries[i]; e.closed {
			results[i] = closed()
		} else if !e.windowed {
			e.verdict.result(&cs[i], &results[i])
		}
	}
	return results
}

// insertOnce inserts n into sorted, unless it is there. There are few, and this is
// half the time of sorting them in the end.
func insertOnce(sorted []uint64, n uint64) []uint64 {
	i := len(sorted)
	for i > 0 && sorted[i-1] > n {
		i--
	}
	if i > 0 && sorted[i-1] == n {
		return sorted
	}
	sorted = append(sorted, n)
	for j := len(sorted) - 1; j > i; j-- {
		sorted[j] = sorted[j-1]
	}
	sorted[i] = n
	return sorted
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
		if e.windowed {
			m.loadLocked(s, e.id, &e.w, &cs[i].Policy, e.now)
		} else if at, found := s.findLocked(e.id); found {
			e.b = s.slots[at].bucket()
		}
		added := int64(0)
		for j := range entries[:i] {
			if entries[j].id == e.id && entries[j].allowed {
				added += entries[j].price
			}
		}
		if e.windowed {
			e.judge(&cs[i], added)
		} else {
			e.verdict.judge(&cs[i], added)
		}
		allowed = allowed && e.allowed
	}
	return allowed
}

// A crowding is what the room for one charge has cost others.
type crowding struct {
	charge        int
	before, after room
}

// chargeAllLocked charges what judgeAllLocked has admitted. It can still fail,
// for want of room: then it undoes what it did, and the locks hide that. It
// returns what the Observer is to be told, if there is one.
func (m *Memory) chargeAllLocked(cs []Charge, entries []entry) (crowded []crowding) {
	for i := range entries {
		e := &entries[i]
		if cs[i].Cost == 0 {
			continue
		}
		s := m.shardOf(e.id)
		if !e.windowed {
			if at, found := s.findLocked(e.id); found {
				e.b = s.slots[at].bucket()
				e.before = e.b
				e.verdict.charge(&cs[i])
				s.slots[at].store(e.b)
				continue
			}
		}
		before := s.roomCounts()
		ok := m.chargeRoomLocked(s, e, &cs[i])
		if after := s.roomCounts(); m.observer != nil && after != before {
			crowded = append(crowded, crowding{i, before, after})
		}
		if !ok {
			m.undoLocked(cs, entries[:i])
			return crowded
		}
	}
	// The same quota more than once: all its results tell the end. A look was
	// not charged and knows only the beginning.
	for i := range entries {
		for j := range entries[:i] {
			switch {
			case entries[j].id != entries[i].id:
			case cs[i].Cost == 0:
				entries[i].b = entries[j].b
			default:
				entries[j].b = entries[i].b
			}
		}
	}
	return crowded
}

// chargeRoomLocked charges what may need room: a window, or a bucket that is not
// in the table.
func (m *Memory) chargeRoomLocked(s *shard, e *entry, c *Charge) bool {
	if e.windowed {
		at := m.loadLocked(s, e.id, &e.w, &c.Policy, e.now)
		return m.chargeLocked(s, e.id, at, &e.view)
	}
	slot, again := s.insertLocked(e.id, e.now, m.refuse)
	if slot == nil {
		e.full(again)
		return false
	}
	e.b = bucket{}
	e.before = e.b
	e.verdict.charge(c)
	slot.store(e.b)
	return true
}

// tellAllLocked makes the results of windows. It reads them again, as others of
// the same decision may have been charged to them later.
func (m *Memory) tellAllLocked(cs []Charge, entries []entry, results []Result) {
	for i := range entries {
		if e := &entries[i]; e.windowed {
			m.loadLocked(m.shardOf(e.id), e.id, &e.w, &cs[i].Policy, e.now)
			results[i] = e.result(&cs[i])
		}
	}
}

func (m *Memory) undoLocked(cs []Charge, entries []entry) {
	for i, e := range slices.Backward(entries) {
		if cs[i].Cost == 0 {
			continue
		}
		s := m.shardOf(e.id)
		if e.windowed {
			if at, found := s.findLocked(e.id); found {
				m.refundLocked(s, at, &cs[i].Policy, e.now, e.receipt)
			}
		} else if at, found := s.findLocked(e.id); found {
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
