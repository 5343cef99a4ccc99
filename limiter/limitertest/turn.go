package limitertest

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/goweir/weir/limiter"
)

// turnChecks are those of TokenBucket, where turns begin when Burst is used up.
var turnChecks = []check{
	{name: "turns", run: turns},
	{name: "turns given up", run: turnsGivenUp},
	{name: "patience", run: patience},
	{name: "smooth", run: smooth},
	{name: "wait in order", run: waitInOrder},
	{name: "crowd with turns", run: crowdWithTurns, busy: true},
}

// reserve expects a turn after a time of the tables.
func (x *trial) reserve(p limiter.Policy, cost int, want time.Duration) limiter.Result {
	c := of(p, cost)
	c.MaxDelay = time.Hour
	r := x.allowed(c)
	if !x.near(r.Delay, want) {
		x.fatalf("Take(%s) = %+v, want Delay %v", brief(c), r, want)
	}
	return r
}

// turns are the vectors of x/time/rate: 10/s, burst 2.
func turns(x *trial) {
	d := x.second / 10
	p := x.policy(10, x.second, 2)
	x.begin()
	x.reserve(p, 2, 0)
	x.reserve(p, 2, 2*d)
	x.until(3 * d)
	x.reserve(p, 2, d)

	// Who does not wait comes behind all who do.
	if r := x.denied(of(p, 1)); !x.near(r.RetryAfter, 2*d) {
		x.errorf("Take behind two who wait = %+v, want RetryAfter %v", r, 2*d)
	}
}

func turnsGivenUp(x *trial) {
	d := x.second / 10
	p := x.policy(10, x.second, 2)
	fresh := func(name string) {
		p.Name = name
		x.begin()
		x.reserve(p, 2, 0)
	}

	fresh("the last")
	r := x.reserve(p, 2, 2*d)
	x.until(d)
	x.refund(of(p, 2), &r)
	x.reserve(p, 2, d)

	fresh("the last two")
	r1 := x.reserve(p, 1, d)
	r2 := x.reserve(p, 1, 2*d)
	x.refund(of(p, 1), &r2)
	x.refund(of(p, 1), &r1)
	x.reserve(p, 1, d)

	fresh("whoever stands behind keeps the turn")
	r = x.reserve(p, 1, d)
	x.reserve(p, 1, 2*d)
	x.refund(of(p, 1), &r)
	x.reserve(p, 1, 3*d)
}

// patience is the vector of x/time/rate for reservations with a maximum.
func patience(x *trial) {
	d := x.second / 10
	p := x.policy(10, x.second, 2)
	c := of(p, 2)
	c.MaxDelay = d + d/2 // a unit and some time to ask in
	x.begin()
	x.allowed(c)
	c.Cost = 1
	if r := x.allowed(c); !x.near(r.Delay, d) {
		x.fatalf("Take(%s) = %+v, want Delay %v", brief(c), r, d)
	}
	if r := x.denied(c); !x.near(r.RetryAfter, d/2) {
		x.fatalf("Take(%s) = %+v, want RetryAfter %v", brief(c), r, d/2)
	}
	c.MaxDelay = 0
	if r := x.denied(c); !x.near(r.RetryAfter, 2*d) {
		x.fatalf("Take(%s) = %+v, want RetryAfter %v", brief(c), r, 2*d)
	}
	// However patient: what can never fit has no turn.
	c.MaxDelay, c.Cost = math.MaxInt64, 3
	if r := x.denied(c); r.RetryAfter != limiter.Never {
		x.errorf("Take(%s) = %+v, want RetryAfter Never", brief(c), r)
	}
	c.Cost = 2
	if r := x.allowed(c); !x.near(r.Delay, 3*d) {
		x.errorf("Take(%s) = %+v, want Delay %v", brief(c), r, 3*d)
	}
}

// smooth is the vector of failsafe-go: one per 500 ms. There, whoever comes to
// a free limiter waits for the next whole half of a second; here nobody does.
func smooth(x *trial) { x.smooth(1) }

func (x *trial) smooth(burst int) {
	ms := x.second / 1000
	p := x.policy(2, x.second, burst)
	x.begin()
	for _, tt := range []struct{ at, n, first, last time.Duration }{
		{0, 7, 0, 3000},
		{800, 3, 2700, 3700},
		{2300, 1, 2700, 2700},
		{3500, 3, 2000, 3000},
		{9100, 3, 0, 1000},
		{11000, 1, 0, 0},
	} {
		x.until(tt.at * ms)
		for i := range tt.n {
			x.reserve(p, 1, (tt.first+500*i)*ms)
		}
		if want := (tt.first + 500*(tt.n-1)); want != tt.last {
			x.fatalf("the table at %v says %v and %v", tt.at, want, tt.last)
		}
	}
}

// waitInOrder lets callers wait in line, behind a charge that holds them up until
// all have come: nobody goes on before the turn that was there for them.
func waitInOrder(x *trial) {
	x.untimed()
	const callers, ahead = 9, 20
	p, unit := x.policy(4, x.second, ahead), x.second/4
	begin := time.Now()
	x.allowed(of(p, ahead))
	first := of(p, ahead)
	first.MaxDelay = time.Hour
	x.allowed(first)

	ctx, cancel := context.WithCancel(x.ctx())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var turns, passed [callers]time.Time
	for i := range callers {
		_, before := x.wholeAt(p)
		wg.Go(func() {
			err := limiter.Wait(ctx, x.l, of(p, 1))
			passed[i] = time.Now()
			if err != nil && ctx.Err() == nil {
				x.errorf("caller %d: Wait = %v", i, err)
			}
		})
		// They arrive in order: the next one comes when this one has its turn.
		for turns[i].IsZero() {
			time.Sleep(x.second / 100)
			after, _ := x.wholeAt(p)
			if took := time.Since(begin); took > ahead*unit {
				x.late = took - ahead*unit
				x.fatalf("caller %d does not stand in line after %v", i, took)
			}
			if after.Sub(before) > unit/8 {
				turns[i] = after.Add(-ahead * unit)
			}
		}
	}
	wg.Wait()
	for i := range callers {
		if late := passed[i].Sub(turns[i]); late < -unit/8 || x.tolerance == 0 && late > unit/8 {
			x.errorf("caller %d went on %v after its turn", i, late)
		}
	}
}

// wholeAt returns when p's quota is whole, at the earliest and at the latest: it is
// not known when the answer was true.
func (x *trial) wholeAt(p limiter.Policy) (earliest, latest time.Time) {
	asked := time.Now()
	r := x.take(of(p, 0))
	return asked.Add(r.ResetAfter), time.Now().Add(r.ResetAfter)
}

// crowdWithTurns reserves by many goroutines: all turns differ.
func crowdWithTurns(x *trial) {
	const callers, burst = 64, 4
	unit := time.Hour
	c := of(x.policy(1, unit, burst), 1)
	c.MaxDelay = 1000 * unit
	seen := make(chan time.Duration, callers)
	x.together(callers, 1, func(int, *rand.Rand) {
		if r, ok := x.try(c); ok && r.Allowed {
			seen <- r.Delay
		}
	})
	close(seen)
	turns := make(map[time.Duration]int)
	for d := range seen {
		turns[d.Round(unit/2)]++
	}
	for i := range callers {
		want, at := 1, time.Duration(max(0, i-burst+1))*unit
		if at == 0 {
			want = burst
		}
		if turns[at] != want {
			x.errorf("%d callers have the turn in %v, want %d; all turns: %v", turns[at], at, want, turns)
			return
		}
	}
}
