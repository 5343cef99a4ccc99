package limitertest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/limiter"
)

var contentionChecks = []check{
	{name: "simultaneous", run: simultaneous},
	{name: "crowd", run: crowd},
	{name: "crowd with turns", run: crowdWithTurns, turns: true},
	{name: "flood", run: flood, busy: true},
}

// simultaneous is the vector of x/time/rate: 15 goroutines, 5 units.
func simultaneous(x *trial) {
	x.untimed()
	if n := x.together(15, 1, x.still("p", 5), 1); n != 5 {
		x.errorf("15 goroutines got %d of 5 units", n)
	}
}

// crowd counts what many goroutines get of several quotas, in portions.
func crowd(x *trial) {
	x.untimed()
	for _, tt := range []struct{ goroutines, times, units, cost, want int }{
		{500, 10, 100, 1, 100},
		{100, 20, 1000, 7, 142},
		{64, 10, 1, 1, 1},
		{64, 10, 10_000, 3, 640},
	} {
		p := x.still(fmt.Sprintf("%d in portions of %d", tt.units, tt.cost), tt.units)
		if n := x.together(tt.goroutines, tt.times, p, tt.cost); n != tt.want {
			x.errorf("%d goroutines got %d portions of %d from %d units, want %d", tt.goroutines, n, tt.cost, tt.units, tt.want)
		}
		x.remaining(of(p, 0), tt.units-tt.want*tt.cost)
	}
}

// together returns how many charges were admitted.
func (x *trial) together(goroutines, times int, p limiter.Policy, cost int) int {
	var n atomic.Int64
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for range goroutines {
		wg.Go(func() {
			<-begin
			for range times {
				r, ok := x.try(of(p, cost))
				if !ok {
					return
				}
				if r.Allowed {
					n.Add(1)
				}
			}
		})
	}
	close(begin)
	wg.Wait()
	return int(n.Load())
}

// crowdWithTurns reserves by many goroutines: all turns differ.
func crowdWithTurns(x *trial) {
	x.untimed()
	const callers, burst = 64, 4
	unit := time.Hour
	c := of(x.policy(1, unit, burst), 1)
	c.MaxDelay = 1000 * unit
	seen := make(chan time.Duration, callers)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			if r, ok := x.try(c); ok && r.Allowed {
				seen <- r.Delay
			}
		})
	}
	wg.Wait()
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

// flood hammers one key in real time, so that callers are held up between
// reading a clock and using it.
func flood(x *trial) {
	const callers = 64
	for _, p := range []limiter.Policy{
		x.policy(100_000, time.Second, 100),
		x.policy(1009, 100*time.Millisecond, 13),
	} {
		c := limiter.Charge{Policy: p, Key: fmt.Sprint(p.Limit), Cost: 1}
		var n atomic.Int64
		var wg sync.WaitGroup
		begin := time.Now()
		for range callers {
			wg.Go(func() {
				for time.Since(begin) < 100*time.Millisecond {
					r, ok := x.try(c)
					if !ok {
						return
					}
					if r.Allowed {
						n.Add(1)
					}
				}
			})
		}
		wg.Wait()
		took := time.Since(begin)
		if most := x.algorithm.most(p, took); n.Load() > most {
			x.errorf("%d goroutines got %d units in %v of %d in %v burst %d, at most %d are allowed",
				callers, n.Load(), took, p.Limit, p.Window, p.Burst, most)
		}
	}
}
