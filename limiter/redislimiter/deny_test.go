package redislimiter

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/goweir/weir/limiter"
)

// A remembering is a Memory that is far away, behind a cache of denials.
type remembering struct {
	*limiter.Memory
	ids       *quotaIDs
	denials   *denials
	to, fro   time.Duration // how long a question and an answer are underway
	questions int
}

func remember(n int, life time.Duration) *remembering {
	return &remembering{Memory: limiter.NewMemory(nil), ids: newQuotaIDs(), denials: newDenials(n, life)}
}

func (m *remembering) Take(ctx context.Context, c limiter.Charge) (r limiter.Result, err error) {
	id := m.ids.of(&c)
	if m.denials.look(&c, id, &r) {
		return r, nil
	}
	asked := m.denials.asking(id)
	m.questions++
	time.Sleep(m.to)
	r, err = m.Memory.Take(ctx, c)
	time.Sleep(m.fro)
	if err == nil {
		m.denials.keep(&c, asked, &r)
	}
	return r, err
}

func (m *remembering) Refund(ctx context.Context, c limiter.Charge, r *limiter.Result) error {
	time.Sleep(m.to)
	err := m.Memory.Refund(ctx, c, r)
	time.Sleep(m.fro)
	m.denials.drop(m.ids.of(&c))
	return err
}

func (m *remembering) Reset(ctx context.Context, c limiter.Charge) error {
	time.Sleep(m.to)
	err := m.Memory.Reset(ctx, c)
	time.Sleep(m.fro)
	m.denials.drop(m.ids.of(&c))
	return err
}

func take(t *testing.T, l limiter.Limiter, c limiter.Charge) limiter.Result {
	t.Helper()
	r, err := l.Take(t.Context(), c)
	if err != nil {
		t.Fatalf("Take(%+v): %v", c, err)
	}
	return r
}

// randomCharge draws from few quotas, so that they are used up, and from policies
// whose units last a millisecond or longer: Memory and the server count those
// alike.
func randomCharge(rnd *rand.Rand) limiter.Charge {
	c := limiter.Charge{
		Policy: limiter.Policy{
			Name:      []string{"p", "q"}[rnd.IntN(2)],
			Algorithm: limiter.Algorithm(rnd.IntN(5)),
			Limit:     []int{1, 3, 5, 10}[rnd.IntN(4)],
			Window:    []time.Duration{600 * time.Millisecond, 3 * time.Second}[rnd.IntN(2)],
		},
		Key:  []string{"", "a", "b"}[rnd.IntN(3)],
		Cost: rnd.IntN(7),
	}
	if c.Policy.Algorithm <= limiter.LeakyBucket && rnd.IntN(2) == 0 {
		c.Policy.Burst = 1 + rnd.IntN(12)
	}
	if rnd.IntN(3) == 0 {
		c.MaxDelay = time.Duration(rnd.IntN(3000)) * time.Millisecond
	}
	return c
}

// differDenied compares a cached refusal with that of the server itself, which
// takes nothing as long as it refuses.
func differDenied(c limiter.Charge, cached, real limiter.Result) string {
	near := func(a, b time.Duration) bool {
		return a == b || a != limiter.Never && b != limiter.Never && (a-b).Abs() <= 2*time.Microsecond
	}
	switch {
	case real.Allowed:
		return "the server would allow it"
	case !near(cached.RetryAfter, real.RetryAfter):
		return "RetryAfter differs"
	case !near(cached.ResetAfter, real.ResetAfter):
		return "ResetAfter differs"
	case cached.Limit != real.Limit:
		return "Limit differs"
	case cached.Allowed || cached.Source != limiter.SourceDenyCache || cached.Receipt != limiter.Receipt{}:
		return "it is no refusal by the cache"
	case cached.Remaining < 0 || cached.Remaining > max(c.Policy.Limit, c.Policy.Burst):
		return "Remaining is out of range"
	}
	return ""
}

// TestCachedDenialIsWhatTheServerWouldSay asks at random and holds every answer
// of the cache against a backend that was asked at the same instant: never
// refused for longer, never more admitted. Answers are exact for a bucket and a
// charge that was refused itself, as long as nobody else was admitted since.
func TestCachedDenialIsWhatTheServerWouldSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seeds := uint64(300)
		if testing.Short() {
			seeds = 50
		}
		hits := 0
		for seed := range seeds {
			rnd := rand.New(rand.NewPCG(seed, 1))
			m := remember(1+rnd.IntN(64), time.Second)
			type held struct {
				c limiter.Charge
				r limiter.Result
			}
			var taken []held
			var last limiter.Charge
			admitted := make(map[string]time.Time) // when the quota was charged last
			refused := make(map[limiter.Charge]time.Time)
			for step := range 400 {
				switch rnd.IntN(12) {
				case 0, 1:
					time.Sleep(time.Duration(rnd.IntN(400)) * time.Millisecond)
				case 2:
					if len(taken) > 0 && rnd.IntN(3) == 0 {
						i := rnd.IntN(len(taken))
						if err := m.Refund(t.Context(), taken[i].c, &taken[i].r); err != nil {
							t.Fatal(err)
						}
					}
				case 3:
					if rnd.IntN(20) == 0 {
						if err := m.Reset(t.Context(), last); err != nil {
							t.Fatal(err)
						}
					}
				default:
					c := randomCharge(rnd)
					if rnd.IntN(2) == 0 {
						c = last
						if rnd.IntN(3) == 0 {
							c.Cost += rnd.IntN(3)
						}
						if c.Policy.Name == "" {
							continue
						}
					}
					last = c
					quota := fmt.Sprint(c.Policy.Name, c.Policy.Algorithm, c.Key)
					r := take(t, m, c)
					switch {
					case r.Source == limiter.SourceDenyCache:
						hits++
						real := take(t, m.Memory, c)
						fault := differDenied(c, r, real)
						if fault != "" && !real.Allowed && !refused[c].After(admitted[quota]) {
							fault = "" // others were admitted since: it is refused for longer
						}
						if fault != "" {
							t.Fatalf("seed %d, step %d: Take(%+v) = %+v, %s: %+v", seed, step, c, r, fault, real)
						}
						// Long enough to tell before from after.
						time.Sleep(1)
					case r.Allowed && c.Cost > 0:
						taken = append(taken, held{c, r})
						time.Sleep(1)
						admitted[quota] = time.Now()
						time.Sleep(1)
					case !r.Allowed:
						time.Sleep(1)
						refused[c] = time.Now()
						time.Sleep(1)
					}
				}
			}
		}
		if hits < int(seeds)*10 {
			t.Errorf("only %d of the answers came from the cache", hits)
		}
	})
}

func perSecond(n int) limiter.Policy { return limiter.PerSecond("p", n) }

func TestCachedDenialCoversWhatItImplies(t *testing.T) {
	second := time.Second
	tb := limiter.Policy{Name: "p", Limit: 10, Window: 10 * second, Burst: 10}
	leaky := tb
	leaky.Algorithm = limiter.LeakyBucket
	sliding := limiter.Policy{Name: "p", Algorithm: limiter.SlidingWindow, Limit: 10, Window: 10 * second}
	fixed := sliding
	fixed.Algorithm = limiter.FixedWindow
	more := tb
	more.Limit = 11
	charge := func(p limiter.Policy, cost int, patience time.Duration) limiter.Charge {
		return limiter.Charge{Policy: p, Key: "k", Cost: cost, MaxDelay: patience}
	}
	for _, tt := range []struct {
		name      string
		used      limiter.Charge
		denied, c limiter.Charge
		cached    bool
	}{
		{"the same", charge(tb, 10, 0), charge(tb, 2, 0), charge(tb, 2, 0), true},
		{"a larger one", charge(tb, 10, 0), charge(tb, 2, 0), charge(tb, 3, 0), true},
		{"one that can never fit", charge(tb, 10, 0), charge(tb, 2, 0), charge(tb, 11, 0), true},
		{"a smaller one", charge(tb, 10, 0), charge(tb, 2, 0), charge(tb, 1, 0), false},
		{"a look", charge(tb, 10, 0), charge(tb, 2, 0), charge(tb, 0, 0), false},
		{"more patience", charge(tb, 10, 0), charge(tb, 2, 0), charge(tb, 2, second), false},
		{"the same patience", charge(tb, 10, 0), charge(tb, 2, second), charge(tb, 2, second), true},
		{"less patience", charge(tb, 10, 0), charge(tb, 2, second), charge(tb, 2, second/2), true},
		{"another limit", charge(tb, 10, 0), charge(tb, 2, 0), charge(more, 2, 0), false},
		{"another algorithm", charge(tb, 10, 0), charge(tb, 2, 0), charge(leaky, 2, 0), false},
		{"a full leaky bucket", charge(leaky, 10, 0), charge(leaky, 2, 0), charge(leaky, 2, 0), true},
		{"a full leaky bucket, less patience", charge(leaky, 10, 0), charge(leaky, 2, 0), charge(leaky, 2, second), true},
		{"a leaky bucket, no end of patience", charge(leaky, 5, 0), charge(leaky, 2, second), charge(leaky, 2, 0), false},
		{"a fixed window", charge(fixed, 10, 0), charge(fixed, 2, 0), charge(fixed, 3, 0), true},
		{"a sliding window", charge(sliding, 10, 0), charge(sliding, 2, 0), charge(sliding, 2, 0), true},
		{"a sliding window, a larger one", charge(sliding, 10, 0), charge(sliding, 2, 0), charge(sliding, 3, 0), false},
		{"never", charge(tb, 1, 0), charge(tb, 11, 0), charge(tb, 11, 0), true},
		{"never, what may fit", charge(tb, 1, 0), charge(tb, 11, 0), charge(tb, 10, 0), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := remember(16, time.Hour)
				if r := take(t, m, tt.used); !r.Allowed {
					t.Fatalf("Take(%+v) = %+v, want it allowed", tt.used, r)
				}
				if r := take(t, m, tt.denied); r.Allowed || r.Source != limiter.SourceMemory {
					t.Fatalf("Take(%+v) = %+v, want it refused by the server", tt.denied, r)
				}
				time.Sleep(100 * time.Millisecond)
				r := take(t, m, tt.c)
				if (r.Source == limiter.SourceDenyCache) != tt.cached {
					t.Errorf("Take(%+v) = %+v, want it from the cache: %v", tt.c, r, tt.cached)
				}
				real := take(t, m.Memory, tt.c)
				if fault := differDenied(tt.c, r, real); tt.cached && fault != "" || tt.cached && real.Remaining != r.Remaining {
					t.Errorf("Take(%+v) = %+v, %s: %+v", tt.c, r, fault, real)
				}
			})
		})
	}
}

// Who is told to come back comes back in time, wherever in between the server
// decided, and nobody is refused by the cache after that.
func TestCachedDenialEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(200) {
			rnd := rand.New(rand.NewPCG(seed, 2))
			ms := func(n int) time.Duration { return time.Duration(rnd.IntN(n)) * time.Millisecond }
			m := remember(16, time.Hour)
			m.to, m.fro = ms(20), ms(20)
			p := limiter.Policy{Name: "p", Algorithm: limiter.Algorithm(rnd.IntN(5)), Limit: 3, Window: 1200 * time.Millisecond}
			c := limiter.Charge{Policy: p, Key: "k", Cost: 1 + rnd.IntN(3)}
			var r limiter.Result
			for r = take(t, m, c); r.Allowed; r = take(t, m, c) {
				time.Sleep(ms(5))
			}
			decided := time.Now().Add(-m.fro)
			end := decided.Add(r.RetryAfter)
			for range 5 {
				time.Sleep(ms(100))
				asked := time.Now()
				cached := take(t, m, c)
				switch {
				case cached.Source == limiter.SourceDenyCache && !asked.Before(end):
					t.Fatalf("seed %d: refused by the cache %v after the end", seed, asked.Sub(end))
				case cached.Source == limiter.SourceDenyCache && asked.Add(cached.RetryAfter).Before(end):
					t.Fatalf("seed %d: told to come back %v too early", seed, end.Sub(asked.Add(cached.RetryAfter)))
				}
				if cached.Allowed {
					break
				}
				if cached.Source == limiter.SourceDenyCache && rnd.IntN(3) == 0 {
					time.Sleep(cached.RetryAfter)
					if again := take(t, m, c); !again.Allowed {
						t.Fatalf("seed %d: Take = %+v after a RetryAfter of %v has passed", seed, again, cached.RetryAfter)
					}
					break
				}
			}
		}
	})
}

func TestRefundAndResetEndADenial(t *testing.T) {
	p := limiter.PerHour("p", 2)
	c := limiter.Charge{Policy: p, Key: "k", Cost: 1}
	for _, tt := range []struct {
		name string
		give func(*remembering, *limiter.Result) error
	}{
		{"refund", func(m *remembering, r *limiter.Result) error { return m.Refund(context.Background(), c, r) }},
		{"reset", func(m *remembering, _ *limiter.Result) error { return m.Reset(context.Background(), c) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := remember(16, time.Hour)
				take(t, m, c)
				r := take(t, m, c)
				take(t, m, c)
				if again := take(t, m, c); again.Source != limiter.SourceDenyCache {
					t.Fatalf("Take = %+v, want it from the cache", again)
				}
				if err := tt.give(m, &r); err != nil {
					t.Fatal(err)
				}
				if again := take(t, m, c); !again.Allowed {
					t.Errorf("Take after a %s = %+v, want it allowed", tt.name, again)
				}
			})
		})
		// The refusal is decided first, its answer arrives last.
		t.Run(tt.name+" overtakes the answer", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := remember(16, time.Hour)
				take(t, m, c)
				r := take(t, m, c)
				var wg sync.WaitGroup
				m.fro = 10 * time.Millisecond
				wg.Go(func() {
					if r, err := m.Take(context.Background(), c); err != nil || r.Allowed {
						t.Errorf("Take = %+v, %v; want it refused", r, err)
					}
				})
				synctest.Wait()
				m.fro = 0
				if err := tt.give(m, &r); err != nil {
					t.Fatal(err)
				}
				wg.Wait()
				if again := take(t, m, c); !again.Allowed {
					t.Errorf("Take after a %s = %+v, want it allowed", tt.name, again)
				}
			})
		})
	}
}

func TestDenialLastsNoLongerThanItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := remember(16, time.Second)
		c := limiter.Charge{Policy: limiter.PerHour("p", 1), Key: "k", Cost: 1}
		take(t, m, c)
		take(t, m, c)
		time.Sleep(time.Second - 1)
		if r := take(t, m, c); r.Source != limiter.SourceDenyCache {
			t.Errorf("Take within the life = %+v, want it from the cache", r)
		}
		time.Sleep(1)
		if r := take(t, m, c); r.Source == limiter.SourceDenyCache {
			t.Errorf("Take after the life = %+v, want it from the server", r)
		}
	})
}

// A flood of refused keys takes as much memory as the cache has entries, and the
// answers stay right.
func TestDenialsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1024
		m := remember(n, time.Hour)
		p := limiter.PerHour("p", 1)
		for i := range 20 * n {
			c := limiter.Charge{Policy: p, Key: fmt.Sprint(i), Cost: 1}
			take(t, m, c)
			if r := take(t, m, c); r.Allowed {
				t.Fatalf("key %d: %+v", i, r)
			}
		}
		kept := 0
		for i := range m.denials.sets {
			for j := range m.denials.sets[i].ways {
				if m.denials.sets[i].ways[j].Load() != nil {
					kept++
				}
			}
		}
		if kept > n || kept < n/2 {
			t.Errorf("%d denials are kept, want %d at most, and the most of them", kept, n)
		}
		if size := unsafe.Sizeof(denial{}); size > denialBytes {
			t.Errorf("a denial takes %d bytes, documented are %d", size, denialBytes)
		}
	})
}

func TestNoDenialsAreKeptWhereThereAreNone(t *testing.T) {
	m := remember(-1, time.Second)
	if m.denials != nil {
		t.Fatal("there is a cache")
	}
	c := limiter.Charge{Policy: perSecond(1), Key: "k", Cost: 1}
	for range 5 {
		if r := take(t, m, c); r.Source != limiter.SourceMemory {
			t.Errorf("Take = %+v, want it from the server", r)
		}
	}
	if err := m.Reset(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func TestCachedDenialAllocatesNothing(t *testing.T) {
	m := remember(16, time.Hour)
	c := limiter.Charge{Policy: limiter.PerHour("p", 1), Key: "k", Cost: 1}
	take(t, m, c)
	take(t, m, c)
	var r limiter.Result
	if n := testing.AllocsPerRun(100, func() { r, _ = m.Take(context.Background(), c) }); n != 0 || r.Source != limiter.SourceDenyCache {
		t.Errorf("%v allocations for %+v", n, r)
	}
}

// TestDenialsUnderRace lets many goroutines look, keep and drop at once: a
// denial from before a refund is never seen after it.
func TestDenialsUnderRace(t *testing.T) {
	d := newDenials(16, time.Hour)
	ids := newQuotaIDs()
	p := limiter.Policy{Name: "p", Algorithm: limiter.SlidingLog, Limit: 1, Window: time.Hour}
	c := limiter.Charge{Policy: p, Key: "k", Cost: 1}
	id := ids.of(&c)
	// The Remaining of a denial says how many refunds the server had seen.
	var server, seen sync.Mutex
	given, dropped := 0, 0
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 3000 {
				asked := d.asking(id)
				server.Lock()
				r := limiter.Result{Remaining: given, RetryAfter: time.Hour, ResetAfter: time.Hour}
				server.Unlock()
				d.keep(&c, asked, &r)
			}
		})
		wg.Go(func() {
			var r limiter.Result
			for range 3000 {
				seen.Lock()
				least := dropped
				seen.Unlock()
				if d.look(&c, id, &r) && r.Remaining < least {
					t.Errorf("a denial from after %d refunds is seen after %d", r.Remaining, least)
				}
			}
		})
	}
	wg.Go(func() {
		for range 500 {
			server.Lock()
			given++
			n := given
			server.Unlock()
			d.drop(id)
			seen.Lock()
			dropped = n
			seen.Unlock()
		}
	})
	wg.Wait()
}
