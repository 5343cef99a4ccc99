package limiter

import (
	"context"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/internal/diagnose"
)

// DefaultMaxBytes is the bound of a [Memory] without [MemoryOptions.MaxBytes]:
// 64 MiB, room for about 1.8 million keys that are not whole.
const DefaultMaxBytes = 64 << 20

// MemoryOptions are the options of [NewMemory].
type MemoryOptions struct {
	// MaxBytes bounds the tables and the logs. A key that is not whole takes 32
	// bytes in a table, with the free slots between them 36 to 40 (up to 50 in
	// small tables); a whole one takes none for long. Up to 32 KiB of locks
	// come on top, and while a table or a log grows its old copy is garbage. 0
	// means DefaultMaxBytes; less than 1 KiB counts as 1 KiB; negative panics.
	MaxBytes int64

	// LogBytes is the part of MaxBytes that is set aside for the events of
	// SlidingLog: 16 bytes for each instant at which a key was charged within
	// the last Window, up to half as much again for growing, and about 90
	// bytes a key beside its slot in a table. A quota can hold Limit events, so allow for
	// 24 bytes times Limit for every key that may be used up. When there is no
	// room, what RefuseNew says of keys goes for their logs; but a charge is
	// also refused without it if no other log is found to forget. 0 means 3/64
	// of MaxBytes, 3 MiB by default; negative or more than half of MaxBytes
	// panics.
	LogBytes int64

	// Observer is told of evictions and of refusals for want of room, after
	// the decision that they belong to and before its result is returned.
	// nil: nobody.
	Observer Observer

	// RefuseNew says what happens to a new key when there is no room: false,
	// the default, forgets the key that would be whole soonest among the 16
	// looked at, so a flood of keys can make a drained quota whole early; true
	// refuses the new key, so a flood can lock newcomers out but no drained
	// quota ever comes back early. Either is counted in [MemoryStats].
	//
	// Most callers should leave it false and let a limit by address stand in
	// front of one by a key that strangers may choose.
	RefuseNew bool
}

// MemoryStats are counts of a [Memory] since it was made.
type MemoryStats struct {
	Keys    int    // states held, including those that became whole lately
	Bytes   int64  // size of the tables and the logs
	Evicted uint64 // states forgotten before they were whole
	Refused uint64 // charges refused because there was no room for their state
}

// Memory is a [Limiter] within this process: sharded, bounded in bytes, exact.
// It has no goroutine and needs no Close.
//
// A decision reads the clock once, locks one of 256 shards, and allocates
// nothing but the logs of SlidingLog. State is kept under a seeded hash of 104
// bits of Name, Algorithm, Key and, where units are counted by windows, Window;
// the strings themselves are not kept, so their length costs no memory.
// What is whole again is dropped when room is needed.
//
// Time is read from the monotonic clock: a wall clock that is set back or forth
// changes nothing. Where windows begin is told by the wall clock at the time of
// NewMemory and what has passed since. A quota that would take longer than 146
// years to become whole is cut down to that, and a window to 73.
//
// Its methods never block for long, and do not look at their context but hand it
// to the Observer.
type Memory struct {
	start    time.Time
	epoch    int64 // the Unix time of start: the wall clock is read this once
	seeds    [4]maphash.Seed
	refuse   bool
	observer Observer
	mask     uint64
	shards   []shard
	plans    plans

	logMax  int64
	logRoom atomic.Int64  // bytes that logs may still take
	logHand atomic.Uint64 // where the next search for such room begins
}

var _ Limiter = (*Memory)(nil)

// NewMemory returns an empty Memory; nil means default options. The tables grow
// on demand, so an unused one is small.
func NewMemory(opts *MemoryOptions) *Memory {
	var o MemoryOptions
	if opts != nil {
		o = *opts
	}
	if o.MaxBytes < 0 {
		panic(fmt.Sprintf("limiter: NewMemory: MaxBytes is %d; allowed: 0 (64 MiB) or more", o.MaxBytes))
	}
	diagnose.Built("limiter.NewMemory")
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	o.MaxBytes = max(o.MaxBytes, 1<<10)
	if o.LogBytes < 0 || o.LogBytes > o.MaxBytes/2 {
		panic(fmt.Sprintf("limiter: NewMemory: LogBytes is %d; allowed: 0 (3/64 of MaxBytes) to half of MaxBytes, %d",
			o.LogBytes, o.MaxBytes/2))
	}
	if o.LogBytes == 0 {
		o.LogBytes = o.MaxBytes / 64 * 3
	}
	// A shard should have room for a few dozen keys, or some overflow long
	// before the others.
	shards := min(256, 1<<(bits.Len64(uint64(o.MaxBytes/(16<<10))|1)-1))
	start := time.Now()
	m := &Memory{
		start:    start,
		epoch:    start.UnixNano(),
		seeds:    [4]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed(), maphash.MakeSeed(), maphash.MakeSeed()},
		refuse:   o.RefuseNew,
		observer: o.Observer,
		mask:     uint64(shards) - 1,
		shards:   make([]shard, shards),
		logMax:   o.LogBytes,
	}
	m.logRoom.Store(o.LogBytes)
	for i := range m.shards {
		m.shards[i].max = homesIn(int(min((o.MaxBytes-o.LogBytes)/int64(shards*slotBytes), math.MaxInt32)))
	}
	return m
}

// An identity is what a state is found by.
type identity struct{ key, check uint64 }

// identityOf hashes Name, Algorithm and Key, and the Window where it is more than
// half of a ratio. Each half is the exclusive or of two hashes, all four with
// seeds of their own.
func (m *Memory) identityOf(pl *plan, key string) identity {
	return identity{
		key:   max(1, pl.key^maphash.String(m.seeds[1], key)), // 0 marks an empty slot
		check: (pl.check^maphash.String(m.seeds[3], key))&(1<<birthShift-1) | pl.shape,
	}
}

func (m *Memory) shardOf(id identity) *shard { return &m.shards[id.check&m.mask] }

func (m *Memory) now() int64 { return int64(time.Since(m.start)) }

// Take implements [Limiter]. It allocates nothing.
func (m *Memory) Take(ctx context.Context, c Charge) (r Result, err error) {
	err = m.take(ctx, &c, &r)
	return r, err
}

// take is Take without copies of a charge and of a result, which cost the
// middleware a fifth of a decision.
func (m *Memory) take(ctx context.Context, c *Charge, r *Result) error {
	// Most decisions are about a policy and a key that are known.
	pl := m.known(&c.Policy)
	if pl != nil && c.Policy.Algorithm == TokenBucket && c.Cost > 0 && c.MaxDelay == 0 && m.takeKnown(pl, c, r) {
		return nil
	}
	return m.takeAny(ctx, c, r)
}

// takePlanned is take for a charge to pl's policy, a TokenBucket, without MaxDelay.
func (m *Memory) takePlanned(ctx context.Context, pl *plan, c *Charge, r *Result) error {
	if c.Cost > 0 && m.takeKnown(pl, c, r) {
		return nil
	}
	return m.takeAny(ctx, c, r)
}

// takeKnown is takeAny for a plan that is remembered, a Cost above 0 and no
// MaxDelay. It reports false if it is for takeAny to decide.
func (m *Memory) takeKnown(pl *plan, c *Charge, r *Result) bool {
	price, slack, ok := pl.cost(c.Cost)
	if !ok {
		return false
	}
	id := m.identityOf(pl, c.Key)
	s := m.shardOf(id)
	now := m.now()
	s.mu.Lock()
	now = s.tickLocked(now)
	i, found := s.findLocked(id)
	if found {
		slot := &s.slots[i]
		ahead := max(0, slot.at-now)
		wait := ahead - slack
		if wait <= 0 {
			r.Receipt = slot.charge(now, price)
			ahead += price
		}
		// Under the lock: unlocking waits for what was written, and else the
		// caller would wait for it again when it copies the result.
		pl.tell(r, ahead, wait)
	}
	s.mu.Unlock()
	return found
}

func (m *Memory) takeAny(ctx context.Context, c *Charge, r *Result) error {
	if !c.countable() {
		return c.check()
	}
	if c.Policy.Limit == 0 {
		*r = closed()
		return nil
	}
	pl := m.planOf(&c.Policy)
	id := m.identityOf(&pl, c.Key)
	if c.Policy.Algorithm.windowed() {
		*r = m.takeWindow(ctx, c, id)
		return nil
	}
	var v verdict
	v.q = pl.q
	s := m.shardOf(id)
	now := m.now()

	s.mu.Lock()
	v.now = s.tickLocked(now)
	before := s.roomCounts()
	i, found := s.findLocked(id)
	if found {
		v.b = s.slots[i].bucket()
	}
	v.judge(c, 0)
	if v.allowed && c.Cost > 0 {
		if found {
			v.charge(c)
			s.slots[i].store(v.b)
		} else if slot, again := s.insertLocked(id, v.now, m.refuse); slot != nil {
			v.charge(c)
			slot.store(v.b)
		} else {
			v.full(again)
		}
	}
	after := s.roomCounts()
	s.mu.Unlock()
	if m.observer != nil && after != before {
		m.observeRoom(ctx, &c.Policy, before, after)
	}
	v.result(c, r)
	return nil
}

// Refund implements [Limiter].
func (m *Memory) Refund(_ context.Context, c Charge, r *Result) error {
	if r == nil || r.Receipt == (Receipt{}) {
		return nil
	}
	if !c.countable() {
		return c.check()
	}
	receipt := r.Receipt
	r.Receipt = Receipt{}
	s, i, now := m.lockFor(&c)
	defer s.mu.Unlock()
	switch {
	case i < 0:
	case c.Policy.Algorithm.windowed():
		m.refundLocked(s, i, &c.Policy, now, receipt)
	default:
		at := &s.slots[i]
		b := at.bucket()
		b.refund(now, receipt)
		at.store(b)
	}
	return nil
}

// Reset implements [Limiter]. The Cost of c does not matter.
func (m *Memory) Reset(_ context.Context, c Charge) error {
	s, i, now := m.lockFor(&c)
	defer s.mu.Unlock()
	switch {
	case i < 0:
	case c.Policy.Algorithm.windowed():
		// The next state is another's birth.
		s.deleteLocked(i)
	default:
		at := &s.slots[i]
		b := at.bucket()
		b.reset(now)
		at.store(b)
	}
	return nil
}

// lockFor returns the locked shard of c and the index of its slot, -1 if there
// is none.
func (m *Memory) lockFor(c *Charge) (s *shard, i int, now int64) {
	// Not planOf: nobody has looked whether the policy is valid.
	pl := m.hashesOf(&c.Policy)
	id := m.identityOf(&pl, c.Key)
	s = m.shardOf(id)
	now = m.now()
	s.mu.Lock()
	now = s.tickLocked(now)
	i, found := s.findLocked(id)
	if !found {
		i = -1
	}
	return s, i, now
}

// Stats returns current counts. It locks one shard after the other.
func (m *Memory) Stats() MemoryStats {
	st := MemoryStats{Bytes: m.logMax - m.logRoom.Load()}
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		st.Keys += s.used
		st.Bytes += int64(len(s.slots) * slotBytes)
		st.Evicted += s.evicted
		st.Refused += s.refused
		s.mu.Unlock()
	}
	return st
}
