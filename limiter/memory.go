package limiter

import (
	"context"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"time"
)

// DefaultMaxBytes is the bound of a [Memory] without [MemoryOptions.MaxBytes]:
// 64 MiB, room for about 1.9 million keys that are not whole.
const DefaultMaxBytes = 64 << 20

// MemoryOptions are the options of [NewMemory].
type MemoryOptions struct {
	// MaxBytes bounds the tables. A key that is not whole takes 32 bytes, with
	// the free slots between them 36 to 40 (up to 50 in small tables); a whole
	// one takes none for long. Up to 32 KiB of locks come on top, and while a table grows its old
	// copy is garbage. 0 means DefaultMaxBytes; less than 1 KiB counts as 1
	// KiB; negative panics.
	MaxBytes int64

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
	Bytes   int64  // size of the tables
	Evicted uint64 // states forgotten before they were whole
	Refused uint64 // new keys refused under RefuseNew
}

// Memory is a [Limiter] within this process: sharded, bounded in bytes, exact.
// It has no goroutine and needs no Close.
//
// A decision reads the clock once, locks one of 256 shards, and allocates
// nothing. State is kept under a seeded hash of 128 bits of Name, Algorithm and
// Key; the strings themselves are not kept, so their length costs no memory.
// What is whole again is dropped when room is needed.
//
// Time is read from the monotonic clock: a wall clock that is set back or forth
// changes nothing. A quota that would take longer than 146 years to become
// whole is cut down to that.
//
// Its methods never block for long and ignore their context.
type Memory struct {
	start  time.Time
	seeds  [4]maphash.Seed
	refuse bool
	mask   uint64
	shards []shard
	plans  plans
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
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	o.MaxBytes = max(o.MaxBytes, 1<<10)
	// A shard should have room for a few dozen keys, or some overflow long
	// before the others.
	shards := min(256, 1<<(bits.Len64(uint64(o.MaxBytes/(16<<10))|1)-1))
	m := &Memory{
		start:  time.Now(),
		seeds:  [4]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed(), maphash.MakeSeed(), maphash.MakeSeed()},
		refuse: o.RefuseNew,
		mask:   uint64(shards) - 1,
		shards: make([]shard, shards),
	}
	for i := range m.shards {
		m.shards[i].max = homesIn(int(min(o.MaxBytes/int64(shards*slotBytes), math.MaxInt32)))
	}
	return m
}

// An identity is what a state is found by.
type identity struct{ key, check uint64 }

// identityOf hashes Name, Algorithm and Key. Each half is the exclusive or of two
// hashes, all four with seeds of their own.
func (m *Memory) identityOf(pl *plan, key string) identity {
	return identity{
		key:   max(1, pl.key^maphash.String(m.seeds[1], key)), // 0 marks an empty slot
		check: pl.check ^ maphash.String(m.seeds[3], key),
	}
}

func (m *Memory) shardOf(id identity) *shard { return &m.shards[id.check&m.mask] }

func (m *Memory) now() int64 { return int64(time.Since(m.start)) }

// Take implements [Limiter]. It allocates nothing.
func (m *Memory) Take(_ context.Context, c Charge) (r Result, err error) {
	err = m.take(&c, &r)
	return r, err
}

// take is Take without copies of a charge and of a result, which cost the
// middleware a fifth of a decision.
func (m *Memory) take(c *Charge, r *Result) error {
	// Most decisions are about a policy and a key that are known.
	pl := m.known(&c.Policy)
	if pl != nil && c.Policy.Algorithm == TokenBucket && c.Cost > 0 && c.MaxDelay == 0 && m.takeKnown(pl, c, r) {
		return nil
	}
	return m.takeAny(c, r)
}

// takeKnown is takeAny for a plan that is remembered, a Cost above 0 and no
// MaxDelay. It reports false if it is for takeAny to decide.
func (m *Memory) takeKnown(pl *plan, c *Charge, r *Result) bool {
	price, ok := pl.q.price(c.Cost)
	if !ok {
		return false
	}
	id := m.identityOf(pl, c.Key)
	s := m.shardOf(id)
	now := m.now()
	s.mu.Lock()
	now = s.tickLocked(now)
	i, found := s.findLocked(id)
	if !found {
		s.mu.Unlock()
		return false
	}
	slot := &s.slots[i]
	b := slot.bucket()
	wait := pl.q.wait(b, now, 0, price)
	if wait <= 0 {
		r.Receipt = b.charge(now, price, false)
		slot.store(b)
	}
	// Under the lock: unlocking waits for what was written, and else the caller
	// would wait for it again when it copies the result.
	r.Allowed = wait <= 0
	r.Limit = c.Policy.Limit
	r.Remaining = pl.q.remaining(b, now)
	r.RetryAfter = time.Duration(max(0, wait))
	r.ResetAfter = time.Duration(max(0, b.arrival-now))
	r.Source = SourceMemory
	s.mu.Unlock()
	return true
}

func (m *Memory) takeAny(c *Charge, r *Result) error {
	if !c.countable() {
		return c.check()
	}
	if c.Policy.Limit == 0 {
		*r = closed()
		return nil
	}
	pl := m.planOf(&c.Policy)
	var v verdict
	v.q = pl.q
	id := m.identityOf(&pl, c.Key)
	s := m.shardOf(id)
	now := m.now()

	s.mu.Lock()
	v.now = s.tickLocked(now)
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
	s.mu.Unlock()
	v.result(c, r)
	return nil
}

// Refund implements [Limiter].
func (m *Memory) Refund(_ context.Context, c Charge, r *Result) error {
	if r == nil || r.Receipt == (Receipt{}) {
		return nil
	}
	receipt := r.Receipt
	r.Receipt = Receipt{}
	s, b, now := m.lockFor(&c)
	defer s.mu.Unlock()
	if b != nil {
		state := b.bucket()
		state.refund(now, receipt)
		b.store(state)
	}
	return nil
}

// Reset implements [Limiter]. The Cost of c does not matter.
func (m *Memory) Reset(_ context.Context, c Charge) error {
	s, b, now := m.lockFor(&c)
	defer s.mu.Unlock()
	if b != nil {
		state := b.bucket()
		state.reset(now)
		b.store(state)
	}
	return nil
}

// lockFor returns the locked shard of c and its slot, nil if there is none.
func (m *Memory) lockFor(c *Charge) (s *shard, found *slot, now int64) {
	// Not planOf: nobody has looked whether the policy is valid.
	var pl plan
	pl.key, pl.check = m.hashesOf(&c.Policy)
	id := m.identityOf(&pl, c.Key)
	s = m.shardOf(id)
	now = m.now()
	s.mu.Lock()
	now = s.tickLocked(now)
	if i, ok := s.findLocked(id); ok {
		found = &s.slots[i]
	}
	return s, found, now
}

// Stats returns current counts. It locks one shard after the other.
func (m *Memory) Stats() MemoryStats {
	var st MemoryStats
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
