package redislimiter

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/limiter"
)

// A tenant is a process that leases from a Memory, which is far away.
type tenant struct {
	*limiter.Memory
	ids   *quotaIDs
	ls    *leases
	to    time.Duration // how long a question is underway, and its answer
	asked atomic.Int64
	fail  atomic.Pointer[error]
}

func lodge(m *limiter.Memory, n int) *tenant {
	x := &tenant{Memory: m, ids: newQuotaIDs()}
	x.ls = newLeases(func(limiter.Policy) int { return n }, x.ask)
	return x
}

func (x *tenant) ask(ctx context.Context, c limiter.Charge, _ quotaID) (limiter.Result, error) {
	x.asked.Add(1)
	if err := pause(ctx, x.to); err != nil {
		return limiter.Result{}, err
	}
	if err := x.fail.Load(); err != nil {
		return limiter.Result{}, *err
	}
	r, err := x.Memory.Take(ctx, c)
	time.Sleep(x.to)
	return r, err
}

func (x *tenant) Take(ctx context.Context, c limiter.Charge) (r limiter.Result, err error) {
	id := x.ids.of(&c)
	if ok, err := x.ls.take(ctx, &c, id, &r); ok || err != nil {
		return r, err
	}
	r, err = x.ask(ctx, c, id)
	x.ls.add(&c, id, &r)
	return r, err
}

func (x *tenant) Refund(ctx context.Context, c limiter.Charge, r *limiter.Result) error {
	receipt := r.Receipt
	if receipt.Given != fromLease {
		return x.Memory.Refund(ctx, c, r)
	}
	r.Receipt = limiter.Receipt{}
	x.ls.refund(x.ids.of(&c), receipt)
	return nil
}

func (x *tenant) Reset(ctx context.Context, c limiter.Charge) error {
	err := x.Memory.Reset(ctx, c)
	x.ls.drop(x.ids.of(&c))
	return err
}

// stock returns how many units of a lease are there.
func (x *tenant) stock(id quotaID) int {
	s := x.ls.shardOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leases[id].stock
}

func TestLeaseAsksOnceForManyDecisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := lodge(limiter.NewMemory(nil), 100)
		c := limiter.Charge{Policy: limiter.PerHour("p", 10_000), Key: "k", Cost: 1}
		for i := range 1000 {
			r := take(t, x, c)
			if !r.Allowed || r.Source != limiter.SourceLease || r.Remaining != 10_000-i-1 || r.ResetAfter <= 0 || r.Limit != 10_000 {
				t.Fatalf("Take %d = %+v, want it from a lease, with %d remaining", i, r, 10_000-i-1)
			}
		}
		if n := x.asked.Load(); n != 10 {
			t.Errorf("1000 decisions took %d questions, want 10", n)
		}
	})
}

func TestLeaseIsForWhatItCanServe(t *testing.T) {
	window := limiter.Policy{Name: "p", Algorithm: limiter.FixedWindow, Limit: 100, Window: time.Hour}
	for _, tt := range []struct {
		name   string
		n      int
		c      limiter.Charge
		leased bool
	}{
		{"token bucket", 10, limiter.Charge{Policy: limiter.PerHour("p", 100), Cost: 1}, true},
		{"all of a lease", 10, limiter.Charge{Policy: limiter.PerHour("p", 100), Cost: 10}, true},
		{"more than a lease", 10, limiter.Charge{Policy: limiter.PerHour("p", 100), Cost: 11}, false},
		{"a lease of more than there is", 1000, limiter.Charge{Policy: limiter.PerHour("p", 100), Cost: 1}, true},
		{"no lease", 0, limiter.Charge{Policy: limiter.PerHour("p", 100), Cost: 1}, false},
		{"a lease of one", 1, limiter.Charge{Policy: limiter.PerHour("p", 100), Cost: 1}, false},
		{"a look", 10, limiter.Charge{Policy: limiter.PerHour("p", 100), Cost: 0}, false},
		{"who would wait", 10, limiter.Charge{Policy: limiter.PerHour("p", 100), Cost: 1, MaxDelay: 1}, false},
		{"a capacity of one", 10, limiter.Charge{Policy: limiter.PerHour("p", 1), Cost: 1}, false},
		{"fixed window", 10, limiter.Charge{Policy: window, Cost: 1}, true},
		{"sliding window", 10, limiter.Charge{Policy: with(window, limiter.SlidingWindow), Cost: 1}, false},
		{"sliding log", 10, limiter.Charge{Policy: with(window, limiter.SlidingLog), Cost: 1}, false},
		{"leaky bucket", 10, limiter.Charge{Policy: with(window, limiter.LeakyBucket), Cost: 1}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := lodge(limiter.NewMemory(nil), tt.n)
			r := take(t, x, tt.c)
			if !r.Allowed || (r.Source == limiter.SourceLease) != tt.leased {
				t.Errorf("Take(%+v) = %+v, want it leased: %v", tt.c, r, tt.leased)
			}
		})
	}
}

func with(p limiter.Policy, a limiter.Algorithm) limiter.Policy {
	p.Algorithm = a
	return p
}

// TestLeaseBound lets four processes share a quota on random schedules. What they
// admit fits a bucket that is larger by their leases; in a fixed window nothing
// too much is admitted at all.
func TestLeaseBound(t *testing.T) {
	const processes = 4
	seeds := uint64(300)
	if testing.Short() {
		seeds = 50
	}
	synctest.Test(t, func(t *testing.T) {
		beyond := 0
		for seed := range seeds {
			rnd := rand.New(rand.NewPCG(seed, 3))
			n := 2 + rnd.IntN(20)
			p := limiter.Policy{Name: "p", Limit: 10 + rnd.IntN(90), Window: time.Second}
			if rnd.IntN(3) == 0 {
				p.Algorithm = limiter.FixedWindow
			} else if rnd.IntN(2) == 0 {
				p.Burst = n + rnd.IntN(50)
			}
			burst := capacityOf(&p)
			size := min(n, burst)
			m := limiter.NewMemory(nil)
			var xs [processes]*tenant
			for i := range xs {
				xs[i] = lodge(m, n)
				xs[i].to = time.Duration(rnd.IntN(3)) * time.Millisecond
			}
			type held struct {
				x *tenant
				c limiter.Charge
				r limiter.Result
			}
			var taken []held
			rate := float64(p.Limit) / p.Window.Seconds()
			level, exact := 0.0, 0.0 // of the larger bucket and of the policy's own
			start, last := time.Now(), time.Now()
			windows := make(map[int64]int)
			for step := range 600 {
				switch rnd.IntN(10) {
				case 0, 1:
					time.Sleep(time.Duration(rnd.IntN(60)) * time.Millisecond)
				case 2:
					if rnd.IntN(6) == 0 {
						time.Sleep(time.Duration(rnd.IntN(1500)) * time.Millisecond)
					}
				case 3:
					if len(taken) > 0 && rnd.IntN(3) == 0 {
						i := rnd.IntN(len(taken))
						h := &taken[i]
						before := h.r.Receipt
						if err := h.x.Refund(t.Context(), h.c, &h.r); err != nil {
							t.Fatal(err)
						}
						// Nobody used it, so it does not count.
						if before != (limiter.Receipt{}) && p.Algorithm == limiter.TokenBucket {
							level -= float64(h.c.Cost)
							exact -= float64(h.c.Cost)
						} else if before != (limiter.Receipt{}) {
							windows[windowOf(h.r, start)] -= h.c.Cost
						}
						taken[i] = taken[len(taken)-1]
						taken = taken[:len(taken)-1]
					}
				default:
					x := xs[rnd.IntN(processes)]
					c := limiter.Charge{Policy: p, Key: "k", Cost: 1 + rnd.IntN(min(3, n))}
					r := take(t, x, c)
					if !r.Allowed {
						continue
					}
					taken = append(taken, held{x, c, r})
					if p.Algorithm == limiter.FixedWindow {
						w := time.Now().UnixNano() / int64(p.Window)
						taken[len(taken)-1].r.ResetAfter = time.Duration(w)
						windows[w] += c.Cost
						// A server's answer may arrive in the next window.
						if windows[w] > p.Limit && xs[0].to+xs[1].to+xs[2].to+xs[3].to == 0 {
							t.Fatalf("seed %d, step %d: %d units of %+v passed in a window", seed, step, windows[w], p)
						}
						continue
					}
					gone := time.Since(last).Seconds() * rate
					last = time.Now()
					level = max(0, level-gone) + float64(c.Cost)
					exact = max(0, exact-gone) + float64(c.Cost)
					// While an answer is underway the server gives some back.
					slack := 1e-6 + rate*0.005
					if level > float64(burst+processes*size)+slack {
						t.Fatalf("seed %d, step %d: %v units of %+v at once by %d processes with leases of %d", seed, step, level, p, processes, size)
					}
					if exact > float64(burst)+slack {
						beyond++
					}
				}
			}
		}
		if beyond == 0 {
			t.Error("no schedule used what leases admit beyond the policy: the test is too weak")
		}
	})
}

func windowOf(r limiter.Result, _ time.Time) int64 { return int64(r.ResetAfter) }

func TestLeaseIsDroppedAfterAWindow(t *testing.T) {
	for _, a := range []limiter.Algorithm{limiter.TokenBucket, limiter.FixedWindow} {
		t.Run(a.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := lodge(limiter.NewMemory(nil), 10)
				c := limiter.Charge{Policy: limiter.Policy{Name: "p", Algorithm: a, Limit: 100, Window: time.Minute}, Key: "k", Cost: 1}
				first := take(t, x, c)
				end := time.Minute // bubbles begin at a whole minute
				time.Sleep(end - 1)
				if r := take(t, x, c); r.Source != limiter.SourceLease || x.asked.Load() != 1 {
					t.Errorf("Take before the end = %+v after %d questions", r, x.asked.Load())
				}
				time.Sleep(1)
				x.Refund(t.Context(), c, &first)
				if r := take(t, x, c); x.asked.Load() != 2 {
					t.Errorf("Take after the end = %+v after %d questions, want 2", r, x.asked.Load())
				}
			})
		})
	}
}

func TestLeasedUnitsGoBackIntoStock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := lodge(limiter.NewMemory(nil), 10)
		p := limiter.PerHour("p", 100)
		c := limiter.Charge{Policy: p, Key: "k", Cost: 4}
		id := x.ids.of(&c)
		want := func(what string, n int) {
			t.Helper()
			if got := x.stock(id); got != n {
				t.Errorf("%s: %d in stock, want %d", what, got, n)
			}
		}
		r1, r2 := take(t, x, c), take(t, x, c)
		want("10 leased, 8 spent", 2)
		x.Refund(t.Context(), c, &r1)
		want("4 given back", 6)
		x.Refund(t.Context(), c, &r1)
		want("given back twice", 6)
		c.Cost = 7
		take(t, x, c)
		want("filled up to 10, 7 spent", 3)
		c.Cost = 1
		take(t, x, c)
		x.Refund(t.Context(), c, &r2)
		want("4 given back", 6)
		r := take(t, x, c)
		x.Reset(t.Context(), c)
		want("reset", 0)
		x.Refund(t.Context(), c, &r)
		want("given back after a reset", 0)
		if r := take(t, x.Memory, limiter.Charge{Policy: p, Key: "k"}); r.Remaining != 100 {
			t.Errorf("after a reset %+v, want 100 remaining", r)
		}
	})
}

// However much is given back, and whenever: no more than a lease is in stock.
func TestStockIsNoMoreThanALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := lodge(limiter.NewMemory(nil), 10)
		c := limiter.Charge{Policy: limiter.PerHour("p", 100), Key: "k", Cost: 10}
		id := x.ids.of(&c)
		want := func(what string, n int) {
			t.Helper()
			if got := x.stock(id); got != n {
				t.Errorf("%s: %d in stock, want %d", what, got, n)
			}
		}
		all, again := take(t, x, c), take(t, x, c)
		c.Cost = 1
		take(t, x, c)
		x.Refund(t.Context(), c, &all)
		want("9 in stock and 10 given back", 10)

		c.Cost = 10
		take(t, x, c)
		c.Cost = 1
		x.to = time.Millisecond
		var wg sync.WaitGroup
		wg.Go(func() { take(t, x, c) })
		synctest.Wait()
		x.Refund(t.Context(), c, &again)
		want("10 given back while 10 are underway", 0)
		wg.Wait()
		want("10 have come, 1 was spent", 9)
	})
}

// A look, and what was charged to the server itself, count what is in stock.
func TestRemainingCountsTheStock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := lodge(limiter.NewMemory(nil), 10)
		c := limiter.Charge{Policy: limiter.PerHour("p", 20), Key: "k", Cost: 1}
		for i := range 20 {
			if r := take(t, x, c); !r.Allowed || r.Remaining != 19-i {
				t.Fatalf("Take %d = %+v, want %d remaining", i, r, 19-i)
			}
			look := c
			look.Cost = 0
			r := take(t, x, look)
			if r.Remaining != 19-i || (r.RetryAfter > 0) != (r.Remaining == 0) {
				t.Fatalf("a look after %d = %+v, want %d remaining", i+1, r, 19-i)
			}
		}
		if r := take(t, x, c); r.Allowed || r.RetryAfter <= 0 {
			t.Errorf("Take of an empty quota = %+v", r)
		}
	})
}

// TestLeaseInACrowd: everything is given out, nothing twice, and one question at
// a time fills the stock.
func TestLeaseInACrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := lodge(limiter.NewMemory(nil), 100)
		x.to = time.Millisecond
		c := limiter.Charge{Policy: limiter.PerHour("p", 5050), Key: "k", Cost: 1}
		var admitted atomic.Int64
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for range 100 {
					if r, err := x.Take(t.Context(), c); err != nil {
						t.Error(err)
					} else if r.Allowed {
						admitted.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if n := admitted.Load(); n != 5050 {
			t.Errorf("%d units of 5050 were admitted", n)
		}
	})
}

func TestFailedRefillHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := lodge(limiter.NewMemory(nil), 10)
		x.to = 10 * time.Millisecond
		broken := errors.New("broken")
		x.fail.Store(&broken)
		c := limiter.Charge{Policy: limiter.PerHour("p", 1000), Key: "k", Cost: 1}
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := x.Take(ctx, c); !errors.Is(err, context.Canceled) {
				t.Errorf("the cancelled caller got %v", err)
			}
		})
		synctest.Wait()
		for range 5 {
			wg.Go(func() {
				if _, err := x.Take(t.Context(), c); err != broken {
					t.Errorf("Take = %v", err)
				}
			})
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if _, err := x.Take(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("who would not wait got %v", err)
			}
		})
		synctest.Wait()
		time.Sleep(2 * time.Millisecond)
		cancel()
		wg.Wait()
		x.fail.Store(nil)
		time.Sleep(dryTime)
		if r := take(t, x, c); !r.Allowed || r.Source != limiter.SourceLease {
			t.Errorf("Take after the failure = %+v", r)
		}
	})
}

func TestResetDuringARefillDropsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := limiter.NewMemory(nil)
		x := lodge(m, 10)
		x.to = 10 * time.Millisecond
		c := limiter.Charge{Policy: limiter.PerHour("p", 10), Key: "k", Cost: 1}
		var wg sync.WaitGroup
		wg.Go(func() {
			if r, err := x.Take(t.Context(), c); err != nil || !r.Allowed {
				t.Errorf("Take = %+v, %v", r, err)
			}
		})
		time.Sleep(15 * time.Millisecond) // taken, and underway
		if err := x.Reset(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		x.to = 0
		n := 0
		for take(t, x, c).Allowed {
			n++
		}
		if n != 10 {
			t.Errorf("%d units of 10 were admitted after a reset", n)
		}
	})
}

func TestLeasesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := lodge(limiter.NewMemory(nil), 10)
		p := limiter.PerHour("p", 100)
		leased := 0
		for round := range 2 {
			for i := range 3 * leaseShards * leasesEach {
				r := take(t, x, limiter.Charge{Policy: p, Key: fmt.Sprint(round, i), Cost: 1})
				if !r.Allowed {
					t.Fatalf("Take = %+v", r)
				}
				if r.Source == limiter.SourceLease {
					leased++
				}
			}
			time.Sleep(time.Hour) // the leases end, and make room
		}
		held := 0
		for i := range x.ls.shards {
			held += len(x.ls.shards[i].leases)
		}
		if most := leaseShards * leasesEach; held > most || leased > 2*most || leased < most*3/2 {
			t.Errorf("%d leases in the end, %d in all, want %d at most at a time", held, leased, most)
		}
	})
}

// Another Limit is another policy: what was leased under the first is dropped.
func TestLeaseOfAnotherPolicyIsDropped(t *testing.T) {
	x := lodge(limiter.NewMemory(nil), 10)
	c := limiter.Charge{Policy: limiter.PerHour("p", 100), Key: "k", Cost: 1}
	take(t, x, c)
	c.Policy.Limit = 50
	take(t, x, c)
	if n := x.asked.Load(); n != 2 {
		t.Errorf("%d questions, want 2", n)
	}
}

func TestLeaseAllocatesNothing(t *testing.T) {
	x := lodge(limiter.NewMemory(nil), 1000)
	c := limiter.Charge{Policy: limiter.PerHour("p", 100_000), Key: "k", Cost: 1}
	take(t, x, c)
	var r limiter.Result
	if n := testing.AllocsPerRun(500, func() { r, _ = x.Take(context.Background(), c) }); n != 0 || r.Source != limiter.SourceLease {
		t.Errorf("%v allocations for %+v", n, r)
	}
}
