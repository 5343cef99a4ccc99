//go:build race

package redisbench_test

import "github.com/goweir/weir/benchmarks/redisbench"

// The race detector finds what peers do beside what weir does, and then fails the
// test. What is weir's runs under it; the peers run without.
var peers []redisbench.Decider
