package limiter

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// rateUnits are the units of a rate expression, largest first.
var rateUnits = [...]struct {
	name string
	d    time.Duration
}{
	{"d", 24 * time.Hour},
	{"h", time.Hour},
	{"m", time.Minute},
	{"s", time.Second},
	{"ms", time.Millisecond},
	{"us", time.Microsecond},
	{"ns", time.Nanosecond},
}

// ParseRate reads a rate: "10/s", "100/5m", "1/h", "10/500ms".
//
//	rate   = number "/" [ number ] unit
//	unit   = "d" / "h" / "m" / "s" / "ms" / "us" / "ns"
//	number = "0" / nonzero *digit
//
// A d is 24 hours. The window must be between 1 µs and 292 years; a limit of 0
// is allowed, as in [Policy]. Nothing else is: no sign, space, fraction,
// leading zero or capital letter. [FormatRate] is the inverse.
func ParseRate(s string) (limit int, window time.Duration, err error) {
	fail := func(what string) (int, time.Duration, error) {
		return 0, 0, fmt.Errorf(`limiter: rate %q: %s; want a form such as "10/s", "100/5m" or "10/500ms"`, s, what)
	}
	number, rest, ok := strings.Cut(s, "/")
	if !ok {
		return fail(`no "/"`)
	}
	n, ok := decimal(number)
	if !ok || n > math.MaxInt {
		return fail("the limit is not a whole number in range")
	}
	unit := strings.TrimLeft(rest, "0123456789")
	count := int64(1)
	if digits := rest[:len(rest)-len(unit)]; digits != "" {
		if count, ok = decimal(digits); !ok {
			return fail("the number before the unit is not a whole number in range")
		}
	}
	for _, u := range rateUnits {
		if u.name != unit {
			continue
		}
		if count > math.MaxInt64/int64(u.d) {
			return fail("the window is longer than 292 years")
		}
		window = time.Duration(count) * u.d
		if window < minWindow {
			return fail("the window is shorter than 1us")
		}
		return int(n), window, nil
	}
	return fail("the unit is none of d, h, m, s, ms, us, ns")
}

// decimal parses the canonical form of a non-negative int64.
func decimal(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	return int64(n), true
}

// FormatRate returns the rate expression that [ParseRate] reads as limit and
// window, in the largest unit that divides the window: 90 seconds is "90s", 5
// minutes "5m", one hour "h".
func FormatRate(limit int, window time.Duration) string {
	for _, u := range rateUnits {
		if window%u.d != 0 {
			continue
		}
		b := append(strconv.AppendInt(nil, int64(limit), 10), '/')
		if n := int64(window / u.d); n != 1 {
			b = strconv.AppendInt(b, n, 10)
		}
		return string(append(b, u.name...))
	}
	panic("unreachable: every window is a number of nanoseconds")
}
