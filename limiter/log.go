package limiter

import (
	"math"
	"sync/atomic"
	"unsafe"
)

// An event is what a SlidingLog keeps of the units charged at one instant.
type event struct {
	until int64 // when they leave the window
	units uint64
}

// An eventLog is a ring of the events of one key, oldest first. It grows with
// what it holds and not with the Limit, which may change.
type eventLog struct {
	id    identity // of its slot
	ring  []event
	first int
	n     int
	dead  int    // events that are refunded, but not removed
	units uint64 // of all events
}

const (
	eventBytes = int64(unsafe.Sizeof(event{}))
	// What a log takes beside its ring: itself and its place among the logs.
	logBytes = int64(unsafe.Sizeof(eventLog{})) + 2*8
	// minEvents is the size of the first ring, and the step by which rings grow
	// when there is hardly room.
	minEvents = 4
)

func (l *eventLog) bytes() int64 { return logBytes + int64(len(l.ring))*eventBytes }

// at returns the i-th oldest event.
func (l *eventLog) at(i int) *event {
	if i += l.first; i >= len(l.ring) {
		i -= len(l.ring)
	}
	return &l.ring[i]
}

// last returns when the youngest event leaves, or 0 if there is none. It has
// units: refund sees to that.
func (l *eventLog) last() int64 {
	if l.n == 0 {
		return 0
	}
	return l.at(l.n - 1).until
}

// expire drops the events that have left by now.
func (l *eventLog) expire(now int64) {
	for l.n > 0 {
		e := l.at(0)
		if e.until > now {
			return
		}
		if e.units == 0 {
			l.dead--
		}
		l.units -= e.units
		if l.first++; l.first == len(l.ring) {
			l.first = 0
		}
		l.n--
	}
}

// left returns the instant when units in all have left, of those that are there.
// It looks at as many events as must leave.
func (l *eventLog) left(units uint64) int64 {
	for i := 0; ; i++ {
		e := l.at(i)
		if e.units >= units {
			return e.until
		}
		units -= e.units
	}
}

// fits reports whether add has room.
func (l *eventLog) fits(until int64) bool { return l.n < len(l.ring) || l.last() == until }

// add appends units, or merges them with those of the same instant.
func (l *eventLog) add(until int64, units uint64) {
	l.units += units
	if l.last() == until {
		l.at(l.n - 1).units += units
		return
	}
	l.n++
	*l.at(l.n - 1) = event{until, units}
}

// refund takes units off the event that leaves at until. Events without units
// stay until there are more of them than others, so that removing one from the
// middle is no work for each.
func (l *eventLog) refund(until int64, units uint64) {
	low, high := 0, l.n
	for low < high {
		if mid := (low + high) / 2; l.at(mid).until < until {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == l.n || l.at(low).until != until || l.at(low).units == 0 {
		return
	}
	e := l.at(low)
	units = min(units, e.units)
	e.units -= units
	l.units -= units
	if e.units > 0 {
		return
	}
	l.dead++
	for l.n > 0 && l.at(l.n-1).units == 0 {
		l.n--
		l.dead--
	}
	if 2*l.dead > l.n {
		l.move(l.ring)
	}
}

// move copies the events that have units to the beginning of ring, which has
// room for them and may be the present one.
func (l *eventLog) move(ring []event) {
	if l.first > 0 && &ring[0] == &l.ring[0] {
		ring = make([]event, len(l.ring))
	}
	n := 0
	for i := range l.n {
		if e := l.at(i); e.units > 0 {
			ring[n] = *e
			n++
		}
	}
	l.ring, l.first, l.n, l.dead = ring, 0, n, 0
}

// logs are those of one shard.
type logs struct {
	all  []*eventLog // a slot's rest is 1 more than an index; nil: free
	free []uint64    // indices
	hand int         // where the next search for room begins
	room *atomic.Int64
}

// grab takes bytes from what all shards may use together.
func grab(room *atomic.Int64, bytes int64) bool {
	if room.Add(-bytes) >= 0 {
		return true
	}
	room.Add(bytes)
	return false
}

// openLocked makes a log for the slot of id, for which bytes are grabbed.
func (s *shard) openLocked(id identity, room *atomic.Int64) *eventLog {
	if s.logs == nil {
		s.logs = &logs{room: room}
	}
	l := &eventLog{id: id, ring: make([]event, minEvents)}
	i, _ := s.findLocked(id)
	if n := len(s.logs.free); n > 0 {
		s.slots[i].rest, s.logs.free = s.logs.free[n-1]+1, s.logs.free[:n-1]
	} else {
		s.logs.all = append(s.logs.all, nil)
		s.slots[i].rest = uint64(len(s.logs.all))
	}
	s.logs.all[s.slots[i].rest-1] = l
	return l
}

// logLocked returns the log of a slot, if it has one.
func (s *shard) logLocked(at *slot) *eventLog {
	if at.shape() != shapeOf(SlidingLog) || at.rest == 0 {
		return nil
	}
	return s.logs.all[at.rest-1]
}

// releaseLocked lets go what a slot refers to, before it is dropped.
func (s *shard) releaseLocked(at *slot) {
	if l := s.logLocked(at); l != nil {
		s.logs.room.Add(l.bytes())
		s.logs.all[at.rest-1] = nil
		s.logs.free = append(s.logs.free, at.rest-1)
	}
}

// reclaimLocked looks at no more than 16 logs, drops those that are whole again,
// and if there is none and it may, evicts the one whole soonest, but not keep;
// the eviction is counted in by. It returns when that would be.
func (s *shard) reclaimLocked(by *shard, keep *eventLog, now int64, refuse bool) (soonest int64) {
	soonest = math.MaxInt64
	if s.logs == nil {
		return soonest
	}
	var best *eventLog
	dropped := false
	for seen, n := 0, 0; seen < looks && n < len(s.logs.all); n++ {
		s.logs.hand = (s.logs.hand + 1) % len(s.logs.all)
		l := s.logs.all[s.logs.hand]
		if l == nil || l == keep {
			continue
		}
		seen++
		if l.last() <= now {
			s.dropLocked(l.id)
			dropped = true
		} else if l.last() < soonest {
			best, soonest = l, l.last()
		}
	}
	if best != nil && !dropped && !refuse {
		by.evicted++
		s.dropLocked(best.id)
	}
	return soonest
}

func (s *shard) dropLocked(id identity) {
	if i, found := s.findLocked(id); found {
		s.deleteLocked(i)
	}
}

// logRoomLocked sees to it that v's log, which is that of id in s, can take one
// more event. It may drop other slots of s. If there is no room it returns when
// it is worth asking again.
func (m *Memory) logRoomLocked(s *shard, id identity, v *view) (again int64, ok bool) {
	l := v.w.log
	if l != nil && l.fits(v.w.now+v.w.length) {
		// A ring that was needed once is not kept for ever.
		if small := len(l.ring) / 2; small >= 4*minEvents && l.n < small/2 {
			m.logRoom.Add(int64(len(l.ring)-small) * eventBytes)
			l.move(make([]event, small))
		}
		return 0, true
	}
	if l == nil {
		if again, ok = m.grabLocked(s, nil, logBytes+minEvents*eventBytes, v.w.now); ok {
			v.w.log = s.openLocked(id, &m.logRoom)
			return 0, true
		}
		return min(again, v.w.now+v.w.length), false
	}
	if 4*l.dead > l.n {
		l.move(l.ring)
		return 0, true
	}
	more := len(l.ring)/2 + minEvents
	if !grab(&m.logRoom, int64(more)*eventBytes) {
		more = minEvents
		if again, ok = m.grabLocked(s, l, int64(more)*eventBytes, v.w.now); !ok {
			return min(again, l.at(0).until), false
		}
	}
	l.move(make([]event, len(l.ring)+more))
	return 0, true
}

// grabLocked grabs bytes, if need be from other logs: of s, and of some other
// shards that nobody holds at the moment. Trying to lock those, which cannot
// deadlock, is the price of a bound that is common to all shards; a bound for
// each would be too small for a single large log.
func (m *Memory) grabLocked(s *shard, keep *eventLog, bytes int64, now int64) (again int64, ok bool) {
	if grab(&m.logRoom, bytes) {
		return 0, true
	}
	again = s.reclaimLocked(s, keep, now, m.refuse)
	if grab(&m.logRoom, bytes) {
		return 0, true
	}
	hand := m.logHand.Add(looks)
	for k := range min(uint64(looks), m.mask+1) {
		o := &m.shards[(hand+k)&m.mask]
		if o == s || !o.mu.TryLock() {
			continue
		}
		again = min(again, o.reclaimLocked(s, keep, o.tickLocked(now), m.refuse))
		o.mu.Unlock()
		if grab(&m.logRoom, bytes) {
			return 0, true
		}
	}
	s.refused++
	return again, false
}
