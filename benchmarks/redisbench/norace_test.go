//go:build !race

package redisbench_test

import "github.com/goweir/weir/benchmarks/redisbench"

var peers = redisbench.Peers
