// Package limitertest checks that a [limiter.Limiter] keeps its contract. It is
// for those who implement one:
//
//	func TestLimiter(t *testing.T) {
//		limitertest.Run(t, func(t *testing.T) limiter.Limiter {
//			return mylimiter.New()
//		}, nil)
//	}
//
// [Run] runs every check as a subtest of its own, under the name of the
// algorithm, each on a fresh Limiter: tables of known answers, a comparison
// with a naive reference on random traces, an upper bound on whatever was
// admitted, many goroutines, hostile keys, extreme parameters, several charges
// at once, refunds by any schedule, turns and waiting. With -short it tries
// fewer random schedules.
//
// # Whose clock
//
// A Limiter that keeps time by package time, in this process and without
// sockets, is tested in bubbles of testing/synctest, which Run makes, one for
// each check: time stands still unless everybody sleeps, comparisons are exact
// to Options.Rounding, and years take no time. Such a Limiter must leave no
// goroutine behind when its check ends; register its end with t.Cleanup.
//
// A Limiter whose state or clock is elsewhere, on a server say, is tested with
// Options.RealTime. Then the checks really wait, with windows of a fraction of
// a second, and comparisons allow for Options.Tolerance. What cannot be told
// from jitter is left out: the comparison with the reference, refusals a moment
// before RetryAfter has passed, and what takes years.
//
// # What a Limiter may do
//
// In a TakeAll that is refused because of an earlier refusal that still holds
// (limiter.SourceDenyCache), the other Results need not say anything. Where
// callers stood behind each other, a Refund may give back less than was taken,
// but never more. MoreAfter may be 0, which means that it is not known.
package limitertest

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/limiter"
)

// DefaultTolerance is Options.Tolerance if that is 0.
const DefaultTolerance = 10 * time.Millisecond

// Options are the options of [Run].
type Options struct {
	// Algorithms are those that the Limiter can count by. nil means all.
	Algorithms []limiter.Algorithm

	// RealTime says that the Limiter does not keep time by this process's
	// package time, or does I/O: checks then really wait, many of them at
	// once. It takes some seconds for each algorithm.
	RealTime bool

	// Tolerance is how late an answer may come under RealTime. A second of the
	// tables lasts 20 times as long. A check that fails after answers came
	// later, or the clock was set, is repeated with twice the tolerance, up to
	// 4 times, and then 11 times more with the last. 0 means
	// DefaultTolerance; without RealTime it does not matter.
	Tolerance time.Duration

	// Rounding is how much more than Cost*Window/Limit, in time, a charge may
	// cost, and how much later than necessary an answer may say that something
	// is. A thousandth of it is allowed in any case; nothing is allowed in the
	// other direction, in favour of the caller. 0 means one nanosecond.
	Rounding time.Duration

	// TakeAllInSteps says that a TakeAll of several quotas is not one step:
	// while another caller's is under way, a charge may be refused that would
	// fit, and what is given back after a refusal may be less than was taken if
	// others came in between. Results of quotas that were not asked, because
	// one before them refused, may be without a Source. One call alone leaves
	// nothing taken after a refusal nevertheless.
	TakeAllInSteps bool
}

// Run checks the Limiters that open returns. Each must be empty and
// independent of the others (a prefix of its own, on a shared server); open is
// called in each subtest, with that subtest's t, and ends what it began by
// t.Cleanup. nil means default options.
//
// Run panics if Algorithms has one that package limiter does not know, and if
// Tolerance or Rounding is negative.
func Run(t *testing.T, open func(t *testing.T) limiter.Limiter, opts *Options) {
	t.Helper()
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Tolerance < 0 || o.Rounding < 0 {
		panic(fmt.Sprintf("limitertest: Run: Tolerance is %v and Rounding %v; allowed: 0 (the default) or more", o.Tolerance, o.Rounding))
	}
	o.Tolerance = cmp.Or(o.Tolerance, DefaultTolerance)
	o.Rounding = cmp.Or(o.Rounding, time.Nanosecond)
	if o.Algorithms == nil {
		for _, a := range algorithms {
			o.Algorithms = append(o.Algorithms, a.is)
		}
	}
	for _, is := range o.Algorithms {
		i := slices.IndexFunc(algorithms, func(a *algorithm) bool { return a.is == is })
		if i < 0 {
			panic(fmt.Sprintf("limitertest: Run: Algorithms has %v, which package limiter does not know", is))
		}
		t.Run(is.String(), func(t *testing.T) {
			s := suite{open: open, opts: o, algorithm: algorithms[i]}
			s.run(t, slices.Concat(checks, s.algorithm.own))
		})
	}
}

// A check is one subtest.
type check struct {
	name string
	run  func(*trial)

	exact bool // only in a bubble: it needs exact time, or very much of it
	busy  bool // always in real time, outside of bubbles, and alone
}

// checks are all checks, in the order in which they begin. Those that keep
// the machine busy come first, because under RealTime those that sleep run
// together.
var checks = slices.Concat(contentionChecks, admissionChecks, resultChecks, denialChecks, keyChecks,
	changeChecks, takeAllChecks, refundChecks, waitChecks, extremeChecks, traceChecks)

type suite struct {
	open      func(*testing.T) limiter.Limiter
	opts      Options
	algorithm *algorithm
}

// atOnce is how many checks run at once in real time. Most of them sleep most
// of the time, so more than -parallel would let.
const atOnce = 16

func (s *suite) run(t *testing.T, checks []check) {
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, atOnce)
	for _, c := range checks {
		switch {
		case !s.opts.RealTime || c.busy:
			t.Run(c.name, func(t *testing.T) { s.check(t, &c) })
		case !c.exact:
			places <- struct{}{}
			wg.Go(func() {
				t.Run(c.name, func(t *testing.T) { s.check(t, &c) })
				<-places
			})
		}
	}
}

// attempts is how often a check is tried while answers come late, or somebody
// sets the machine's clock, which the windows of a server follow: the first few
// each at half the pace of the one before.
const attempts, paces = 16, 5

func (s *suite) check(t *testing.T, c *check) {
	switch {
	case c.busy:
		s.attempt(t, c, time.Second, 0).report()
	case !s.opts.RealTime:
		synctest.Test(t, func(t *testing.T) { s.attempt(t, c, time.Second, 0).report() })
	default:
		tolerance := s.opts.Tolerance
		for i := 1; ; i++ {
			origin := time.Now()
			x := s.attempt(t, c, 20*tolerance, tolerance)
			onTime := x.late == 0 && wallClockStep(origin) <= time.Millisecond
			if onTime || len(x.faults) == 0 || i == attempts {
				x.report()
				return
			}
			if i < paces {
				tolerance *= 2
			}
		}
	}
}

func (s *suite) attempt(t *testing.T, c *check, second, tolerance time.Duration) *trial {
	x := &trial{
		t: t, l: s.open(t), algorithm: s.algorithm, opts: &s.opts,
		second: second, tolerance: tolerance,
	}
	x.begin()
	x.run(c)
	return x
}

// wallClockStep returns by how much the wall clock was set, one way or the other,
// against the monotonic one since origin. Being interrupted between reading the
// one and the other looks the same, so the least of several looks counts.
func wallClockStep(origin time.Time) time.Duration {
	least := time.Duration(math.MaxInt64)
	for range 10 {
		now := time.Now()
		least = min(least, (now.Round(0).Sub(origin.Round(0)) - now.Sub(origin)).Abs())
	}
	return least
}
