package limiter

import (
	"context"
	"math"
	"net/http"
	"sync"
	"time"
)

// AdaptiveOptions make the cap of an [InFlight] follow the latency: it grows
// while the latency stays near what it is without a queue, and shrinks when it
// does not, between Min and InFlightOptions.Max.
//
// It is a gradient limit: the cap is multiplied by the ratio of the latency
// without a queue, times Tolerance, to the latency of the last 100 ms or longer,
// at least one half and at most 1; and only where that ratio is 1 its square root
// is added. The way there is smoothed. That is Gradient2 of
// https://github.com/Netflix/concurrency-limits, after the ideas of TCP Vegas
// (Brakmo and Peterson, 1994), but for what is known to fail there:
//
//   - What ended by a timeout is no latency but a sign of its own, which shrinks
//     the cap by as much as a half; constant timeouts would else become the
//     normal latency, and the cap would grow (issue 137). As timeouts count a
//     context's deadline, and answers 503 and 504. Other answers of 500 and more
//     count for nothing: a server that fails fast is not fast (issue 176).
//   - A client that leaves counts as a timeout only when it had waited for longer
//     than is tolerated, or impatient clients could shrink the cap at will
//     (issue 146).
//   - Nothing is added while the latency is beyond what is tolerated, or the cap
//     would creep up under a modest overload (issue 134).
//   - The latency without a queue is learned down at any time, but up only where
//     no queue can be: at the cap Min, or while less than half of the cap is in
//     use. A mean of the past would follow any overload that lasts. So if the
//     service becomes slower for good, the cap falls to Min, learns what is
//     normal now, and grows again.
//
// The cap does not grow while less than half of it is in use, and starts at Min.
//
// In [InFlightMiddleware] the latency is the time until the header of the
// response, because how long its body takes is up to the client.
type AdaptiveOptions struct {
	// Min is the floor: what the service bears in any case. 0 means a tenth of
	// Max, at least 1; negative or above Max is a fault. Too small a floor makes
	// a recovery slow, too large a one spoils the latency that is learned there.
	Min int

	// Tolerance is how much longer than without a queue the latency may be. 0
	// means 1.5; allowed are 1 to 10. Services whose latency varies from request
	// to request more than with the load need more.
	Tolerance float64
}

func (a *AdaptiveOptions) resolve(ceiling int, fault func(field, format string, args ...any)) {
	if a.Min < 0 || a.Min > ceiling {
		fault("Adaptive.Min", "is %d; allowed: 0 (a tenth of Max) to Max, %d", a.Min, ceiling)
	}
	if a.Tolerance != 0 && !(a.Tolerance >= 1 && a.Tolerance <= 10) {
		fault("Adaptive.Tolerance", "is %v; allowed: 1 to 10, or 0 (1.5)", a.Tolerance)
	}
	if a.Min == 0 {
		a.Min = max(1, ceiling/10)
	}
	if a.Tolerance == 0 {
		a.Tolerance = 1.5
	}
}

const (
	// adaptWindow is how long latencies are gathered for at least.
	adaptWindow = 100 * time.Millisecond
	// adaptSamples is how many there must be, or half of the cap if that is less.
	adaptSamples = 20
	// adaptSmoothing is how much of the way to its new value the cap goes.
	adaptSmoothing = 0.2
)

// adaptive finds the cap.
type adaptive struct {
	mu        sync.Mutex
	floor     float64
	ceiling   float64
	tolerance float64
	limit     float64
	unqueued  float64 // the latency without a queue, in seconds; 0: not known yet

	// The window: since when, and what came in it.
	began    time.Time
	sum      float64 // of latencies, in seconds
	timely   int     // how many these are
	timeouts int
	peak     int // most slots in use
}

func newAdaptive(o *AdaptiveOptions, ceiling int) *adaptive {
	return &adaptive{floor: float64(o.Min), ceiling: float64(ceiling), tolerance: o.Tolerance, limit: float64(o.Min)}
}

// slots returns the cap as a number of slots.
func (a *adaptive) slots() int { return int(a.limit) }

// set changes the bounds, and calls resize with the cap.
func (a *adaptive) set(o *AdaptiveOptions, ceiling int, resize func(slots int)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.floor, a.ceiling, a.tolerance = float64(o.Min), float64(ceiling), o.Tolerance
	a.limit = min(max(a.limit, a.floor), a.ceiling)
	resize(a.slots())
}

// A sign is what the end of a request says of the load.
type sign uint8

const (
	noSign   sign = iota
	timely        // it took what it took
	departed      // the client did not wait for the answer
	timedOut
)

// signOf returns what an answer with this status says.
func signOf(status int) sign {
	switch {
	case status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout:
		return timedOut
	case status >= 500:
		return noSign
	}
	return timely
}

// timed measures one request.
type timed struct {
	ctx   context.Context // of the request; nil: nothing is measured
	start time.Time
}

// end tells the gauge that the request ended, if nobody has told it of the
// answer.
func (t *timed) end(f *InFlight) {
	if t.ctx == nil {
		return
	}
	s := timely
	switch t.ctx.Err() {
	case context.DeadlineExceeded:
		s = timedOut
	case context.Canceled:
		s = departed
	}
	t.tell(f, s)
}

// tell tells the gauge what has come of the request, once.
func (t *timed) tell(f *InFlight, s sign) {
	if t.ctx == nil {
		return
	}
	now, start := time.Now(), t.start
	*t = timed{}
	f.gauge.note(now, now.Sub(start), s, f.line.Stats().InUse, f.line.SetSlots)
}

// note takes one sign in, and calls resize if the cap changes.
func (a *adaptive) note(now time.Time, latency time.Duration, s sign, inUse int, resize func(slots int)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	took := latency.Seconds()
	switch s {
	case departed:
		if a.unqueued == 0 || took <= a.tolerance*a.unqueued {
			return
		}
		a.timeouts++
	case timedOut:
		a.timeouts++
	case timely:
		if a.unqueued > 0 {
			// Beyond this nothing changes, and one straggler is no queue.
			took = min(took, 4*a.tolerance*a.unqueued)
		}
		a.sum += took
		a.timely++
	default:
		return
	}
	a.peak = max(a.peak, inUse)
	if a.began.IsZero() {
		a.began = now
	}
	if enough := min(adaptSamples, max(1, a.slots()/2)); now.Sub(a.began) < adaptWindow || a.timely+a.timeouts < enough {
		return
	}
	before := a.slots()
	a.adapt()
	a.began, a.sum, a.timely, a.timeouts, a.peak = now, 0, 0, 0, 0
	if after := a.slots(); after != before {
		resize(after)
	}
}

// adapt ends a window.
func (a *adaptive) adapt() {
	used := 2*a.peak >= a.slots()
	gradient := 1.0
	if a.timely > 0 && a.timeouts < a.timely {
		latency := a.sum / float64(a.timely)
		a.learn(latency, used)
		if used {
			gradient = a.tolerance * a.unqueued / latency
		}
	}
	if timeouts := float64(a.timeouts) / float64(a.timely+a.timeouts); timeouts > 0.01 {
		gradient = min(gradient, 1-timeouts)
	}
	next := a.limit * min(1, max(0.5, gradient))
	if gradient >= 1 && used {
		next += math.Sqrt(a.limit)
	}
	a.limit += adaptSmoothing * (next - a.limit)
	a.limit = min(max(a.limit, a.floor), a.ceiling)
}

// learn takes the latency of a window for that without a queue, where there can
// be none.
func (a *adaptive) learn(latency float64, used bool) {
	share := 0.0
	switch {
	case a.unqueued == 0:
		share = 1
	case latency < a.unqueued:
		share = 0.1 // with more, a few lucky ones would become the norm
	case a.limit == a.floor:
		share = 0.2
	case !used:
		share = 0.02 // in seconds, as an overload that comes passes through here, too
	}
	a.unqueued += share * (latency - a.unqueued)
}
