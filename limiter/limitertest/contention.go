package limitertest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/limiter"
)

var contentionChecks = []check{
	{name: "simultaneous", run: simultaneous, busy: true},
	{name: "crowd", run: crowd, busy: true},
	{name: "crowd with refunds", run: crowdWithRefunds, busy: true},
	{name: "contended all", run: contendedAll, busy: true},
	{name: "crossed all", run: crossedAll, busy: true},
	{name: "flood", run: flood, busy: true},
}

// stuck is for how many seconds nobody gets an answer before it is called a
// deadlock. They are counted one by one, because a process that is held up for
// all of them is none.
const stuck = 3

// together calls f times times in each of many goroutines, and waits for them
// as long as they get on. f gets the goroutine's number and its own random
// numbers.
func (x *trial) together(goroutines, times int, f func(g int, rnd *rand.Rand)) {
	var calls atomic.Int64
	var wg sync.WaitGroup
	begin, done := make(chan struct{}), make(chan struct{})
	for g := range goroutines {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 9))
			<-begin
			for range times {
				f(g, rnd)
				calls.Add(1)
			}
		})
	}
	close(begin)
	go func() {
		wg.Wait()
		close(done)
	}()
	for before, idle := int64(0), 0; idle < stuck; idle++ {
		select {
		case <-done:
			return
		case <-time.After(time.Second):
		}
		if now := calls.Load(); now != before {
			before, idle = now, 0
		}
	}
	x.fatalf("no call of %d goroutines has returned for %d s: a deadlock?", goroutines, stuck)
}

// simultaneous is the vector of x/time/rate: 15 goroutines, 5 units.
func simultaneous(x *trial) {
	if n := x.admitted(15, 1, of(x.still("p", 5), 1)); n != 5 {
		x.errorf("15 goroutines got %d of 5 units", n)
	}
}

// crowd counts what many goroutines get of several quotas, in portions.
func crowd(x *trial) {
	for _, tt := range []struct{ goroutines, times, units, cost, want int }{
		{500, 10, 100, 1, 100},
		{100, 20, 1000, 7, 142},
		{64, 10, 1, 1, 1},
		{64, 10, 10_000, 3, 640},
	} {
		p := x.still(fmt.Sprintf("%d in portions of %d", tt.units, tt.cost), tt.units)
		if n := x.admitted(tt.goroutines, tt.times, of(p, tt.cost)); n != tt.want {
			x.errorf("%d goroutines got %d portions of %d from %d units, want %d", tt.goroutines, n, tt.cost, tt.units, tt.want)
		}
		x.remaining(of(p, 0), tt.units-tt.want*tt.cost)
	}
}

// admitted returns how many charges were admitted.
func (x *trial) admitted(goroutines, times int, c limiter.Charge) int {
	var n atomic.Int64
	x.together(goroutines, times, func(int, *rand.Rand) {
		if r, ok := x.try(c); ok && r.Allowed {
			n.Add(1)
		}
	})
	return int(n.Load())
}

// flood hammers one key in real time, so that callers are held up between
// reading a clock and using it. The last quota is too slow to keep up with the
// least number of calls, on any machine.
func flood(x *trial) {
	const callers, least = 64, 32
	for _, p := range []limiter.Policy{
		x.policy(100_000, time.Second, 100),
		x.policy(1009, 100*time.Millisecond, 13),
		x.policy(1009, 100*time.Second, 13),
	} {
		c := limiter.Charge{Policy: p, Key: fmt.Sprint(p.Limit), Cost: 1}
		var n atomic.Int64
		begin := time.Now()
		x.together(callers, least, func(int, *rand.Rand) {
			for again := true; again; again = time.Since(begin) < 70*time.Millisecond {
				if r, ok := x.try(c); ok && r.Allowed {
					n.Add(1)
				}
			}
		})
		took := time.Since(begin)
		if most := x.algorithm.most(p, took); n.Load() > most {
			x.errorf("%d goroutines got %d units in %v of %d in %v burst %d, at most %d are allowed",
				callers, n.Load(), took, p.Limit, p.Window, p.Burst, most)
		}
	}
}

// crowdWithRefunds takes and gives back by many goroutines: never more than the
// capacity is kept.
func crowdWithRefunds(x *trial) {
	const units = 20
	c := of(x.still("p", units), 1)
	var kept atomic.Int64
	x.together(32, 20, func(_ int, rnd *rand.Rand) {
		r, ok := x.try(c)
		if !ok || !r.Allowed {
			return
		}
		if rnd.IntN(2) == 0 {
			kept.Add(1)
		} else if err := x.l.Refund(x.ctx(), c, &r); err != nil {
			x.errorf("Refund: %v", err)
		}
	})
	// A refund gives less than was taken if others, who stood behind, got
	// theirs back before: it cannot tell them from those in front.
	if r := x.take(of(c.Policy, 0)); int(kept.Load())+r.Remaining > units {
		x.errorf("%d kept and %d remaining, want at most %d in all", kept.Load(), r.Remaining, units)
	}
}

// contendedAll charges a tight and a wide quota by many goroutines: as many
// pass as the tight one allows, and the wide one is charged for no other.
func contendedAll(x *trial) {
	wide, tight := x.still("wide", 500), x.still("tight", 37)
	var n atomic.Int64
	x.together(32, 10, func(g int, _ *rand.Rand) {
		cs := []limiter.Charge{of(wide, 2), of(tight, 1)}
		if g%2 == 1 {
			slices.Reverse(cs)
		}
		if rs, ok := x.tryAll(cs); ok && passed(rs) {
			n.Add(1)
		}
	})
	if got := n.Load(); got > 37 || got < 37 && !x.opts.TakeAllInSteps {
		x.errorf("%d passed, want the 37 that the tight quota allows", got)
	}
	x.addsUp(tight, int(n.Load()), 37)
	x.addsUp(wide, 2*int(n.Load()), 500)
}

// addsUp looks whether what was taken and what remains are all units.
func (x *trial) addsUp(p limiter.Policy, taken, units int) {
	r := x.take(of(p, 0))
	if all := taken + r.Remaining; all > units || all < units && !x.opts.TakeAllInSteps {
		x.errorf("%q: %d taken and %d remaining, want %d in all", p.Name, taken, r.Remaining, units)
	}
}

// crossedAll charges random quotas in random order: no deadlock, no unit lost,
// and none taken by who is refused.
func crossedAll(x *trial) {
	const quotas, units = 6, 300
	policies := make([]limiter.Policy, quotas)
	for i := range policies {
		policies[i] = x.still(fmt.Sprint("p", i), units)
	}
	var taken [quotas]atomic.Int64
	x.together(32, 60, func(_ int, rnd *rand.Rand) {
		var cs []limiter.Charge
		var which []int
		for range 1 + rnd.IntN(4) {
			k := rnd.IntN(quotas)
			cs, which = append(cs, of(policies[k], 1+rnd.IntN(2))), append(which, k)
		}
		if rs, ok := x.tryAll(cs); ok && passed(rs) {
			for i, k := range which {
				taken[k].Add(int64(cs[i].Cost))
			}
		}
	})
	for i, p := range policies {
		x.addsUp(p, int(taken[i].Load()), units)
	}
}
