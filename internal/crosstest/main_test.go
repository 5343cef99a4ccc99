package crosstest

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// TestMain raises rapid's default of 100 checks, with which every second run
// misses a model whose refunds forget what was given back before. The flag still
// takes precedence.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "3000"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	m.Run()
}
