package limiter

import (
	"cmp"
	"context"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A pacedBody is a body on its way: what it may still send of what it has taken
// from each rate that applies to it.
type pacedBody struct {
	b        *Bandwidth
	counters *bandwidthCounters

	mu       sync.Mutex // never held while something waits
	released bool
	free     int64
	own      ownRate
	levels   [4]level // of them, those with a share apply
	waiter   *waiter  // nil: in use, or not yet needed
	waited   time.Duration
	passed   int64
	err      error // of the first wait that ended early
	open     bool  // an error is not the end of it: a connection goes on
}

// A level is a rate that the body shares with others.
type level struct {
	*share
	class  int
	credit int64
	turn   int64
}

// ownRate is the rate of the body alone. The limiter has no more than one
// caller, so that it reads the clock before it locks does no harm here
// (golang/go#65508).
type ownRate struct {
	limiter *rate.Limiter // nil: does not apply
	rate    int64         // as the limiter has it
	credit  int64
}

// ticksOfOne are fewer than those of shares, because there may be many bodies,
// each with a timer of its own.
const ticksOfOne = 20

// follow gives the limiter the rate r.
func (o *ownRate) follow(r int64) {
	switch {
	case o.rate == r:
		return
	case o.limiter == nil:
		o.limiter = rate.NewLimiter(rate.Limit(r), int(burst(r, ticksOfOne)))
	default:
		o.limiter.SetBurst(int(burst(r, ticksOfOne)))
		o.limiter.SetLimit(rate.Limit(r))
	}
	o.rate = r
}

// start begins the pacing. The response's own rate applies if there is one now.
func (p *pacedBody) start(b *Bandwidth, class int, key, route *sharer) {
	limits := b.limits.Load()
	p.b, p.counters, p.free = b, &b.counters[class], b.opts.Free
	p.counters.bodies.Add(1)
	p.own.follow(limits.PerResponse)
	add := func(i int, s *share, class int) { p.levels[i] = level{share: s, class: class} }
	if key != nil {
		add(0, key.share, 0)
	}
	if route != nil {
		add(1, route.share, 0)
	}
	if len(limits.Classes) > 0 && limits.Classes[class].Max > 0 {
		add(2, b.ceilings[class], 0)
	}
	if limits.Total > 0 {
		add(3, b.total, class)
	}
}

// admit says how many of n bytes may go now: at least 1, unless ctx ends first.
// It does not say less than n if nothing limits the body.
func (p *pacedBody) admit(ctx context.Context, n int64) (int64, error) {
	if n <= 0 {
		return n, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.released {
		return n, nil
	}
	if p.err != nil && !p.open {
		return 0, p.err // nothing may follow where something is missing
	}
	if p.free > 0 {
		return min(n, p.free), nil
	}
	if p.own.limiter != nil {
		// A limit that is taken away may come back.
		for r := p.b.limits.Load().PerResponse; r > 0; r = p.b.limits.Load().PerResponse {
			if p.own.follow(r); p.own.credit > 0 {
				n = min(n, p.own.credit)
				break
			}
			got := ask(n, r, ticksOfOne)
			if err := p.waitOwn(ctx, int(got)); err != nil {
				return 0, err
			}
			p.own.credit += got
		}
	}
	for i := range p.levels {
		l := &p.levels[i]
		if l.share == nil || l.rate.Load() == 0 {
			continue
		}
		for l.credit <= 0 {
			got, err := p.waitFor(ctx, l, n)
			if err != nil {
				return 0, err
			}
			if l.credit += got; got == 0 {
				break
			}
		}
		if l.credit > 0 {
			n = min(n, l.credit)
		}
	}
	return n, nil
}

// waitOwn waits for n bytes of the body's own rate.
func (p *pacedBody) waitOwn(ctx context.Context, n int) error {
	start := time.Now()
	p.mu.Unlock()
	err := p.own.limiter.WaitN(ctx, n)
	if err != nil {
		// It does not wait if the deadline is sure to come first, and says so in
		// words of its own.
		err = cmp.Or(ctx.Err(), context.DeadlineExceeded)
	}
	p.mu.Lock()
	p.count(time.Since(start), err)
	return err
}

// waitFor waits for some of n bytes of a level.
func (p *pacedBody) waitFor(ctx context.Context, l *level, n int64) (int64, error) {
	turn, w := l.turn, p.waiter
	if p.waiter = nil; w == nil {
		w = new(waiter)
	}
	p.mu.Unlock()
	got, waited, err := l.acquire(ctx, w, l.class, n, &turn)
	p.mu.Lock()
	l.turn, p.waiter = turn, w
	p.count(waited, err)
	return got, err
}

func (p *pacedBody) count(waited time.Duration, err error) {
	p.waited += waited
	p.counters.waited.Add(int64(waited))
	if p.err == nil {
		p.err = err
	}
}

// spend says that n bytes have gone.
func (p *pacedBody) spend(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.released {
		return
	}
	p.passed += n
	p.counters.bytes.Add(n)
	if p.free > 0 {
		free := min(n, p.free)
		p.free -= free
		n -= free
	}
	if p.own.limiter != nil {
		p.own.credit = max(0, p.own.credit-n)
	}
	for i := range p.levels {
		if l := &p.levels[i]; l.share != nil {
			l.credit = max(0, l.credit-n)
		}
	}
}

// most returns how much may reasonably be taken before it is paid for.
func (p *pacedBody) most() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := int64(maxSlice)
	if p.own.limiter != nil {
		n = min(n, slice(p.own.rate, ticksOfOne))
	}
	for i := range p.levels {
		if l := &p.levels[i]; l.share != nil {
			if r := l.rate.Load(); r > 0 {
				n = min(n, slice(r, l.ticks))
			}
		}
	}
	return n
}

// pay waits until n bytes that are there already may go.
func (p *pacedBody) pay(ctx context.Context, n int64) error {
	for n > 0 {
		m, err := p.admit(ctx, n)
		if err != nil {
			return err
		}
		p.spend(m)
		n -= m
	}
	return nil
}

// release ends the pacing: what was taken and not used goes back, and whoever
// still sends is no longer held.
func (p *pacedBody) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.released {
		return
	}
	p.released = true
	p.counters.bodies.Add(-1)
	for i := range p.levels {
		if l := &p.levels[i]; l.share != nil {
			l.giveBack(l.credit)
		}
	}
}

// broken reports whether something is missing.
func (p *pacedBody) broken() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err != nil
}

// keepOpen says that the body is now a connection.
func (p *pacedBody) keepOpen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = true
}

// event returns what the body's event says.
func (p *pacedBody) event(kind EventKind) Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := Event{Kind: kind, Result: OutcomeAllowed, Duration: p.waited, N: int(min(p.passed, math.MaxInt))}
	if p.err != nil {
		e.Result = OutcomeLeft
	}
	return e
}
