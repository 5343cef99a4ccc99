//go:build unix

package redisbench_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/goweir/weir/benchmarks/pace"
)

var (
	measuring = flag.Bool("measure", false, "measure; without it the tests only see that everything runs")
	rounds    = flag.Int("rounds", 10, "turns of each decider, with -measure")
	slice     = flag.Duration("slice", 300*time.Millisecond, "length of a turn, with -measure")
)

// options are for so many callers.
func options(callers int) pace.LoadOptions {
	if !*measuring {
		return pace.LoadOptions{Callers: callers, Rounds: 1, Slice: time.Millisecond}
	}
	return pace.LoadOptions{Callers: callers, Rounds: *rounds, Slice: *slice}
}

// size returns n when measuring, and few else.
func size(n, few int) int {
	if *measuring {
		return n
	}
	return few
}

// keys returns n keys, in an order that is not that of their names.
func keys(n int) []string {
	ks := make([]string, n)
	for i := range ks {
		ks[i] = fmt.Sprintf("user-%08d", i)
	}
	rand.Shuffle(n, func(i, j int) { ks[i], ks[j] = ks[j], ks[i] })
	return ks
}
