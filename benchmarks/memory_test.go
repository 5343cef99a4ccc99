package main_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestBytesPerKey fills a Memory with a million keys and asks the runtime what
// it holds.
func TestBytesPerKey(t *testing.T) {
	n := size(1_000_000)
	ctx, p := context.Background(), limiter.PerDay("client", 10)
	before := heap()
	m := limiter.NewMemory(nil)
	for i := range n {
		m.Take(ctx, limiter.Charge{Policy: p, Key: strconv.Itoa(i), Cost: 1})
	}
	after := heap()
	st := m.Stats()
	perKey := float64(after-before) / float64(st.Keys)
	t.Logf("%d keys: %.1f bytes of heap a key, locks included; %.1f of tables", st.Keys, perKey, float64(st.Bytes)/float64(st.Keys))
	if st.Keys != n {
		t.Errorf("%d states for %d keys", st.Keys, n)
	}
	if *measuring && perKey > 40 {
		t.Errorf("%.1f bytes of heap a key, want at most 40", perKey)
	}
}

// TestFlood charges far more distinct keys than there is room for, as fast as
// it can, and watches the heap: after collections, and at any time. It does so in
// a process of its own, since what other tests have left behind may be let go in
// the midst of it.
func TestFlood(t *testing.T) {
	const alone = "WEIR_BENCH_FLOOD"
	if os.Getenv(alone) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFlood$", "-test.v", fmt.Sprintf("-measure=%v", *measuring))
		cmd.Env = append(os.Environ(), alone+"=yes")
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	// The short form floods a smaller bound, 20 times over as well.
	n, bound := 10_000_000, int64(limiter.DefaultMaxBytes)
	if !*measuring {
		n, bound = 300_000, 1<<20
	}
	for _, refuse := range []bool{false, true} {
		name := "evict"
		if refuse {
			name = "refuse"
		}
		t.Run(name, func(t *testing.T) { flood(t, n, bound, refuse) })
	}
}

func flood(t *testing.T, n int, bound int64, refuse bool) {
	ctx, p := context.Background(), limiter.PerDay("client", 1)
	before := heap()
	m := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: bound, RefuseNew: refuse})
	take := func(key string) bool {
		r, err := m.Take(ctx, limiter.Charge{Policy: p, Key: key, Cost: 1})
		if err != nil {
			t.Fatal(err)
		}
		return r.Allowed
	}

	// Who is drained before the flood.
	victims := make([]string, 1000)
	for i := range victims {
		victims[i] = "victim-" + strconv.Itoa(i)
		take(victims[i])
	}

	// The heap is looked at 20 times, between stretches of the flood; once there
	// were more keys than fit, it should not move.
	var took time.Duration
	var lowest, highest int64
	for part := range 20 {
		start := time.Now()
		for i := part * n / 20; i < (part+1)*n/20; i++ {
			take(strconv.Itoa(i))
		}
		took += time.Since(start)
		held := heap() - before
		if int64(part+1)*int64(n)/20 < bound/30 {
			continue // they take 32 bytes at least, so the table may still grow
		}
		if lowest == 0 || held < lowest {
			lowest = held
		}
		highest = max(highest, held)
	}
	st := m.Stats()
	t.Logf("%d keys in %v, %.0f ns each; heap %.3f to %.3f of the bound of %d bytes once it was reached; %d states, %d evicted, %d refused",
		n, took.Round(time.Millisecond), float64(took)/float64(n), float64(lowest)/float64(bound), float64(highest)/float64(bound),
		bound, st.Keys, st.Evicted, st.Refused)
	// Small bounds are reached less evenly, and what the test itself leaves
	// behind weighs more.
	slack := bound / 20
	if !*measuring {
		slack = bound / 10
	}
	if lowest < bound-slack || highest > bound+slack {
		t.Errorf("heap from %d to %d bytes, want %d to %d", lowest, highest, bound-slack, bound+slack)
	}

	whole := 0
	for _, v := range victims {
		if take(v) {
			whole++
		}
	}
	t.Logf("%d of %d drained keys are whole again after the flood", whole, len(victims))
	if refuse && whole > 0 {
		t.Errorf("%d of %d drained keys are whole again under RefuseNew, want none", whole, len(victims))
	}
	runtime.KeepAlive(m)
}
