// Package floor is what the machine allows: the least code that decides, and
// the least that sets header fields, written by hand to be compared with. None
// of it is a product, and each comment says what it skips.
package floor

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"
	"time"
)

// A Table decides by GCRA for keys under one quota: one reading of the
// monotonic clock, one seeded hash, a fixed open table, one compare-and-swap.
//
// It skips: any bound (with more keys than it was made for it slows down and at
// last loops for ever), eviction, a second half of the hash (two keys whose 64
// bits agree share a quota), more than one policy, costs other than one,
// validation, time until whole and until the next try, refunds, waiting, and
// time that never steps back within a key's state (a late reading of the clock
// is judged as it is).
type Table struct {
	start          time.Time
	seed           maphash.Seed
	mask           uint64
	unit, capacity int64
	slots          []slot
}

type slot struct {
	key     atomic.Uint64 // 0: empty
	arrival atomic.Int64
}

// NewTable returns a Table with room for twice as many keys, each with limit
// units per window and burst of them at once.
func NewTable(keys, limit int, window time.Duration, burst int) *Table {
	n := 1 << bits.Len(uint(2*keys-1))
	unit := max(1, int64(window)/int64(limit))
	return &Table{
		start:    time.Now(),
		seed:     maphash.MakeSeed(),
		mask:     uint64(n - 1),
		unit:     unit,
		capacity: unit * int64(burst),
		slots:    make([]slot, n),
	}
}

// Take takes a unit of key's quota. ahead is the time until it is whole.
func (t *Table) Take(key string) (ahead int64, ok bool) {
	h := max(1, maphash.String(t.seed, key))
	now := int64(time.Since(t.start))
	for i := h & t.mask; ; i = (i + 1) & t.mask {
		s := &t.slots[i]
		k := s.key.Load()
		if k == 0 {
			if s.key.CompareAndSwap(0, h) {
				k = h
			} else {
				k = s.key.Load()
			}
		}
		if k != h {
			continue
		}
		for {
			old := s.arrival.Load()
			next := max(old, now) + t.unit
			if next-now > t.capacity {
				return max(0, old-now), false
			}
			if s.arrival.CompareAndSwap(old, next) {
				return next - now, true
			}
		}
	}
}

// Remaining returns how many units are left when the quota is whole after ahead.
func (t *Table) Remaining(ahead int64) int64 { return (t.capacity - ahead) / t.unit }

// Limit returns how many units a whole quota has.
func (t *Table) Limit() int64 { return t.capacity / t.unit }
