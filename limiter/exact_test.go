package limiter_test

import (
	"math/big"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

// bound returns what policy p admits at most in a time, exactly.
func bound(p limiter.Policy, d time.Duration) *big.Int {
	n := new(big.Int).Mul(num(int64(p.Limit)), num(int64(d)))
	return n.Add(n.Div(n, num(int64(p.Window))), num(int64(burstOf(p))))
}

// 256 goroutines on one key admit at most burst + rate*t, to the unit.
func TestExactUnderContention(t *testing.T) {
	tests := []struct {
		policy limiter.Policy
		cost   int
		time   time.Duration
	}{
		{per(time.Second, 1_000_000, 1000), 1, 2 * time.Second},
		{per(time.Second, 10_000, 100), 1, 500 * time.Millisecond},
		{per(time.Second, 30_011, 7), 1, 500 * time.Millisecond},
		{per(time.Second, 99_991, 1000), 3, 500 * time.Millisecond},
	}
	for _, tt := range tests {
		if testing.Short() {
			tt.time /= 10
		}
		m := limiter.NewMemory(nil)
		var admitted atomic.Int64
		var wg sync.WaitGroup
		start := time.Now()
		for range 256 {
			wg.Go(func() {
				n := int64(0)
				for time.Since(start) < tt.time {
					for range 20 {
						if take(t, m, of(tt.policy, tt.cost)).Allowed {
							n += int64(tt.cost)
						}
					}
				}
				admitted.Add(n)
			})
		}
		wg.Wait()
		most := bound(tt.policy, time.Since(start))
		if got := num(admitted.Load()); got.Cmp(most) > 0 {
			t.Errorf("%d/s burst %d: admitted %d, at most %d are allowed", tt.policy.Limit, tt.policy.Burst, got, most)
		} else {
			t.Logf("%d/s burst %d: admitted %d of at most %d", tt.policy.Limit, tt.policy.Burst, got, most)
		}
	}
}

// A client that sleeps for exactly RetryAfter is admitted, and a nanosecond
// earlier it is not.
func TestSleepingRetryAfterAdmits(t *testing.T) {
	schedules := uint64(10_000)
	if testing.Short() {
		schedules = 1000
	}
	inTime(t, func(t *testing.T) {
		m := limiter.NewMemory(nil)
		for seed := range schedules {
			rnd := rand.New(rand.NewPCG(seed, 6))
			p := randomPolicy(rnd)
			c := limiter.Charge{Policy: p, Key: number(int(seed))}
			for range 5 {
				c.Cost = 1 + rnd.IntN(burstOf(p))
				c.MaxDelay = 0
				if rnd.IntN(4) == 0 {
					c.MaxDelay = time.Duration(rnd.Int64N(int64(p.Window)))
				}
				r := take(t, m, c)
				if r.Allowed {
					continue
				}
				time.Sleep(r.RetryAfter - 1)
				if early := denied(t, m, c); early.RetryAfter != 1 {
					t.Fatalf("seed %d: RetryAfter a nanosecond early = %v", seed, early.RetryAfter)
				}
				time.Sleep(1)
				allowed(t, m, c)
			}
		}
	})
}

// A client below the rate is never refused.
func TestBelowTheRateIsNeverRefused(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m := limiter.NewMemory(nil)
		for seed := range uint64(200) {
			rnd := rand.New(rand.NewPCG(seed, 7))
			p := randomPolicy(rnd)
			p.Limit = min(p.Limit, int(p.Window/time.Microsecond)) // slower than 1 a µs
			p.Burst = 1
			c := limiter.Charge{Policy: p, Key: number(int(seed)), Cost: 1}
			pause := (p.Window + time.Duration(p.Limit) - 1) / time.Duration(p.Limit)
			for range 100 {
				allowed(t, m, c)
				time.Sleep(pause + time.Duration(rnd.Int64N(3)))
			}
		}
	})
}

// The bound holds for each key while others come by the thousands, tables grow
// and fill, several are charged at once, and some is given back.
func TestExactWhileTablesGrow(t *testing.T) {
	policies := []limiter.Policy{
		{Name: "a", Limit: 100, Window: time.Second, Burst: 300},
		{Name: "b", Limit: 10_007, Window: time.Second, Burst: 11},
		{Name: "c", Limit: 1, Window: time.Hour, Burst: 1000},
	}
	const keys = 4
	lasts, flood := time.Second, int64(60_000) // enough to fill the tables twice, however slow the machine
	if testing.Short() {
		lasts, flood = lasts/10, 0
	}
	m := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 1 << 20, RefuseNew: true})
	var kept [3][keys]atomic.Int64
	var fresh atomic.Int64
	start := time.Now()
	for p := range policies { // or the flood might leave no room for them
		for k := range keys {
			kept[p][k].Add(1)
			allowed(t, m, limiter.Charge{Policy: policies[p], Key: number(k), Cost: 1})
		}
	}
	var wg sync.WaitGroup
	for g := range 16 {
		rnd := rand.New(rand.NewPCG(uint64(g), 23))
		wg.Go(func() {
			for time.Since(start) < lasts || fresh.Load() < flood {
				var cs []limiter.Charge
				var at []*atomic.Int64
				for range 1 + rnd.IntN(3) {
					p, k := rnd.IntN(len(policies)), rnd.IntN(keys)
					cs = append(cs, limiter.Charge{Policy: policies[p], Key: number(k), Cost: 1 + rnd.IntN(2)})
					at = append(at, &kept[p][k])
				}
				var rs []limiter.Result
				if len(cs) == 1 {
					rs = []limiter.Result{take(t, m, cs[0])}
				} else {
					rs = takeAll(t, m, cs...)
				}
				back := rnd.IntN(4) == 0
				for i := range rs {
					switch {
					case rs[i].Receipt == limiter.Receipt{}:
					case back:
						refund(t, m, cs[i], &rs[i])
					default:
						at[i].Add(int64(cs[i].Cost))
					}
				}
				for range 4 {
					take(t, m, limiter.Charge{Policy: limiter.PerHour("flood", 1), Key: number(1<<20 + int(fresh.Add(1))), Cost: 1})
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	for p := range policies {
		for k := range keys {
			most := bound(policies[p], took)
			if got := num(kept[p][k].Load()); got.Cmp(most) > 0 {
				t.Errorf("policy %q, key %d: kept %d, at most %d are allowed", policies[p].Name, k, got, most)
			} else {
				t.Logf("policy %q, key %d: kept %d of at most %d", policies[p].Name, k, got, most)
			}
		}
	}
	st := m.Stats()
	t.Logf("%d other keys: %+v", fresh.Load(), st)
	if !testing.Short() && st.Refused == 0 {
		t.Errorf("stats %+v: the tables have not filled", st)
	}
}
