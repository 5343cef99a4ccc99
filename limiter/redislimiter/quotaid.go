package redislimiter

import (
	"hash/maphash"

	"github.com/goweir/weir/limiter"
)

// A quotaID says within this process which quota a charge draws on: a hash of
// Name, Algorithm and Key, 128 bits so that strangers cannot meet. It is seeded
// anew in each process, and so much cheaper than the hash that names the state on
// the server. Quotas that differ only in Window share one.
type quotaID [2]uint64

// quotaIDs makes them.
type quotaIDs struct{ seeds [3]maphash.Seed }

func newQuotaIDs() *quotaIDs {
	return &quotaIDs{[3]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed(), maphash.MakeSeed()}}
}

func (q *quotaIDs) of(c *limiter.Charge) quotaID {
	name := maphash.String(q.seeds[0], c.Policy.Name) + uint64(c.Policy.Algorithm)
	return quotaID{
		maphash.String(q.seeds[1], c.Key) ^ name*0x9e3779b97f4a7c15,
		maphash.String(q.seeds[2], c.Key) ^ name,
	}
}
