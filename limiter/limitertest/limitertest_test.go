package limitertest_test

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/limitertest"
)

var broken = flag.String("broken", "", "the flaw of the Limiter that TestMemory runs the suite on; empty: none")

// or returns open, or what makes the broken Limiter.
func or(open func() limiter.Limiter) func(*testing.T) limiter.Limiter {
	if i := slices.IndexFunc(flaws, func(f flaw) bool { return f.name == *broken }); i >= 0 {
		open = flaws[i].open
	}
	return func(*testing.T) limiter.Limiter { return open() }
}

func TestMemory(t *testing.T) {
	limitertest.Run(t, or(memory), nil)
}

// A Limiter that counts in microseconds may round, by as much as it says.
func TestRounding(t *testing.T) {
	limitertest.Run(t, func(*testing.T) limiter.Limiter { return coarse{memory(), 0} }, &limitertest.Options{Rounding: time.Microsecond})
}

// A TakeAll may take several steps, if that is said.
func TestInSteps(t *testing.T) {
	limitertest.Run(t, func(*testing.T) limiter.Limiter { return stepwise{memory()} }, &limitertest.Options{TakeAllInSteps: true})
}

// The same checks in real time, as a backend on a server has them.
func TestRealTime(t *testing.T) {
	algorithms := []limiter.Algorithm{
		limiter.TokenBucket, limiter.LeakyBucket, limiter.FixedWindow, limiter.SlidingWindow, limiter.SlidingLog,
	}
	if testing.Short() {
		algorithms = algorithms[:1]
	}
	open := or(func() limiter.Limiter { return coarse{memory(), 500 * time.Microsecond} })
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, a := range algorithms {
		wg.Go(func() {
			limitertest.Run(t, open, &limitertest.Options{
				Algorithms: []limiter.Algorithm{a}, RealTime: true, Rounding: time.Microsecond,
			})
		})
	}
}

// outcome is a line about one check in the output of a test.
var outcome = regexp.MustCompile(`(?m)^ +--- (PASS|FAIL): Test(?:Memory|RealTime)/(\w+/\S+)`)

// child runs a test in a process of its own, because it is to fail, and may hang
// or crash. It runs the checks that are named, or all, and returns which ran and
// whether they failed. On a busy machine that takes minutes in real time, because
// each failure is repeated at a slower pace.
func child(t *testing.T, test, flaw string, only ...string) (failed map[string]bool, output string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := "^" + test + "$"
	if len(only) > 0 {
		var algorithms, checks []string
		for _, name := range only {
			algorithm, check, _ := strings.Cut(regexp.QuoteMeta(spaced.Replace(name)), "/")
			algorithms, checks = append(algorithms, algorithm), append(checks, check)
		}
		run += "/^(" + strings.Join(algorithms, "|") + ")$/^(" + strings.Join(checks, "|") + ")$"
	}
	out, err := exec.CommandContext(t.Context(), exe, "-test.run="+run, "-test.v", "-test.timeout=5m", "-broken="+flaw).CombinedOutput()
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

// found runs the suite on f and wants it to say so.
func found(t *testing.T, test string, f flaw) {
	t.Helper()
	failed, out := child(t, test, f.name, f.full()...)
	for _, c := range f.full() {
		if fails, ran := failed[spaced.Replace(c)]; !fails {
			t.Errorf("%s/%s: fails: %v (ran: %v); output:\n%s", test, c, fails, ran, out[max(0, len(out)-2000):])
		}
	}
}

// Each flaw is found by each check that is there to find it.
func TestFlaws(t *testing.T) {
	for _, f := range flaws {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			found(t, "TestMemory", f)
		})
	}
}

// Flaws that are larger than the tolerance are found in real time too.
func TestFlawsInRealTime(t *testing.T) {
	for _, f := range []flaw{
		{name: "admits one more", fails: []string{"capacity", "allow", "bound"}},
		{name: "forgets early", fails: []string{"bound", "refund schedules"}},
		{name: "puts off who asks too often", fails: []string{"hammering", "retry"}},
		{name: "gives one turn to two", fails: []string{"turns", "smooth"}},
		{name: "RetryAfter in whole seconds", fails: []string{"retry"}},
		{name: "refunds everything", fails: []string{"refund", "stale refund"}},
		{name: "never lets wait", fails: []string{"wait, late"}},
		{name: "keeps what it took before a refusal", fails: []string{"contended all"}},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			found(t, "TestRealTime", f)
		})
	}
}

// Each check finds some flaw, of one algorithm at least, and none where there
// is none.
func TestChecks(t *testing.T) {
	failed, out := child(t, "TestMemory", "")
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
