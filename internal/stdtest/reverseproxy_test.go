package stdtest_test

import (
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/goweir/weir/internal/stdtest"
)

// TestReverseProxy runs the tests of httputil.ReverseProxy against package
// proxy; with the race detector if it has been built with it.
func TestReverseProxy(t *testing.T) {
	report, err := stdtest.CompareReverseProxy(t)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of ReverseProxy's tests, %d of them pass with Proxy (%v); tried again: %q", report.Baseline, report.Passed, report.Elapsed, report.Flaky)
	if len(report.Lost) > 0 {
		t.Errorf("%d of Go's tests pass with ReverseProxy and not with Proxy:\n%s\n%s", len(report.Lost), strings.Join(report.Lost, "\n"), report.Output)
	}
	if want := 40; strings.HasPrefix(runtime.Version(), "go1.26") && report.Baseline != want {
		t.Errorf("%d tests were compared, want %d", report.Baseline, want)
	}
}

// Each of these faults is one that ReverseProxy's own tests are there to find.
func TestBrokenProxiesAreFound(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs ReverseProxy's tests several times; not run with -short")
	}
	for _, tt := range []struct {
		name string
		edit stdtest.Edit
		want string
	}{
		{"a half answer ends well", stdtest.Edit{File: "exchange.go", Pattern: `panic\(http\.ErrAbortHandler\)`, With: ""}, "TestReverseProxy_PanicBodyError"},
		{"the upstream's base path is lost", stdtest.Edit{File: "upstream.go", Pattern: `up\.base \+ path`, With: "path"}, "TestJoinURLPath"},
		{"informational responses are lost", stdtest.Edit{File: "informational.go", Pattern: `w\.WriteHeader\(status\)`, With: ""}, "Test1xxResponses"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			report, err := stdtest.CompareReverseProxy(t, tt.edit)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d of %d pass, lost: %q", report.Passed, report.Baseline, report.Lost)
			if !slices.Contains(report.Lost, tt.want) || report.Passed == 0 {
				t.Errorf("lost = %q, want %s among them and not all", report.Lost, tt.want)
			}
		})
	}
}
