package limiter_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

// Traps that rate limiters have been caught in; the numbers are those of
// docs/traps.md. The first is in clock_test.go.

// 64 goroutines on one key: every call is answered, none with an error.
func TestTrapLimiter03_HotKey(t *testing.T) {
	m := limiter.NewMemory(nil)
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 100 {
				if r, err := m.Take(t.Context(), of(limiter.PerDay("p", 5000), 1)); err != nil {
					t.Error(err)
				} else if r.Allowed {
					admitted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if admitted.Load() != 5000 {
		t.Errorf("admitted %d, want 5000", admitted.Load())
	}
}

// flood asks once a millisecond and returns when it was admitted.
func flood(t *testing.T, p limiter.Policy, d time.Duration) (at []time.Duration) {
	t.Helper()
	m, start := limiter.NewMemory(nil), time.Now()
	for time.Since(start) <= d {
		if take(t, m, of(p, 1)).Allowed {
			at = append(at, time.Since(start))
		}
		time.Sleep(time.Millisecond)
	}
	return at
}

// After the first burst a flooded 10/s admits one every 100 ms, not ten at each
// second's edge.
func TestTrapLimiter05_WholeSeconds(t *testing.T) {
	inTime(t, func(t *testing.T) {
		at := flood(t, per(s, 10, 0), 5*s)
		if len(at) != 10+50 {
			t.Fatalf("admitted %d in 5 s, want 60", len(at))
		}
		for i, d := range at[10:] {
			if want := time.Duration(i+1) * 100 * ms; d != want {
				t.Fatalf("unit %d came back at %v, want %v", i, d, want)
			}
		}
	})
}

// A drained quota is half full after half of its window, and full after all.
func TestTrapLimiter06_FillRate(t *testing.T) {
	for _, limit := range []int{1, 10, 1000, 65535, 1_000_000} {
		inTime(t, func(t *testing.T) {
			m, p := limiter.NewMemory(nil), per(s, limit, 0)
			allowed(t, m, of(p, limit))
			time.Sleep(s / 2)
			if r := take(t, m, of(p, 0)); r.Remaining > limit/2 || r.Remaining < limit/2-limit/1000-1 {
				t.Errorf("%d/s: %d remaining after half a second", limit, r.Remaining)
			}
			time.Sleep(s/2 + s/1000)
			remaining(t, m, of(p, 0), limit)
		})
	}
}

// There is no window whose edge would let twice the limit through, but that of
// FixedWindow, which is documented to.
func TestTrapLimiter07_WindowEdge(t *testing.T) {
	for _, tt := range []struct {
		algorithm limiter.Algorithm
		most      int // of 100/s within 100 ms around the edge
	}{
		{limiter.TokenBucket, 110}, {limiter.LeakyBucket, 110}, {limiter.FixedWindow, 200}, {limiter.SlidingWindow, 110}, {limiter.SlidingLog, 100},
	} {
		inTime(t, func(t *testing.T) {
			m, p, admitted := limiter.NewMemory(nil), windows(s, 100, tt.algorithm), 0
			time.Sleep(950 * ms)
			for range 101 {
				for range 100 {
					if take(t, m, of(p, 1)).Allowed {
						admitted++
					}
				}
				time.Sleep(ms)
			}
			if admitted < 100 || admitted > tt.most || tt.most == 200 && admitted != 200 {
				t.Errorf("%v: %d admitted around the edge, want at most %d", tt.algorithm, admitted, tt.most)
			}
		})
	}
	inTime(t, func(t *testing.T) {
		p := per(s, 100, 0)
		at := flood(t, p, 5*s)
		for i := range at {
			for j := i; j < len(at); j++ {
				if n := j - i + 1; bound(p, at[j]-at[i]).Cmp(num(int64(n))) < 0 {
					t.Fatalf("%d admitted in %v", n, at[j]-at[i])
				}
			}
		}
	})
}

// Concurrent requests do not all read the same count.
func TestTrapLimiter08_LostUpdate(t *testing.T) {
	for range 20 {
		m := limiter.NewMemory(nil)
		var admitted atomic.Int64
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for range 10 {
					if take(t, m, of(limiter.PerDay("p", 100), 1)).Allowed {
						admitted.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if admitted.Load() != 100 {
			t.Fatalf("admitted %d, want 100", admitted.Load())
		}
	}
}

// A steady client at two thirds of the limit is never refused.
func TestTrapLimiter09_SteadyClient(t *testing.T) {
	for _, a := range algorithms {
		inTime(t, func(t *testing.T) {
			m := limiter.NewMemory(nil)
			for range 100 {
				if r := allowed(t, m, of(windows(3*s, 5, a), 1)); r.Delay > 0 {
					t.Fatalf("%v: held for %v", a, r.Delay)
				}
				time.Sleep(900 * ms)
			}
		})
	}
}

// Windows below a second count, and Retry-After is never 0.
func TestTrapLimiter10_SubSecondWindow(t *testing.T) {
	inTime(t, func(t *testing.T) {
		if at := flood(t, per(500*ms, 1, 0), 5*s); len(at) != 11 {
			t.Errorf("1 per 500 ms admitted %d in 5 s, want 11", len(at))
		}
		rules := limiter.Rules{{Policy: per(500*ms, 1, 0), Key: limiter.KeyGlobal}}
		h := limiter.Middleware(limiter.NewMemory(nil), rules, nil)(hello)
		status(t, h, request(t), 200)
		if got := status(t, h, request(t), 429).Header.Get("Retry-After"); got != "1" {
			t.Errorf("Retry-After %q, want 1", got)
		}
	})
}

// What is refused, or could never fit, takes nothing.
func TestTrapLimiter11_DeniedConsumes(t *testing.T) {
	for _, a := range algorithms {
		inTime(t, func(t *testing.T) {
			m, p := limiter.NewMemory(nil), windows(time.Hour, 5, a)
			for range 100 {
				denied(t, m, of(p, 100))
			}
			allowed(t, m, of(p, 3))
			for range 100 {
				denied(t, m, of(p, 3))
				c := of(p, 3)
				c.MaxDelay = time.Minute
				denied(t, m, c)
				takeAll(t, m, of(p, 1), of(p, 2))
			}
			remaining(t, m, of(p, 0), 2)
		})
	}
}

// State lives until it is whole, however long that takes and however many
// others come and go.
func TestTrapLimiter12_EarlyExpiry(t *testing.T) {
	for _, a := range algorithms {
		inTime(t, func(t *testing.T) {
			m, p := limiter.NewMemory(nil), windows(time.Hour, 1, a)
			allowed(t, m, of(p, 1))
			whole := take(t, m, of(p, 0)).ResetAfter
			for i := range int(whole/time.Minute) - 1 {
				time.Sleep(time.Minute)
				fill(t, m, limiter.PerSecond("other", 1), fmt.Sprint(i, "-"), 1000)
				fill(t, m, limiter.Policy{Name: "other", Algorithm: a, Limit: 1, Window: s}, fmt.Sprint(i, "-"), 1000)
				if c := of(p, 1); a != limiter.LeakyBucket {
					denied(t, m, c)
				} else {
					remaining(t, m, c, 0)
				}
			}
			time.Sleep(time.Minute)
			allowed(t, m, of(p, 1))
		})
	}
}

// A drained key does not come back full by a flood of others: never under
// RefuseNew, and otherwise not as long as others are whole sooner.
func TestTrapLimiter13_EvictedVictim(t *testing.T) {
	for _, refuse := range []bool{true, false} {
		inTime(t, func(t *testing.T) {
			m := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 256 << 10, RefuseNew: refuse})
			victim := limiter.Charge{Policy: limiter.PerDay("victim", 10), Key: "v", Cost: 10}
			allowed(t, m, victim)
			fill(t, m, limiter.PerHour("flood", 10), "f", 100_000)
			if st := m.Stats(); st.Evicted+st.Refused < 80_000 {
				t.Fatalf("stats %+v: the table is not full", st)
			}
			victim.Cost = 1
			denied(t, m, victim)
		})
	}
}

// No key is refused on its first request because of another.
func TestTrapLimiter14_SharedSlot(t *testing.T) {
	m := limiter.NewMemory(nil)
	if refused := fill(t, m, limiter.PerDay("p", 1), "", 200_000); refused > 0 {
		t.Errorf("%d of 200,000 keys were refused on their first request", refused)
	}
}

// Days times large numbers neither wrap nor admit.
func TestTrapLimiter15_Overflow(t *testing.T) {
	for _, a := range []limiter.Algorithm{limiter.TokenBucket, limiter.LeakyBucket} { // windows: TestExtremeWindows
		overflow(t, a)
	}
}

func overflow(t *testing.T, a limiter.Algorithm) {
	inTime(t, func(t *testing.T) {
		const huge = 1<<63 - 1
		for _, p := range []limiter.Policy{
			limiter.PerDay("a", 1), named("b", 1, huge, 0), named("c", 1, 24*time.Hour, huge), named("d", huge, time.Microsecond, 0),
			named("e", huge, huge, huge), named("f", 3, huge-1, huge), named("g", huge-1, huge, 1), named("h", huge, time.Microsecond, 1),
		} {
			m := limiter.NewMemory(nil)
			p.Algorithm = a
			burst := burstOf(p)
			for _, cost := range []int{106_752, 1 << 40, 1 << 62, huge} {
				r := take(t, m, of(p, cost))
				if r.Allowed != (cost <= burst) || r.ResetAfter < 0 || r.RetryAfter < 0 || r.Remaining < 0 {
					t.Errorf("%+v: cost %d = %+v", p, cost, r)
				}
				if err := m.Reset(t.Context(), of(p, 0)); err != nil {
					t.Fatal(err)
				}
			}
			// A whole capacity, and however many ask for it later, in order.
			c := of(p, burst)
			allowed(t, m, c)
			c.MaxDelay = huge
			for _, r := range takeAll(t, m, c, c, c) {
				if r.ResetAfter < 0 || r.RetryAfter < 0 || r.Remaining < 0 || r.Delay < 0 {
					t.Errorf("%+v: %+v", p, r)
				}
			}
			time.Sleep(time.Hour)
			if r := take(t, m, of(p, 0)); r.ResetAfter < 0 {
				t.Errorf("%+v: %+v", p, r)
			}
		}
	})
}

// Zero and negative parameters are errors or refusals; nothing is minted.
func TestTrapLimiter16_Unvalidated(t *testing.T) {
	m := limiter.NewMemory(nil)
	for _, c := range []limiter.Charge{
		of(per(0, 1, 1), 1), of(per(-s, 1, 1), 1), of(per(s, -1, 1), 1), of(per(s, 1, -1), 1), of(per(s, 1, 1), -5),
		of(named("", 1, s, 0), 1), {},
	} {
		if r, err := m.Take(t.Context(), c); !errors.Is(err, limiter.ErrPolicy) || r.Allowed {
			t.Errorf("Take(%+v) = %+v, %v; want ErrPolicy", c, r, err)
		}
	}
	denied(t, m, of(per(s, 0, 0), 1))
	p := limiter.PerDay("p", 3)
	allowed(t, m, of(p, 3))
	m.Take(t.Context(), of(p, -5))
	denied(t, m, of(p, 1))
	for _, expr := range []string{"10/0s", "-1/s", "10/-1s", "10"} {
		if _, _, err := limiter.ParseRate(expr); err == nil {
			t.Errorf("ParseRate(%q) is no error", expr)
		}
	}
}

// What can never fit says so, and the response has no Retry-After.
func TestTrapLimiter17_RetryAfterNever(t *testing.T) {
	rules := global("p", 10)
	rules[0].Cost = func(*http.Request) int { return 1000 }
	h := limiter.Middleware(limiter.NewMemory(nil), rules, nil)(hello)
	if got, sent := status(t, h, request(t), 429).Header["Retry-After"]; sent {
		t.Errorf("Retry-After %q for what can never fit", got)
	}
	if r := denied(t, limiter.NewMemory(nil), of(rules[0].Policy, 11)); r.RetryAfter != limiter.Never {
		t.Errorf("RetryAfter = %v, want Never", r.RetryAfter)
	}
}

// A fraction of a unit that has come back is not lost by taking whole ones, by
// looking or by being refused.
func TestTrapLimiter18_FractionLost(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m, p := limiter.NewMemory(nil), per(s, 1, 5)
		allowed(t, m, of(p, 5))
		time.Sleep(1900 * ms)
		if r := allowed(t, m, of(p, 1)); r.Remaining != 0 {
			t.Fatalf("remaining %d, want 0", r.Remaining)
		}
		for range 10 {
			take(t, m, of(p, 0))
			if r := denied(t, m, of(p, 1)); r.RetryAfter != 100*ms {
				t.Fatalf("RetryAfter = %v, want the 100ms that are missing", r.RetryAfter)
			}
		}
		time.Sleep(100 * ms)
		allowed(t, m, of(p, 1))
	})
}

// Parts of a key are joined so that no two combinations are the same.
func TestTrapLimiter19_JoinedKeys(t *testing.T) {
	seen := map[string][]string{}
	parts := []string{"x", "y", "z", "x:y", "y:z", ":", "1:x", "x1:y", "3:x:y", "|", "\n", "x\x00", "0:x"}
	join := func(parts ...string) {
		var keys []limiter.KeyFunc
		for _, p := range parts {
			keys = append(keys, constant(p))
		}
		key, err := limiter.JoinKeys(keys...)(nil)
		if err != nil {
			t.Fatal(err)
		}
		if old, ok := seen[key]; ok && !slices.Equal(old, parts) {
			t.Errorf("%q and %q are both %q", old, parts, key)
		}
		seen[key] = parts
	}
	for _, a := range parts {
		for _, b := range parts {
			join(a, b)
			join(a + b)
			join(a, b, a)
		}
	}
	// In state, Name and Key are apart too, and no suffix meets another quota.
	m := limiter.NewMemory(nil)
	for _, c := range []struct{ name, key string }{{"a", "b_c"}, {"a_b", "c"}, {"ab", "_c"}, {"a", "bts"}, {"a", "bhits"}, {"a", "b"}} {
		if !take(t, m, limiter.Charge{Policy: limiter.PerDay(c.name, 1), Key: c.key, Cost: 1}).Allowed {
			t.Errorf("%q shares its quota", c)
		}
	}
}

// A Limiter that fails is answered with 503 and nothing of the error; the
// request goes no further and nothing panics.
func TestTrapLimiter28_FailingStore(t *testing.T) {
	called := false
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true })
	h := limiter.Middleware(failing{errors.New("secret")}, global("p", 1), nil)(next)
	res := status(t, h, request(t), http.StatusServiceUnavailable)
	if called || strings.Contains(fmt.Sprint(res), "secret") {
		t.Errorf("handler called: %v; response %v", called, res)
	}
}

// Retry-After is a number of seconds, which has one spelling.
func TestTrapLimiter29_RetryAfterForm(t *testing.T) {
	inTime(t, func(t *testing.T) {
		for _, window := range []time.Duration{time.Microsecond, ms, s, time.Minute, 366 * 24 * time.Hour} {
			rules := limiter.Rules{{Policy: per(window, 1, 0), Key: limiter.KeyGlobal}}
			h := limiter.Middleware(limiter.NewMemory(nil), rules, nil)(hello)
			status(t, h, request(t), 200)
			got := status(t, h, request(t), 429).Header["Retry-After"]
			want := strconv.FormatInt(int64((window+s-1)/s), 10)
			if len(got) != 1 || got[0] != want {
				t.Errorf("window %v: Retry-After %q, want %s", window, got, want)
			}
		}
	})
}

// A request that is given back after its answer gives back its own unit, not
// one of a request that came meanwhile.
func TestTrapLimiter30_RefundOfAnother(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m := limiter.NewMemory(nil)
		rules := limiter.Rules{{Policy: per(s, 1, 0), Key: limiter.KeyGlobal, RefundIf: func(status int) bool { return status == 404 }}}
		slow := limiter.Middleware(m, rules, nil)(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(1500 * ms)
			w.WriteHeader(404)
		}))
		quick := limiter.Middleware(m, rules, nil)(hello)
		go slow.ServeHTTP(httptest.NewRecorder(), request(t))
		time.Sleep(s) // the slow one's unit is back by now
		status(t, quick, request(t), 200)
		time.Sleep(600 * ms) // the slow one has ended
		status(t, quick, request(t), 429)
		time.Sleep(400 * ms)
		status(t, quick, request(t), 200)
	})
}

// A cost passes only if all of it is there.
func TestTrapLimiter34_Debt(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m, p := limiter.NewMemory(nil), per(time.Hour, 10, 0)
		allowed(t, m, of(p, 9))
		for cost := 2; cost <= 10; cost++ {
			denied(t, m, of(p, cost))
		}
		allowed(t, m, of(p, 1))
	})
}

// No decision pays for all keys: in the fullest shard the slowest of many
// newcomers moves no more than that shard.
func TestTrapLimiter35_Sweep(t *testing.T) {
	m := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 8 << 20})
	p := limiter.PerDay("p", 1)
	fill(t, m, p, "a", 300_000)
	before := m.Stats()
	if before.Evicted == 0 {
		t.Fatal("the table is not full")
	}
	var slowest time.Duration
	newcomers := 0
	newcomer := func() {
		c := limiter.Charge{Policy: p, Key: number(newcomers), Cost: 1}
		newcomers++
		start := time.Now()
		take(t, m, c)
		slowest = max(slowest, time.Since(start))
	}
	// Full tables are not rebuilt: newcomers replace others one by one.
	if n := testing.AllocsPerRun(50_000, newcomer); n > 1 { // the key
		t.Errorf("a newcomer to a full table allocates %v times", n)
	}
	after := m.Stats()
	if after.Bytes != before.Bytes || after.Keys != before.Keys || after.Evicted != before.Evicted+uint64(newcomers) {
		t.Errorf("stats %+v, then %+v: want one evicted for each newcomer", before, after)
	}
	t.Logf("slowest of %d newcomers to a full table: %v", newcomers, slowest)
}

// Time is read for every decision: units come back one by one, not in bunches.
func TestTrapLimiter37_CachedClock(t *testing.T) {
	inTime(t, func(t *testing.T) {
		m, p := limiter.NewMemory(nil), per(s, 1_000_000, 1)
		for range 1000 {
			allowed(t, m, of(p, 1))
			if r := denied(t, m, of(p, 1)); r.RetryAfter != time.Microsecond {
				t.Fatalf("RetryAfter = %v, want 1µs", r.RetryAfter)
			}
			time.Sleep(time.Microsecond)
		}
	})
}
