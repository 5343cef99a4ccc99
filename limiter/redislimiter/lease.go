package redislimiter

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/limiter"
)

const (
	leaseShards = 64
	leasesEach  = 64 // in a shard: 4096 leases

	// dryTime is for how long at most a lease is not asked for after the server
	// had too little for one.
	dryTime = time.Second

	// fromLease is the Given of a receipt for leased units: a server has never
	// given back less than nothing.
	fromLease = -1
)

// A lease is a stock of units that this process has taken in advance. Its fields
// are guarded by the shard's lock.
type lease struct {
	policy limiter.Policy
	stock  int
	size   int   // stock and coming are never more
	coming int   // what the refill under way asks for
	epoch  int64 // changes when the stock is dropped: receipts from before are worth nothing
	end    int64 // when the stock is dropped
	dry    int64 // until when the server has too little for a lease

	// What the server said with the last refill.
	told       int64
	remaining  int
	resetAfter time.Duration

	refill chan struct{} // closed when the refill under way has ended; nil if there is none
}

// leases are the stocks of this process, 4096 at most: charges to further quotas
// are asked for one by one.
//
// Units leave the server before they are spent, and are spent or dropped within
// a Window. So what all processes admit in any time t is at most what the policy
// admits, and what their stocks held when t began.
type leases struct {
	size   func(limiter.Policy) int
	ask    func(ctx context.Context, c limiter.Charge, id quotaID) (limiter.Result, error) // charges the server
	start  time.Time
	epochs atomic.Int64
	shards [leaseShards]leaseShard
}

type leaseShard struct {
	mu     sync.Mutex
	leases map[quotaID]*lease
}

// newLeases returns nil if size is nil: there are no leases then.
func newLeases(size func(limiter.Policy) int, ask func(context.Context, limiter.Charge, quotaID) (limiter.Result, error)) *leases {
	if size == nil {
		return nil
	}
	return &leases{size: size, ask: ask, start: time.Now()}
}

func (ls *leases) now() int64 { return int64(time.Since(ls.start)) }

func (ls *leases) shardOf(id quotaID) *leaseShard { return &ls.shards[id[0]%leaseShards] }

// of returns how many units are leased at a time for c, 0 if none. See
// Options.Lease for which algorithms.
func (ls *leases) of(c *limiter.Charge) int {
	if ls == nil || c.Cost <= 0 || c.MaxDelay != 0 {
		return 0
	}
	capacity := c.Policy.Limit
	switch c.Policy.Algorithm {
	case limiter.TokenBucket:
		if capacity > 0 {
			capacity = cmp.Or(c.Policy.Burst, capacity)
		}
	case limiter.FixedWindow:
	default:
		return 0
	}
	n := min(ls.size(c.Policy), capacity)
	if n < 2 || n < c.Cost {
		return 0
	}
	return n
}

// take charges c to a lease. It reports false if c is to be charged to the
// server.
func (ls *leases) take(ctx context.Context, c *limiter.Charge, id quotaID, r *limiter.Result) (bool, error) {
	n := ls.of(c)
	if n == 0 {
		return false, nil
	}
	s := ls.shardOf(id)
	// Who finds the stock used up twice is in a crowd that uses it up faster
	// than it comes, and need not wait any longer.
	for range 2 {
		s.mu.Lock()
		now := ls.now()
		l := ls.leaseLocked(s, id, c, now)
		if l == nil || now < l.dry && l.stock < c.Cost {
			s.mu.Unlock()
			return false, nil
		}
		if l.stock >= c.Cost {
			l.spend(c, now, r)
			s.mu.Unlock()
			return true, nil
		}
		if refill := l.refill; refill != nil {
			s.mu.Unlock()
			select {
			case <-refill:
				continue
			case <-ctx.Done():
				return false, ctx.Err()
			}
		}
		l.size, l.coming, l.refill = n, n-l.stock, make(chan struct{})
		more, epoch := l.coming, l.epoch
		s.mu.Unlock()
		return ls.fill(ctx, s, l, epoch, more, c, id, r)
	}
	return false, nil
}

// fill asks the server for more, and spends what c costs of it.
func (ls *leases) fill(ctx context.Context, s *leaseShard, l *lease, epoch int64, more int, c *limiter.Charge, id quotaID, r *limiter.Result) (ok bool, err error) {
	var got limiter.Result
	asked := ls.now()
	defer func() { // whatever happens: others wait for it
		s.mu.Lock()
		defer s.mu.Unlock()
		l.coming = 0
		close(l.refill)
		l.refill = nil
		now := ls.now()
		switch {
		case !ok:
			l.dry = asked + int64(min(got.RetryAfter, dryTime))
		case l.epoch != epoch:
			// A Reset went by, and the quota may be whole without these units.
			// The caller has what it came for, and the rest is dropped.
			*r = got
			r.Source, r.Receipt = limiter.SourceLease, limiter.Receipt{}
		default:
			l.stock += more
			l.told, l.remaining, l.resetAfter = now, got.Remaining, got.ResetAfter
			l.end = asked + int64(c.Policy.Window)
			if c.Policy.Algorithm == limiter.FixedWindow {
				l.end = asked + int64(got.ResetAfter)
			}
			l.spend(c, now, r)
		}
	}()
	need := *c
	need.Cost = more
	got, err = ls.ask(ctx, need, id)
	return err == nil && got.Allowed, err
}

// spend charges c to the stock, which has enough.
func (l *lease) spend(c *limiter.Charge, now int64, r *limiter.Result) {
	l.stock -= c.Cost
	*r = limiter.Result{
		Allowed:    true,
		Source:     limiter.SourceLease,
		Limit:      l.policy.Limit,
		Remaining:  min(l.stock+l.remaining, capacityOf(&l.policy)),
		ResetAfter: max(time.Microsecond, l.resetAfter-time.Duration(now-l.told)),
		Receipt:    limiter.Receipt{Paid: int64(c.Cost), Until: l.epoch, Given: fromLease},
	}
}

// leaseLocked returns the lease of id as it is now, nil if there is no room for
// one.
func (ls *leases) leaseLocked(s *leaseShard, id quotaID, c *limiter.Charge, now int64) *lease {
	l := s.leases[id]
	switch {
	case l == nil:
		if len(s.leases) >= leasesEach && !s.evictLocked(now) {
			return nil
		}
		if s.leases == nil {
			s.leases = make(map[quotaID]*lease)
		}
		l = new(lease)
		s.leases[id] = l
		fallthrough
	case l.policy != c.Policy:
		l.policy, l.dry = c.Policy, 0
		l.dropLocked(ls)
	case l.stock > 0 && now >= l.end:
		l.dropLocked(ls)
	}
	return l
}

func (l *lease) dropLocked(ls *leases) {
	l.stock = 0
	l.epoch = ls.epochs.Add(1)
}

// evictLocked makes room for a lease, if there is one without use.
func (s *leaseShard) evictLocked(now int64) bool {
	for id, l := range s.leases {
		if l.refill == nil && (l.stock == 0 && now >= l.dry || l.stock > 0 && now >= l.end) {
			delete(s.leases, id)
			return true
		}
	}
	return false
}

// refund puts what was taken of a lease back, if that is still the same.
func (ls *leases) refund(id quotaID, r limiter.Receipt) {
	if ls == nil {
		return
	}
	s := ls.shardOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	// What is past its end is not dropped before somebody asks for it.
	if l := s.leases[id]; l != nil && l.epoch == r.Until && ls.now() < l.end {
		l.stock += max(0, min(int(r.Paid), l.size-l.stock-l.coming))
	}
}

// drop forgets the units of id. It is called after a Reset, which has made the
// quota whole without them.
func (ls *leases) drop(id quotaID) {
	if ls == nil {
		return
	}
	s := ls.shardOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.leases[id]; l != nil {
		l.dropLocked(ls)
		l.dry = 0
	}
}

// add adds the units of c's lease to what the server says of its quota.
func (ls *leases) add(c *limiter.Charge, id quotaID, r *limiter.Result) {
	one := *c
	one.Cost = 1
	if ls.of(&one) == 0 {
		return
	}
	s := ls.shardOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[id]
	if l == nil || l.stock == 0 || l.policy != c.Policy || ls.now() >= l.end {
		return
	}
	r.Remaining = min(r.Remaining+l.stock, capacityOf(&l.policy))
	if c.Cost == 0 {
		r.RetryAfter = 0
	}
}

// capacityOf returns how many units of p there are at most.
func capacityOf(p *limiter.Policy) int { return cmp.Or(p.Burst, p.Limit) }

// takeLeased is TakeAll where charges may be leased. Those are spent first; they
// go back if the server refuses the others.
func (l *Limiter) takeLeased(ctx context.Context, cs []limiter.Charge, ids []quotaID, results []limiter.Result) (err error) {
	var (
		rest    []limiter.Charge
		restIDs []quotaID
		which   []int
	)
	for i := range cs {
		ok := false
		if ok, err = l.leases.take(ctx, &cs[i], ids[i], &results[i]); err != nil {
			break
		}
		if !ok {
			rest, restIDs, which = append(rest, cs[i]), append(restIDs, ids[i]), append(which, i)
		}
	}
	allowed := err == nil
	if allowed && len(rest) > 0 {
		got := make([]limiter.Result, len(rest))
		// A lease may just have been refused, and with it this charge.
		if !l.denials.lookAll(rest, restIDs, got) {
			err = l.takeFar(ctx, rest, restIDs, got)
		}
		for i, r := range got {
			allowed = allowed && r.Allowed
			if r.Source == limiter.SourceRedis {
				l.leases.add(&rest[i], restIDs[i], &r)
			}
			results[which[i]] = r
		}
		allowed = allowed && err == nil
	}
	if !allowed {
		for i := range results {
			if r := &results[i]; r.Receipt.Given == fromLease {
				l.leases.refund(ids[i], r.Receipt)
				r.Receipt = limiter.Receipt{}
			}
		}
	}
	if err != nil {
		clear(results)
	}
	return err
}
