package crosstest

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/goweir/weir/limiter"
)

// The token bucket is compared with golang.org/x/time/rate, fed with the same
// charges at the same instants by one goroutine (with more, x/time/rate is
// wrong: golang/go#65508). Where both do the same thing, they must do it
// equally, up to rounding, which is allowed in one direction only:
//
//   - Never: admitted here, refused there.
//   - Refused here, admitted there, if it is admitted here after no more than
//     the drift below and a nanosecond. The nanosecond is theirs: they cut a
//     wait to whole nanoseconds, so a wait of less than one is none. Float
//     errors stay well below it for the capacities that are drawn.
//   - A Delay here is longer than theirs by no more than that, the drift being
//     that at the end of the wait.
//
// The drift is how far this bucket is behind an exact one. It is nothing while
// the quota is whole, and from then on
//
//   - where a unit lasts 1 µs or more, it is priced at Window/Limit rounded up
//     to a nanosecond: the time since then, multiplied by the excess of that
//     price, which is nothing if Limit divides Window and else below 0.1 %;
//   - where it is shorter, a charge is priced at Cost*Window/Limit rounded up
//     and the capacity rounded down: below one nanosecond a charge, and one.
//
// What differs on purpose is not compared: a Limit of 0 (there, a burst passes
// once), Cost 0 while callers wait, cancelling, and changing the limit.
type rounding struct {
	policy limiter.Policy
	burst  int
	unit   int64 // of the price, in nanoseconds; 0: priced by the ratio

	wholeAt time.Time // the last instant at which the quota was seen whole
	charges int64     // since then
}

func newRounding(p limiter.Policy) *rounding {
	r := &rounding{policy: p, burst: p.Burst, wholeAt: time.Now()}
	if r.burst == 0 {
		r.burst = p.Limit
	}
	if int64(p.Window)/int64(p.Limit) >= 1000 {
		r.unit = (int64(p.Window) + int64(p.Limit) - 1) / int64(p.Limit)
	}
	return r
}

// drift returns how many nanoseconds the bucket may be behind an exact one at a
// time that is ahead of now.
func (r *rounding) drift(ahead time.Duration) time.Duration {
	if r.unit == 0 {
		return time.Duration(r.charges + 1)
	}
	excess := big.NewInt(r.unit*int64(r.policy.Limit) - int64(r.policy.Window))
	excess.Mul(excess, big.NewInt(int64(time.Since(r.wholeAt)+ahead)))
	window := big.NewInt(int64(r.policy.Window))
	excess.Add(excess, window).Sub(excess, big.NewInt(1)) // rounded up
	return time.Duration(excess.Div(excess, window).Int64())
}

// allowed is the drift and their nanosecond, for something due now or later.
func (r *rounding) allowed(ahead time.Duration) time.Duration { return r.drift(ahead) + 1 }

// see takes note of a state before anything is charged.
func (r *rounding) see(resetAfter time.Duration) {
	if resetAfter <= 0 {
		r.wholeAt, r.charges = time.Now(), 0
	}
}

// maxCapacity keeps the float errors of x/time/rate small: a number of tokens is
// right to 2^-53 of the burst, so its time to 2^-53 of the capacity, and a few
// hundred such errors are a fraction of a nanosecond.
const maxCapacity = 1 << 42

// quota draws whole and broken units, fine and coarse, and capacities above and
// below the Limit.
func quota(rnd *rand.Rand) limiter.Policy {
	windows := []time.Duration{time.Millisecond, time.Second, 7 * time.Second, time.Minute, time.Hour}
	limits := []int{1, 2, 3, 7, 10, 60, 100, 999, 1000, 10_000, 999_983, 1_000_000, 300_000_000}
	p := limiter.Policy{Name: "p", Limit: limits[rnd.IntN(len(limits))], Window: windows[rnd.IntN(len(windows))]}
	if rnd.IntN(2) == 0 || p.Window > maxCapacity {
		most := maxCapacity / (int64(p.Window)/int64(p.Limit) + 1)
		p.Burst = 1 + rnd.IntN(int(min(max(most, 1), int64(2*min(p.Limit, 1000)))))
	}
	return p
}

// tally counts decisions of traces.
type tally struct{ decisions, admitted, rounded int }

// compareWithRate is a random walk, driven by one number so that a failure can
// be repeated.
func compareWithRate(t *testing.T, seed uint64, steps int) (sum tally) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		p := quota(rnd)
		mem := limiter.NewMemory(nil)
		r := newRounding(p)
		std := rate.NewLimiter(rate.Limit(float64(p.Limit)/p.Window.Seconds()), r.burst)
		unit := time.Duration(max(1, int64(p.Window)/int64(p.Limit)))

		take := func(cost int, maxDelay time.Duration) limiter.Result {
			t.Helper()
			res, err := mem.Take(t.Context(), limiter.Charge{Policy: p, Key: "k", Cost: cost, MaxDelay: maxDelay})
			if err != nil {
				t.Fatal(err)
			}
			return res
		}
		for i := range steps {
			fail := func(format string, args ...any) {
				t.Helper()
				t.Errorf("seed %d, step %d: %d per %v, burst %d", seed, i, p.Limit, p.Window, r.burst)
				t.Fatalf(format, args...)
			}
			switch rnd.IntN(8) {
			case 0, 1, 2:
				time.Sleep(time.Duration(rnd.Int64N(2*int64(unit) + 2)))
			case 3:
				time.Sleep(unit * time.Duration(rnd.IntN(4))) // hit the edges
			case 4:
				time.Sleep(time.Duration(rnd.Int64N(min(int64(unit)*int64(r.burst), maxCapacity) + 1)))
			}
			look := take(0, 0)
			r.see(look.ResetAfter)
			compareRemaining(fail, look, std.TokensAt(time.Now()), r, take)

			cost := 1 + rnd.IntN(3)
			if rnd.IntN(4) == 0 {
				cost = 1 + rnd.IntN(r.burst+1)
			}
			sum.decisions++
			if rnd.IntN(8) == 0 {
				ours := take(cost, math.MaxInt64)
				theirs := std.ReserveN(time.Now(), cost)
				if ours.Allowed != theirs.OK() {
					fail("waiting for %d: %+v; theirs %v", cost, ours, theirs.OK())
				}
				if !ours.Allowed {
					continue
				}
				r.charges++
				sum.admitted++
				if late := ours.Delay - theirs.DelayFrom(time.Now()); late < 0 || late > r.allowed(ours.Delay) {
					fail("waiting for %d: %v later than theirs, allowed are 0 to %v", cost, late, r.allowed(ours.Delay))
				}
				continue
			}
			ours := take(cost, 0)
			theirs := std.AllowN(time.Now(), cost)
			switch {
			case ours.Allowed && theirs:
			case !ours.Allowed && !theirs:
				continue
			case ours.Allowed:
				fail("cost %d: admitted here, refused there with %v tokens", cost, std.TokensAt(time.Now()))
			default:
				// Theirs has taken the units, so this one must have them too.
				if ours.RetryAfter > r.allowed(0) {
					fail("cost %d: admitted there, here only after %v; allowed is %v", cost, ours.RetryAfter, r.allowed(0))
				}
				sum.rounded++
				time.Sleep(ours.RetryAfter)
				if res := take(cost, 0); !res.Allowed {
					fail("cost %d: refused after RetryAfter: %+v", cost, res)
				}
			}
			r.charges++
			sum.admitted++
		}
	})
	return sum
}

// compareRemaining holds Remaining against a number of tokens. A unit more there
// must come here within the rounding.
func compareRemaining(fail func(string, ...any), look limiter.Result, tokens float64, r *rounding, take func(int, time.Duration) limiter.Result) {
	nanosecond := float64(r.policy.Limit) / float64(r.policy.Window) // in tokens
	if most := math.Floor(tokens + nanosecond); float64(look.Remaining) > max(0, most) {
		fail("%d remain, theirs are %v", look.Remaining, tokens)
	}
	if theirs := int(max(0, tokens)); look.Remaining < theirs {
		// Refused, so it changes nothing.
		next := take(look.Remaining+1, 0)
		if next.Allowed || next.RetryAfter > r.allowed(0) {
			fail("%d remain and another after %v, theirs are %v; allowed is %v", look.Remaining, next.RetryAfter, tokens, r.allowed(0))
		}
	}
}

func TestAgainstXTimeRate(t *testing.T) {
	traces := uint64(2000)
	if testing.Short() {
		traces = 200
	}
	var sum tally
	for seed := range traces {
		one := compareWithRate(t, seed, 200)
		sum.decisions += one.decisions
		sum.admitted += one.admitted
		sum.rounded += one.rounded
	}
	t.Logf("%d decisions, %d admitted, %d of them later by rounding", sum.decisions, sum.admitted, sum.rounded)
	if sum.admitted < sum.decisions/10 || sum.admitted > sum.decisions*9/10 {
		t.Errorf("%d of %d admitted: these traces do not test much", sum.admitted, sum.decisions)
	}
}

func FuzzAgainstXTimeRate(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) { compareWithRate(t, seed, 300) })
}
