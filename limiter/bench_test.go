package limiter_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

// plenty is never used up, and never whole again once used.
var plenty = named("plenty", 86400, 24*time.Hour, 1<<40)

// The clock is most of a decision; compare with it.
func BenchmarkClock(b *testing.B) {
	start := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		_ = time.Since(start)
	}
}

func manyKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = number(i)
	}
	rand.Shuffle(n, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	return keys
}

func BenchmarkTake(b *testing.B) {
	ctx := context.Background()
	million := manyKeys(1_000_000)
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 8)), 1.1, 1, uint64(len(million)-1))
	zipfKeys := make([]string, 1<<20)
	for i := range zipfKeys {
		zipfKeys[i] = million[zipf.Uint64()]
	}
	for _, bb := range []struct {
		name   string
		policy limiter.Policy
		keys   []string // a power of two of them are used
	}{
		{"hot key", plenty, million[:1]},
		{"denied", limiter.PerDay("few", 1), million[:1]},
		{"never", limiter.PerDay("closed", 0), million[:1]},
		{"8k keys", plenty, million[:8192]},
		{"1M keys, Zipf", plenty, zipfKeys},
	} {
		mask := len(bb.keys) - 1
		warm := func() *limiter.Memory {
			m := limiter.NewMemory(nil)
			for _, k := range bb.keys {
				m.Take(ctx, limiter.Charge{Policy: bb.policy, Key: k, Cost: 1})
			}
			return m
		}
		b.Run(bb.name+"/serial", func(b *testing.B) {
			m, i := warm(), 0
			b.ReportAllocs()
			for b.Loop() {
				m.Take(ctx, limiter.Charge{Policy: bb.policy, Key: bb.keys[i&mask], Cost: 1})
				i++
			}
		})
		b.Run(bb.name+"/parallel", func(b *testing.B) {
			m := warm()
			var seed atomic.Uint64
			b.ReportAllocs()
			b.SetParallelism(32)
			b.ResetTimer() // RunParallel, unlike Loop, has counted the warming
			b.RunParallel(func(pb *testing.PB) {
				i := int(seed.Add(1) * 7919)
				for pb.Next() {
					m.Take(ctx, limiter.Charge{Policy: bb.policy, Key: bb.keys[i&mask], Cost: 1})
					i++
				}
			})
		})
	}
}

// BenchmarkFlood charges a new key every time: while the tables grow, and when
// they are full.
func BenchmarkFlood(b *testing.B) {
	ctx, p := context.Background(), limiter.PerDay("p", 1)
	for _, refuse := range []bool{false, true} {
		name := "evict"
		if refuse {
			name = "refuse"
		}
		b.Run(name, func(b *testing.B) {
			m, i := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 8 << 20, RefuseNew: refuse}), 0
			b.ReportAllocs()
			for b.Loop() {
				m.Take(ctx, limiter.Charge{Policy: p, Key: number(i), Cost: 1})
				i++
			}
			b.ReportMetric(float64(m.Stats().Bytes)/(8<<20), "of-bound")
		})
	}
}

// Every algorithm on many keys, allowed and denied.
func BenchmarkAlgorithms(b *testing.B) {
	keys := manyKeys(8192)
	for a := limiter.TokenBucket; a <= limiter.SlidingLog; a++ {
		for _, limit := range []int{2, 100} {
			p := per(time.Millisecond, limit, 0)
			p.Algorithm = a
			b.Run(fmt.Sprintf("%v/%d in 1 ms", a, limit), func(b *testing.B) {
				m, i := limiter.NewMemory(nil), 0
				b.ReportAllocs()
				for b.Loop() {
					m.Take(context.Background(), limiter.Charge{Policy: p, Key: keys[i>>8&8191], Cost: 1})
					i++
				}
			})
		}
	}
}

func BenchmarkTakeAll(b *testing.B) {
	ctx := context.Background()
	cs := []limiter.Charge{
		{Policy: limiter.PerSecond("global", 1<<40), Key: "*", Cost: 1},
		{Policy: limiter.PerSecond("route", 1<<40), Key: "GET /a/{id}", Cost: 1},
		{Policy: limiter.PerSecond("user", 1<<40), Key: "ann", Cost: 1},
	}
	for _, n := range []int{1, 3} {
		b.Run(string(rune('0'+n)), func(b *testing.B) {
			m := limiter.NewMemory(nil)
			b.ReportAllocs()
			for b.Loop() {
				m.TakeAll(ctx, cs[:n])
			}
		})
	}
}

func BenchmarkMiddleware(b *testing.B) {
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	rules := func(p limiter.Policy, key limiter.KeyFunc) limiter.Rules {
		return limiter.Rules{{Policy: p, Key: key}}
	}
	user := limiter.KeyByHeader("X-User")
	few := limiter.PerDay("few", 1)
	none := &limiter.Options{Headers: limiter.NoHeaders}
	three := append(append(rules(plenty, user), rules(limiter.PerHour("q", 1<<40), limiter.KeyGlobal)...),
		rules(limiter.PerHour("r", 1<<40), limiter.KeyByPath)...)
	for _, bb := range []struct {
		name    string
		handler http.Handler
	}{
		{"bare", nothing},
		{"no header fields", limiter.Middleware(limiter.NewMemory(nil), rules(plenty, user), none)(nothing)},
		{"header fields", limiter.Middleware(limiter.NewMemory(nil), rules(plenty, user), nil)(nothing)},
		{"X-RateLimit", limiter.Middleware(limiter.NewMemory(nil), rules(plenty, user), &limiter.Options{Headers: limiter.XRateLimit})(nothing)},
		{"by address", limiter.Middleware(limiter.NewMemory(nil), rules(plenty, limiter.KeyByClientIP), nil)(nothing)},
		{"three rules", limiter.Middleware(limiter.NewMemory(nil), three, nil)(nothing)},
		{"refused", limiter.Middleware(limiter.NewMemory(nil), rules(few, user), nil)(nothing)},
		{"refused, no header fields", limiter.Middleware(limiter.NewMemory(nil), rules(few, user), none)(nothing)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("X-User", "ann")
			w := &nowhere{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				bb.handler.ServeHTTP(w, r)
			}
		})
	}
}

// BenchmarkInFlight takes a slot and gives it back.
func BenchmarkInFlight(b *testing.B) {
	for _, bb := range []struct {
		name string
		opts limiter.InFlightOptions
		slot limiter.Slot
	}{
		{"over all", limiter.InFlightOptions{Max: 64, Queue: 64}, limiter.Slot{}},
		{"per key", limiter.InFlightOptions{Max: 64, MaxPerKey: 8, Queue: 64}, limiter.Slot{Key: "ann"}},
		{"adaptive", limiter.InFlightOptions{Max: 64, Queue: 64, Adaptive: &limiter.AdaptiveOptions{}}, limiter.Slot{}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			f, ctx := inFlight(b, bb.opts), context.Background()
			b.ReportAllocs()
			for b.Loop() {
				release, err := f.Acquire(ctx, bb.slot)
				if err != nil {
					b.Fatal(err)
				}
				release()
			}
		})
	}
}
