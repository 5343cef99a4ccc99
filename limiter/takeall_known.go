package limiter

// A certain is one charge of takeAllKnown.
type certain struct {
	pl           *plan
	id           identity
	slot         *slot
	price, slack int64
	ahead        int64
}

// takeAllKnown is TakeAll for a few charges to different token buckets, all of
// which are known. It returns nil if it is not that.
func (m *Memory) takeAllKnown(cs []Charge) []Result {
	if len(cs) == 0 || len(cs) > few {
		return nil
	}
	var array [few]certain
	ks := array[:len(cs)]
	for i := range cs {
		c, k := &cs[i], &ks[i]
		if k.pl = m.known(&c.Policy); k.pl == nil || c.Policy.Algorithm != TokenBucket || c.Cost == 0 || c.MaxDelay > 0 {
			return nil
		}
		var ok bool
		if k.price, k.slack, ok = k.pl.cost(c.Cost); !ok {
			return nil
		}
		k.id = m.identityOf(k.pl, c.Key)
		for j := range i {
			if ks[j].id == k.id {
				return nil
			}
		}
	}
	var numbers [few]uint64
	shards := numbers[:0]
	for i := range ks {
		shards = insertOnce(shards, ks[i].id.check&m.mask)
	}
	results := make([]Result, len(cs)) // not under the locks
	now := m.now()
	for _, n := range shards {
		s := &m.shards[n]
		s.mu.Lock()
		now = s.tickLocked(now)
	}
	allowed, found := true, true
	for i := range ks {
		k := &ks[i]
		s := m.shardOf(k.id)
		s.last = now // a later shard may have been ahead
		var at int
		if at, found = s.findLocked(k.id); !found {
			break
		}
		k.slot = &s.slots[at]
		k.ahead = max(0, k.slot.at-now)
		allowed = allowed && k.ahead <= k.slack
	}
	if found {
		for i := range ks {
			k, r := &ks[i], &results[i]
			wait := k.ahead - k.slack
			if allowed {
				r.Receipt = k.slot.charge(now, k.price)
				k.ahead += k.price
			}
			k.pl.tell(r, k.ahead, wait)
		}
	}
	for _, n := range shards {
		m.shards[n].mu.Unlock()
	}
	if !found {
		return nil
	}
	return results
}
