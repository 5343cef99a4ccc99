// Package main_test compares weir with floors written by hand and with
// other libraries, in one process and one run.
package main_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/goweir/weir/benchmarks/pace"
)

var (
	measuring = flag.Bool("measure", false, "measure; without it the tests only see that everything runs")
	rounds    = flag.Int("rounds", 10, "turns of each case, with -measure")
	slice     = flag.Duration("slice", 50*time.Millisecond, "length of a turn, with -measure")
)

// options are for a comparison; large says that its live data is hundreds of
// megabytes.
func options(large bool) pace.Options {
	if !*measuring {
		return pace.Options{Rounds: 1, Slice: 100 * time.Microsecond, Large: true}
	}
	return pace.Options{Rounds: *rounds, Slice: *slice, Large: large}
}

func compare(t *testing.T, title string, o pace.Options, cases ...pace.Case) []pace.Row {
	t.Helper()
	rows := pace.Compare(o, cases...)
	pace.Print(t.Output(), title, rows)
	return rows
}

// size returns n when measuring, and less else.
func size(n int) int {
	if *measuring {
		return n
	}
	return min(n, 10_000)
}

// keys returns n keys, in an order that is not that of their memory.
func keys(n int) []string {
	ks := make([]string, n)
	for i := range ks {
		ks[i] = fmt.Sprintf("user-%08d", i)
	}
	rand.Shuffle(n, func(i, j int) { ks[i], ks[j] = ks[j], ks[i] })
	return ks
}

// zipf returns draws of ks, a million when measuring, the first of them the most frequent.
func zipf(ks []string) []string {
	z := rand.NewZipf(rand.New(rand.NewPCG(1, 8)), 1.1, 1, uint64(len(ks)-1))
	draws := make([]string, size(1<<20))
	for i := range draws {
		draws[i] = ks[z.Uint64()]
	}
	return draws
}
