package limiter

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// An Algorithm is a way of counting. The zero value is [TokenBucket].
type Algorithm uint8

const (
	// TokenBucket lets Burst units pass at once and gives Limit units back over
	// each Window, evenly: in any time t at most Burst + Limit*t/Window pass.
	// It is counted by GCRA (the generic cell rate algorithm of ITU-T I.371):
	// the state is one point in time. It is exact but for rounding to the
	// caller's disadvantage, by less than 0.1 % where a unit takes a
	// microsecond or longer. A key takes a slot of 32 bytes in a Memory. Most
	// callers should use it.
	TokenBucket Algorithm = iota

	// LeakyBucket shapes: it spreads what comes at once so that units pass at
	// an even pace, one each Window/Limit. A charge is admitted with the Delay
	// after which its turn comes, as long as no more than Burst units are
	// underway, the one that passes now included; the first after a pause
	// passes at once. Use it in front of what can bear a rate but no burst, and
	// where callers would rather wait than be refused: the units are held open
	// meanwhile, so keep Burst small. It is as exact as TokenBucket and takes
	// as much memory.
	LeakyBucket

	// FixedWindow counts units in windows that follow one another, aligned to
	// multiples of Window since the Unix epoch (in UTC: a Window of 24 hours
	// begins at midnight, one of 7 days on a Thursday). All units are back when
	// the next window begins. In no such window pass more than Limit, but
	// around the edge between two of them up to twice the Limit can pass at
	// once. Use it where people count that way, as in "1000 a day, from
	// midnight", and not to protect anything from bursts. A key takes 32 bytes.
	FixedWindow

	// SlidingWindow counts like FixedWindow and adds the units of the previous
	// window by the part of it that lies less than Window back, as if they had
	// come evenly, rounded up. That is exact for even traffic. For other it is
	// wrong by at most that part of the previous units, in either direction:
	// in any time t up to Window pass at most Limit + Limit*t/Window, so never
	// much more than the Limit at once; and a client is never refused at an
	// even pace of one unit less than Limit in each Window (with a Limit of 1,
	// of one in two Windows). Use it for large limits over long windows where a
	// burst of the whole Limit is fine. A key takes 32 bytes.
	//
	// A Memory counts up to 137,438,953,471 units (2^37-1) this way. A Limit
	// above that is cut down to it, and so is a Cost.
	SlidingWindow

	// SlidingLog is exact: in no time of length Window pass more than Limit
	// units. It remembers when each of them passed, in up to 24 bytes for every
	// instant with a charge within the last Window, so its memory grows with
	// what passes, up to Limit events a key: see MemoryOptions.LogBytes. A
	// refusal looks at as many events as must leave first, one if the charge
	// is of one unit. Use it for small limits that must hold to the letter,
	// such as five attempts in an hour.
	SlidingLog
)

var algorithms = [...]string{"token bucket", "leaky bucket", "fixed window", "sliding window", "sliding log"}

// windowed reports whether a counts units by windows, and not as a bucket.
func (a Algorithm) windowed() bool { return a >= FixedWindow }

// String returns the algorithm's name in words, as in "token bucket".
func (a Algorithm) String() string {
	if int(a) < len(algorithms) {
		return algorithms[a]
	}
	return "Algorithm(" + strconv.Itoa(int(a)) + ")"
}

// A Policy is a quota and the way it is counted: Limit units per Window, up to
// Burst of them at once. It is a plain value: make it anew when a limit
// changes.
//
// What is stored for a key outlives a change of Limit or Burst. With the bucket
// algorithms the time until the quota is whole again stays as it was; with
// Burst 0, which follows Limit, that is the used fraction: half used of 10 is
// half used of 100. With the window algorithms the units counted stay, and are
// judged against the new Limit.
type Policy struct {
	// Name names the quota in state, header fields, metrics and logs. Charges
	// with the same Name, Algorithm and Key (and Window, with the window
	// algorithms) draw on the same quota. It is required and must be printable ASCII, because it is sent to clients (RFC
	// 9651 section 3.3.3).
	Name string

	// Algorithm is the way of counting; the zero value is TokenBucket.
	Algorithm Algorithm

	// Limit is the number of units that come back per Window. 0 denies
	// everything; negative is a fault.
	Limit int

	// Window is 1 µs or longer. With TokenBucket and LeakyBucket it is only
	// half of a ratio: 60 a minute and 1 a second with the same Burst are the
	// same quota.
	Window time.Duration

	// Burst is how many units a TokenBucket lets pass at once after a pause,
	// and how many a LeakyBucket holds. 0 means Limit; negative is a fault, and
	// so is anything but 0 with the window algorithms.
	Burst int
}

// PerSecond returns a TokenBucket of n units a second, all of which may be used
// at once.
func PerSecond(name string, n int) Policy { return per(time.Second, name, n) }

// PerMinute returns a TokenBucket of n units a minute, all of which may be used
// at once.
func PerMinute(name string, n int) Policy { return per(time.Minute, name, n) }

// PerHour returns a TokenBucket of n units an hour, all of which may be used at
// once.
func PerHour(name string, n int) Policy { return per(time.Hour, name, n) }

// PerDay returns a TokenBucket of n units in 24 hours, all of which may be used
// at once.
func PerDay(name string, n int) Policy { return per(24*time.Hour, name, n) }

func per(window time.Duration, name string, n int) Policy {
	return Policy{Name: name, Limit: n, Window: window}
}

// minWindow keeps every backend able to count a policy: Redis counts in
// microseconds.
const minWindow = time.Microsecond

// ErrPolicy is what errors about an invalid policy or charge match by
// [errors.Is]. The error itself is a [*PolicyError] or several joined.
var ErrPolicy = errors.New("limiter: invalid policy")

// A PolicyError is one fault of a [Policy], a [Charge] or a [Rule].
type PolicyError struct {
	Policy string // its Name, possibly empty
	Field  string // the faulty field, such as "Window"
	Fault  string // what it is and what is allowed
}

func (e *PolicyError) Error() string {
	return fmt.Sprintf("limiter: policy %q: %s %s", e.Policy, e.Field, e.Fault)
}

// Is reports whether target is [ErrPolicy].
func (e *PolicyError) Is(target error) bool { return target == ErrPolicy }

// Validate returns every fault of p, joined; each is a [*PolicyError] and
// matches [ErrPolicy].
func (p Policy) Validate() error {
	var faults []error
	fault := func(field, format string, args ...any) {
		faults = append(faults, &PolicyError{p.Name, field, fmt.Sprintf(format, args...)})
	}
	if p.Name == "" {
		fault("Name", "is empty; a policy needs one")
	} else if !printable(p.Name) {
		fault("Name", "has bytes that are not printable ASCII (0x20 to 0x7e)")
	}
	if int(p.Algorithm) >= len(algorithms) {
		last := Algorithm(len(algorithms) - 1)
		fault("Algorithm", "is %d; allowed: %d (%v) to %d (%v)", p.Algorithm, TokenBucket, TokenBucket, last, last)
	}
	if p.Limit < 0 {
		fault("Limit", "is %d; allowed: 0 (deny everything) or more", p.Limit)
	}
	if p.Window < minWindow {
		fault("Window", "is %v; allowed: %v or longer", p.Window, minWindow)
	}
	if p.Burst < 0 {
		fault("Burst", "is %d; allowed: 0 (the same as Limit) or more", p.Burst)
	} else if p.Burst > 0 && p.Algorithm.windowed() {
		fault("Burst", "is %d; allowed with a %v: 0, as its capacity is Limit", p.Burst, p.Algorithm)
	}
	return errors.Join(faults...)
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// burst returns the capacity in units.
func (p *Policy) burst() int { return cmp.Or(p.Burst, p.Limit) }

// same reports whether p and o count the same way: spelling Burst out makes no
// difference.
func (p Policy) same(o Policy) bool {
	p.Burst, o.Burst = p.burst(), o.burst()
	return p == o
}

// describe returns the policy for messages: "10/s burst 20".
func (p *Policy) describe() string {
	s := FormatRate(p.Limit, p.Window)
	if p.burst() != p.Limit {
		s += " burst " + strconv.Itoa(p.Burst)
	}
	if p.Algorithm != TokenBucket {
		s += " " + p.Algorithm.String()
	}
	return s
}
