package redislimiter

import (
	"math/rand/v2"
	"strconv"

	"github.com/goweir/weir/limiter"
)

// A kind is a shape of state at the server, as the scripts number them.
type kind int64

const (
	bucket kind = iota
	fixedWindow
	slidingWindow
	slidingLog
)

func kindOf(a limiter.Algorithm) kind {
	return kind(max(a, limiter.LeakyBucket) - limiter.LeakyBucket)
}

// An entry is one charge on its way to the server and back. What is asked for it
// follows from the charge alone; what is answered is the state of its quota
// after the question.
type entry struct {
	charge *limiter.Charge
	closed bool // Limit 0: nobody is asked
	never  bool // it can never fit: the state is asked for nevertheless
	kind   kind
	q      quota  // of a bucket
	key    string // at the server
	place  int    // of the key in a call
	price  int64  // microseconds of a bucket, units of the others
	most   int64  // see decide.lua
	size   int64
	mark   string
	id     int64 // of the event in a log

	answer [4]int64
}

// A question is one decision that the server takes in one step: all of its
// charges are granted, or none. Their keys share a slot. Asked several times, it
// is granted to the first ones who ask, as often as it fits.
//
// Questions are concatenated: [Limiter.ask] takes any number of them, of the same
// slot, in one round trip and one script call, and each is decided for itself,
// in order. Who merges equal questions into one by times must not merge those
// with a log, whose events have one id each.
type question struct {
	entries []entry // none of them closed
	times   int     // how often it is asked; 0 means once
	slot    uint16  // of its keys; 0 if it does not matter

	// What the server has answered.
	now     int64
	granted int
	failed  error // why it has not, if others of its flight were answered
}

// encode fills in what is asked for c, which is valid.
func (e *entry) encode(l *Limiter, c *limiter.Charge) {
	p := &c.Policy
	e.charge = c
	if e.closed = p.Limit == 0; e.closed {
		return
	}
	e.kind = kindOf(p.Algorithm)
	e.key = l.keyOf(p, c.Key)
	if e.kind == bucket {
		e.q = quotaOf(p)
		e.size = e.q.capacity
		e.mark = "000"
		if c.Cost > 0 {
			var ok bool
			e.price, ok = e.q.price(c.Cost)
			e.never = !ok
			e.most = e.q.most(c, e.price)
			e.mark = reachOf(max(e.size, e.most+e.price))
			if p.Algorithm == limiter.LeakyBucket || c.MaxDelay > 0 {
				e.mark += "t"
			}
		}
	} else {
		e.size = lengthOf(p)
		e.most = int64(unitsOf(p.Algorithm, p.Limit))
		if c.Cost > 0 {
			e.price = int64(unitsOf(p.Algorithm, c.Cost))
			e.never = c.Cost > p.Limit
		}
		if e.kind == slidingLog && e.price > 0 {
			// Members of a set must be unique whoever makes them, and whatever
			// the clocks say.
			e.id = rand.Int64() | 1
			e.mark = eventID(e.id)
		}
	}
	if e.never {
		e.impossible()
	}
}

// impossible makes sure that the server does not grant the entry.
func (e *entry) impossible() {
	e.never = true
	if e.kind == bucket {
		e.price, e.most = 1, -1
	} else {
		e.price = e.most + 1
	}
}

func eventID(id int64) string { return strconv.FormatInt(id, 36) }

// eventName is what the event of a receipt is called in its log.
func eventName(r limiter.Receipt) string {
	if r.Paid == 1 {
		return eventID(r.Given)
	}
	return eventID(r.Given) + ":" + strconv.FormatInt(r.Paid, 10)
}

// answers returns how many numbers the server answers for the entry.
func (e *entry) answers() int {
	switch e.kind {
	case bucket:
		return 2
	case fixedWindow:
		return 3
	}
	return 4
}

// charged returns what one grant charges to the quota of entry i.
func (q *question) charged(i int) (sum int64) {
	for j := range q.entries {
		if q.entries[j].key == q.entries[i].key {
			sum += q.entries[j].price
		}
	}
	return sum
}

// results tells what became of the n-th time the question was asked, from 0, and
// calls f with the Result of each entry. undone says that it was granted but
// given back since, because another question of the same decision was not.
func (q *question) results(n int, undone bool, f func(e *entry, r limiter.Result)) {
	granted := n < q.granted
	later := 0 // grants to leave out of the state that was answered
	if granted {
		later = q.granted - 1 - n
	}
	if undone {
		later++
	}
	var array [8]bool
	allowed := array[:0]
	for i := range q.entries {
		e := &q.entries[i]
		added := int64(0) // to the same quota by entries before this one
		for j := range allowed {
			if o := &q.entries[j]; allowed[j] && o.key == e.key {
				added += o.price
			}
		}
		own := q.charged(i)
		after := own * int64(later)
		var r limiter.Result
		if e.kind == bucket {
			if !granted || undone {
				own = 0
			}
			r = e.bucketResult(q.now, e.answer[0]-after, own, added, granted)
		} else {
			r = e.windowResult(q.now, after, added, granted)
		}
		if undone {
			r.Receipt = limiter.Receipt{}
		}
		allowed = append(allowed, r.Allowed)
		f(e, r)
	}
}

// bucketResult returns the Result of a bucket whose arrival is so far ahead after
// the decision. own is what the decision charged to it.
func (e *entry) bucketResult(now, ahead, own, added int64, granted bool) limiter.Result {
	c := e.charge
	r := limiter.Result{
		Limit:      c.Policy.Limit,
		Source:     limiter.SourceRedis,
		Remaining:  e.q.remaining(ahead),
		ResetAfter: micros(max(0, ahead)),
	}
	ahead = max(0, ahead-own) + added // when this charge was judged
	switch {
	case e.never || added > 0 && e.price > 0 && added+e.price > e.size:
		r.RetryAfter = limiter.Never
	case c.Cost == 0:
		r.Allowed = true
		if price, ok := e.q.price(1); ok {
			r.RetryAfter = max(0, r.ResetAfter-micros(e.q.room(price)))
		}
	case ahead > e.most:
		r.RetryAfter = micros(ahead - e.most)
	default:
		r.Allowed = true
		if c.Policy.Algorithm == limiter.LeakyBucket {
			r.Delay = micros(ahead)
		} else {
			r.Delay = micros(max(0, ahead-e.q.room(e.price)))
		}
		if granted {
			r.Receipt = limiter.Receipt{Paid: e.price, Until: now + ahead + e.price, Given: e.answer[1]}
		}
	}
	return r
}

// windowResult returns the Result of a window or a log to which so much was
// charged after the decision.
func (e *entry) windowResult(now, after, added int64, granted bool) limiter.Result {
	c := e.charge
	w := window{kind: e.kind, now: now, length: e.size, limit: unitsOf(c.Policy.Algorithm, c.Policy.Limit)}
	receipt := limiter.Receipt{Paid: e.price}
	retry := int64(0)
	switch e.kind {
	case fixedWindow:
		w.end, w.units = e.answer[0], uint64(e.answer[1])
		receipt.Until, receipt.Given = w.end, e.answer[2]
	case slidingWindow:
		w.end, w.units, w.before = e.answer[0], uint64(e.answer[1]), uint64(e.answer[2])
		receipt.Until, receipt.Given = w.end+w.length, e.answer[3]
	case slidingLog:
		w.units, w.last, w.more, retry = uint64(e.answer[0]), e.answer[1], e.answer[2], e.answer[3]
		receipt.Until, receipt.Given = now+w.length, e.id
	}
	w.units -= min(w.units, uint64(after))

	r := limiter.Result{
		Limit:      c.Policy.Limit,
		Source:     limiter.SourceRedis,
		Remaining:  c.Policy.Limit, // if it is whole; what was cut down does not show
		ResetAfter: micros(w.whole()),
	}
	if r.ResetAfter > 0 {
		left := w.remaining()
		r.Remaining = int(left)
		if left < w.limit {
			if w.kind == slidingLog {
				r.MoreAfter = micros(w.more)
			} else {
				r.MoreAfter = micros(w.wait(left + 1))
			}
		}
	}
	sum := uint64(added) + uint64(e.price)
	switch {
	case granted:
		r.Allowed = true
	case e.never || e.price > 0 && added > 0 && sum > w.limit:
		r.RetryAfter = limiter.Never
		return r
	case c.Cost == 0:
		r.Allowed = true
	case w.kind == slidingLog:
		r.RetryAfter = micros(retry)
		r.Allowed = retry == 0
	default:
		r.RetryAfter = micros(max(0, w.wait(sum)))
		r.Allowed = r.RetryAfter == 0
	}
	if c.Cost == 0 {
		if r.Remaining == 0 {
			r.RetryAfter = r.MoreAfter
		}
	} else if granted {
		r.Receipt = receipt
	}
	return r
}
