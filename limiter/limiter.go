// Package limiter decides how much may pass: quotas of requests (or of any
// other unit) per time and key, several of them in one decision.
//
// A [Policy] is a quota, a [Charge] asks for some of it, a [Limiter] holds the
// state and answers with a [Result]. [NewMemory] makes the Limiter of one
// process. For HTTP, [Rules] say which requests are charged to what, and
// [Middleware] enforces them; [Check] decides without writing a response.
//
// Place the middleware behind whatever establishes the key. A limit by address
// needs the client's address resolved first (package clientip); a limit by
// account needs the account authenticated first, or a stranger can use up
// somebody else's quota by claiming to be them.
//
// Bytes per second are another matter: a [Bandwidth] refuses nothing but slows
// bodies down.
//
// Mistakes that nobody notices until it matters are warned of, once a process, by
// slog's default logger: a limiter that is made for each request, a request that
// is charged twice to the same quota, one that has no key. See
// docs/diagnostics.md.
//
// # Choosing an algorithm
//
// Most callers should use [TokenBucket], the zero value: it lets a burst pass,
// then an even rate, at the least cost. The others are for the needs below; each
// is described at its constant.
//
//		               passes at once    in one Window          memory a key
//		TokenBucket    Burst             Burst + Limit          32 bytes
//		LeakyBucket    what comes first  Limit, evenly          32 bytes
//		FixedWindow    up to 2 * Limit   up to 2 * Limit        32 bytes
//		SlidingWindow  Limit             up to 2 * Limit,       32 bytes
//		                                 Limit if even
//		SlidingLog     Limit             Limit, to the letter   200 bytes, and up to
//		                                                        24 for each event
//
//	  - Callers are to be slowed down and not refused: LeakyBucket, with a Burst
//	    as large as you are ready to hold.
//	  - The quota is known to people by the calendar, as in "1000 a day":
//	    FixedWindow, with a TokenBucket beside it against bursts.
//	  - The quota is a number per time and what passes should stay near it even
//	    after a pause: SlidingWindow.
//	  - The number must hold in every span of that length, as in "five attempts
//	    in any hour": SlidingLog.
//
// # Requests in flight
//
// How many requests are under way at the same time is another number than how
// many begin in a second, and the one by which a service falls over. [InFlight]
// bounds it, for all and for each key, with a line to wait in; its middleware
// belongs inside of [Middleware], and what it refuses gives back what the rules
// took.
//
// # Exactness
//
// Each algorithm keeps its bound for every key and between any two instants,
// however many goroutines ask: for TokenBucket, at most Burst plus what comes
// back in that time. Rounding is always to the caller's disadvantage, in buckets
// by less than one part in a thousand of the rate for quotas of up to a million
// units a second; see [Memory] for figures and for what happens when it is full.
package limiter

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Never is the RetryAfter of a charge that cannot ever fit: its Cost is above
// the quota's capacity, or the Limit is 0.
const Never time.Duration = math.MaxInt64

// A Charge asks for Cost units of Policy's quota held under Key.
type Charge struct {
	Policy Policy

	// Key says whose quota is charged. The empty string is a key like any
	// other here; rules never use it.
	Key string

	// Cost is the number of units. 0 looks without taking: it is allowed
	// (unless Limit is 0), and RetryAfter says when one unit would fit.
	// Negative is a fault.
	Cost int

	// MaxDelay is how long the caller is ready to wait for its turn. A charge
	// that fits within it is admitted, in the order of arrival, with
	// Result.Delay set. 0: not at all, but with LeakyBucket as long as its
	// Burst lets it; negative is a fault. The window algorithms have no turns
	// and ignore it.
	MaxDelay time.Duration
}

// A Result says what became of a [Charge].
type Result struct {
	// Allowed reports whether the charge fits. In a refused TakeAll it speaks
	// for this charge alone: it would have fitted, and nothing was taken.
	Allowed bool

	// Source says who decided.
	Source Source // beside Allowed, as a Result above 80 bytes costs 7 % of a decision

	// Limit is the policy's Limit.
	Limit int

	// Remaining is how many units could be taken at once now, after this
	// charge. -1: not known, because nobody counted.
	Remaining int

	// RetryAfter is the time until the same charge would fit if nobody else
	// came: 0 if it was allowed, Never if it cannot ever fit.
	RetryAfter time.Duration

	// ResetAfter is the time until the quota is whole again.
	ResetAfter time.Duration

	// MoreAfter is the time until Remaining grows. It is set for the window
	// algorithms; for the others it follows from the rest, and is set only if
	// the rest is about a share of the quota. 0: not known, or the quota is
	// whole.
	MoreAfter time.Duration

	// Delay is how long to hold the caller before going on. It is set only
	// for charges with MaxDelay and those of a LeakyBucket. [Middleware] and
	// [Wait] do so by themselves.
	Delay time.Duration

	// Receipt is what Refund needs.
	Receipt Receipt
}

// A Source says who decided. The zero value is nobody.
type Source uint8

const (
	SourceMemory    Source = iota + 1 // this process's memory
	SourceRedis                       // the Redis server
	SourceLease                       // units this process had taken in advance
	SourceDenyCache                   // an earlier refusal that still holds
	SourceFallback                    // a stand-in, because the backend failed
)

var sources = [...]string{"none", "memory", "redis", "lease", "deny cache", "fallback"}

// String returns the source in words, for logs and metric labels.
func (s Source) String() string {
	if int(s) < len(sources) {
		return sources[s]
	}
	return "Source(" + strconv.Itoa(int(s)) + ")"
}

// A Receipt is a backend's note to itself: what a charge took, so that Refund
// can give back exactly that. The zero Receipt took nothing. Callers pass it on
// unread; who implements a [Limiter] chooses the units.
type Receipt struct {
	Paid  int64 // how far the charge moved the state
	Until int64 // where the charge left the state
	Given int64 // what had been given back to the state by then
}

// A Limiter holds the state of quotas. All methods are safe for concurrent use,
// and keep neither the slice nor the pointer they are given.
//
// An error means that the backend could not decide, or that a charge was
// invalid (it then matches [ErrPolicy]); a denial is never an error.
type Limiter interface {
	// Take charges c, or denies it and takes nothing.
	Take(ctx context.Context, c Charge) (Result, error)

	// TakeAll charges all of cs or none: after a refusal nothing stays taken.
	// Result i answers charge i. The same quota twice counts as the sum.
	TakeAll(ctx context.Context, cs []Charge) ([]Result, error)

	// Refund gives back at most what r took for c, and clears r.Receipt: a
	// second call with the same r does nothing. What time has already given
	// back is not given twice, so a window that has ended gets nothing. Where
	// callers wait for turns, only the last in line can give its turn back. r
	// is the Result that Take wrote; it belongs to one goroutine.
	Refund(ctx context.Context, c Charge, r *Result) error

	// Reset makes the quota of c.Policy and c.Key whole. Earlier charges
	// cannot be refunded afterwards.
	Reset(ctx context.Context, c Charge) error
}

// Validate returns what is wrong with c and its Policy, or nil if it can be
// counted; the error matches [ErrPolicy]. It is for who implements a [Limiter]:
// it is cheap enough for every decision, and leaves out the alphabet of the
// Name, which [Policy.Validate] looks at too.
func (c Charge) Validate() error {
	if c.countable() {
		return nil
	}
	return c.check()
}

// countable reports whether the arithmetic is safe for c. It is the short form
// of check for the way that is taken on every request: it skips the alphabet of
// the Name, which harms nothing but header fields, and those are escaped.
func (c *Charge) countable() bool {
	p := &c.Policy
	return p.Name != "" && int(p.Algorithm) < len(algorithms) && p.Limit >= 0 && p.Window >= minWindow &&
		p.Burst >= 0 && c.Cost >= 0 && c.MaxDelay >= 0 && (p.Burst == 0 || !p.Algorithm.windowed())
}

// check returns the faults of a charge that is not countable.
func (c *Charge) check() error {
	if err := c.Policy.Validate(); err != nil {
		return err
	}
	if c.Cost < 0 {
		return &PolicyError{c.Policy.Name, "Cost", fmt.Sprintf("is %d; allowed: 0 (look only) or more", c.Cost)}
	}
	return &PolicyError{c.Policy.Name, "MaxDelay", fmt.Sprintf("is %v; allowed: 0 (do not wait) or more", c.MaxDelay)}
}
