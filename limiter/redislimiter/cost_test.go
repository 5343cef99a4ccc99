package redislimiter_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/redislimiter"
)

// One decision is one round trip, of one charge and of five.
func TestOneRoundTrip(t *testing.T) {
	s := redistest.Start(t)
	b := newBench(t, s, redislimiter.Options{})
	five := make([]limiter.Charge, 5)
	for i := range five {
		five[i] = charge(with(algorithms[i], 1000, time.Hour), "k", 1)
	}
	take(t, b, five[0])
	reads := func() int {
		n, err := strconv.Atoi(s.Info("stats")["total_reads_processed"])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	idle := reads()
	idle = reads() - idle // what asking costs
	for _, n := range []int{1, 5} {
		before := reads()
		for range 20 {
			if _, err := b.TakeAll(t.Context(), five[:n]); err != nil {
				t.Fatal(err)
			}
		}
		if got := reads() - before - idle; got != 20 {
			t.Errorf("20 decisions about %d quotas were %d reads of the server, want 20", n, got)
		}
	}
}

// A key of a token bucket takes at most 150 bytes of the server's memory, all
// told.
func TestBytesPerKey(t *testing.T) {
	if testing.Short() {
		t.Skip("stores 100,000 keys")
	}
	s := redistest.Start(t)
	b := newBench(t, s, redislimiter.Options{Prefix: "weir"})
	l, err := redislimiter.New(client(t, s.Addr()), nil) // with the default prefix
	if err != nil {
		t.Fatal(err)
	}
	b.Limiter = l
	p := limiter.PerHour("requests", 100)
	take(t, b, charge(p, "first", 1))
	used := func() int {
		n, err := strconv.Atoi(s.Info("memory")["used_memory"])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const keys, each = 100_000, 500
	before := used()
	for i := 0; i < keys; i += each {
		cs := make([]limiter.Charge, each)
		for j := range cs {
			cs[j] = charge(p, fmt.Sprint(i+j), 1)
		}
		if _, err := b.TakeAll(t.Context(), cs); err != nil {
			t.Fatal(err)
		}
	}
	perKey := float64(used()-before) / keys
	one, err := strconv.Atoi(s.Do("MEMORY", "USAGE", b.KeyOf(charge(p, "first", 1))))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Do("OBJECT", "ENCODING", b.KeyOf(charge(p, "first", 1))); got != "int" {
		t.Errorf("a bucket is stored as %s, want int", got)
	}
	t.Logf("%.1f bytes of used_memory for a key, MEMORY USAGE %d", perKey, one)
	if perKey > 150 || one > 150 {
		t.Errorf("%.1f bytes of used_memory for a key, MEMORY USAGE %d; want at most 150", perKey, one)
	}
}

// BenchmarkTake is one caller, and the same script by plain EVALSHA.
func BenchmarkTake(b *testing.B) {
	s := redistest.Start(b)
	c := client(b, s.Addr())
	l := open(b, c, redislimiter.Options{})
	ch := charge(limiter.PerSecond("p", 1_000_000), "k", 1)
	r, err := l.Take(b.Context(), ch)
	if err != nil || !r.Allowed {
		b.Fatal(r, err)
	}
	b.Run("limiter", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := l.Take(b.Context(), ch); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("evalsha", func(b *testing.B) {
		b.ReportAllocs()
		args := []any{0, 1, 4, 1, 999_999, 1_000_000, "359"}
		keys := []string{l.KeyOf(ch)}
		for b.Loop() {
			if err := c.EvalSha(b.Context(), redislimiter.DecideSHA, keys, args...).Err(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
