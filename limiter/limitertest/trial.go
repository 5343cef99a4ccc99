package limitertest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

// A trial is one attempt at one check. Its faults are not those of t until it
// is known that time was kept.
//
// Time is nominal: at a step of the tables, the real time since begin is later
// by up to lags+1 times the tolerance, and between two steps it is never less
// than the tables say. Nothing a Limiter gives back with time is missing then.
type trial struct {
	t         *testing.T
	l         limiter.Limiter
	algorithm *algorithm
	opts      *Options

	second    time.Duration // what a second of the tables lasts
	tolerance time.Duration // 0 in a bubble, and for what does not depend on time
	start     time.Time
	at        time.Duration // nominal time since start
	due       time.Time     // when the step should have begun; zero: it does not matter
	lags      time.Duration // steps since start

	mu     sync.Mutex
	faults []string
	late   time.Duration // how much later than tolerated an answer came, at most
}

// abandoned ends a trial.
type abandoned struct{}

func (x *trial) run(c *check) {
	defer func() {
		if r := recover(); r != nil && r != any(abandoned{}) {
			panic(r)
		}
	}()
	c.run(x)
}

func (x *trial) report() {
	x.t.Helper()
	if len(x.faults) > 0 && x.late > 0 {
		x.t.Logf("answers came up to %v later than the tolerance of %v", x.late, x.tolerance)
	}
	for _, f := range x.faults {
		x.t.Error(f)
	}
}

// errorf notes a fault. The first few tell enough.
func (x *trial) errorf(format string, args ...any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.faults) < 5 {
		x.faults = append(x.faults, fmt.Sprintf("at %v: ", x.at)+fmt.Sprintf(format, args...))
	}
}

// fatalf notes a fault and ends the trial. Only the trial's goroutine may.
func (x *trial) fatalf(format string, args ...any) {
	x.errorf(format, args...)
	panic(abandoned{})
}

func (x *trial) ctx() context.Context { return x.t.Context() }

// begin makes now the time 0 of a table.
func (x *trial) begin() {
	x.start, x.at, x.lags = time.Now(), 0, 0
	x.due = x.start
}

// untimed says that the rest of the check does not depend on how long it takes.
func (x *trial) untimed() { x.due = time.Time{} }

// of returns what d lasts, a time of the tables.
func (x *trial) of(d time.Duration) time.Duration {
	return time.Duration(float64(d) / float64(time.Second) * float64(x.second))
}

// until sleeps until at, a real time since begin.
func (x *trial) until(at time.Duration) {
	if at <= x.at {
		return
	}
	x.at = at
	x.lags++
	x.due = x.start.Add(at + x.lags*x.tolerance)
	time.Sleep(time.Until(x.due))
}

// sleep sleeps for d, a real time.
func (x *trial) sleep(d time.Duration) { x.until(x.at + d) }

// pause sleeps for exactly d, as a client does who was told to.
func (x *trial) pause(d time.Duration) {
	if d > 2*century {
		x.fatalf("told to come back in %v", d)
	}
	time.Sleep(d)
	x.begin()
}

// align sleeps until a quota would be whole that was used just now. Where units
// are counted in windows, one begins then.
func (x *trial) align(p limiter.Policy) {
	c := of(p, 1)
	c.Policy.Name += ", to align"
	x.pause(x.take(c).ResetAfter)
}

// answered notes how late an answer is.
func (x *trial) answered() {
	if x.tolerance == 0 || x.due.IsZero() {
		return
	}
	late := time.Since(x.due) - x.tolerance
	x.mu.Lock()
	x.late = max(x.late, late)
	x.mu.Unlock()
}

// slack is how far answers may be from the tables for want of exact time.
func (x *trial) slack() time.Duration {
	if x.tolerance == 0 {
		return 0
	}
	return (x.lags + 1) * x.tolerance
}

// near reports whether a duration is as wanted, but for time and rounding.
func (x *trial) near(got, want time.Duration) bool {
	if want == limiter.Never || got == limiter.Never || got < 0 {
		return got == want
	}
	return got >= want-x.slack() && got-x.slack()-x.opts.Rounding-want/1000 <= want
}

// schedules returns how many random schedules to try: so many, fewer with -short,
// and few where they take time.
func (x *trial) schedules(n, inRealTime uint64) uint64 {
	switch {
	case x.tolerance > 0:
		return inRealTime
	case testing.Short():
		return n / 4
	}
	return n
}

// policy returns a policy called "p". window is a real time. burst 0 is the same
// as limit; it does not matter where there is none.
func (x *trial) policy(limit int, window time.Duration, burst int) limiter.Policy {
	if x.algorithm.windowed {
		burst = 0
	}
	return limiter.Policy{Name: "p", Algorithm: x.algorithm.is, Limit: limit, Window: window, Burst: burst}
}

// slow is a window that gives nothing back while a check that does not sleep
// runs.
const slow = 1000 * time.Hour

// still returns a policy of n units that do not come back meanwhile.
func (x *trial) still(name string, n int) limiter.Policy {
	p := x.policy(n, slow, 0)
	p.Name = name
	return p
}

// of returns a charge of cost units to the key "k".
func of(p limiter.Policy, cost int) limiter.Charge {
	return limiter.Charge{Policy: p, Key: "k", Cost: cost}
}

// brief keeps long keys out of messages.
func brief(c limiter.Charge) string {
	if len(c.Key) > 40 {
		c.Key = fmt.Sprintf("%s... (%d bytes)", c.Key[:40], len(c.Key))
	}
	return fmt.Sprintf("%+v", c)
}

// take charges c and holds the Result against the rules that every Result
// keeps.
func (x *trial) take(c limiter.Charge) limiter.Result {
	r, err := x.l.Take(x.ctx(), c)
	x.answered()
	if err != nil {
		x.fatalf("Take(%s): %v", brief(c), err)
	}
	x.consistent(c, r, x.never([]limiter.Charge{c}))
	return r
}

// try is take for goroutines.
func (x *trial) try(c limiter.Charge) (r limiter.Result, ok bool) {
	r, err := x.l.Take(x.ctx(), c)
	if err != nil {
		x.errorf("Take(%s): %v", brief(c), err)
		return r, false
	}
	x.consistent(c, r, x.never([]limiter.Charge{c}))
	return r, true
}

func (x *trial) takeAll(cs ...limiter.Charge) []limiter.Result {
	rs, ok := x.tryAll(cs)
	if !ok {
		panic(abandoned{})
	}
	return rs
}

// tryAll is takeAll for goroutines.
func (x *trial) tryAll(cs []limiter.Charge) ([]limiter.Result, bool) {
	rs, err := x.l.TakeAll(x.ctx(), cs)
	x.answered()
	if err != nil {
		x.errorf("TakeAll of %d charges: %v", len(cs), err)
		return nil, false
	}
	if len(rs) != len(cs) {
		x.errorf("TakeAll of %d charges has %d results", len(cs), len(rs))
		return nil, false
	}
	all := passed(rs)
	for i := range rs {
		if !all && x.unasked(rs[i]) && rs[i].RetryAfter == 0 {
			continue // nobody asked for this one
		}
		if all || !rs[i].Allowed {
			x.consistent(cs[i], rs[i], x.never(cs[:i+1]))
		} else if rs[i].Receipt != (limiter.Receipt{}) {
			x.errorf("TakeAll was refused, but result %d has a receipt: %+v", i, rs[i])
		}
	}
	return rs, true
}

// never reports whether the last of cs can never fit, together with those
// before it that charge the same quota and would fit.
func (x *trial) never(cs []limiter.Charge) bool {
	last := cs[len(cs)-1]
	free := x.capacity(last.Policy)
	for _, c := range cs[:len(cs)-1] {
		if c.Key == last.Key && c.Policy.Name == last.Policy.Name && c.Cost <= free {
			free -= c.Cost
		}
	}
	return last.Policy.Limit == 0 || last.Cost > free
}

// passed reports whether all of rs are allowed.
func passed(rs []limiter.Result) bool {
	for i := range rs {
		if !rs[i].Allowed {
			return false
		}
	}
	return true
}

func (x *trial) refund(c limiter.Charge, r *limiter.Result) {
	err := x.l.Refund(x.ctx(), c, r)
	x.answered()
	if err != nil {
		x.fatalf("Refund(%s): %v", brief(c), err)
	}
	if r.Receipt != (limiter.Receipt{}) {
		x.errorf("Refund(%s) left the receipt: %+v", brief(c), r.Receipt)
	}
}

func (x *trial) reset(c limiter.Charge) {
	err := x.l.Reset(x.ctx(), c)
	x.answered()
	if err != nil {
		x.fatalf("Reset(%s): %v", brief(c), err)
	}
}

func (x *trial) allowed(c limiter.Charge) limiter.Result {
	r := x.take(c)
	if !r.Allowed {
		x.fatalf("Take(%s) = %+v, want it allowed", brief(c), r)
	}
	return r
}

func (x *trial) denied(c limiter.Charge) limiter.Result {
	r := x.take(c)
	if r.Allowed {
		x.fatalf("Take(%s) = %+v, want it denied", brief(c), r)
	}
	return r
}

// remaining looks at the quota of c.
func (x *trial) remaining(c limiter.Charge, want int) {
	c.Cost, c.MaxDelay = 0, 0
	if r := x.take(c); r.Remaining != want {
		x.fatalf("a look at the quota of %s: %+v, want %d remaining", brief(c), r, want)
	}
}

// capacity is how many units of p may pass at one instant.
func (x *trial) capacity(p limiter.Policy) int { return x.algorithm.capacity(p) }

// consistent holds r against the rules that every Result keeps. never says that
// c can never fit.
func (x *trial) consistent(c limiter.Charge, r limiter.Result, never bool) {
	fault := ""
	capacity := x.capacity(c.Policy)
	switch {
	case r.Limit != c.Policy.Limit:
		fault = "Limit is not the policy's"
	case r.Source == 0:
		fault = "Source says that nobody decided"
	case r.Remaining < 0 || r.Remaining > capacity:
		fault = fmt.Sprintf("Remaining is outside 0 to %d", capacity)
	case r.ResetAfter < 0 || r.RetryAfter < 0 || r.Delay < 0:
		fault = "a time is negative"
	case r.Remaining < capacity && c.Policy.Limit > 0 && r.ResetAfter == 0:
		fault = "ResetAfter is 0 although units are missing"
	case r.MoreAfter < 0 || r.MoreAfter-x.opts.Rounding > r.ResetAfter:
		fault = "MoreAfter is not between 0 and ResetAfter"
	case !r.Allowed && r.RetryAfter == 0:
		fault = "RetryAfter of a denial is 0"
	case !r.Allowed && never != (r.RetryAfter == limiter.Never):
		fault = "RetryAfter is Never if, and only if, the charge can never fit"
	case !r.Allowed && (r.Delay != 0 || r.Receipt != limiter.Receipt{}):
		fault = "a denial has a Delay or a Receipt"
	case !r.Allowed && !never && r.RetryAfter-x.opts.Rounding-r.ResetAfter/1000 > r.ResetAfter:
		fault = "RetryAfter is later than ResetAfter, when everything fits"
	case r.Allowed && never && (c.Cost > 0 || c.Policy.Limit == 0):
		fault = "a charge that can never fit is allowed"
	case r.Allowed && c.Cost > 0 && r.RetryAfter != 0:
		fault = "RetryAfter of what is allowed is not 0"
	case r.Allowed && c.Cost > 0 && r.ResetAfter == 0:
		fault = "ResetAfter is 0 although units were taken"
	case r.Allowed && c.Cost == 0 && (r.Delay != 0 || r.Receipt != limiter.Receipt{}):
		fault = "a look has a Delay or a Receipt"
	case r.Allowed && c.Cost == 0 && (r.RetryAfter > 0) != (r.Remaining == 0):
		fault = "RetryAfter of a look is not 0 if, and only if, a unit would fit"
	case r.Delay > 0 && r.Delay > x.algorithm.patience(c, x.opts.Rounding):
		fault = "Delay is longer than the caller would wait"
	default:
		return
	}
	x.errorf("Take(%s) = %+v: %s", brief(c), r, fault)
}
