//go:build race

package redisbench_test

import (
	"slices"
	"strings"

	"github.com/goweir/weir/benchmarks/redisbench"
)

// peers are those that the race detector has nothing against: it would fail the
// test for what they do beside what weir does.
var peers = slices.DeleteFunc(slices.Clone(redisbench.Peers), func(d redisbench.Decider) bool {
	return strings.HasPrefix(d.Name, "go-zero ")
})
