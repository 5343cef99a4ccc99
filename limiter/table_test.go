package limiter

import (
	"math/rand/v2"
	"testing"
)

// checkLocked verifies what the table relies on.
func (s *shard) checkLocked(t *testing.T) {
	t.Helper()
	if s.slots == nil {
		return
	}
	used, last := 0, ^uint64(0)
	for i := range s.slots {
		k := s.slots[i].key
		if k == 0 {
			if s.slots[i] != (slot{}) {
				t.Fatalf("empty slot %d holds %+v", i, s.slots[i])
			}
			continue
		}
		used++
		h := home(k, s.homes)
		if k > last || h > i {
			t.Fatalf("slot %d: key %x after %x, home %d", i, k, last, h)
		}
		for j := h; j < i; j++ {
			if s.slots[j].key == 0 {
				t.Fatalf("slot %d is empty between home %d and slot %d", j, h, i)
			}
		}
		last = k
	}
	if used != s.used || used > s.limit || s.homes > s.max || s.slots[len(s.slots)-1].key != 0 {
		t.Fatalf("used %d, counted %d, limit %d, homes %d of %d", used, s.used, s.limit, s.homes, s.max)
	}
}

// A table does what a map does, whatever its size, with keys that crowd at
// either end or share all of their first half.
func TestTableAgainstMap(t *testing.T) {
	const never = 1 << 40 // settled long after every test
	tables := uint64(200)
	if testing.Short() {
		tables = 20
	}
	for seed := range tables {
		rnd := rand.New(rand.NewPCG(seed, 3))
		s := &shard{max: 1 + rnd.IntN(400)}
		held := map[identity]int64{}
		newID := func() identity {
			id := identity{rnd.Uint64(), rnd.Uint64() >> 24}
			switch rnd.IntN(8) {
			case 0:
				id.key = 1 + id.key%16
			case 1:
				id.key |= ^uint64(15)
			case 2:
				id.key = 1<<63 + id.key%2
			}
			return id
		}
		evicted := uint64(0)
		for range 2000 {
			switch rnd.IntN(4) {
			case 0: // remove a random one, if any
				for id := range held {
					i, found := s.findLocked(id)
					if !found {
						t.Fatalf("seed %d: %x is not found", seed, id)
					}
					s.deleteLocked(i)
					delete(held, id)
					break
				}
			default:
				id := newID()
				if _, found := s.findLocked(id); found {
					t.Fatalf("seed %d: %x is found", seed, id)
				}
				slot, _ := s.insertLocked(id, 0, false)
				slot.store(bucket{arrival: never + int64(id.check>>16)})
				held[id] = slot.at
				if s.evicted > evicted { // one of ours is gone
					if s.evicted != evicted+1 {
						t.Fatalf("seed %d: %d evicted for one newcomer", seed, s.evicted-evicted)
					}
					evicted = s.evicted
					for old := range held {
						if _, found := s.findLocked(old); !found {
							delete(held, old)
						}
					}
				}
			}
			s.checkLocked(t)
			if s.used != len(held) {
				t.Fatalf("seed %d: %d used, want %d", seed, s.used, len(held))
			}
		}
		for id, arrival := range held {
			if i, found := s.findLocked(id); !found || s.slots[i].at != arrival {
				t.Fatalf("seed %d: %x is lost", seed, id)
			}
		}
	}
}

// What is whole again makes room before the table grows, and a table of mostly
// whole keys shrinks.
func TestTableReclaims(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 4))
	s := &shard{max: 1 << 16}
	insert := func(now, arrival int64) {
		slot, _ := s.insertLocked(identity{rnd.Uint64() | 1, rnd.Uint64() >> 24}, now, false)
		slot.store(bucket{arrival: arrival})
		s.checkLocked(t)
	}
	for range 3000 {
		insert(0, 10)
	}
	full := len(s.slots)
	for range 3000 {
		insert(11, 20)
	}
	if len(s.slots) > full*11/10 {
		t.Errorf("the table grew from %d to %d slots for keys that replace others", full, len(s.slots))
	}
	for now := range int64(3000) {
		insert(100+now, 110+now)
	}
	if len(s.slots) > 200 {
		t.Errorf("%d slots for 10 keys at a time", len(s.slots))
	}
	if s.evicted != 0 {
		t.Errorf("%d evicted", s.evicted)
	}
}

// A refund keeps the state until the receipts that it has shortened are worth
// nothing, so a slot with Given is not as good as an empty one.
func TestSlotRoundTrip(t *testing.T) {
	for _, b := range []bucket{
		{}, {arrival: 5}, {arrival: horizon * 2, given: horizon, turns: true}, {given: horizon}, {arrival: 1, turns: true},
	} {
		var s slot
		s.store(b)
		if got := s.bucket(); got != b {
			t.Errorf("stored %+v, got %+v", b, got)
		}
	}
	s := slot{at: 10, rest: 5 << 1}
	for now, want := range map[int64]bool{9: false, 10: false, 14: false, 15: true} {
		if got := s.settled(now); got != want {
			t.Errorf("arrival 10, given 5: settled at %d = %v, want %v", now, got, want)
		}
	}
}
