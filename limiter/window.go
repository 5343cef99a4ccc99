package limiter

import "math/bits"

// longest is what a Window is cut down to where units are counted by windows,
// so that the end of the next one fits an int64.
const longest = horizon / 2

// A window is the state of a FixedWindow, a SlidingWindow or a SlidingLog as it
// is at one instant. Time is that of the shard; windows are aligned to the Unix
// epoch by where it lay when the Memory was made.
//
// In a [slot] it is kept as what does not move with time:
//
//	FixedWindow    the end of the window, and its units
//	SlidingWindow  the end of the window after it, and the units of two
//	SlidingLog     when the last event leaves, and where the events are
type window struct {
	kind   Algorithm
	now    int64
	length int64 // the policy's Window
	end    int64 // of the current window: 1 to length after now; not with SlidingLog
	limit  uint64
	units  uint64    // in the current window
	before uint64    // SlidingWindow: in the one before
	log    *eventLog // SlidingLog: where the units are, nil if there are none
	birth  int64     // of the slot, see slot.birth
}

// look makes w the empty window of p at now. epoch is the Unix time of 0.
func (w *window) look(p *Policy, epoch, now int64) {
	*w = window{kind: p.Algorithm, now: now, length: min(int64(p.Window), longest), limit: uint64(p.Limit)}
	switch w.kind {
	case SlidingLog:
		return
	case SlidingWindow:
		w.limit = min(w.limit, maxUnits)
	}
	past := (epoch + now) % w.length
	if past < 0 { // the wall clock stands before 1970
		past += w.length
	}
	w.end = now + w.length - past
}

// cost is what n units count as: counts that are cut down take costs with them.
func (w *window) cost(n int) uint64 {
	if w.kind == SlidingWindow {
		return min(uint64(n), maxUnits)
	}
	return uint64(n)
}

// load reads s, which w.save has written at this instant or before. log is that
// of s.
func (w *window) load(s *slot, log *eventLog) {
	w.birth = s.birth()
	switch w.kind {
	case SlidingLog:
		if w.log = log; log != nil {
			log.expire(w.now)
			w.units = log.units
		}
	case FixedWindow:
		if s.at == w.end {
			w.units = s.rest
		}
	case SlidingWindow:
		switch at, units, before := s.two(); at {
		case coarse(w.end + w.length):
			w.units, w.before = units, before
		case coarse(w.end):
			w.before = units
		}
	}
}

func (w *window) save(s *slot) {
	switch {
	case w.kind == SlidingLog:
		s.at = w.log.last() // rest stays
	case w.units == 0 && w.before == 0:
		s.at, s.rest = 0, 0 // as good as no state
	case w.kind == FixedWindow:
		s.at, s.rest = w.end, w.units
	default:
		s.storeTwo(coarse(w.end+w.length), w.units, w.before)
	}
}

// counts returns how many units weigh now. The part of the previous window that
// still counts is rounded up.
func (w *window) counts() uint64 {
	if w.before == 0 {
		return w.units
	}
	hi, lo := bits.Mul64(w.before, uint64(w.end-w.now))
	lo, carry := bits.Add64(lo, uint64(w.length)-1, 0)
	share, _ := bits.Div64(hi+carry, lo, uint64(w.length))
	return w.units + share
}

// remaining returns how many units could be taken at once.
func (w *window) remaining() uint64 { return w.limit - min(w.limit, w.counts()) }

// wait returns how long it takes until cost units, no more than the limit, fit.
func (w *window) wait(cost uint64) int64 {
	room := w.limit - cost
	switch {
	case w.kind == SlidingWindow && w.units > room:
		return w.end - w.now + w.length - lasting(w.units, room, w.length)
	case w.kind == SlidingWindow:
		return max(0, w.end-w.now-lasting(w.before, room-w.units, w.length))
	case w.units <= room:
		return 0
	case w.kind == SlidingLog:
		return w.log.left(w.units-room) - w.now
	default:
		return w.end - w.now
	}
}

// lasting returns what must be left of a window for the units of the previous
// one to weigh no more than room, at most all of it.
func lasting(units, room uint64, length int64) int64 {
	if units <= room {
		return length
	}
	hi, lo := bits.Mul64(room, uint64(length))
	left, _ := bits.Div64(hi, lo, units)
	return int64(left)
}

// whole returns how long it takes until all units are there.
func (w *window) whole() int64 {
	switch {
	case w.units == 0 && w.before == 0:
		return 0
	case w.kind == SlidingLog:
		return w.log.last() - w.now
	case w.units > 0 && w.kind == SlidingWindow:
		return w.end - w.now + w.length
	default:
		return w.end - w.now
	}
}

// charge counts cost units, for which there is room.
func (w *window) charge(cost uint64) Receipt {
	w.units += cost
	until := w.end
	switch w.kind {
	case SlidingWindow:
		until += w.length
	case SlidingLog:
		until = w.now + w.length
		w.log.add(until, cost)
	}
	return Receipt{Paid: int64(cost), Until: until, Given: w.birth}
}

// refund takes what r paid off the count, or the event, that it entered.
func (w *window) refund(r Receipt) {
	if r.Given != w.birth {
		return // of a state that is no more
	}
	switch {
	case w.kind == SlidingLog && w.log != nil:
		w.log.refund(r.Until, uint64(r.Paid))
		w.units = w.log.units
	case w.kind == FixedWindow && r.Until == w.end, w.kind == SlidingWindow && r.Until == w.end+w.length:
		w.units -= min(w.units, uint64(r.Paid))
	case w.kind == SlidingWindow && r.Until == w.end:
		w.before -= min(w.before, uint64(r.Paid))
	}
}

// A SlidingWindow's slot has 128 bits for an instant and two counts: 54 for the
// instant, which is one of few a Window apart and so need not be exact, and 37
// for each count.
const (
	unitBits = 37
	maxUnits = 1<<unitBits - 1
	highBits = 10 // of the previous count, beside the instant
	lowBits  = unitBits - highBits
	fineBits = 9 // what an instant loses: less than the shortest Window
)

// coarse rounds an instant up, so that nothing is dropped before its time.
func coarse(at int64) uint64 { return (uint64(at) + 1<<fineBits - 1) >> fineBits }

func (s *slot) two() (at, units, before uint64) {
	high := uint64(s.at)
	return high >> highBits, s.rest & maxUnits, high&(1<<highBits-1)<<lowBits | s.rest>>unitBits
}

func (s *slot) storeTwo(at, units, before uint64) {
	s.at = int64(at<<highBits | before>>lowBits)
	s.rest = before<<unitBits | units
}
