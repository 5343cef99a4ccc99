package limitertest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/goweir/weir/limiter"
)

var takeAllChecks = []check{
	{name: "all or nothing", run: allOrNothing},
	{name: "many charges", run: manyCharges},
	{name: "all after retry", run: allAfterRetry},
	{name: "all agrees", run: allAgrees, exact: true},
}

func allOrNothing(x *trial) {
	x.untimed()
	global, route, user, shut := x.still("global", 10), x.still("route", 5), x.still("user", 2), x.still("shut", 0)
	tests := []struct {
		name  string
		cs    []limiter.Charge
		want  string // as letters has it
		after [3]int // what remains of global, route, user
	}{
		{"none", nil, "", [3]int{10, 5, 2}},
		{"one", []limiter.Charge{of(user, 1)}, "a", [3]int{10, 5, 1}},
		{"one that is refused", []limiter.Charge{of(user, 3)}, "n", [3]int{10, 5, 2}},
		{"all fit", []limiter.Charge{of(global, 1), of(route, 2), of(user, 2)}, "aaa", [3]int{9, 3, 0}},
		{"the last can never fit", []limiter.Charge{of(global, 1), of(route, 2), of(user, 3)}, "aan", [3]int{10, 5, 2}},
		{"the first can never fit", []limiter.Charge{of(global, 11), of(route, 2)}, "na", [3]int{10, 5, 2}},
		{"a closed one", []limiter.Charge{of(global, 1), of(shut, 1), of(user, 1)}, "ana", [3]int{10, 5, 2}},
		{"a look among charges", []limiter.Charge{of(global, 0), of(route, 1)}, "aa", [3]int{10, 4, 2}},
		{"only looks", []limiter.Charge{of(global, 0), of(route, 0)}, "aa", [3]int{10, 5, 2}},
		{"the same twice", []limiter.Charge{of(route, 2), of(route, 3)}, "aa", [3]int{10, 0, 2}},
		{"the same twice, the sum can never fit", []limiter.Charge{of(route, 3), of(global, 1), of(route, 3)}, "aan", [3]int{10, 5, 2}},
		{"the same thrice with a look", []limiter.Charge{of(route, 2), of(route, 0), of(route, 2)}, "aaa", [3]int{10, 1, 2}},
		{"more than a few", []limiter.Charge{of(global, 1), of(route, 1), of(global, 2), of(user, 1), of(global, 3), of(route, 1)}, "aaaaaa", [3]int{4, 3, 1}},
	}
	for _, tt := range tests {
		for _, p := range []limiter.Policy{global, route, user} {
			x.reset(of(p, 0))
		}
		rs := x.takeAll(tt.cs...)
		if got := x.letters(rs, tt.want); got != tt.want {
			x.errorf("%s: results %+v are %q, want %q (allowed, denied, never)", tt.name, rs, got, tt.want)
		}
		for i, p := range []limiter.Policy{global, route, user} {
			if r := x.take(of(p, 0)); r.Remaining != tt.after[i] {
				x.errorf("%s: %d of %q remain, want %d", tt.name, r.Remaining, p.Name, tt.after[i])
			}
			// A result knows what its quota has left, unless the quota was not
			// asked.
			for j, c := range tt.cs {
				if c.Policy.Name == p.Name && passed(rs) && rs[j].Remaining != tt.after[i] {
					x.errorf("%s: result %d = %+v, want %d remaining", tt.name, j, rs[j], tt.after[i])
				}
			}
		}
	}

	// What is used up refuses all, for as long as it would alone, and keeps
	// nothing of the others.
	x.reset(of(global, 0))
	x.reset(of(user, 0))
	x.allowed(of(user, 2))
	for range 5 {
		rs := x.takeAll(of(global, 1), of(user, 1))
		if alone := x.denied(of(user, 1)); rs[1].Allowed || !rs[0].Allowed && !x.unasked(rs[0]) || !alike(rs[1].RetryAfter, alone.RetryAfter) {
			x.errorf("TakeAll with a used up quota = %+v, want it to refuse as alone: %+v", rs, alone)
		}
	}
	x.remaining(of(global, 0), 10)

	// Each Result has a receipt of its own.
	x.reset(of(user, 0))
	cs := []limiter.Charge{of(global, 4), of(user, 1)}
	rs := x.takeAll(cs...)
	if !passed(rs) {
		x.fatalf("TakeAll = %+v, want both allowed", rs)
	}
	x.refund(cs[0], &rs[0])
	x.remaining(of(global, 0), 10)
	x.remaining(of(user, 0), 1)
	x.refund(cs[1], &rs[1])
	x.remaining(of(user, 0), 2)
}

// letters returns a letter for each result: allowed, denied, or never. What was
// not asked after a refusal is as wanted.
func (x *trial) letters(rs []limiter.Result, want string) string {
	var b []byte
	for i, r := range rs {
		switch {
		case x.unasked(r) && !passed(rs) && i < len(want):
			b = append(b, want[i])
		case r.Allowed:
			b = append(b, 'a')
		case r.RetryAfter == limiter.Never:
			b = append(b, 'n')
		default:
			b = append(b, 'd')
		}
	}
	return string(b)
}

// unasked reports whether r may be of a quota that was not asked, because
// another had refused.
func (x *trial) unasked(r limiter.Result) bool {
	return r.Source == limiter.SourceDenyCache || r.Source == 0 && x.opts.TakeAllInSteps
}

// manyCharges is one decision about many quotas, and about one many times.
func manyCharges(x *trial) {
	x.untimed()
	const n = 200
	var cs []limiter.Charge
	for i := range n {
		cs = append(cs, limiter.Charge{Policy: x.still("many", 3), Key: fmt.Sprint(i), Cost: 1})
	}
	given := slices.Clone(cs)
	for i := range 3 {
		if rs := x.takeAll(cs...); !passed(rs) {
			x.fatalf("round %d: TakeAll of %d charges was refused", i, n)
		}
	}
	if !slices.Equal(cs, given) {
		x.errorf("TakeAll changed the charges that it was given")
	}
	x.reset(cs[0])
	rs := x.takeAll(cs...)
	for i, r := range rs {
		if r.Allowed != (i == 0) && !x.unasked(r) {
			x.fatalf("result %d = %+v; all but the first quota are used up", i, r)
		}
	}
	x.remaining(cs[0], 3)

	same := slices.Repeat([]limiter.Charge{of(x.still("p", n), 1)}, n+1)
	if rs := x.takeAll(same...); passed(rs) {
		x.errorf("TakeAll of %d times 1 of %d was allowed", n+1, n)
	}
	x.remaining(same[0], n)
	if rs := x.takeAll(same[1:]...); !passed(rs) {
		x.errorf("TakeAll of %d times 1 of %d was refused", n, n)
	}
	x.remaining(same[0], 0)
}

// allAgrees decides about several quotas, of all algorithms, and looks at each
// before and after: all fit, and are charged, or none is.
func allAgrees(x *trial) {
	for seed := range x.schedules(60, 0) {
		rnd := rand.New(rand.NewPCG(seed, 15))
		quotas := make([]limiter.Charge, 5)
		for i := range quotas {
			limit := 1 + rnd.IntN(9)
			p := limiter.Policy{
				Name:      fmt.Sprint(i),
				Algorithm: x.opts.Algorithms[rnd.IntN(len(x.opts.Algorithms))],
				Limit:     limit,
				Window:    time.Duration(limit*(1+rnd.IntN(300))) * time.Millisecond,
			}
			quotas[i] = limiter.Charge{Policy: p, Key: fmt.Sprint(seed)}
		}
		look := func() (free [5]int) {
			for i, c := range quotas {
				r, err := x.l.Take(x.ctx(), c)
				if err != nil {
					x.fatalf("Take(%s): %v", brief(c), err)
				}
				free[i] = r.Remaining
			}
			return free
		}
		for step := range 60 {
			time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond)
			before := look()
			want, fits := before, true
			var cs []limiter.Charge
			for range rnd.IntN(6) {
				i := rnd.IntN(len(quotas))
				c := quotas[i]
				c.Cost = rnd.IntN(4)
				cs = append(cs, c)
				want[i] -= c.Cost
				fits = fits && want[i] >= 0
			}
			if !fits {
				want = before
			}
			rs, err := x.l.TakeAll(x.ctx(), cs)
			if err != nil {
				x.fatalf("TakeAll: %v", err)
			}
			if after := look(); passed(rs) != fits || after != want {
				x.fatalf("seed %d, step %d: TakeAll(%+v) = %+v; %v remained before and %v after, want %v", seed, step, cs, rs, before, after, want)
			}
		}
	}
}

// allAfterRetry sleeps for the longest RetryAfter of a refused TakeAll.
func allAfterRetry(x *trial) {
	x.schedule(8, func(c limiter.Charge, rnd *rand.Rand) {
		other := c
		c.MaxDelay, other.MaxDelay = 0, 0
		other.Policy.Name = "q"
		other.Policy.Limit = max(1, c.Policy.Limit/2)
		other.Policy.Burst = 0
		other.Cost = 1 + rnd.IntN(x.capacity(other.Policy))
		for range 2 * (x.capacity(c.Policy) + x.capacity(other.Policy)) {
			rs := x.takeAll(c, other)
			if passed(rs) {
				continue
			}
			x.pause(max(rs[0].RetryAfter, rs[1].RetryAfter))
			again := x.takeAll(c, other)
			if !passed(again) && x.opts.TakeAllInSteps {
				// The other quota was not asked before.
				x.pause(max(again[0].RetryAfter, again[1].RetryAfter))
				again = x.takeAll(c, other)
			}
			if !passed(again) {
				x.fatalf("TakeAll(%s, %s) = %+v, want both allowed, because RetryAfter has passed of %+v", brief(c), brief(other), again, rs)
			}
			return
		}
		x.fatalf("TakeAll(%s, %s) was never refused", brief(c), brief(other))
	})
}
