package proxy

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goweir/weir/internal/fifo"
)

// unavailable is why a request was sent to no upstream.
type unavailable struct {
	reason string
	after  time.Duration // when it may be otherwise
}

func (e *unavailable) Error() string { return "proxy: " + e.reason }

// retryAfter is the value of the field, RFC 9110 section 10.2.3.
func (e *unavailable) retryAfter() string {
	return strconv.FormatInt(max(1, int64((e.after+time.Second-1)/time.Second)), 10)
}

var (
	errNoUpstream = &unavailable{reason: "no upstream can be used"}
	errBusy       = &unavailable{reason: "too many requests under way"}
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
		if up.line == nil || up.line.TryAcquire(0, 1) {
			x.hold(up)
			return nil
		}
		if first == nil {
			first = up
		}
		candidates = slices.Delete(candidates, c, c+1)
	}
	if first == nil {
		return errNoUpstream
	}
	if err := x.wait(first); err != nil {
		return err
	}
	x.hold(first)
	return nil
}

// wait takes a place in the upstream's line.
func (x *exchange) wait(up *upstream) error {
	ctx, cancel := context.WithTimeoutCause(x.in.Context(), x.proxy.cfg.InFlight.Wait, errBusy)
	defer cancel()
	err := up.line.Acquire(ctx, 0, 1)
	if errors.Is(err, fifo.ErrFull) {
		err = errBusy
	}
	return err
}

func (x *exchange) hold(up *upstream) {
	x.upstream, x.held = up, true
	up.inFlight.Add(1)
}

// judge says what an attempt tells of its upstream so far.
func (x *exchange) judge(res *http.Response, err error) {
	switch {
	case !x.proxy.judges:
	case err != nil:
		x.note(x.blame(err))
	case failed(res.StatusCode):
		x.note(failure)
	case res.StatusCode == http.StatusSwitchingProtocols, res.Body == http.NoBody:
		x.note(success)
	case isEventStream(res):
		x.note(success) // it may last for days
		x.pending = brokenOnly
	default:
		x.pending = anyEnd
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

// judgeEnd is judge for the end of an answer that has begun.
func (x *exchange) judgeEnd() {
	switch {
	case x.pending == noEnd:
	case x.body.err != nil && x.idle != errClientIdle && x.in.Context().Err() == nil:
		x.note(failure)
	case x.body.ended && x.pending == anyEnd:
		x.note(success)
	}
	x.pending = noEnd
}

// An ending says which ends of an answer still tell something of the upstream.
type ending uint8

const (
	noEnd      ending = iota
	anyEnd            // whole, or broken off
	brokenOnly        // the answer was counted as a good one
)

func (x *exchange) note(o outcome) { x.proxy.note(x.upstream, o) }

// release gives the place of the latest attempt back.
func (x *exchange) release() {
	if !x.held {
		return
	}
	x.held = false
	x.judgeEnd()
	x.upstream.inFlight.Add(-1)
	if x.upstream.line != nil {
		x.upstream.line.Release(1)
	}
}

func isEventStream(res *http.Response) bool {
	const kind = "text/event-stream"
	t := res.Header.Get("Content-Type")
	return len(t) >= len(kind) && strings.EqualFold(t[:len(kind)], kind)
}
