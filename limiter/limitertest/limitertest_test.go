package limitertest_test

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/limitertest"
)

var broken = flag.String("broken", "", "the flaw of the Limiter that TestMemory runs the suite on; empty: none")

func TestMemory(t *testing.T) {
	open := memory
	if *broken != "" {
		open = flaws[slices.IndexFunc(flaws, func(f flaw) bool { return f.name == *broken })].open
	}
	limitertest.Run(t, func(*testing.T) limiter.Limiter { return open() }, nil)
}

// A Limiter that counts in microseconds may round, by as much as it says.
func TestRounding(t *testing.T) {
	limitertest.Run(t, func(*testing.T) limiter.Limiter { return coarse{memory(), 0} }, &limitertest.Options{Rounding: time.Microsecond})
}

// The same checks in real time, as a backend on a server has them.
func TestRealTime(t *testing.T) {
	open := func() limiter.Limiter { return coarse{memory(), time.Millisecond} }
	if *broken != "" {
		open = flaws[slices.IndexFunc(flaws, func(f flaw) bool { return f.name == *broken })].open
	}
	opts := &limitertest.Options{RealTime: true, Tolerance: 5 * time.Millisecond, Rounding: time.Microsecond}
	if testing.Short() {
		opts.Algorithms = []limiter.Algorithm{limiter.TokenBucket} // each takes a quarter of a minute
	}
	limitertest.Run(t, func(*testing.T) limiter.Limiter { return open() }, opts)
}

// outcome is a line about one check in the output of a test.
var outcome = regexp.MustCompile(`(?m)^ +--- (PASS|FAIL): TestMemory/(\w+/\S+)`)

// child runs TestMemory in a process of its own, because it is to fail, and may
// hang or crash. It runs the checks that are named, or all, and returns which
// ran and whether they failed.
func child(t *testing.T, flaw string, only ...string) (failed map[string]bool, output string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := "^TestMemory$"
	if len(only) > 0 {
		var algorithms, checks []string
		for _, name := range only {
			algorithm, check, _ := strings.Cut(regexp.QuoteMeta(spaced.Replace(name)), "/")
			algorithms, checks = append(algorithms, algorithm), append(checks, check)
		}
		run += "/^(" + strings.Join(algorithms, "|") + ")$/^(" + strings.Join(checks, "|") + ")$"
	}
	out, err := exec.CommandContext(t.Context(), exe, "-test.run="+run, "-test.v", "-test.timeout=60s", "-broken="+flaw).CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	failed = make(map[string]bool)
	for _, m := range outcome.FindAllStringSubmatch(string(out), -1) {
		failed[m[2]] = m[1] == "FAIL"
	}
	return failed, string(out)
}

// spaced writes the name of a check as package testing does.
var spaced = strings.NewReplacer(" ", "_")

// full returns the names of f's checks with their algorithms; those without one
// are TokenBucket's.
func (f *flaw) full() []string {
	names := slices.Clone(f.fails)
	for i, n := range names {
		if !strings.Contains(n, "/") {
			names[i] = "token bucket/" + n
		}
	}
	return names
}

// Each flaw is found by each check that is there to find it.
func TestFlaws(t *testing.T) {
	for _, f := range flaws {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			failed, out := child(t, f.name, f.full()...)
			for _, c := range f.full() {
				if fails, ran := failed[spaced.Replace(c)]; !fails {
					t.Errorf("%q fails: %v (ran: %v); output:\n%s", c, fails, ran, out[max(0, len(out)-2000):])
				}
			}
		})
	}
}

// Each check finds some flaw, of one algorithm at least, and none where there
// is none.
func TestChecks(t *testing.T) {
	failed, out := child(t, "")
	if len(failed) == 0 {
		t.Fatalf("no check ran:\n%s", out)
	}
	find := make(map[string]bool)
	for _, f := range flaws {
		for _, c := range f.full() {
			_, check, _ := strings.Cut(spaced.Replace(c), "/")
			find[check] = true
		}
	}
	for c, f := range failed {
		if f {
			t.Errorf("%q fails although nothing is broken:\n%s", c, out)
		}
		if _, check, _ := strings.Cut(c, "/"); !find[check] {
			t.Errorf("%q is not shown to find any flaw", c)
		}
	}
}
