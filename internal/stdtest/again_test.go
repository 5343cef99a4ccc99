package stdtest

import (
	"slices"
	"strings"
	"testing"
)

// A test counts as lost that never passes again, or only now and then in every
// round; how often the others passed is told.
func TestAgain(t *testing.T) {
	passes := map[string][rounds][2]int{ // in each round: with the wrapper, and without
		"TestAlways/h1":   {{3, 3}},
		"TestNever/h2":    {{0, 3}},
		"TestNowAndThen":  {{1, 3}, {2, 3}, {2, 3}},
		"TestBusy":        {{2, 3}, {1, 3}, {3, 3}},
		"TestFlakyItself": {{2, 3}, {0, 2}},
	}
	var asked []string
	var r Report
	err := r.again([]string{"TestAlways/h1", "TestBusy", "TestFlakyItself", "TestNever/h2", "TestNowAndThen"},
		func(flags ...string) (with, without Results, err error) {
			with.Passed, without.Passed = map[string]int{}, map[string]int{}
			for name, p := range passes {
				with.Passed[name], without.Passed[name] = p[len(asked)][0], p[len(asked)][1]
			}
			asked = append(asked, strings.Join(flags, " "))
			return with, without, nil
		})
	if want := []string{"TestNever/h2", "TestNowAndThen"}; err != nil || !slices.Equal(r.Lost, want) {
		t.Errorf("lost = %q, %v, want %q", r.Lost, err, want)
	}
	if want := []string{
		"TestAlways/h1 (again: 3 of 3 with the wrapper, 3 of 3 without)",
		"TestFlakyItself (again: 0 of 3 with the wrapper, 2 of 3 without)",
		"TestBusy (again: 3 of 3 with the wrapper, 3 of 3 without)",
	}; !slices.Equal(r.Flaky, want) {
		t.Errorf("flaky = %q, want %q", r.Flaky, want)
	}
	if want := []string{
		"-run=^(TestAlways|TestBusy|TestFlakyItself|TestNever|TestNowAndThen)$ -count=3",
		"-run=^(TestBusy|TestFlakyItself|TestNowAndThen)$ -count=3",
		"-run=^(TestBusy|TestNowAndThen)$ -count=3",
	}; !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}
}
