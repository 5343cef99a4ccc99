package limiter

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// ErrOverload is what the errors about too many requests in flight match by
// [errors.Is]. The error itself is an [*OverloadError].
var ErrOverload = errors.New("limiter: too many in flight")

// An OverloadError says why no slots were had.
type OverloadError struct {
	Name       string         // the limit's
	Reason     OverloadReason // why
	Limit      int            // how many slots there were; 0: that was not the reason
	RetryAfter time.Duration  // when to try again, an estimate; 0: not known
}

func (e *OverloadError) Error() string {
	return fmt.Sprintf("limiter: in flight, %q: %v", e.Name, e.Reason)
}

// Is reports whether target is [ErrOverload].
func (e *OverloadError) Is(target error) bool { return target == ErrOverload }

// An OverloadReason says why no slots were had.
type OverloadReason uint8

const (
	// OverloadFull: the slots of all were in use, and the line was full, or
	// somebody of a better class took the last place in it.
	OverloadFull OverloadReason = iota + 1

	// OverloadKeyFull: the same of those of the key.
	OverloadKeyFull

	// OverloadWait: MaxWait has passed.
	OverloadWait

	// OverloadLoad: InFlightOptions.Overloaded said so.
	OverloadLoad
)

var overloadReasons = [...]string{"none", "full", "key full", "waited too long", "load"}

// String returns the reason in words, for logs and metric labels.
func (r OverloadReason) String() string {
	if int(r) < len(overloadReasons) {
		return overloadReasons[r]
	}
	return "OverloadReason(" + strconv.Itoa(int(r)) + ")"
}
