package limiter_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

func TestTakeAll(t *testing.T) {
	global, route, user := limiter.PerHour("global", 10), limiter.PerHour("route", 5), limiter.PerHour("user", 2)
	charge := func(p limiter.Policy, cost int) limiter.Charge {
		return limiter.Charge{Policy: p, Key: "k", Cost: cost}
	}
	type want struct {
		allowed   bool
		remaining int
		retry     time.Duration
	}
	tests := []struct {
		name  string
		cs    []limiter.Charge
		want  []want
		after [3]int // what remains of global, route, user
	}{
		{"none", nil, nil, [3]int{10, 5, 2}},
		{"one", []limiter.Charge{charge(user, 1)}, []want{{true, 1, 0}}, [3]int{10, 5, 1}},
		{"all fit", []limiter.Charge{charge(global, 1), charge(route, 2), charge(user, 2)},
			[]want{{true, 9, 0}, {true, 3, 0}, {true, 0, 0}}, [3]int{9, 3, 0}},
		{"the last does not fit", []limiter.Charge{charge(global, 1), charge(route, 2), charge(user, 3)},
			[]want{{true, 10, 0}, {true, 5, 0}, {false, 2, limiter.Never}}, [3]int{10, 5, 2}},
		{"the first does not fit", []limiter.Charge{charge(global, 11), charge(route, 2)},
			[]want{{false, 10, limiter.Never}, {true, 5, 0}}, [3]int{10, 5, 2}},
		{"limit 0", []limiter.Charge{charge(global, 1), charge(limiter.PerHour("closed", 0), 1)},
			[]want{{true, 10, 0}, {false, 0, limiter.Never}}, [3]int{10, 5, 2}},
		{"a look among charges", []limiter.Charge{charge(global, 0), charge(route, 1)},
			[]want{{true, 10, 0}, {true, 4, 0}}, [3]int{10, 4, 2}},
		{"the same twice", []limiter.Charge{charge(route, 2), charge(route, 3)},
			[]want{{true, 0, 0}, {true, 0, 0}}, [3]int{10, 0, 2}},
		{"the same twice, the sum can never fit", []limiter.Charge{charge(route, 3), charge(global, 1), charge(route, 3)},
			[]want{{true, 5, 0}, {true, 10, 0}, {false, 5, limiter.Never}}, [3]int{10, 5, 2}},
		{"the same thrice with a look", []limiter.Charge{charge(route, 2), charge(route, 0), charge(route, 2)},
			[]want{{true, 1, 0}, {true, 1, 0}, {true, 1, 0}}, [3]int{10, 1, 2}},
		{"more than a few", []limiter.Charge{charge(global, 1), charge(global, 1), charge(global, 1), charge(global, 1), charge(route, 1), charge(user, 1)},
			[]want{{true, 6, 0}, {true, 6, 0}, {true, 6, 0}, {true, 6, 0}, {true, 4, 0}, {true, 1, 0}}, [3]int{6, 4, 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				m := limiter.NewMemory(nil)
				rs := takeAll(t, m, tt.cs...)
				for i, r := range rs {
					if got := (want{r.Allowed, r.Remaining, r.RetryAfter}); got != tt.want[i] {
						t.Errorf("result %d = %+v, want %+v", i, got, tt.want[i])
					}
				}
				for i, p := range []limiter.Policy{global, route, user} {
					remaining(t, m, of(p, 0), tt.after[i])
				}
			})
		})
	}
}

// Whoever is refused may come back when all that refused would not.
func TestTakeAllRetryAfter(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m := limiter.NewMemory(nil)
		p := per(10*time.Second, 10, 0)
		allowed(t, m, of(p, 8))
		rs := takeAll(t, m, of(p, 2), of(p, 3))
		if !rs[0].Allowed || rs[1].Allowed || rs[1].RetryAfter != 3*time.Second {
			t.Fatalf("results %+v, want the second to retry in 3s", rs)
		}
		time.Sleep(3*time.Second - 1)
		if takeAll(t, m, of(p, 2), of(p, 3))[1].Allowed {
			t.Fatal("admitted a nanosecond early")
		}
		time.Sleep(1)
		if rs := takeAll(t, m, of(p, 2), of(p, 3)); !rs[1].Allowed {
			t.Fatalf("results %+v after RetryAfter", rs)
		}
		remaining(t, m, of(p, 0), 0)
	})
}

// A refusal for want of room takes nothing either.
func TestTakeAllUndoes(t *testing.T) {
	for _, a := range algorithms {
		inTime(t, func(t *testing.T) { takeAllUndoes(t, windows(time.Hour, 10, a)) })
	}
}

func takeAllUndoes(t *testing.T, p limiter.Policy) {
	m := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 1 << 10, LogBytes: 256, RefuseNew: true})
	known := limiter.Charge{Policy: p, Key: "known", Cost: 3}
	allowed(t, m, known)
	known.Cost = 1
	fill(t, m, limiter.PerDay("flood", 1), "", 100)
	for i := range 100 {
		fresh := limiter.Charge{Policy: p, Key: fmt.Sprint("fresh", i), Cost: 1}
		rs := takeAll(t, m, known, known, fresh, known)
		if rs[2].Allowed || rs[2].RetryAfter <= 0 || !rs[0].Allowed {
			t.Fatalf("%v: results %+v, want the third refused", p.Algorithm, rs)
		}
		for i, r := range rs {
			if r.Receipt != (limiter.Receipt{}) || i != 2 && r.Remaining != 7 {
				t.Fatalf("%v: result %d = %+v, want 7 remaining and no receipt", p.Algorithm, i, r)
			}
		}
		remaining(t, m, known, 7)
	}
}

// Charges in any order, by many goroutines: no deadlock, no unit lost, and
// nothing is taken by those who are refused.
func TestTakeAllContended(t *testing.T) {
	t.Run("keep all", func(t *testing.T) { contend(t, false) })
	t.Run("give back some", func(t *testing.T) { contend(t, true) })
}

func contend(t *testing.T, refunds bool) {
	m := limiter.NewMemory(nil)
	const quotas, units = 6, 400
	policies := make([]limiter.Policy, quotas)
	for i := range policies {
		policies[i] = limiter.PerDay(fmt.Sprint("p", i), units)
	}
	var taken [quotas]atomic.Int64
	var wg sync.WaitGroup
	for g := range 32 {
		rnd := rand.New(rand.NewPCG(uint64(g), 5))
		wg.Go(func() {
			for range 300 {
				var cs []limiter.Charge
				var which []int
				for range 1 + rnd.IntN(4) {
					k := rnd.IntN(quotas)
					cs, which = append(cs, of(policies[k], 1)), append(which, k)
				}
				rs, err := m.TakeAll(t.Context(), cs)
				if err != nil {
					t.Error(err)
					return
				}
				ok := true
				for i := range rs {
					ok = ok && rs[i].Allowed
				}
				if !ok {
					continue
				}
				back := refunds && rnd.IntN(4) == 0
				for i, k := range which {
					if back {
						refund(t, m, cs[i], &rs[i])
					} else {
						taken[k].Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	for i, p := range policies {
		n := int(taken[i].Load())
		r := take(t, m, of(p, 0))
		// A day's quota gives nothing back meanwhile. A refund gives less than
		// was taken if others, who stood behind, got theirs back before: it
		// cannot tell them from those in front.
		if all := n + r.Remaining; all > units || all < units && !refunds {
			t.Errorf("quota %d: %d taken, %d remaining, want %d in all", i, n, r.Remaining, units)
		}
	}
}
