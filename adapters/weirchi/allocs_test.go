//go:build !race

// The race detector empties pools at random.

package weirchi_test

import (
	"testing"
)

// TestAllocations: what Pattern costs over chi alone.
func TestAllocations(t *testing.T) {
	for _, path := range benchPaths {
		alone := testing.AllocsPerRun(1000, serveOnce(path, false))
		if got := testing.AllocsPerRun(1000, serveOnce(path, true)) - alone; got > 5 {
			t.Errorf("%s: %v allocations over chi alone, want at most 5", path, got)
		} else {
			t.Logf("%s: %v allocations over chi alone, which makes %v", path, got, alone)
		}
	}
}
