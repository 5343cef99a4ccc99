//go:build !race

// The race detector empties pools at random.

package weirecho_test

import (
	"testing"

	"github.com/goweir/weir/adapters/weirecho"
)

// TestAllocations: what Wrap costs over Echo alone, for a route without a path
// value and for one with: net/http keeps those in a map.
func TestAllocations(t *testing.T) {
	for name, tt := range map[string]struct {
		mw   middleware
		path string
		most float64
	}{
		"does nothing":                           {through, "/users", 2},
		"does nothing, with a path value":        {through, "/users/7", 4},
		"replaces the writer, by one of its own": {replacing, "/users", 5},
	} {
		alone := testing.AllocsPerRun(1000, serveOnce(tt.path))
		if got := testing.AllocsPerRun(1000, serveOnce(tt.path, weirecho.Wrap(tt.mw))) - alone; got > tt.most {
			t.Errorf("a middleware that %s: %v allocations over Echo alone, want at most %v", name, got, tt.most)
		} else {
			t.Logf("a middleware that %s: %v allocations over Echo alone", name, got)
		}
	}
}
