package pace

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestHistogramQuantiles compares with a sorted slice: a quantile is never below
// the exact one, and above it by at most a thirty-second.
func TestHistogramQuantiles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var h, other histogram
	var all []time.Duration
	for i := range 100_000 {
		d := time.Duration(1) << r.IntN(34)
		d += time.Duration(r.Int64N(int64(d)))
		all = append(all, d)
		if i%2 == 0 {
			h.add(d)
		} else {
			other.add(d)
		}
	}
	h.merge(&other)
	slices.Sort(all)
	if got := h.longest; got != all[len(all)-1] {
		t.Errorf("the longest is %v, want %v", got, all[len(all)-1])
	}
	for _, q := range []float64{0, 0.001, 0.5, 0.95, 0.99, 0.999} {
		want := all[int(q*float64(len(all)))]
		if got := h.quantile(q); got < want || got > want+want/32 {
			t.Errorf("quantile %v is %v, want %v to %v", q, got, want, want+want/32)
		}
	}
}

// TestHistogramBounds adds what is out of range.
func TestHistogramBounds(t *testing.T) {
	var h histogram
	h.add(-time.Second)
	h.add(time.Hour)
	if got := h.quantile(0); got != 0 {
		t.Errorf("a negative time counts as %v, want 0", got)
	}
	if got := h.quantile(0.99); got < 30*time.Second {
		t.Errorf("an hour counts as %v, want 30s or more", got)
	}
}
