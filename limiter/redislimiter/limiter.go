// Package redislimiter is the Redis backend of package limiter: quotas that
// several processes share.
//
//	client, err := redislimiter.Dial(ctx, "redis://127.0.0.1:6379/0")
//	...
//	l, err := redislimiter.New(client, nil)
//
// A decision is one round trip and one script call, whatever the algorithm and
// however many charges it has, as long as their keys share a node. The server's
// clock decides, so the clocks of the processes do not matter. A charge of Cost 0
// writes nothing; the client of a cluster that has ReadOnly may ask a replica,
// which knows a little less than its master.
//
// # What is shared
//
// Concurrent decisions share round trips and script calls. Who comes alone is
// one plain EVALSHA of its own. Who comes while others are underway waits for
// the next of them to return and goes with whoever came meanwhile, up to 256
// charges in one call, or on a cluster in one pipeline for each node. There each
// is decided for itself, in the order of arrival, and equal ones are asked once,
// as many times; so a quota that everybody asks for costs little more than one
// that nobody does. No decision waits for others to come; up to 65536 wait for
// those underway (see [ErrCrowded]). A caller whose context ends leaves at once
// and harms nobody: either it was not asked yet, or the error is [ErrUnknown],
// and what was taken for it is given back when the answer comes.
//
// A refusal says when it ends. Until then, and at most for a second, this
// process repeats it without asking: see [Options.DenyCache]. With
// [Options.Lease] it takes units in advance and spends them without asking.
//
// # What is stored
//
// A quota is one key, prefix:{hash}, with nothing of the caller in it: a string
// of 19 digits for a bucket (a little more where units were given back or
// callers wait for turns), a short string for a window, a sorted set with a
// member for each event for a SlidingLog. A bucket takes 133 bytes of the memory
// of Redis 7.0, all told. It expires when the quota is whole; what is not in use
// takes no room. A key that has lost its time to live gets it back from the next
// charge, granted or not.
//
// Names and Keys are hashed by SHA-256, with [Options.Secret] by HMAC: without
// a secret somebody who can read the server's keys can find out whether a guess
// is one of them.
//
// # Exactness
//
// Time is counted in whole microseconds. Decisions are the same as those of
// [limiter.Memory] where Window divided by Limit is a whole number of them.
// Elsewhere a charge costs up to a
// microsecond more, or 0.1 % where a unit lasts a millisecond or longer; a
// Window counts as the next whole number of microseconds where units are counted
// by windows. Never is more admitted. Prices and spans are cut down to 142
// years, windows to 71 years, counted units to 2^52-1 (SlidingWindow: 2^37-1).
//
// When the server's clock is set back, what is stored seems to lie too far
// ahead. It is cut down to a whole quota, so that nobody is locked out for longer
// than that takes to come back, give or take a twenty-fifth; this may admit one
// burst too many for every such change. Several processes may use different Limits and Bursts for
// the same Name and Key: each keeps its own, and none disturbs the others.
//
// # Failure
//
// A decision is never executed twice, whatever happens to the connection: see
// [ErrUnknown]. What the server refuses has an error of its own each.
package redislimiter

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/internal/diagnose"
	"github.com/goweir/weir/limiter"
)

// DefaultPrefix is Options.Prefix if that is empty.
const DefaultPrefix = "weir"

// Defaults of Options.DenyCache and Options.DenyTime: 4 MiB at most, and a second.
const (
	DefaultDenyCache = 16384
	DefaultDenyTime  = time.Second
)

// Options are the options of [New].
type Options struct {
	// Prefix begins the names of all keys. Limiters with the same server,
	// Prefix, Slot and Secret share their quotas. It must be printable ASCII
	// without spaces and braces. Empty means DefaultPrefix.
	Prefix string

	// Secret makes the names of keys worthless to whoever does not know it. All
	// processes that share quotas need the same one. nil: none.
	Secret []byte

	// Slot pins all quotas to one slot of a Redis Cluster, named by any
	// printable ASCII without spaces and braces. Several charges are then
	// decided in one step, as on a single server, and that slot's node has all
	// the work. Empty: each quota has a slot of its own.
	Slot string

	// ClientClock decides by this process's clock instead of the server's, for
	// services that refuse TIME in scripts. The clocks of all processes that
	// share quotas must then agree, as well as the limits are to hold, and calls
	// must not be under way for longer than a second: for so long a quota that is
	// whole is still remembered.
	ClientClock bool

	// DenyCache is how many refusals this process remembers, in up to 256 bytes
	// each. As long as one holds it answers for the server: for charges with the
	// same Policy, at least the refused Cost and at most its MaxDelay, and for
	// every TakeAll with one of them. Refusals that hold are not forgotten but
	// for want of room. So a caller who is refused costs the server nothing,
	// however often it comes.
	//
	// This never admits more, and never refuses for longer than the refusal
	// said; a Refund or Reset by this process is seen at once, by another one
	// after DenyTime at the latest. 0 means DefaultDenyCache; negative: none.
	DenyCache int

	// DenyTime is for how long at most a refusal is remembered. 0 means
	// DefaultDenyTime; negative is a fault.
	DenyTime time.Duration

	// Lease returns how many units of a quota this process takes in advance, to
	// spend them without asking: one call of the server for so many decisions.
	// It is called for each charge, so it should only look something up. Less
	// than 2 means no lease for this Policy; more than its capacity is cut down
	// to it. nil: no leases.
	//
	// The price is exactness. In any time t the processes together admit up to
	// Burst + Limit*t/Window + processes*lease, because what was taken before
	// may be spent then; and what one of them has in stock another may be
	// refused. Units that are not spent within a Window are dropped. With
	// FixedWindow they are dropped at its end, and nothing too much is ever
	// admitted.
	//
	// Leases are for TokenBucket and FixedWindow and for charges without
	// MaxDelay and of no more than a lease; others are asked for as ever. Each
	// charge of a TakeAll is leased for itself, and put back into stock if
	// another refuses. Remaining counts the stock of this process and what the
	// server had left when it was asked last. A Refund goes back into stock,
	// and is lost if that was dropped meanwhile; a Reset drops it in this
	// process only. There are 4096 leases at most; further quotas do without.
	Lease func(limiter.Policy) int

	// DangerouslyAllowRetries accepts clients that New would refuse. This
	// package's own calls are not executed twice by such a client either; what
	// is lost are the times that callers expect: go-redis ignores deadlines
	// without ContextTimeoutEnabled. New warns of it, once a process, by slog's
	// default logger.
	DangerouslyAllowRetries bool
}

// A Limiter is a [limiter.Limiter] whose quotas are on a Redis server or Redis
// Cluster. It has no goroutine and needs no Close; the client is the caller's.
// A context's deadline ends a call in time. Its cancellation ends the wait for
// and with others; a call that is alone has been sent by then, and the client's
// timeouts bound it.
type Limiter struct {
	client  redis.UniversalClient
	cluster bool // keys of different slots cannot be decided in one step

	replicas bool        // they may be asked what writes nothing
	old      atomic.Bool // they cannot

	before, after string // of the hash in a key
	tagFrom       int    // where the hash tag of a key begins
	secret        []byte
	macs          sync.Pool
	clientClock   bool
	now           func() time.Time // of the client's clock

	line    *line[*question]
	lines   sync.Map // of a cluster: one for each node, by its address
	ids     *quotaIDs
	denials *denials // nil: none are kept
	leases  *leases  // nil: there are none
}

var _ limiter.Limiter = (*Limiter)(nil)

// New returns a Limiter that asks client. It does no I/O: [Limiter.Diagnose]
// does. nil means default options.
//
// The client must have MaxRetries -1 and ContextTimeoutEnabled, as those of
// [Dial] have: an error says which of them is missing, and what of the options
// is not allowed. A *redis.Ring needs Options.Slot. It panics if client is nil.
func New(client redis.UniversalClient, opts *Options) (*Limiter, error) {
	if client == nil {
		panic("redislimiter: New: client is nil")
	}
	var o Options
	if opts != nil {
		o = *opts
	}
	if err := o.check(client); err != nil {
		return nil, err
	}
	diagnose.Built("redislimiter.New")
	if o.DangerouslyAllowRetries {
		warnUnfit(client)
	}
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	l := &Limiter{
		client:      client,
		before:      o.Prefix + ":{",
		after:       "}",
		tagFrom:     len(o.Prefix) + 2,
		clientClock: o.ClientClock,
		now:         time.Now,
	}
	cluster, ok := client.(*redis.ClusterClient)
	l.replicas = ok && cluster.Options().ReadOnly
	if o.Slot != "" {
		l.before, l.after = o.Prefix+":{"+o.Slot+"}", ""
	} else {
		l.cluster = ok
	}
	if len(o.Secret) > 0 {
		l.secret = append([]byte(nil), o.Secret...)
		l.macs.New = newMAC(l.secret)
	}
	l.line = newLine(l.fly, l.giveBack, (*question).size)
	l.ids = newQuotaIDs()
	l.denials = newDenials(cmp.Or(o.DenyCache, DefaultDenyCache), cmp.Or(o.DenyTime, DefaultDenyTime))
	l.leases = newLeases(o.Lease, l.lease)
	return l, nil
}

// check returns the faults of a charge, and ignores those that package limiter
// ignores there: what is not printable in a Name harms nobody here.
func check(c *limiter.Charge) error {
	p := &c.Policy
	if p.Name == "" || p.Algorithm > limiter.SlidingLog || p.Limit < 0 || p.Window < time.Microsecond ||
		p.Burst < 0 || p.Burst > 0 && p.Algorithm >= limiter.FixedWindow {
		return p.Validate()
	}
	switch {
	case c.Cost < 0:
		return &limiter.PolicyError{Policy: c.Policy.Name, Field: "Cost", Fault: fmt.Sprintf("is %d; allowed: 0 (look only) or more", c.Cost)}
	case c.MaxDelay < 0:
		return &limiter.PolicyError{Policy: c.Policy.Name, Field: "MaxDelay", Fault: fmt.Sprintf("is %v; allowed: 0 (do not wait) or more", c.MaxDelay)}
	}
	return nil
}

// shut is the answer of a quota with Limit 0.
func shut() limiter.Result {
	return limiter.Result{RetryAfter: limiter.Never, Source: limiter.SourceRedis}
}

// Take implements [limiter.Limiter]. It allocates nothing if it needs not ask the
// server.
func (l *Limiter) Take(ctx context.Context, c limiter.Charge) (r limiter.Result, err error) {
	if err := check(&c); err != nil {
		return r, err
	}
	if c.Policy.Limit == 0 {
		return shut(), nil
	}
	id := l.ids.of(&c)
	if ok, err := l.leases.take(ctx, &c, id, &r); ok || err != nil {
		return r, err
	}
	if l.denials.look(&c, id, &r) {
		return r, nil
	}
	r, err = l.charge(ctx, c, id)
	l.leases.add(&c, id, &r)
	return r, err
}

// A lone is what a decision about one charge needs while it is underway.
type lone struct {
	charge   limiter.Charge
	entry    [1]entry
	question question
}

var lones = sync.Pool{New: func() any { return new(lone) }}

// charge asks the server.
func (l *Limiter) charge(ctx context.Context, c limiter.Charge, id quotaID) (r limiter.Result, err error) {
	asked := l.denials.asking(id)
	one := lones.Get().(*lone)
	*one = lone{charge: c}
	one.entry[0].encode(l, &one.charge)
	q := &one.question
	q.entries = one.entry[:]
	if l.cluster {
		q.slot = l.slotOf(one.entry[0].key)
	}
	if err := l.share(ctx, q); err != nil {
		return r, err // and somebody may still work on it
	}
	q.results(0, false, func(_ *entry, got limiter.Result) { r = got })
	l.denials.keep(&c, asked, &r)
	*one = lone{}
	lones.Put(one)
	return r, nil
}

// lease asks the server for units to spend later, unless it is known to refuse.
func (l *Limiter) lease(ctx context.Context, c limiter.Charge, id quotaID) (r limiter.Result, err error) {
	if l.denials.look(&c, id, &r) {
		return r, nil
	}
	return l.charge(ctx, c, id)
}

// Refund implements [limiter.Limiter]. r.Receipt is cleared even if there is an
// error.
func (l *Limiter) Refund(ctx context.Context, c limiter.Charge, r *limiter.Result) error {
	if r == nil || r.Receipt == (limiter.Receipt{}) {
		return nil
	}
	if err := check(&c); err != nil {
		return err
	}
	receipt := r.Receipt
	r.Receipt = limiter.Receipt{}
	if receipt.Given == fromLease {
		l.leases.refund(l.ids.of(&c), receipt)
		return nil
	}
	return l.refund(ctx, []refund{{&c, receipt}})
}

// A refund is what is to be given back of a charge.
type refund struct {
	charge  *limiter.Charge
	receipt limiter.Receipt
}

// refund gives back in order. All keys must share a slot.
func (l *Limiter) refund(ctx context.Context, rs []refund) error {
	var keys places
	list := make([]any, 0, 6*len(rs))
	for _, r := range rs {
		p := &r.charge.Policy
		kind := kindOf(p.Algorithm)
		length, name := int64(0), ""
		if kind != bucket {
			length = lengthOf(p)
		}
		if kind == slidingLog {
			name = eventName(r.receipt)
		}
		place := int64(keys.place(l.keyOf(p, r.charge.Key)))
		list = append(list, place*4+int64(kind), length, r.receipt.Paid, r.receipt.Until, r.receipt.Given, name)
	}
	_, err := l.evaluate(ctx, &refundScript, false, len(keys.all), l.arguments(keys.all, list))
	for _, r := range rs { // if there is an error, too: nobody knows
		l.denials.drop(l.ids.of(r.charge))
	}
	return err
}

// Reset implements [limiter.Limiter]. The Cost of c does not matter.
func (l *Limiter) Reset(ctx context.Context, c limiter.Charge) error {
	p := &c.Policy
	kind, length := kindOf(p.Algorithm), int64(0)
	if kind != bucket {
		if p.Window < 1 {
			return p.Validate()
		}
		length = lengthOf(p)
	}
	keys := []string{l.keyOf(p, c.Key)}
	_, err := l.evaluate(ctx, &resetScript, false, 1, l.arguments(keys, []any{4 + int64(kind), length}))
	id := l.ids.of(&c)
	l.denials.drop(id)
	l.leases.drop(id)
	return err
}

// arguments puts the keys and the time in front of a list, and room for what
// evaluate fills in.
func (l *Limiter) arguments(keys []string, list []any) []any {
	args := make([]any, 3, 3+len(keys)+1+len(list))
	for _, k := range keys {
		args = append(args, k)
	}
	args = append(args, l.clock())
	return append(args, list...)
}

func plain(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '{' || r == '}' }) < 0
}
