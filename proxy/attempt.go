package proxy

import (
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/goweir/weir/internal/fifo"
)

// unavailable is why a request was sent to no upstream.
type unavailable struct {
	reason Reason
	after  time.Duration // when it may be otherwise
}

func (e *unavailable) Error() string {
	switch e.reason {
	case Open:
		return "breaker is open"
	case Busy:
		return "too many requests under way"
	}
	return "no upstream can be used"
}

var (
	errNoUpstream = &unavailable{reason: NoUpstream}
	errBusy       = &unavailable{reason: Busy}
)

// acquire chooses the upstream of the next attempt, and takes a place there.
func (x *exchange) acquire() error {
	p := x.proxy
	pool := p.pool.Load()
	var buf [16]int
	candidates := pool.usable(buf[:0], x.tried)
	var first *upstream // whose turn it was, had it a place
	for len(candidates) > 0 {
		c := pool.choose(p.cfg.Balance, p.cfg.Key, x.in, candidates)
		up := pool.upstreams[candidates[c]]
		if x.tryPlace(up) {
			if x.hold(up) {
				return nil
			}
		} else if first == nil {
			first = up
		}
		candidates = slices.Delete(candidates, c, c+1)
	}
	if first == nil {
		return pool.refusal()
	}
	if err := x.wait(first); err != nil {
		return err
	}
	if !x.hold(first) {
		return pool.refusal()
	}
	return nil
}

// refusal says why there is nobody to send a request to.
func (p *pool) refusal() error {
	open := false
	after := time.Duration(math.MaxInt64)
	for _, up := range p.upstreams {
		if up.breaker != nil && !up.health.down.Load() {
			open = true
			after = min(after, up.breaker.wait())
		}
	}
	if !open {
		return errNoUpstream
	}
	return &unavailable{Open, after}
}

// tryPlace takes a place at the upstream if there is one free.
func (x *exchange) tryPlace(up *upstream) (ok bool) {
	if up.line == nil {
		return true
	}
	x.place, ok = up.line.TryAcquire(fifo.Request{N: 1})
	return ok
}

// wait takes a place in the upstream's line.
func (x *exchange) wait(up *upstream) error {
	place, err := up.line.Acquire(x.in.Context(), fifo.Request{N: 1, Wait: x.proxy.cfg.InFlight.Wait})
	x.place = place
	if err == fifo.ErrFull || err == fifo.ErrWaited {
		err = errBusy
	}
	return err
}

// hold makes up the upstream of the next attempt, if its breaker agrees. A place
// in its line was taken.
func (x *exchange) hold(up *upstream) bool {
	var t *ticket
	if up.breaker != nil {
		if t = up.breaker.allow(); t == nil {
			if up.line != nil {
				up.line.Release(x.place)
			}
			return false
		}
	}
	x.upstream, x.ticket, x.held = up, t, true
	up.inFlight.Add(1)
	return true
}

// judge says what an attempt tells of its upstream so far.
func (x *exchange) judge(res *http.Response, err error) {
	if !x.proxy.judges {
		return
	}
	o := noSign
	switch {
	case err != nil:
		o = x.blame(err)
	case failed(res.StatusCode):
		o = failure
	case res.StatusCode == http.StatusSwitchingProtocols, res.Body == http.NoBody:
		o = success
	case isEventStream(res):
		o, x.pending = success, brokenOnly // it may last for days
	default:
		x.pending = anyEnd
	}
	x.proxy.note(x.upstream, o)
	if x.ticket != nil {
		x.ticket.header(o, x.pending == anyEnd)
	}
}

// blame tells the upstream's failures from the client's.
func (x *exchange) blame(err error) outcome {
	switch x.status(err) {
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return failure
	}
	return noSign
}

// judgeEnd is judge for the end of an answer that has begun, and of an attempt
// that ended in a panic.
func (x *exchange) judgeEnd() {
	o := noSign
	switch {
	case x.pending == noEnd:
	case x.body.err != nil && x.idle != errClientIdle && x.in.Context().Err() == nil:
		o = failure
	case x.body.ended && x.pending == anyEnd:
		o = success
	}
	x.pending = noEnd
	x.proxy.note(x.upstream, o)
	if x.ticket != nil {
		x.ticket.end(o)
	}
}

// An ending says which ends of an answer still tell something of the upstream.
type ending uint8

const (
	noEnd      ending = iota
	anyEnd            // whole, or broken off
	brokenOnly        // the answer was counted as a good one
)

// release gives the place of the latest attempt back.
func (x *exchange) release() {
	if !x.held {
		return
	}
	x.held = false
	x.judgeEnd()
	x.upstream.inFlight.Add(-1)
	if x.upstream.line != nil {
		x.upstream.line.Release(x.place)
	}
}

func isEventStream(res *http.Response) bool {
	const kind = "text/event-stream"
	t := res.Header.Get("Content-Type")
	return len(t) >= len(kind) && strings.EqualFold(t[:len(kind)], kind)
}
