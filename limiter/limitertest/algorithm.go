package limitertest

import (
	"time"

	"github.com/goweir/weir/limiter"
)

// An algorithm is what the checks know of one way of counting: what it
// promises, and a naive reference for it.
type algorithm struct {
	is limiter.Algorithm

	// windowed says that units are counted by windows, which are as long as
	// the policy says: they have no Burst, and another Window is another quota.
	windowed bool

	// spans is the number of windows in which all units are back.
	spans time.Duration

	// turns says that charges with MaxDelay reserve turns, in the order of
	// arrival.
	turns bool

	// capacity returns how many units may pass at one instant.
	capacity func(limiter.Policy) int

	// patience returns the longest Delay that may be given to a charge, if a
	// charge may cost so much too much.
	patience func(c limiter.Charge, rounding time.Duration) time.Duration

	// turn returns when Wait will have charged what r has refused.
	turn func(r limiter.Result) time.Duration

	// pace returns the number of units in each Window, evenly, that are never
	// refused.
	pace func(limiter.Policy) int

	// most returns how many units may pass in a time at most.
	most func(limiter.Policy, time.Duration) int64

	// ledger returns a judge of what was admitted.
	ledger func(limiter.Policy) ledger

	// own are the checks of this algorithm alone.
	own []check

	// model returns the reference, of a quota that is whole.
	model func() model
}

// A ledger adds up what was admitted, in the order of arrival.
type ledger interface {
	// admit reports whether a charge is within the promise that was admitted
	// at a time, to go on after delay. early and late are the bounds of that
	// time; in a bubble they are equal.
	admit(early, late, delay time.Duration, cost int) bool
}

// A model is the state of one quota, counted as the algorithm's description
// says, without any cleverness and without rounding. Times are Unix times in
// nanoseconds.
type model interface {
	take(now int64, c limiter.Charge) (limiter.Result, receipt)
	refund(now int64, c limiter.Charge, r receipt)
	reset(now int64)
}

// A receipt is a model's own. nil took nothing.
type receipt any

// algorithms are those of package limiter.
var algorithms = []*algorithm{tokenBucket, leakyBucket, fixedWindow, slidingWindow, slidingLog}

// burstOf is the capacity of a bucket.
func burstOf(p limiter.Policy) int {
	if p.Burst == 0 {
		return p.Limit
	}
	return p.Burst
}
