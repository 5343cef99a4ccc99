package pace

import (
	"errors"
	"testing"
	"time"
)

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
	if got := Ratio([]float64{2, 4, 6}, []float64{1, 0, 3}); got != want {
		t.Errorf("a round of nothing: %v, want %v", got, want)
	}
	if got := Ratio(nil, []float64{1}); got != (Spread{}) {
		t.Errorf("no rounds: %v, want nothing", got)
	}
}

// TestNoAnswers: who answers nothing but errors has no rate.
func TestNoAnswers(t *testing.T) {
	failing := Load{Name: "failing", Do: func(int, int) error { return errors.New("no") }}
	h := Press(LoadOptions{Callers: 2, Rounds: 2, Slice: time.Millisecond}, failing)[0]
	if h.Answers != 0 || h.Errors == 0 || len(h.Rate) != 2 || h.Rate[0] != 0 || h.Rate[1] != 0 {
		t.Errorf("%d answers, %d errors, rates %v; want none but errors", h.Answers, h.Errors, h.Rate)
	}
}
