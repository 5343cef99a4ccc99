package limiter_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/limiter"
)

// inTime runs f in a bubble, where time stands still unless everybody sleeps.
func inTime(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func take(t *testing.T, l limiter.Limiter, c limiter.Charge) limiter.Result {
	t.Helper()
	r, err := l.Take(t.Context(), c)
	if err != nil {
		t.Fatalf("Take(%+v): %v", c, err)
	}
	return r
}

func takeAll(t *testing.T, l limiter.Limiter, cs ...limiter.Charge) []limiter.Result {
	t.Helper()
	rs, err := l.TakeAll(t.Context(), cs)
	if err != nil {
		t.Fatalf("TakeAll(%+v): %v", cs, err)
	}
	if len(rs) != len(cs) {
		t.Fatalf("TakeAll of %d charges has %d results", len(cs), len(rs))
	}
	return rs
}

func refund(t *testing.T, l limiter.Limiter, c limiter.Charge, r *limiter.Result) {
	t.Helper()
	if err := l.Refund(t.Context(), c, r); err != nil {
		t.Fatalf("Refund(%+v): %v", c, err)
	}
}

func allowed(t *testing.T, l limiter.Limiter, c limiter.Charge) limiter.Result {
	t.Helper()
	r := take(t, l, c)
	if !r.Allowed {
		t.Fatalf("Take(%+v) = %+v, want it allowed", c, r)
	}
	return r
}

func denied(t *testing.T, l limiter.Limiter, c limiter.Charge) limiter.Result {
	t.Helper()
	r := take(t, l, c)
	if r.Allowed {
		t.Fatalf("Take(%+v) = %+v, want it denied", c, r)
	}
	return r
}

func remaining(t *testing.T, l limiter.Limiter, c limiter.Charge, want int) {
	t.Helper()
	c.Cost, c.MaxDelay = 0, 0
	if r := take(t, l, c); r.Remaining != want {
		t.Fatalf("remaining of %q for %q = %d, want %d", c.Policy.Name, c.Key, r.Remaining, want)
	}
}

// of returns a charge of cost units to the key "k".
func of(p limiter.Policy, cost int) limiter.Charge {
	return limiter.Charge{Policy: p, Key: "k", Cost: cost}
}

// per returns a policy called "p".
func per(window time.Duration, limit, burst int) limiter.Policy {
	return limiter.Policy{Name: "p", Limit: limit, Window: window, Burst: burst}
}

var algorithms = []limiter.Algorithm{
	limiter.TokenBucket, limiter.LeakyBucket, limiter.FixedWindow, limiter.SlidingWindow, limiter.SlidingLog,
}

// windows returns a policy called "p" of any algorithm.
func windows(window time.Duration, limit int, a limiter.Algorithm) limiter.Policy {
	p := per(window, limit, 0)
	p.Algorithm = a
	return p
}

// scripted is a Limiter that answers as it is told.
type scripted struct {
	limiter.Limiter
	take   func(context.Context, limiter.Charge) (limiter.Result, error)
	refund func(context.Context, limiter.Charge, *limiter.Result) error
}

func (s scripted) Take(ctx context.Context, c limiter.Charge) (limiter.Result, error) {
	return s.take(ctx, c)
}

func (s scripted) Refund(ctx context.Context, c limiter.Charge, r *limiter.Result) error {
	if s.refund == nil {
		return s.Limiter.Refund(ctx, c, r)
	}
	return s.refund(ctx, c, r)
}
