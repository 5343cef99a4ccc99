package limiter_test

import (
	"context"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

// What is remembered of policies must not let an invalid one pass, whoever named
// it first, nor mix up two that differ in one field.
func TestPoliciesAreRemembered(t *testing.T) {
	ctx, m := context.Background(), limiter.NewMemory(nil)
	closed := limiter.PerDay("p", 0)
	invalid := []limiter.Policy{
		{Name: "p", Limit: -1, Window: time.Second},
		{Name: "p", Limit: 1},
		{Name: "p", Limit: 1, Window: time.Second, Burst: -1},
		{Limit: 1, Window: time.Second},
	}
	for range 100 { // some are remembered at the first time, some later
		for _, p := range append(invalid, closed) {
			c := limiter.Charge{Policy: p, Key: "k", Cost: 1}
			if err := m.Reset(ctx, c); err != nil {
				t.Fatalf("Reset(%+v): %v", p, err)
			}
			r := limiter.Result{Receipt: limiter.Receipt{Paid: 1, Until: 1}}
			if err := m.Refund(ctx, c, &r); (err == nil) != (p.Validate() == nil) {
				t.Fatalf("Refund(%+v): %v", p, err)
			}
		}
		for _, p := range invalid {
			if _, err := m.Take(ctx, limiter.Charge{Policy: p, Key: "k", Cost: 1}); err == nil {
				t.Fatalf("Take with %+v: no error", p)
			}
		}
		if r, err := m.Take(ctx, limiter.Charge{Policy: closed, Key: "k", Cost: 1}); err != nil || r.Allowed {
			t.Fatalf("Take with limit 0: %+v, %v", r, err)
		}
	}

	// 1,000 policies that share a name and a key share their quota; each is
	// judged by its own numbers.
	for limit := 1; limit <= 1000; limit++ {
		r, err := m.Take(ctx, limiter.Charge{Policy: limiter.PerDay("q", limit), Key: "k", Cost: 0})
		if err != nil || r.Limit != limit || r.Remaining != limit {
			t.Fatalf("limit %d: %+v, %v", limit, r, err)
		}
	}
}
