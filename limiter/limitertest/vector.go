package limitertest

import (
	"time"

	"github.com/goweir/weir/limiter"
)

// The tables are facts that the tests of other limiters state about token
// buckets, for burst and rate as they are given there. Where something else is
// right, the row says so.
var bucketVectors = []check{
	{name: "gcra", run: gcraVectors},
	{name: "allow", run: allowVectors},
	{name: "retry within a unit", run: retryWithinUnit},
	{name: "long run", run: longRun, exact: true},
}

// A row is one charge and its answer. Times are in milliseconds; -1 is Never.
type row struct{ at, cost, remaining, reset, retry int }

func (x *trial) table(p limiter.Policy, rows []row) {
	ms := x.second / 1000
	x.begin()
	for i, row := range rows {
		x.until(time.Duration(row.at) * ms)
		retry := time.Duration(row.retry) * ms
		if row.retry < 0 {
			retry = limiter.Never
		}
		r := x.take(of(p, row.cost))
		if r.Allowed != (row.retry == 0 || row.cost == 0) || r.Remaining != row.remaining ||
			!x.near(r.ResetAfter, time.Duration(row.reset)*ms) || !x.near(r.RetryAfter, retry) {
			x.errorf("row %d, %+v: %+v", i, row, r)
		}
	}
}

func gcraVectors(x *trial) {
	p := x.policy(1, x.second, 5)
	p.Name = "throttled and redis-cell"
	x.table(p, []row{
		{0, 6, 5, 0, -1},
		{0, 1, 4, 1000, 0},
		{0, 1, 3, 2000, 0},
		{0, 1, 2, 3000, 0},
		{0, 1, 1, 4000, 0},
		{0, 1, 0, 5000, 0},
		{0, 1, 0, 5000, 1000},
		{3000, 1, 2, 3000, 0},
		{3100, 1, 1, 3900, 0},
		{4000, 1, 1, 4000, 0},
		{8000, 1, 4, 1000, 0},
		{9500, 1, 4, 1000, 0},
		{9500, 0, 4, 1000, 0},
		{9500, 2, 2, 3000, 0},
		{9500, 5, 2, 3000, 3000},
		{15000, 6, 5, 0, -1},
	})

	p = x.policy(10, 10*x.second, 10)
	p.Name = "redis_rate"
	x.table(p, []row{
		{0, 0, 10, 0, 0},
		{0, 1, 9, 1000, 0},
		{0, 2, 7, 3000, 0},
		{0, 7, 0, 10000, 0},
		{0, 1000, 0, 10000, -1}, // there: in 99 times a unit, which is not true
	})

	// A look at an empty quota says when one unit would fit, as a refusal does.
	p = x.policy(3, 3*x.second, 1)
	p.Name = "throttled, looking"
	x.table(p, []row{
		{0, 1, 0, 1000, 0},
		{0, 1, 0, 1000, 1000},
		{0, 0, 0, 1000, 1000},
	})
}

// allowVectors are those of x/time/rate; times are numbers of units.
func allowVectors(x *trial) {
	type step struct {
		at, cost int
		allowed  bool
	}
	for _, tt := range []struct {
		name   string
		policy limiter.Policy
		steps  []step
	}{
		{"burst 1", x.policy(2, x.second, 1), []step{
			{0, 1, true}, {0, 1, false}, {0, 1, false},
			{1, 1, true}, {1, 1, false}, {1, 1, false},
			{2, 2, false}, {2, 1, true}, {2, 1, false},
		}},
		{"burst 3", x.policy(2, x.second, 3), []step{
			{0, 2, true}, {0, 2, false}, {0, 1, true}, {0, 1, false},
			{1, 4, false}, {2, 1, true}, {3, 1, true}, {4, 1, true}, {4, 1, true}, {4, 1, false}, {4, 1, false},
			{9, 3, true}, {9, 0, true},
		}},
		{"a broken unit", x.policy(10, 13*x.second, 1), []step{{0, 1, true}, {0, 1, false}, {1, 1, true}, {1, 1, false}}},
		{"the slowest", x.policy(1, 1<<63-1, 1), []step{{0, 1, true}, {0, 1, false}, {0, 1, false}}},
	} {
		p := tt.policy
		p.Name = tt.name
		unit := p.Window/time.Duration(p.Limit) + x.opts.Rounding
		x.begin()
		for i, st := range tt.steps {
			x.until(time.Duration(st.at) * unit)
			if r := x.take(of(p, st.cost)); r.Allowed != st.allowed {
				x.fatalf("%s: step %d, at %d units, Take of %d = %+v, want Allowed %v", tt.name, i, st.at, st.cost, r, st.allowed)
			}
		}
	}
}

// staleRefundVector gives back four units of which time has given back three.
func staleRefundVector(x *trial) {
	p := x.policy(1, x.second, 10)
	x.begin()
	r := x.allowed(of(p, 4))
	x.until(3 * x.second)
	if r := x.allowed(of(p, 5)); r.Remaining != 4 {
		x.errorf("Take of 5 = %+v, want 4 remaining", r)
	}
	x.refund(of(p, 4), &r)
	x.remaining(of(p, 0), 5)
	if r := x.take(of(p, 0)); !x.near(r.ResetAfter, 5*x.second) {
		x.errorf("after the refund a look = %+v, want it whole in %v", r, 5*x.second)
	}
}

// longRun is TestLongRunningQPS of x/time/rate: one try in 2 ms at 100/s.
func longRun(x *trial) {
	p, n := x.policy(100, time.Second, 100), 0
	for range 2501 { // the last one at 5 s
		if x.take(of(p, 1)).Allowed {
			n++
		}
		time.Sleep(2 * time.Millisecond)
	}
	if ideal := 100 + 100*5; n > ideal || float64(n) < 0.999*float64(ideal) {
		x.errorf("%d were admitted in 5 s, want %d", n, ideal)
	}
}

// retryWithinUnit is redis_rate's test of the time to a single unit.
func retryWithinUnit(x *trial) {
	p := x.policy(1, x.second/100, 1)
	calls := 1000
	if x.tolerance > 0 {
		calls = 50
	}
	for i := range calls {
		if r := x.take(of(p, 1)); r.RetryAfter > p.Window+x.opts.Rounding+p.Window/1000 {
			x.fatalf("call %d: Take = %+v, want RetryAfter at most %v", i, r, p.Window)
		}
		time.Sleep(p.Window / 137)
	}
}
