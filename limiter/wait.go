package limiter

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// ErrNever is what Wait returns for a charge that cannot ever fit: its Cost is
// above the quota's capacity, or the Limit is 0.
var ErrNever = errors.New("limiter: the charge can never fit")

// Wait charges c as soon as it fits and returns then. Callers that wait for the
// same quota get their turns in the order in which they came. MaxDelay is
// ignored: ctx's deadline stands for it.
//
// The window algorithms have no turns: callers try again when the charge may
// fit, in no order. In a LeakyBucket only Burst units can wait for their turns; callers beyond
// that try again when there is room, in no order.
//
// It fails at once, and charges nothing, if the turn cannot come before ctx's
// deadline (the error then matches [context.DeadlineExceeded]) or never comes
// ([ErrNever]). If ctx ends while it waits, it gives the units back, unless
// another caller stands behind already, and returns ctx.Err(). Other errors are
// those of l.
//
// Without a deadline, a [Memory] that refuses new keys is asked again when it
// may have room; there is no order in that.
func Wait(ctx context.Context, l Limiter, c Charge) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		deadline, limited := ctx.Deadline()
		c.MaxDelay = math.MaxInt64
		if limited {
			c.MaxDelay = max(0, time.Until(deadline))
		}
		r, err := l.Take(ctx, c)
		switch {
		case err != nil:
			return err
		case r.Allowed && sleep(ctx, r.Delay):
			return nil
		case r.Allowed:
			detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), refundTime)
			defer cancel()
			// That units were lost would not change what the caller does.
			_ = l.Refund(detached, c, &r)
			return ctx.Err()
		case r.RetryAfter == Never:
			return fmt.Errorf("%w: cost %d of policy %q (%s)", ErrNever, c.Cost, c.Policy.Name, c.Policy.describe())
		case limited && late(&c, &r):
			return fmt.Errorf("limiter: policy %q: the turn comes too late: %w", c.Policy.Name, context.DeadlineExceeded)
		case !sleep(ctx, r.RetryAfter):
			return ctx.Err()
		}
	}
}

// late reports whether a charge that was refused with c.MaxDelay until the
// deadline is so because its turn comes too late.
func late(c *Charge, r *Result) bool {
	if c.Policy.Algorithm == LeakyBucket {
		// Or else it found no room among those who wait. When it does, its turn
		// comes when everything that is underway now has left.
		return max(r.RetryAfter, r.ResetAfter) > c.MaxDelay
	}
	// There are no turns in windows, but a time when it fits.
	return !c.Policy.Algorithm.windowed() || r.RetryAfter >= c.MaxDelay
}

// sleep reports whether d passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
