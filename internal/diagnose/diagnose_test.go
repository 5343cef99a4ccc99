package diagnose_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/goweir/weir/internal/diagnose"
	"github.com/goweir/weir/internal/diagnose/diagnosetest"
)

// Whoever tells first is heard, and nobody else.
func TestOnce(t *testing.T) {
	log := diagnosetest.Record(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			diagnose.NoKey.Tell(context.Background(), "limiter: no key", slog.String("policy", "p"))
			diagnose.NoKey.Tell(context.Background(), "limiter: no key", slog.String("policy", "p"))
		})
	}
	wg.Wait()
	want := "WARN limiter: no key policy=p code=no-key docs=https://github.com/goweir/weir/blob/main/docs/diagnostics.md#no-key\n"
	if got := log.Text(); got != want {
		t.Errorf("logged\n%swant\n%s", got, want)
	}
	if !diagnose.NoKey.Told() || diagnose.ChargedTwice.Told() {
		t.Error("Told is wrong")
	}
	diagnose.ChargedTwice.Tell(context.Background(), "another")
	if got := log.Codes(); got != "no-key charged-twice" {
		t.Errorf("codes %q", got)
	}
}

func TestLook(t *testing.T) {
	diagnosetest.Record(t)
	n := 0
	for range 5000 {
		if diagnose.NoKey.Look() {
			n++
		}
	}
	if n != 1000 || !diagnose.ChargedTwice.Look() {
		t.Errorf("looked %d times, want 1000", n)
	}
	diagnose.ChargedTwice.Tell(context.Background(), "found")
	if diagnose.ChargedTwice.Look() {
		t.Error("looks for what was told")
	}
}

func TestBelow(t *testing.T) {
	if !diagnose.Below("nobody", "testing.tRunner") || diagnose.Below("nobody") {
		t.Error("Below is wrong about this test")
	}
	done := make(chan bool)
	go func() { done <- diagnose.Below("testing.tRunner") }()
	if <-done {
		t.Error("Below looks at another goroutine")
	}
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range diagnose.Names() {
		if name == "" || seen[name] || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz-") != "" {
			t.Errorf("%q is no name of its own", name)
		}
		seen[name] = true
	}
}

func BenchmarkLook(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		diagnose.NoKey.Look()
	}
}

// Built is called once for each limiter.
func BenchmarkBuilt(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		diagnose.Built("limiter.NewMemory")
	}
}
