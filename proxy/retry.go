package proxy

import (
	"cmp"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

// Retries send a request another time where that cannot hurt, to an upstream
// that was not tried yet if there is one. The zero value retries nothing. What
// is sent again:
//
//   - Any request for which no connection could be made, if nothing of its body
//     was read.
//   - A request that may be executed twice (GET, HEAD, OPTIONS, TRACE, PUT,
//     DELETE, and any with an Idempotency-Key) when the connection broke before
//     an answer came, or the answer was not valid.
//   - The same when the answer has one of the Statuses.
//
// If a body was read, as much as is needed must have been kept for that
// (MaxBody). What has timed out is not sent again, nor anything when the client
// has left or a part of an answer was sent on. Upgrades are sent again only for
// the first reason.
//
// There is one kind of retry with which this has nothing to do: where the
// upstream closes a connection that was idle, just as a request is sent on it,
// http.Transport sends it on another one. It does so for GET, HEAD, OPTIONS and
// TRACE, and for others with an Idempotency-Key or X-Idempotency-Key, if they
// have no body, and for all without a body of which nothing was sent.
//
// Retries cost nothing but an atomic addition until they are needed, and MaxBody
// the memory it says.
type Retries struct {
	_ [0]func() // keyed literals only: fields will be added

	// Max is how many times a request may be sent after the first. 0: none;
	// negative is a fault.
	Max int

	// Statuses are those of answers after which a request is sent again. Most
	// callers should use 502, 503 and 504, or none. Allowed are 429 and 500 to
	// 599.
	Statuses []int

	// MaxBody is how much of a request's body is kept, for requests that may be
	// executed twice. The body is streamed all the same; one that is larger is
	// not sent again once it was read from. 0: none is kept; negative is a fault.
	MaxBody int64

	// Budget bounds all retries of a Proxy to this share of all requests, so that
	// retries do not finish off upstreams that are in trouble. What is left is
	// saved for later, up to 10 retries. 0 means 0.2; below 0 and above 1 are
	// faults. It starts empty: with 0.2, the fifth request is the first that may
	// be sent again.
	Budget float64

	// Hedge is after how long without an answer's header a GET or HEAD without a
	// body is sent to another upstream as well. The first good header wins, and
	// the other attempt is cancelled, which is no failure of its upstream. It suits
	// reads that cost little, and the time that all but a few percent of answers
	// come within. 0: nothing is sent twice at once; negative is a fault, and so
	// is any while Max is 0.
	//
	// The second attempt is one of Max and is drawn from the Budget, and there is
	// one at most for a request. It does not wait for a place at an upstream
	// (Config.InFlight), and there is none if informational responses came
	// before; those that come while both are under way are not passed on. It
	// costs each such request about ten small allocations, for a timer and a copy
	// of its header. A panic of the transport in it is logged, and fails the
	// attempt.
	Hedge time.Duration
}

func (r *Retries) resolve(fault func(string, ...any)) {
	if r.Max < 0 {
		fault("Retries.Max is %d: 0 (meaning no retries) and more are allowed", r.Max)
	}
	for _, s := range r.Statuses {
		if s != http.StatusTooManyRequests && (s < 500 || s > 599) {
			fault("Retries.Statuses has %d: 429 and 500 to 599 are allowed", s)
		}
	}
	if r.MaxBody < 0 {
		fault("Retries.MaxBody is %d: 0 (meaning that no body is kept) and more are allowed", r.MaxBody)
	}
	if !(r.Budget >= 0 && r.Budget <= 1) {
		fault("Retries.Budget is %v: 0 (meaning 0.2) to 1 are allowed", r.Budget)
	}
	if r.Hedge < 0 || r.Hedge > 0 && r.Max == 0 {
		fault("Retries.Hedge is %s with Max %d: 0 (meaning no hedging), and more if Max is 1 or more, are allowed", r.Hedge, r.Max)
	}
	r.Budget = cmp.Or(r.Budget, 0.2)
	r.Statuses = slices.Clone(r.Statuses)
}

// A budget is what may be spent on retries: each request earns a share of one,
// so that there are never more than that share of all requests.
type budget struct{ saved atomic.Int64 }

const (
	oneRetry  = 1_000_000
	mostSaved = 10 * oneRetry
)

func (b *budget) earn(share float64) { b.add(int64(share * oneRetry)) }

// spend takes one retry, if there is one.
func (b *budget) spend() bool { return b.add(-oneRetry) }

func (b *budget) add(n int64) bool {
	for {
		old := b.saved.Load()
		next := min(old+n, mostSaved)
		if next < 0 {
			return false
		}
		if b.saved.CompareAndSwap(old, next) {
			return true
		}
	}
}

// tryAgain decides whether the attempt that gave res or err is followed by
// another, and if so cleans up after it.
func (x *exchange) tryAgain(res *http.Response, err error) bool {
	r := &x.proxy.cfg.Retries
	if len(x.tried) >= r.Max || x.in.Context().Err() != nil {
		return false
	}
	why := TriggerBroken
	switch {
	case err == nil:
		why = TriggerStatus
		if !slices.Contains(r.Statuses, res.StatusCode) || x.tunnel != nil || !isIdempotent(x.in) {
			return false
		}
	case isDialError(err):
		why = TriggerConnect
	case x.tunnel != nil || !isIdempotent(x.in) || x.status(err) != http.StatusBadGateway:
		return false
	}
	if x.upload != nil && !x.upload.retire() {
		return false
	}
	if !x.proxy.budget.spend() {
		if x.proxy.cfg.Observer != nil {
			x.observe(Event{Kind: EventNoBudget, Upstream: x.upstream.name, Attempt: x.attempt.number + 1, Trigger: why, Start: time.Now(), Err: err})
		}
		return false
	}
	x.attempt.trigger = why
	x.proxy.tell(slog.LevelDebug, "proxy: request is sent again", x.upstream, slog.Any("error", err))
	if err == nil {
		res.Body.Close()
		x.body = body{}
	}
	x.cancel(nil)
	x.tried = append(x.tried, x.upstream)
	x.release()
	return true
}

// A replay is the part of a request's body that was read, for as long as it is
// small enough. It is used by one upload at a time.
type replay struct {
	most int64
	kept []byte
	over bool
	err  error // what reading ended with, io.EOF mostly
}

// empty reports whether nothing was read, by any upload.
func (r *replay) empty() bool { return r == nil || len(r.kept) == 0 && !r.over && r.err == nil }

// read reads at a position, from what is kept or from src.
func (r *replay) read(src io.Reader, at int, p []byte) (int, error) {
	switch {
	case at < len(r.kept):
		return copy(p, r.kept[at:]), nil
	case r.err != nil:
		return 0, r.err
	}
	n, err := src.Read(p)
	r.err = err
	if !r.over {
		if int64(len(r.kept)+n) > r.most {
			r.over, r.kept = true, nil
		} else {
			r.kept = append(r.kept, p[:n]...)
		}
	}
	return n, err
}

// retire ends the upload for the transport that has it, and reports whether
// another can begin anew: if nothing was read, or all that was is kept, and
// nobody is reading.
func (u *upload) retire() bool {
	if u.untouched() {
		return true
	}
	if u.replay == nil {
		return false
	}
	select {
	case u.reading <- struct{}{}:
	default:
		return false
	}
	defer func() { <-u.reading }()
	if u.replay.over || u.replay.err != nil && u.replay.err != io.EOF {
		return false
	}
	u.stopped.Store(true)
	return true
}
