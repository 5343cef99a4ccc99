package redislimiter

import (
	"math/bits"

	"github.com/goweir/weir/limiter"
)

// A window is the state of one of the window algorithms as the server has
// answered it, in microseconds. Its arithmetic is that of window.go in package
// limiter.
type window struct {
	kind   kind
	now    int64 // when the question was answered
	length int64
	end    int64  // of the current window; not with a log
	limit  uint64 // cut down
	units  uint64 // in the current window, or in the log
	before uint64 // in the one before

	last, more int64 // of a log: when all units have left, and when more fit, from now
}

// lengthOf returns the length of p's windows.
func lengthOf(p *limiter.Policy) int64 {
	return min(int64(ceilDiv(uint64(p.Window), 1000)), longest)
}

// unitsOf cuts a Limit or a Cost down to what can be counted.
func unitsOf(a limiter.Algorithm, n int) uint64 {
	if a == limiter.SlidingWindow {
		return min(uint64(n), maxSlidingUnits)
	}
	return min(uint64(n), maxUnits)
}

// instant is now, unless the state has seen a later window: then it is the
// beginning of that.
func (w *window) instant() int64 { return max(w.now, w.end-w.length) }

// counts returns how many units weigh now.
func (w *window) counts() uint64 {
	if w.before == 0 {
		return w.units
	}
	hi, lo := bits.Mul64(w.before, uint64(w.end-w.instant()))
	lo, carry := bits.Add64(lo, uint64(w.length)-1, 0)
	share, _ := bits.Div64(hi+carry, lo, uint64(w.length))
	return w.units + share
}

// remaining returns how many units could be taken at once.
func (w *window) remaining() uint64 { return w.limit - min(w.limit, w.counts()) }

// wait returns how long it takes from now until cost units, no more than the
// limit, fit. A log has to be asked.
func (w *window) wait(cost uint64) int64 {
	room := w.limit - cost
	switch {
	case w.kind == slidingWindow && w.units > room:
		return w.end - w.now + w.length - lasting(w.units, room, w.length)
	case w.kind == slidingWindow:
		if room-w.units >= w.before {
			return 0
		}
		fits := w.end - lasting(w.before, room-w.units, w.length)
		if fits <= w.instant() {
			return 0
		}
		return fits - w.now
	case w.units <= room:
		return 0
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

// whole returns how long it takes from now until all units are there.
func (w *window) whole() int64 {
	switch {
	case w.units == 0 && w.before == 0:
		return 0
	case w.kind == slidingLog:
		return w.last
	case w.units > 0 && w.kind == slidingWindow:
		return w.end - w.now + w.length
	default:
		return w.end - w.now
	}
}
