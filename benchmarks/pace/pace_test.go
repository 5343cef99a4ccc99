package pace

import "testing"

// TestRatioOfUnequalRounds: who is interrupted leaves some with a round more
// than the one they are compared with, or the other way round.
func TestRatioOfUnequalRounds(t *testing.T) {
	want := Spread{Median: 2, Min: 2, Max: 2}
	if got := Ratio([]float64{2, 4, 6}, []float64{1, 2}); got != want {
		t.Errorf("three rounds of two: %v, want %v", got, want)
	}
	if got := Ratio([]float64{2, 4}, []float64{1, 2, 6}); got != want {
		t.Errorf("two rounds of three: %v, want %v", got, want)
	}
	if got := Ratio(nil, []float64{1}); got != (Spread{}) {
		t.Errorf("no rounds: %v, want nothing", got)
	}
}
