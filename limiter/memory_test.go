package limiter_test

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

// Which fields make a quota: Name and Key, and neither Limit nor Burst nor
// Window, which change.
func TestIdentity(t *testing.T) {
	base := limiter.Charge{Policy: per(time.Hour, 10, 0), Key: "k", Cost: 1}
	tests := []struct {
		name   string
		change func(c *limiter.Charge)
		same   bool
	}{
		{"nothing", func(*limiter.Charge) {}, true},
		{"limit", func(c *limiter.Charge) { c.Policy.Limit = 20 }, true},
		{"burst", func(c *limiter.Charge) { c.Policy.Burst = 20 }, true},
		{"key", func(c *limiter.Charge) { c.Key = "l" }, false},
		{"empty key", func(c *limiter.Charge) { c.Key = "" }, false},
		{"name", func(c *limiter.Charge) { c.Policy.Name = "q" }, false},
		{"name and key swapped", func(c *limiter.Charge) { c.Policy.Name, c.Key = c.Key, c.Policy.Name }, false},
		{"name and key joined otherwise", func(c *limiter.Charge) { c.Policy.Name, c.Key = "pk", "" }, false},
		{"long key", func(c *limiter.Charge) { c.Key = strings.Repeat("k", 1<<20) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				m := limiter.NewMemory(nil)
				full := base
				full.Cost = 5
				allowed(t, m, full)
				c := base
				tt.change(&c)
				c.Cost = 0
				if got := take(t, m, c).ResetAfter > 0; got != tt.same {
					t.Errorf("the same quota: %v, want %v", got, tt.same)
				}
			})
		})
	}
}

// When Limit or Burst changes, the time until whole stays; with Burst following
// Limit that is the used fraction.
func TestChangedPolicy(t *testing.T) {
	tests := []struct {
		name      string
		before    limiter.Policy
		cost      int
		after     limiter.Policy
		remaining int
	}{
		{"limit raised", per(time.Minute, 10, 0), 5, per(time.Minute, 100, 0), 50},
		{"limit lowered", per(time.Minute, 100, 0), 50, per(time.Minute, 10, 0), 5},
		{"limit lowered, all used", per(time.Minute, 100, 0), 100, per(time.Minute, 10, 0), 0},
		{"burst raised", per(time.Minute, 10, 10), 5, per(time.Minute, 10, 20), 15},
		{"burst lowered", per(time.Minute, 10, 20), 5, per(time.Minute, 10, 10), 5},
		{"burst lowered below what is used", per(time.Minute, 10, 20), 15, per(time.Minute, 10, 5), 0},
		{"limit raised, burst kept", per(time.Minute, 10, 10), 5, per(time.Minute, 20, 10), 0},
		{"limit to 0", per(time.Minute, 10, 0), 5, per(time.Minute, 0, 0), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				m := limiter.NewMemory(nil)
				before := allowed(t, m, of(tt.before, tt.cost))
				after := take(t, m, of(tt.after, 0))
				if after.Remaining != tt.remaining {
					t.Errorf("remaining = %d, want %d", after.Remaining, tt.remaining)
				}
				if tt.after.Limit > 0 && after.ResetAfter != before.ResetAfter {
					t.Errorf("whole in %v, want %v as before", after.ResetAfter, before.ResetAfter)
				}
				// And back: nothing was written by looking.
				remaining(t, m, of(tt.before, 0), burstOf(tt.before)-tt.cost)
			})
		})
	}
}

func TestRefund(t *testing.T) {
	p := per(10*time.Second, 10, 0)
	tests := []struct {
		name string
		run  func(t *testing.T, m *limiter.Memory)
		want int
	}{
		{"at once", func(t *testing.T, m *limiter.Memory) {
			r := allowed(t, m, of(p, 4))
			refund(t, m, of(p, 4), &r)
			if r.Receipt != (limiter.Receipt{}) {
				t.Errorf("receipt is left: %+v", r.Receipt)
			}
		}, 10},
		{"twice", func(t *testing.T, m *limiter.Memory) {
			r := allowed(t, m, of(p, 4))
			allowed(t, m, of(p, 4))
			refund(t, m, of(p, 4), &r)
			refund(t, m, of(p, 4), &r)
		}, 6},
		{"after half of it came back", func(t *testing.T, m *limiter.Memory) {
			r := allowed(t, m, of(p, 4))
			time.Sleep(2 * time.Second)
			refund(t, m, of(p, 4), &r)
		}, 10},
		{"when all of it came back", func(t *testing.T, m *limiter.Memory) {
			r := allowed(t, m, of(p, 4))
			time.Sleep(4 * time.Second)
			allowed(t, m, of(p, 4))
			refund(t, m, of(p, 4), &r)
		}, 6},
		// What is given back to one moves those behind it forward.
		{"a later one after an earlier one", func(t *testing.T, m *limiter.Memory) {
			a := allowed(t, m, of(p, 10))
			time.Sleep(5 * time.Second)
			b := allowed(t, m, of(p, 5))
			refund(t, m, of(p, 10), &a) // 5 of them
			time.Sleep(5 * time.Second)
			allowed(t, m, of(p, 10))
			refund(t, m, of(p, 5), &b) // came back already
		}, 0},
		{"of a refusal", func(t *testing.T, m *limiter.Memory) {
			allowed(t, m, of(p, 10))
			r := denied(t, m, of(p, 1))
			refund(t, m, of(p, 1), &r)
		}, 0},
		{"of a look", func(t *testing.T, m *limiter.Memory) {
			allowed(t, m, of(p, 10))
			r := allowed(t, m, of(p, 0))
			refund(t, m, of(p, 0), &r)
		}, 0},
		{"of nothing", func(t *testing.T, m *limiter.Memory) {
			refund(t, m, of(p, 1), nil)
			refund(t, m, of(p, 1), &limiter.Result{})
		}, 10},
		{"of another key", func(t *testing.T, m *limiter.Memory) {
			r := allowed(t, m, of(p, 4))
			c := of(p, 4)
			c.Key = "other"
			refund(t, m, c, &r)
		}, 6},
		{"after a reset", func(t *testing.T, m *limiter.Memory) {
			r := allowed(t, m, of(p, 4))
			if err := m.Reset(t.Context(), of(p, 0)); err != nil {
				t.Fatal(err)
			}
			allowed(t, m, of(p, 4))
			refund(t, m, of(p, 4), &r)
		}, 6},
		{"of all charges of a TakeAll", func(t *testing.T, m *limiter.Memory) {
			cs := []limiter.Charge{of(p, 2), of(p, 3)}
			rs := takeAll(t, m, cs...)
			refund(t, m, cs[0], &rs[0])
			refund(t, m, cs[1], &rs[1])
		}, 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				m := limiter.NewMemory(nil)
				tt.run(t, m)
				remaining(t, m, of(p, 0), tt.want)
			})
		})
	}
}

func TestReset(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m := limiter.NewMemory(nil)
		p := per(time.Hour, 3, 0)
		reset := func() {
			t.Helper()
			if err := m.Reset(t.Context(), of(p, 0)); err != nil {
				t.Fatal(err)
			}
		}
		reset()
		remaining(t, m, of(p, 0), 3)
		for range 3 {
			allowed(t, m, of(p, 3))
			denied(t, m, of(p, 1))
			reset()
			if r := take(t, m, of(p, 0)); r.Remaining != 3 || r.ResetAfter != 0 {
				t.Fatalf("after Reset: %+v, want it whole", r)
			}
		}
	})
}

func TestLookTakesNothing(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m := limiter.NewMemory(nil)
		for range 100 {
			if r := allowed(t, m, of(limiter.PerHour("p", 3), 0)); r.Remaining != 3 || r.Receipt != (limiter.Receipt{}) {
				t.Fatalf("look = %+v", r)
			}
		}
		if st := m.Stats(); st.Keys != 0 {
			t.Errorf("looking has stored %d keys", st.Keys)
		}
	})
}

// fill charges n keys and returns how many were denied.
func fill(t *testing.T, m *limiter.Memory, p limiter.Policy, prefix string, n int) (refused int) {
	t.Helper()
	for i := range n {
		if !take(t, m, limiter.Charge{Policy: p, Key: fmt.Sprint(prefix, i), Cost: 1}).Allowed {
			refused++
		}
	}
	return refused
}

func TestFullEvictsTheOneWholeSoonest(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 64 << 10})
		hour, second := limiter.PerHour("hour", 1), limiter.PerSecond("second", 1)
		const drained = 500
		fill(t, m, hour, "", drained)
		if refused := fill(t, m, second, "", 100_000); refused > 0 {
			t.Fatalf("%d newcomers refused", refused)
		}
		st := m.Stats()
		if st.Evicted < 90_000 || st.Refused > 0 {
			t.Errorf("stats %+v, want most of 100,000 evicted", st)
		}
		// All that were evicted would have been whole sooner: a quarter of the
		// table is drained for an hour, and 16 of those in a row are rare.
		if left := fill(t, m, hour, "", drained); left < drained*99/100 {
			t.Errorf("%d of %d drained quotas are left", left, drained)
		}
	})
}

func TestFullDropsWholeOnesFirst(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 64 << 10, RefuseNew: true})
		second := limiter.PerSecond("second", 1)
		if refused := fill(t, m, second, "a", 10_000); refused == 0 {
			t.Fatal("nobody was refused by a full table")
		}
		time.Sleep(time.Second)
		// Not more, or some of them find only each other among 16.
		refused := fill(t, m, second, "b", 300)
		if refused > 0 {
			t.Errorf("%d of 300 newcomers were refused although everybody was whole", refused)
		}
		if st := m.Stats(); st.Evicted > 0 {
			t.Errorf("stats %+v, want none evicted", st)
		}
	})
}

func TestRefuseNew(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 16 << 10, RefuseNew: true})
		p := limiter.PerMinute("p", 1)
		victim := limiter.Charge{Policy: p, Key: "victim", Cost: 1}
		allowed(t, m, victim)
		time.Sleep(time.Second)
		refused := fill(t, m, p, "flood", 10_000)
		if st := m.Stats(); st.Evicted > 0 || st.Refused != uint64(refused) || refused < 9000 {
			t.Errorf("stats %+v with %d refused", st, refused)
		}
		if r := denied(t, m, victim); r.RetryAfter != 59*time.Second {
			t.Errorf("the drained key may retry after %v, want 59s", r.RetryAfter)
		}
		// The refusal tells when it is worth asking again.
		newcomer := limiter.Charge{Policy: p, Key: "newcomer", Cost: 1}
		r := denied(t, m, newcomer)
		if r.RetryAfter <= 0 || r.RetryAfter > time.Minute || r.Remaining != 0 || r.Receipt != (limiter.Receipt{}) {
			t.Errorf("newcomer: %+v, want a refusal with a time to retry", r)
		}
		time.Sleep(r.RetryAfter)
		allowed(t, m, newcomer)
	})
}

func TestMemoryIsBounded(t *testing.T) {
	for _, bound := range []int64{1, 1 << 10, 5000, 16 << 10, 100_000, 1 << 20} {
		for _, refuse := range []bool{false, true} {
			m := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: bound, RefuseNew: refuse})
			fill(t, m, limiter.PerDay("p", 1), "", 60_000)
			st := m.Stats()
			if limit := max(bound, 1<<10); st.Bytes > limit || st.Bytes < limit/2 || st.Keys == 0 {
				t.Errorf("bound %d: stats %+v", bound, st)
			}
		}
	}
}

func TestBytesPerKey(t *testing.T) {
	sizes := []int{20_000, 100_000, 300_000, 1_000_000}
	if testing.Short() {
		sizes = sizes[:2]
	}
	p := limiter.PerDay("p", 2)
	for _, n := range sizes {
		before := heap()
		m := limiter.NewMemory(nil)
		for i := range n {
			take(t, m, limiter.Charge{Policy: p, Key: number(i), Cost: 1})
		}
		used := heap() - before
		st := m.Stats()
		if st.Keys != n || st.Evicted > 0 {
			t.Fatalf("stats %+v, want %d keys", st, n)
		}
		perKey := float64(used) / float64(n)
		t.Logf("%d keys: %.1f bytes a key on the heap, %.1f in tables", n, perKey, float64(st.Bytes)/float64(n))
		// Smaller tables bear 32 KiB of locks and their longer tails.
		if n >= 1_000_000 && perKey > 40 {
			t.Errorf("%d keys: %.1f bytes a key, want at most 40", n, perKey)
		}
		runtime.KeepAlive(m)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	return ms.HeapAlloc
}

// number spells i in 8 bytes, cheaper than package fmt.
func number(i int) string {
	var b [8]byte
	for j := range b {
		b[j] = 'a' + byte(i&15)
		i >>= 4
	}
	return string(b[:])
}

func TestTakeDoesNotAllocate(t *testing.T) {
	m := limiter.NewMemory(nil)
	p := limiter.PerHour("p", 1<<40)
	few := limiter.PerHour("few", 1)
	waits := of(p, 1)
	waits.MaxDelay = time.Hour
	shaped := leaky(time.Hour, 1<<40, 0)
	all := []limiter.Charge{of(p, 1), of(few, 0), of(limiter.PerHour("q", 1<<40), 1)}
	var r limiter.Result
	tests := []struct {
		name string
		want float64
		f    func()
	}{
		{"allowed", 0, func() { allowed(t, m, of(p, 1)) }},
		{"look", 0, func() { allowed(t, m, of(p, 0)) }},
		{"denied", 0, func() { take(t, m, of(few, 1)) }},
		{"never", 0, func() { denied(t, m, of(few, 2)) }},
		{"with MaxDelay", 0, func() { allowed(t, m, waits) }},
		{"leaky", 0, func() { allowed(t, m, of(shaped, 1)) }},
		{"refund", 0, func() {
			r = allowed(t, m, of(p, 1))
			refund(t, m, of(p, 1), &r)
		}},
		{"TakeAll of 3", 1, func() { takeAll(t, m, all...) }},
	}
	for _, tt := range tests {
		if got := testing.AllocsPerRun(100, tt.f); got != tt.want {
			t.Errorf("%s: %v allocations, want %v", tt.name, got, tt.want)
		}
	}
}

func TestNewMemoryPanics(t *testing.T) {
	for _, o := range []limiter.MemoryOptions{
		{MaxBytes: math.MinInt64}, {LogBytes: -1}, {LogBytes: limiter.DefaultMaxBytes/2 + 1}, {MaxBytes: 1 << 20, LogBytes: 1<<19 + 1},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v is accepted", o)
				}
			}()
			limiter.NewMemory(&o)
		}()
	}
	limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 1 << 20, LogBytes: 1 << 19})
}

// A SlidingLog of few events, and one of many.
func TestBytesPerLog(t *testing.T) {
	for _, tt := range []struct {
		keys, events int
		most         float64 // bytes a key
	}{{50_000, 1, 220}, {50, 20_000, 20_000 * 25}} {
		inTime(t, func(t *testing.T) {
			p := windows(time.Hour, tt.events, limiter.SlidingLog)
			before := heap()
			m := limiter.NewMemory(&limiter.MemoryOptions{LogBytes: limiter.DefaultMaxBytes / 2})
			for range tt.events {
				time.Sleep(1)
				for k := range tt.keys {
					take(t, m, limiter.Charge{Policy: p, Key: number(k), Cost: 1})
				}
			}
			used := heap() - before
			st := m.Stats()
			perKey := float64(used) / float64(tt.keys)
			t.Logf("%d keys of %d events: %.1f bytes a key on the heap, %.1f by Stats", tt.keys, tt.events, perKey, float64(st.Bytes)/float64(tt.keys))
			if st.Keys != tt.keys || st.Evicted > 0 || st.Refused > 0 || perKey > tt.most {
				t.Errorf("%d events: stats %+v, %.1f bytes a key, want at most %.1f", tt.events, st, perKey, tt.most)
			}
			runtime.KeepAlive(m)
		})
	}
}
