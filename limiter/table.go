package limiter

import (
	"math"
	"math/bits"
	"slices"
	"sync"
	"unsafe"
)

// A slot holds the state of one key in 32 bytes. Keys themselves are not kept:
// key and check are a seeded hash of 104 bits. With two million keys in the
// table (what 64 MiB hold), a new key meets the identity of another with a
// probability below 2^-82, and nobody outside can compute which would.
//
// The last two words are the state. The table need not know the algorithm, only
// when the quota is whole again; each shape of state says that in its own way.
// So all algorithms share one table, its bound and its way of making room.
type slot struct {
	key   uint64 // 0: empty
	check uint64 // shape, 2 bits; birth, 22 bits; hash, 40 bits
	at    int64  // bucket: its arrival
	rest  uint64 // bucket: given<<1 | turns
}

const slotBytes = int(unsafe.Sizeof(slot{}))

// The shapes of state, as they stand in check.
const (
	shapeShift = 62
	birthShift = 40
	birthMask  = (1<<shapeShift - 1) &^ (1<<birthShift - 1)

	bucketShape = 0
)

// shapeOf returns the shape of p's state: the algorithms that count windows have
// one each, after that of the buckets.
func shapeOf(a Algorithm) uint64 { return uint64(max(a, LeakyBucket) - LeakyBucket) }

func (s *slot) shape() uint64 { return s.check >> shapeShift }

// birth tells apart the states that one key has had, so that a receipt of an
// earlier one is worth nothing. It repeats after four million births in the
// shard.
func (s *slot) birth() int64 { return int64(s.check & birthMask >> birthShift) }

func (s *slot) bucket() bucket {
	return bucket{arrival: s.at, given: int64(s.rest >> 1), turns: s.rest&1 != 0}
}

func (s *slot) store(b bucket) {
	s.at, s.rest = b.arrival, uint64(b.given)<<1
	if b.turns {
		s.rest |= 1
	}
}

// charge takes price from the bucket of s, for a caller that does not wait.
func (s *slot) charge(now, price int64) Receipt {
	if s.rest == 0 { // nothing to keep, so this is all
		s.at = max(s.at, now) + price
		return Receipt{Paid: price, Until: s.at}
	}
	b := s.bucket()
	r := b.charge(now, price, false)
	s.store(b)
	return r
}

// whole returns when the state is as good as none.
func (s *slot) whole() uint64 {
	switch s.shape() {
	case bucketShape:
		return uint64(s.at) + s.rest>>1
	case shapeOf(SlidingWindow):
		at, _, _ := s.two()
		return at << fineBits
	}
	return uint64(s.at)
}

func (s *slot) settled(now int64) bool { return s.whole() <= uint64(now) }

// A shard is an open hash table with a lock. Its slots are probed linearly and
// kept in descending order of their keys, so that a search ends at the first
// smaller key; empty slots, being 0, end it too. A key's home is proportional
// to its distance from the largest one, which makes growing the table a copy in
// order.
//
// The order is what allows nine of ten slots to be full with a mean distance
// from home of four and a half, and what makes a deletion leave no trace. Fixed
// groups of slots were rejected: the first of them overflows when half of the
// table is empty.
type shard struct {
	mu      sync.Mutex
	last    int64 // the latest reading of the clock that was used
	slots   []slot
	homes   int // the first so many slots are homes; the rest is a tail, the last of it always empty
	used    int
	limit   int // used may not exceed it
	max     int // homes may not exceed it
	evicted uint64
	refused uint64
	born    uint64
	logs    *logs                              // nil until there is one
	_       [128 - 8 - 8 - 24 - 4*8 - 4*8]byte // keep locks off each other's cache lines
}

// looks is how many states a newcomer to a full table looks at.
const looks = 16

// minHomes is the size of a shard's first table.
const minHomes = 8

// tail returns how many slots follow the homes. Beyond 64 the tail is needed
// about once in a million full tables.
func tail(homes int) int { return min(64, homes/4+4) }

// homesIn returns how many homes fit a number of slots with their tail.
func homesIn(slots int) int {
	homes := slots - 64
	if homes < 240 { // where the tail is not 64
		homes = (slots - 4) * 4 / 5
	}
	return max(homes, 1)
}

// tickLocked folds a reading of the clock into the shard's time, which never
// steps back: readings are taken before the lock and may arrive out of order.
// A late one is judged at the latest instant seen, which is never ahead of the
// true time, so it cannot admit too much.
func (s *shard) tickLocked(now int64) int64 {
	s.last = max(s.last, now)
	return s.last
}

func home(key uint64, homes int) int {
	hi, _ := bits.Mul64(^key, uint64(homes))
	return int(hi)
}

// findLocked returns where id is, or where it would be inserted.
func (s *shard) findLocked(id identity) (int, bool) {
	if s.slots == nil {
		return 0, false
	}
	i := home(id.key, s.homes)
	for s.slots[i].key > id.key {
		i++
	}
	for s.slots[i].key == id.key {
		if s.slots[i].check&^birthMask == id.check {
			return i, true
		}
		i++
	}
	return i, false
}

// insertLocked returns a zeroed slot for id, which is not in the table, or nil
// and the time when it is worth asking again if the table is full.
func (s *shard) insertLocked(id identity, now int64, refuse bool) (_ *slot, again int64) {
	for {
		i, _ := s.findLocked(id)
		if j := s.roomLocked(i, now); j >= 0 {
			s.releaseLocked(&s.slots[j])
			copy(s.slots[i+1:j+1], s.slots[i:j])
			s.born++
			s.slots[i] = slot{key: id.key, check: id.check | s.born<<birthShift&birthMask}
			return &s.slots[i], 0
		}
		if s.growLocked(now) {
			continue
		}
		j, again := s.soonestLocked(i)
		if again > now {
			if refuse {
				s.refused++
				return nil, again
			}
			s.evicted++
		}
		s.deleteLocked(j)
	}
}

// roomLocked returns the first slot from i on that is empty or as good as that,
// or -1 if there is none that may be used.
func (s *shard) roomLocked(i int, now int64) int {
	for j := i; j < len(s.slots)-1; j++ {
		switch {
		case s.slots[j].key == 0:
			if s.used >= s.limit {
				return -1
			}
			s.used++
			return j
		case j < i+looks && s.slots[j].settled(now):
			return j
		}
	}
	return -1
}

// soonestLocked looks at no more than 16 states and returns the one that is whole
// soonest, and when. It looks from i on, where the newcomer belongs, and past
// the end at the beginning.
func (s *shard) soonestLocked(i int) (best int, at int64) {
	end := len(s.slots) - 1
	gap := i
	for s.slots[gap].key != 0 {
		gap++
	}
	if gap == end {
		// The tail is full, and only one of those in it makes room there. It has
		// no gaps: what stands in it was pushed there from its home.
		i = max(s.homes, end-looks)
	}
	best, soonest := -1, uint64(math.MaxUint64)
	for seen, n := 0, 0; seen < looks && n < len(s.slots); n++ {
		c := &s.slots[i]
		switch {
		case c.key != 0:
			seen++
			if t := c.whole(); t < soonest {
				best, soonest = i, t
			}
		case i < s.homes:
		case gap == end:
			return best, int64(min(soonest, math.MaxInt64))
		default:
			i = -1
		}
		i++
	}
	return best, int64(min(soonest, math.MaxInt64))
}

func (s *shard) deleteLocked(i int) {
	s.releaseLocked(&s.slots[i])
	for next := i + 1; s.slots[next].key != 0 && home(s.slots[next].key, s.homes) < next; i, next = next, next+1 {
		s.slots[i] = s.slots[next]
	}
	s.slots[i] = slot{}
	s.used--
}

// growLocked makes a table with room for what is not settled and about a
// twelfth more. It reports false if the table has its full size already.
func (s *shard) growLocked(now int64) bool {
	if s.homes == s.max {
		return false
	}
	live := 0
	for i := range s.slots {
		if s.slots[i].key != 0 && !s.slots[i].settled(now) {
			live++
		}
	}
	homes := live + live/5
	if live == s.used {
		homes = max(homes, s.homes+1) // its tail may be full
	}
	for homes = max(homes, minHomes); ; homes += homes/8 + 1 {
		homes = min(homes, s.max)
		if s.moveLocked(homes, now) {
			return true
		}
		if homes == s.max {
			return false
		}
	}
}

// moveLocked copies what is not settled to a new table, in order. It reports
// false if the tail of the new table is too short.
func (s *shard) moveLocked(homes int, now int64) bool {
	slots := slices.Grow([]slot(nil), homes+tail(homes))
	// The allocator has rounded up; within the bound, that room is used too.
	slots = slots[:min(cap(slots), s.max+tail(s.max))]
	homes = max(homes, min(s.max, homesIn(len(slots))))
	used, next := 0, 0
	for i := range s.slots {
		old := &s.slots[i]
		if old.key == 0 || old.settled(now) {
			continue
		}
		next = max(next, home(old.key, homes))
		if next >= len(slots)-1 {
			return false
		}
		slots[next] = *old
		used, next = used+1, next+1
	}
	for i := range s.slots {
		if old := &s.slots[i]; s.logs != nil && old.settled(now) {
			s.releaseLocked(old)
		}
	}
	s.slots, s.homes, s.used = slots, homes, used
	s.limit = homes - homes/10
	return true
}
