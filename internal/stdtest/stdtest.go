// Package stdtest runs Go's own net/http tests with every handler wrapped by
// our middleware: a proof of transparency written by somebody else.
//
// Nothing of those tests is kept here. They are read from GOROOT when the test
// runs, edited so that each handler passes through a function named Wrap, and
// given to "go test -overlay" together with copies of our packages.
//
// The tests of httputil.ReverseProxy are pointed at package proxy in the same
// way; see [CompareReverseProxy].
package stdtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// skipped are the tests that are run neither with a wrapper nor without: they
// run net/http's tests again, or vet, as a child process that the overlay does
// not reach, and would take as long as all others together to say nothing.
const skipped = "^TestOmitHTTP2"

// reruns is how often a test that passes without the wrapper and not with it is
// tried again, alone, before it counts as lost.
const reruns = 3

// rounds is how often that is done with a test that passes now and then: on a busy
// machine some of net/http's own do.
const rounds = 3

// A Variant is a way to wrap handlers.
type Variant struct {
	Name string

	// Source is a Go file of a package with
	//
	//	func Wrap(http.Handler) http.Handler
	//
	// It and what it imports must be pure Go, and must not embed files.
	Source string

	// Run selects tests as the flag of that name does; empty means all.
	Run string
}

// NetHTTP fails t for every net/http test that passes with untouched handlers
// and not with handlers wrapped by a variant; a test that was skipped or did
// not run has not passed.
//
// They run under the race detector if t does. A run takes about 20 seconds, so it
// is skipped by -short. CI runs the tests once without -short for the sake of
// this, and those of package capture under the race detector too.
func NetHTTP(t *testing.T, variants ...Variant) {
	t.Helper()
	if testing.Short() {
		t.Skip("net/http's own tests take about 20 s for each variant; not run with -short")
	}
	for _, v := range variants {
		t.Run(v.Name, func(t *testing.T) {
			report, err := Compare(t, v)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(report)
			if len(report.Lost) > 0 {
				t.Errorf("%d of Go's tests pass without the wrapper and not with it:\n%s", len(report.Lost), strings.Join(report.Lost, "\n"))
				t.Log(report.Output)
			}
		})
	}
}

// A Report is the outcome of one Variant. Tests are counted with their
// subtests.
type Report struct {
	Baseline int      // passed without the wrapper
	Passed   int      // of those, passed with it at the first attempt
	Lost     []string // passed without the wrapper and not with it
	Flaky    []string // like Lost at first, but not when tried again: see Compare
	Output   string   // what lost tests printed, or the end of it all
	Elapsed  time.Duration
}

func (r Report) String() string {
	s := fmt.Sprintf("net/http: %d tests pass as they are, %d of them with the wrapper (%v)", r.Baseline, r.Passed, r.Elapsed.Round(time.Second/10))
	if len(r.Flaky) > 0 {
		s += fmt.Sprintf("; tried again:\n%s", strings.Join(r.Flaky, "\n"))
	}
	return s
}

// Compare runs net/http's tests without and with a variant.
//
// Tests that pass only without it are run again, three times, alone. Those that
// then always pass suffered from load, and those that now fail without the
// wrapper too are flaky by themselves; both are in Flaky with the counts. Those
// that never pass are Lost, and so are those that pass only now and then in each
// of three such rounds.
func Compare(t testing.TB, v Variant) (Report, error) {
	goroot, err := goEnv(t, "GOROOT")
	if err != nil {
		return Report{}, err
	}
	file, err := overlay(t, goroot, v.Source)
	if err != nil {
		return Report{}, err
	}
	overlaid := "-overlay=" + file

	// Without -count the go command remembers a baseline in which everything
	// passed, also for the other packages that ask for it.
	base, err := netHTTP(t, "-run="+v.Run)
	if err != nil {
		return Report{}, err
	}
	start := time.Now()
	got, err := netHTTP(t, "-run="+v.Run, overlaid, "-count=1")
	if err != nil {
		return Report{}, err
	}
	r := Report{Baseline: len(base.Passed), Elapsed: time.Since(start)}
	if r.Baseline == 0 {
		return r, fmt.Errorf("none of net/http's tests passed without the wrapper:\n%s", base.tail())
	}
	var lost []string
	for name := range base.Passed {
		if got.Passed[name] == 0 {
			lost = append(lost, name)
		}
	}
	slices.Sort(lost)
	r.Passed = r.Baseline - len(lost)
	if len(lost) == 0 {
		if !got.ok && len(got.Failed) == 0 {
			return r, fmt.Errorf("all tests passed, yet the run failed:\n%s", got.tail())
		}
		return r, nil
	}

	if len(topsOf(lost)) > 20 {
		// That many are not flaky; a panic or a hang took the rest along.
		r.Lost, r.Output = lost, got.tail()
		return r, nil
	}
	err = r.again(lost, func(flags ...string) (with, without Results, err error) {
		if with, err = netHTTP(t, append(flags, overlaid)...); err == nil {
			without, err = netHTTP(t, flags...)
		}
		return with, without, err
	})
	for _, name := range r.Lost {
		r.Output += got.Output[name]
	}
	return r, err
}

// again runs lost tests again until each is known to be flaky or lost. try runs
// tests with the wrapper and without.
func (r *Report) again(lost []string, try func(flags ...string) (with, without Results, err error)) error {
	for round := 1; len(lost) > 0; round++ {
		with, without, err := try("-run=^("+strings.Join(topsOf(lost), "|")+")$", fmt.Sprintf("-count=%d", reruns))
		if err != nil {
			return err
		}
		var open []string
		for _, name := range lost {
			switch n, base := with.Passed[name], without.Passed[name]; {
			case n == reruns || base < reruns:
				r.Flaky = append(r.Flaky, fmt.Sprintf("%s (again: %d of %d with the wrapper, %d of %d without)", name, n, reruns, base, reruns))
			case n == 0 || round == rounds:
				r.Lost = append(r.Lost, name)
			default:
				open = append(open, name)
			}
		}
		lost = open
	}
	return nil
}

// topsOf returns the tests without their subtests, for -run.
func topsOf(names []string) (tops []string) {
	for _, name := range names {
		top, _, _ := strings.Cut(name, "/")
		tops = append(tops, regexp.QuoteMeta(top))
	}
	slices.Sort(tops)
	return slices.Compact(tops)
}

func goEnv(t testing.TB, name string) (string, error) {
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	return strings.TrimSpace(string(out)), err
}

// Results are those of one or more runs of a package's tests.
type Results struct {
	ok             bool
	Passed, Failed map[string]int
	Output         map[string]string // by test; "" has what belongs to none
	lines          []string
}

// tail returns the end of what was printed.
func (r Results) tail() string {
	return strings.Join(r.lines[max(0, len(r.lines)-60):], "")
}

func netHTTP(t testing.TB, flags ...string) (Results, error) {
	flags = append([]string{"-skip=" + skipped}, flags...)
	if race {
		flags = append(flags, "-race")
	}
	return GoTest(t, t.TempDir(), "net/http", flags...)
}

// GoTest runs the tests of a package. That some fail is not an error.
func GoTest(t testing.TB, dir, pkg string, flags ...string) (Results, error) {
	// Vet is off because it looks for the folders of an overlay on disk.
	args := append([]string{"test", "-json", "-vet=off", "-timeout=5m"}, flags...)
	cmd := exec.CommandContext(t.Context(), "go", append(args, pkg)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	// The go command passes an interrupt on to the test it runs.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		return Results{}, err
	}
	r := Results{ok: err == nil, Passed: map[string]int{}, Failed: map[string]int{}, Output: map[string]string{}}
	for d := json.NewDecoder(&stdout); ; {
		var e struct{ Action, Test, Output string }
		if err := d.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			return r, fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
		}
		switch {
		case e.Action == "output" || e.Action == "build-output":
			r.Output[e.Test] += e.Output
			r.lines = append(r.lines, e.Output)
		case e.Action == "pass" && e.Test != "":
			r.Passed[e.Test]++
		case e.Action == "fail" && e.Test != "":
			r.Failed[e.Test]++
		case e.Action == "build-fail":
			return r, fmt.Errorf("go %s: build failed:\n%s%s", strings.Join(args, " "), r.tail(), &stderr)
		}
	}
	if len(r.Passed)+len(r.Failed) == 0 {
		return r, fmt.Errorf("go %s: no test ran:\n%s%s", strings.Join(args, " "), r.tail(), &stderr)
	}
	return r, nil
}
