package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// A hedge is a second attempt beside one that is slow. Whichever brings a good
// header first is the request's; the other is cancelled, and says nothing of its
// upstream unless it had failed before.
//
// The first attempt stays on the handler's goroutine. The second has one of its
// own, and touches nothing of the exchange that changes: what it holds it holds
// here, until the exchange adopts it or it is given back. Its goroutine gives it
// back if it ends when the other has won, and the handler's in all other cases.
type hedge struct {
	x       *exchange
	out     *http.Request // the first attempt's, with a header of its own
	avoid   []*upstream   // not to be asked
	key     string        // for ByKey
	first   context.Context
	stop    context.CancelCauseFunc // of first
	timer   *time.Timer
	attempt attempt // the second, with no upstream if none was made
	ticket  *ticket

	mu       sync.Mutex
	done     chan struct{} // closed when the second attempt is over; nil before it begins
	decided  bool          // one has won, or there is nothing to win any more
	second   bool          // and it is the second
	returned bool          // the second has its result, and was not given back
	cancel   context.CancelCauseFunc
	res      *http.Response
	err      error
}

var (
	errOutrun   = errors.New("another attempt was first")
	errPanicked = errors.New("the transport panicked")
)

// mayHedge reports whether out, which is the next attempt, may be followed by
// another before it has ended.
func (x *exchange) mayHedge(out *http.Request) bool {
	r := &x.proxy.cfg.Retries
	return r.Hedge > 0 && !x.hedged && x.tunnel == nil && len(x.tried) < r.Max && len(x.proxy.pool.Load().upstreams) > 1 &&
		(out.Method == http.MethodGet || out.Method == http.MethodHead) &&
		(out.Body == nil || out.Body == http.NoBody)
}

// roundTripHedged is an attempt, and after a while another one beside it. cancel
// ends the first.
func (x *exchange) roundTripHedged(out *http.Request, cancel context.CancelCauseFunc) (*http.Response, error) {
	h := &hedge{x: x, first: out.Context(), stop: cancel, avoid: append(slices.Clone(x.tried), x.upstream)}
	h.attempt = attempt{number: x.attempt.number + 1, trigger: TriggerHedge}
	// Some transports write to the header that they are given, though they must
	// not.
	h.out = out.WithContext(out.Context())
	h.out.Header = out.Header.Clone()
	if p := x.proxy; p.cfg.Balance == ByKey {
		h.key = p.cfg.Key(x.in) // here, because it is the user's function
	}
	h.timer = time.AfterFunc(x.proxy.cfg.Retries.Hedge, h.run)
	whole := false
	defer func() {
		if !whole && h.decide(false) { // the transport panics
			h.giveBack(h.second)
		}
	}()
	res, err := x.proxy.transport.RoundTrip(out)
	whole = true
	return h.settle(res, err)
}

// good reports whether an answer ends the wait for others.
func (x *exchange) good(res *http.Response, err error) bool {
	return err == nil && res.StatusCode >= 200 && res.StatusCode <= 999 && !failed(res.StatusCode) &&
		!slices.Contains(x.proxy.cfg.Retries.Statuses, res.StatusCode)
}

// decide lets one attempt win unless one has, and cancels the other. It reports
// whether the second has a result that is the handler's to give back or to adopt.
func (h *hedge) decide(second bool) (returned bool) {
	h.timer.Stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.decideLocked(second)
	return h.returned
}

func (h *hedge) decideLocked(second bool) {
	if h.decided {
		return
	}
	h.decided, h.second = true, second
	if second {
		h.stop(errOutrun)
	} else if h.cancel != nil {
		h.cancel(errOutrun)
	}
}

// settle has the result of the first attempt, and returns the one that counts.
func (h *hedge) settle(res *http.Response, err error) (*http.Response, error) {
	x := h.x
	h.timer.Stop()
	h.mu.Lock()
	if x.good(res, err) || h.done == nil {
		h.decideLocked(false)
	}
	outrun := h.second // later ones do not excuse what has failed by now
	wait := !h.decided || h.second
	h.mu.Unlock()
	if wait {
		<-h.done
	}
	// Nothing changes h.second any more. Where neither is good, an answer is
	// better than none.
	adopt := h.second || err != nil && h.res != nil
	if !h.decide(adopt) {
		return res, err // there was no second one, or it gives itself back
	}
	x.hedged = true
	if !adopt {
		x.tried = append(x.tried, h.attempt.upstream)
		x.sent = x.sent || !isDialError(h.err)
		h.giveBack(false)
		return res, err
	}
	x.tried = append(x.tried, x.upstream)
	x.sent = x.sent || !isDialError(err)
	x.giveBack(x.attempt, x.ticket, res, err, outrun)
	x.upstream, x.ticket, x.attempt = h.attempt.upstream, h.ticket, h.attempt
	if !x.watch.renew(func() { x.cancel = h.cancel }) {
		h.cancel(nil)
		h.res.Body.Close()
		return nil, x.idle
	}
	return h.res, nil
}

// giveBack ends the second attempt, which has its result.
func (h *hedge) giveBack(outrun bool) {
	h.x.giveBack(h.attempt, h.ticket, h.res, h.err, outrun)
	h.cancel(nil)
}

// giveBack ends an attempt whose answer is not wanted. If it was outrun, it says
// nothing about its upstream.
func (x *exchange) giveBack(a attempt, t *ticket, res *http.Response, err error, outrun bool) {
	o := noSign
	switch {
	case outrun, errors.Is(err, errPanicked):
	case err != nil:
		o = x.blame(err)
	case res.StatusCode < 200 || res.StatusCode > 999 || failed(res.StatusCode):
		o = failure
	}
	if res != nil {
		res.Body.Close()
	}
	x.proxy.note(a.upstream, o)
	if t != nil {
		t.end(o)
	}
	a.upstream.leave()
	if x.proxy.cfg.Observer == nil {
		return
	}
	if outrun {
		x.observe(a.event(OutcomeOutrun, res, err))
	} else {
		x.observeAttempt(a, res, err)
	}
}

// run is the second attempt, on the timer's goroutine.
func (h *hedge) run() {
	h.mu.Lock()
	if h.decided {
		h.mu.Unlock()
		return
	}
	h.done = make(chan struct{})
	h.mu.Unlock()
	defer close(h.done)
	if !h.acquire() {
		return
	}
	res, err := h.send()
	if res != nil && res.Body == nil {
		res.Body = http.NoBody
	}
	h.mu.Lock()
	h.res, h.err = res, err
	if h.x.good(res, err) {
		h.decideLocked(true)
	}
	h.returned = !h.decided || h.second
	h.mu.Unlock()
	if !h.returned {
		h.giveBack(true)
	}
}

// acquire takes a place at another upstream, at once or not at all, and what the
// budget asks for. It is false if the second attempt is not to be made.
func (h *hedge) acquire() bool {
	x, p := h.x, h.x.proxy
	pool := p.pool.Load()
	var buf [16]int
	candidates := slices.DeleteFunc(pool.usable(buf[:0], h.avoid), func(i int) bool {
		return slices.Contains(h.avoid, pool.upstreams[i])
	})
	for len(candidates) > 0 {
		c := pool.choose(p.cfg.Balance, func(*http.Request) string { return h.key }, nil, candidates)
		up := pool.upstreams[candidates[c]]
		if up.tryPlace() {
			if t, ok := up.admit(); ok {
				h.attempt.upstream, h.ticket = up, t
				break
			}
		}
		candidates = slices.Delete(candidates, c, c+1)
	}
	if h.attempt.upstream == nil {
		return false
	}
	h.attempt.start = p.observedAt()
	spent := p.budget.spend()
	h.mu.Lock()
	made := spent && !h.decided && x.informer.mute()
	if made {
		var ctx context.Context
		ctx, h.cancel = context.WithCancelCause(x.in.Context())
		h.out = h.out.WithContext(h.attempt.context(ctx))
	}
	h.mu.Unlock()
	if made {
		p.noteReturn(h.attempt.upstream)
		return true
	}
	if h.ticket != nil {
		h.ticket.end(noSign)
	}
	h.attempt.upstream.leave()
	if spent {
		p.budget.earn(1)
	} else if p.cfg.Observer != nil {
		x.observe(Event{Kind: EventNoBudget, Upstream: h.avoid[len(h.avoid)-1].name, Attempt: h.attempt.number, Trigger: TriggerHedge, Start: time.Now()})
	}
	return false
}

// send asks the second upstream.
func (h *hedge) send() (res *http.Response, err error) {
	x, ctx := h.x, h.out.Context()
	// What ends the exchange ends both.
	defer context.AfterFunc(h.first, func() {
		if why := context.Cause(h.first); why != errOutrun {
			h.cancel(why)
		}
	})()
	defer func() {
		// On this goroutine nobody else would, and the process would end.
		if v := recover(); v != nil {
			res, err = nil, fmt.Errorf("%w: %v", errPanicked, v)
			x.proxy.tell(slog.LevelError, "proxy: panic", h.attempt.upstream, slog.String("error", err.Error()), slog.String("stack", string(debug.Stack())))
		}
	}()
	out := h.out.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(status int, fields textproto.MIMEHeader) error {
			return x.relay(h.attempt.number-1, status, fields) // from 0
		},
	}))
	out.URL = &url.URL{RawQuery: h.out.URL.RawQuery, ForceQuery: h.out.URL.ForceQuery}
	if err := h.attempt.upstream.route(out.URL, x.path); err != nil {
		return nil, err
	}
	x.proxy.tell(slog.LevelDebug, "proxy: request is hedged", h.attempt.upstream)
	res, err = x.proxy.transport.RoundTrip(out)
	if why := context.Cause(ctx); err != nil && why != nil && x.in.Context().Err() == nil && !errors.Is(err, why) {
		err = fmt.Errorf("%w: %w", why, err)
	}
	return res, err
}
