package limitertest

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/goweir/weir/limiter"
)

var fixedWindow = &algorithm{
	is:       limiter.FixedWindow,
	windowed: true,
	spans:    1,
	capacity: limitOf,
	patience: noPatience,
	turn:     retryAfter,
	pace:     limitOf,
	most:     mostOfWindows,
	ledger: func(p limiter.Policy) ledger {
		// Around an edge, the units of two windows may come together.
		return &windowLedger{window: p.Window, most: func(time.Duration) int64 { return 2 * int64(p.Limit) }}
	},
	model: func() model { return &windowModel{used: usedInWindow} },
	own:   append([]check{{name: "edges", run: edges, exact: true}}, windowChecks...),
}

var slidingWindow = &algorithm{
	is:       limiter.SlidingWindow,
	windowed: true,
	spans:    2,
	capacity: limitOf,
	patience: noPatience,
	turn:     retryAfter,
	pace:     func(p limiter.Policy) int { return max(1, p.Limit-1) },
	most:     mostOfWindows,
	ledger: func(p limiter.Policy) ledger {
		return &windowLedger{window: p.Window, most: func(d time.Duration) int64 {
			return int64(p.Limit) + share(int64(p.Limit), int64(d), int64(p.Window))
		}}
	},
	model: func() model { return &windowModel{used: usedSliding} },
	own:   windowChecks,
}

var slidingLog = &algorithm{
	is:       limiter.SlidingLog,
	windowed: true,
	spans:    1,
	capacity: limitOf,
	patience: noPatience,
	turn:     retryAfter,
	pace:     limitOf,
	most: func(p limiter.Policy, d time.Duration) int64 {
		return int64(p.Limit) * (int64(d/p.Window) + 1)
	},
	ledger: func(p limiter.Policy) ledger {
		return &windowLedger{window: p.Window, most: func(time.Duration) int64 { return int64(p.Limit) }}
	},
	model: func() model { return &windowModel{used: usedInLog} },
	own:   windowChecks,
}

var windowChecks = []check{
	{name: "more", run: more},
	{name: "no turns", run: noTurns},
}

func limitOf(p limiter.Policy) int { return p.Limit }

func noPatience(limiter.Charge, time.Duration) time.Duration { return 0 }

func retryAfter(r limiter.Result) time.Duration { return r.RetryAfter }

// mostOfWindows is Limit in each window that a time may touch.
func mostOfWindows(p limiter.Policy, d time.Duration) int64 {
	return int64(p.Limit) * (int64(d/p.Window) + 2)
}

// share returns n*part/all, rounded up.
func share(n, part, all int64) int64 {
	hi, lo := bits.Mul64(uint64(n), uint64(part))
	lo, carry := bits.Add64(lo, uint64(all)-1, 0)
	quo, _ := bits.Div64(hi+carry, lo, uint64(all))
	return int64(quo)
}

// A windowLedger lists what was admitted, and looks back from each charge over
// all times that are shorter than a window.
type windowLedger struct {
	window time.Duration
	most   func(d time.Duration) int64 // what may pass in d
	early  []time.Duration
	units  []int64
}

func (l *windowLedger) admit(early, late, _ time.Duration, units int) bool {
	l.early, l.units = append(l.early, early), append(l.units, int64(units))
	var total int64
	for i, at := range slices.Backward(l.early) {
		d := late - at
		if d >= l.window {
			break
		}
		if total += l.units[i]; total > l.most(d) {
			return false
		}
	}
	return true
}

// A windowModel is a list of all that was admitted, in Unix time.
type windowModel struct {
	used   func(events []*event, now, window int64) int64 // how many units weigh
	events []*event
}

type event struct{ at, units int64 }

// usedInWindow counts what came in the window that is now, aligned to the Unix
// epoch.
func usedInWindow(events []*event, now, window int64) (n int64) {
	for _, e := range events {
		if e.at/window == now/window {
			n += e.units
		}
	}
	return n
}

// usedSliding adds the part of what came in the window before that is as large
// as the part of that which is less than a window ago.
func usedSliding(events []*event, now, window int64) int64 {
	before := int64(0)
	for _, e := range events {
		if e.at/window == now/window-1 {
			before += e.units
		}
	}
	return usedInWindow(events, now, window) + share(before, window-now%window, window)
}

// usedInLog counts what came less than a window ago.
func usedInLog(events []*event, now, window int64) (n int64) {
	for _, e := range events {
		if now-e.at < window {
			n += e.units
		}
	}
	return n
}

// until returns how long it takes from now until at most n units weigh. What
// weighs never grows by itself.
func (m *windowModel) until(now, window, n int64) time.Duration {
	lo, hi := int64(-1), 2*window
	for hi-lo > 1 {
		if mid := lo + (hi-lo)/2; m.used(m.events, now+mid, window) <= n {
			hi = mid
		} else {
			lo = mid
		}
	}
	return time.Duration(hi)
}

func (m *windowModel) take(now int64, c limiter.Charge) (limiter.Result, receipt) {
	window, limit := int64(c.Policy.Window), int64(c.Policy.Limit)
	m.events = slices.DeleteFunc(m.events, func(e *event) bool { return now-e.at > 2*window })
	r := limiter.Result{Limit: c.Policy.Limit}
	var got receipt
	switch used := m.used(m.events, now, window); {
	case int64(c.Cost) > limit:
		r.RetryAfter = limiter.Never
	case c.Cost == 0:
		r.Allowed = true
		r.RetryAfter = m.until(now, window, limit-1)
	case used+int64(c.Cost) > limit:
		r.RetryAfter = m.until(now, window, limit-int64(c.Cost))
	default:
		r.Allowed = true
		e := &event{now, int64(c.Cost)}
		m.events, got = append(m.events, e), e
	}
	used := m.used(m.events, now, window)
	r.Remaining = int(max(0, limit-used))
	r.ResetAfter = m.until(now, window, 0)
	if used > 0 {
		// Where Limit was lowered, what weighs beyond it has to go first.
		r.MoreAfter = m.until(now, window, min(used, limit)-1)
	}
	return r, got
}

func (m *windowModel) refund(_ int64, _ limiter.Charge, r receipt) { r.(*event).units = 0 }

func (m *windowModel) reset(int64) { m.events = nil }

// edges takes all before an edge between two windows and all after it.
func edges(x *trial) {
	p := x.policy(5, time.Minute, 0)
	into := time.Duration(time.Now().UnixNano() % int64(time.Minute))
	time.Sleep(time.Minute - into - time.Second)
	for range 3 {
		if r := x.allowed(of(p, 5)); r.ResetAfter != time.Second {
			x.errorf("Take a second before the edge = %+v, want ResetAfter 1s", r)
		}
		if r := x.denied(of(p, 1)); r.RetryAfter != time.Second {
			x.errorf("Take a second before the edge = %+v, want RetryAfter 1s", r)
		}
		time.Sleep(time.Second - time.Microsecond)
		x.denied(of(p, 1))
		time.Sleep(time.Microsecond)
		x.remaining(of(p, 0), 5)
		x.allowed(of(p, 5))
		x.denied(of(p, 1))
		time.Sleep(2*time.Minute - time.Second)
	}
}

// more sleeps for MoreAfter.
func more(x *trial) {
	x.schedule(13, func(c limiter.Charge, _ *rand.Rand) {
		for range 3 {
			r := x.take(c)
			if r.MoreAfter == 0 {
				continue
			}
			x.pause(r.MoreAfter)
			look := c
			look.Cost = 0
			if now := x.take(look); now.Remaining <= r.Remaining {
				x.fatalf("Take(%s) = %+v; when MoreAfter had passed, a look = %+v, want more remaining", brief(c), r, now)
			}
		}
	})
}

// noTurns asks with patience, which is of no use where units come back at once.
func noTurns(x *trial) {
	x.untimed()
	c := of(x.still("p", 3), 1)
	c.MaxDelay = 2 * slow
	for range 3 {
		x.allowed(c)
	}
	patient := x.denied(c)
	c.MaxDelay = 0
	if r := x.denied(c); !alike(r.RetryAfter, patient.RetryAfter) {
		x.errorf("RetryAfter with patience %v, without %v", patient.RetryAfter, r.RetryAfter)
	}
}
