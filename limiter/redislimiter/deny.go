package redislimiter

import (
	"math"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/limiter"
)

// A denial is a refusal that holds until end. It is never changed.
type denial struct {
	id       quotaID
	changes  uint64 // of the set, before the server was asked
	policy   limiter.Policy
	cost     int
	patience time.Duration

	// A refusal holds for RetryAfter from some moment between when the server
	// was asked and when it had answered. It is kept from the first of the two
	// on, so that nobody is refused for longer than the server would; and told
	// from the second on, so that who sleeps for the RetryAfter of a cached
	// answer does not come a round trip too early. Both are nanoseconds since
	// the cache was made.
	end  int64
	told int64

	q                                 quota // of a bucket
	retryAfter, resetAfter, moreAfter time.Duration
	remaining                         int
}

// denialBytes is what an entry of the cache takes, with its pointer.
const denialBytes = 256

// ways is how many denials share a set: enough that a set is rarely full before
// the cache is.
const ways = 8

// A denySet is a small part of the cache.
type denySet struct {
	// changes counts what may have ended a refusal before its time: refunds and
	// resets. A denial is worth something as long as there was none since before
	// it was asked for; so it does not matter in which order answers arrive.
	// That those of the other quotas in the set go with it costs a question each.
	changes atomic.Uint64
	ways    [ways]atomic.Pointer[denial]
}

// denials remembers refusals by the server, so that as long as they hold nobody
// needs to ask again. It locks nothing: a hit reads one pointer.
//
// What it answers is what the server would, if no other process gave anything
// back meanwhile: more charges only make refusals longer.
type denials struct {
	start time.Time
	life  time.Duration
	sets  []denySet
}

// newDenials returns a cache for about n denials that each last for life at
// most, nil for none.
func newDenials(n int, life time.Duration) *denials {
	if n <= 0 || life <= 0 {
		return nil
	}
	return &denials{
		start: time.Now(),
		life:  life,
		sets:  make([]denySet, 1<<bits.Len(uint(max(1, n/ways)-1))),
	}
}

func (d *denials) now() int64 { return int64(time.Since(d.start)) }

func (d *denials) setOf(id quotaID) *denySet { return &d.sets[id[0]&uint64(len(d.sets)-1)] }

// patience is for how long the caller of c would wait.
func patience(c *limiter.Charge) time.Duration {
	switch c.Policy.Algorithm {
	case limiter.TokenBucket:
		return c.MaxDelay
	case limiter.LeakyBucket:
		if c.MaxDelay == 0 {
			return math.MaxInt64
		}
		return c.MaxDelay
	}
	return 0
}

// look reports whether c is known to be refused, and answers it then.
func (d *denials) look(c *limiter.Charge, id quotaID, r *limiter.Result) bool {
	if d == nil || c.Cost == 0 {
		return false
	}
	set := d.setOf(id)
	for i := range set.ways {
		n := set.ways[i].Load()
		if n != nil && n.id == id && n.policy == c.Policy {
			return n.changes == set.changes.Load() && n.answer(c, d.now(), r)
		}
	}
	return false
}

// answer reports whether n refuses c at now.
func (n *denial) answer(c *limiter.Charge, now int64, r *limiter.Result) bool {
	p := patience(c)
	if now >= n.end || c.Cost < n.cost || p > n.patience {
		return false
	}
	since := time.Duration(now - n.told)
	*r = limiter.Result{
		Source:     limiter.SourceDenyCache,
		Limit:      n.policy.Limit,
		Remaining:  n.remaining,
		RetryAfter: n.retryAfter,
		ResetAfter: max(0, n.resetAfter-since),
		MoreAfter:  max(0, n.moreAfter-since),
	}
	switch n.policy.Algorithm {
	case limiter.TokenBucket, limiter.LeakyBucket:
		// What is stored is one point in time: everything follows from it.
		ahead := int64(ceilDiv(uint64(r.ResetAfter), 1000))
		r.Remaining = n.q.remaining(ahead)
		if price, ok := n.q.price(c.Cost); ok {
			r.RetryAfter = micros(ahead - n.q.most(c, price))
		} else {
			r.RetryAfter = limiter.Never
		}
	case limiter.FixedWindow:
		r.RetryAfter = r.ResetAfter
		if c.Cost > n.policy.Limit {
			r.RetryAfter = limiter.Never
		}
	default:
		// When more would fit is not known from when this does.
		if c.Cost != n.cost {
			return false
		}
		if r.RetryAfter != limiter.Never {
			r.RetryAfter -= since
		}
	}
	return r.RetryAfter > 0
}

// asking returns what keep needs to know about the time before the server is
// asked about a quota.
func (d *denials) asking(id quotaID) (t asked) {
	if d == nil {
		return t
	}
	t.id = id
	t.changes = d.setOf(id).changes.Load()
	t.at = d.now()
	return t
}

// asked is a moment before a question was sent.
type asked struct {
	id      quotaID
	changes uint64
	at      int64
}

// keep remembers that the server refused c, asked at t, with r.
func (d *denials) keep(c *limiter.Charge, t asked, r *limiter.Result) {
	if d == nil || c.Cost == 0 || r.Allowed || c.Policy.Limit == 0 {
		return
	}
	n := &denial{
		id:       t.id,
		changes:  t.changes,
		policy:   c.Policy,
		cost:     c.Cost,
		patience: patience(c),
		told:     d.now(),
		end:      t.at + int64(min(r.RetryAfter, d.life)),

		retryAfter: r.RetryAfter,
		resetAfter: r.ResetAfter,
		moreAfter:  r.MoreAfter,
		remaining:  r.Remaining,
	}
	if n.end <= n.told {
		return
	}
	if c.Policy.Algorithm <= limiter.LeakyBucket {
		n.q = quotaOf(&n.policy)
	}
	if set := d.setOf(t.id); set.changes.Load() == n.changes {
		set.place(n).Store(n)
	}
}

// place returns where to put n: in place of another of the same quota, or of one
// that has ended, or of the one that ends soonest.
func (s *denySet) place(n *denial) *atomic.Pointer[denial] {
	var best *atomic.Pointer[denial]
	ends := int64(math.MaxInt64)
	for i := range s.ways {
		at := &s.ways[i]
		switch o := at.Load(); {
		case o == nil:
			if ends >= 0 {
				best, ends = at, -1
			}
		case o.id == n.id && o.policy.Window == n.policy.Window:
			return at
		case o.end <= n.told || o.changes != n.changes:
			if ends > 0 {
				best, ends = at, 0
			}
		case o.end < ends:
			best, ends = at, o.end
		}
	}
	return best
}

// drop forgets what is known of a quota. It is called after something was given
// back to it, or may have been, and before anybody is told so.
func (d *denials) drop(id quotaID) {
	if d == nil {
		return
	}
	d.setOf(id).changes.Add(1)
}

// lookAll reports whether one of cs is known to be refused, and answers all then:
// nobody asked about the others, and nothing is known of them.
func (d *denials) lookAll(cs []limiter.Charge, ids []quotaID, results []limiter.Result) bool {
	refused := false
	for i := range cs {
		// What is charged to the same quota before it is not in the refusal.
		if d.look(&cs[i], ids[i], &results[i]) && !slices.Contains(ids[:i], ids[i]) {
			refused = true
		} else {
			results[i] = limiter.Result{Allowed: true, Source: limiter.SourceDenyCache, Limit: cs[i].Policy.Limit, Remaining: -1}
		}
	}
	if !refused {
		clear(results)
	}
	return refused
}

func (d *denials) askingAll(ids []quotaID) []asked {
	if d == nil {
		return nil
	}
	all := make([]asked, len(ids))
	for i, id := range ids {
		all[i] = d.asking(id)
	}
	return all
}

// keepAll remembers what of cs was refused for itself, and not for what was
// charged to the same quota before it.
func (d *denials) keepAll(cs []limiter.Charge, all []asked, results []limiter.Result) {
	for i := range all {
		if !results[i].Allowed && !slices.ContainsFunc(all[:i], func(o asked) bool { return o.id == all[i].id }) {
			d.keep(&cs[i], all[i], &results[i])
		}
	}
}
