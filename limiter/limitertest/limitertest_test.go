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

// The same checks in real time, as a backend on a server has them.
func TestRealTime(t *testing.T) {
	limitertest.Run(t, func(*testing.T) limiter.Limiter { return memory() }, &limitertest.Options{
		RealTime: true, Tolerance: 5 * time.Millisecond,
	})
}

// outcome is a line about one check in the output of a test.
var outcome = regexp.MustCompile(`(?m)^ +--- (PASS|FAIL): TestMemory/token_bucket/(\S+)`)

// child runs TestMemory in a process of its own, because it is to fail, and may
// hang or crash. It returns the checks that ran, and whether they failed.
func child(t *testing.T, flaw string, only ...string) (failed map[string]bool, output string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := "^TestMemory$/^token_bucket$"
	if len(only) > 0 {
		names := regexp.QuoteMeta(strings.Join(only, "\n"))
		run += "/^(" + strings.NewReplacer(" ", "_", "\n", "|").Replace(names) + ")$"
	}
	out, err := exec.CommandContext(t.Context(), exe, "-test.run="+run, "-test.v", "-test.timeout=60s", "-broken="+flaw).CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	failed = make(map[string]bool)
	for _, m := range outcome.FindAllStringSubmatch(string(out), -1) {
		failed[strings.ReplaceAll(m[2], "_", " ")] = m[1] == "FAIL"
	}
	return failed, string(out)
}

// Each flaw is found by each check that is there to find it.
func TestFlaws(t *testing.T) {
	for _, f := range flaws {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			failed, out := child(t, f.name, f.fails...)
			for _, c := range f.fails {
				if ran := len(failed) > 0; !failed[c] {
					t.Errorf("the check %q passes (ran: %v); output:\n%s", c, ran, out[max(0, len(out)-2000):])
				}
			}
		})
	}
}

// Each check finds some flaw, and none where there is none.
func TestChecks(t *testing.T) {
	failed, out := child(t, "")
	if len(failed) == 0 {
		t.Fatalf("no check ran:\n%s", out)
	}
	var listed []string
	for _, f := range flaws {
		listed = append(listed, f.fails...)
	}
	for c, f := range failed {
		if f {
			t.Errorf("%q fails although nothing is broken:\n%s", c, out)
		}
		if !slices.Contains(listed, c) {
			t.Errorf("%q is not shown to find any flaw", c)
		}
	}
}
