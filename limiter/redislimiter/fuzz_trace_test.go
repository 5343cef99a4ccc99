package redislimiter_test

import (
	"testing"

	"github.com/alicebob/miniredis/v2"
)

// FuzzDecide compares the scripts with a Memory on walks that the input chooses.
// It asks the embedded server, which needs no process.
func FuzzDecide(f *testing.F) {
	for i := range byte(8) {
		f.Add([]byte{i, 13, 200, 7, 16, i, 99, 3, 8, 0, 20, 6, 5, 12, i, 17, 40, 33, 2, 250, 14, 4, 9, 1, 22})
	}
	server := miniredis.RunT(f)
	c := client(f, server.Addr())
	f.Fuzz(func(t *testing.T, input []byte) {
		server.FlushAll()
		at := 0
		// Numbers are drawn from the input, two bytes where one is too few.
		rnd := func(n int) int {
			v := 0
			for m := 1; m < n; m *= 256 {
				if at < len(input) {
					v = v<<8 | int(input[at])
					at++
				}
			}
			return v % n
		}
		which := algorithms
		if k := rnd(6); k < 5 {
			which = algorithms[k : k+1]
		}
		compare(t, c, "fuzz", rnd, shortUnits, which, min(60, len(input)/2))
	})
}
