package stdtest_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goweir/weir/internal/stdtest"
)

// The gate is only worth something if it can fail: these wrappers have one
// well-known fault each, and Go has a test for it.
func TestBrokenWrappersAreFound(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs a part of net/http's own tests; not run with -short")
	}
	for _, tt := range []struct {
		name   string
		source string
		run    string
		want   string
	}{
		{
			name:   "an informational status is taken for the final one",
			source: latching,
			run:    "^(TestEarlyHints|TestServerEmptyBodyRace|TestWriteHeader0)$",
			want:   "TestEarlyHints",
		},
		{
			name:   "FlushError is lost",
			source: flushOnly,
			run:    "^(TestResponseControllerSetPastWriteDeadline|TestResponseControllerFlush)$",
			want:   "TestResponseControllerSetPastWriteDeadline/h1",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			report, err := stdtest.Compare(t, stdtest.Variant{Name: tt.name, Source: tt.source, Run: tt.run})
			if err != nil {
				t.Fatal(err)
			}
			t.Log(report, report.Lost)
			if !slices.Contains(report.Lost, tt.want) {
				t.Errorf("lost = %q, want %s among them", report.Lost, tt.want)
			}
			if report.Passed == 0 {
				t.Error("no test passed: the fault is not the one meant")
			}
		})
	}
}

// A test that fails once and then never again is not held against the wrapper,
// but it is not hidden either.
func TestFlakyIsReported(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs a part of net/http's own tests; not run with -short")
	}
	once := filepath.Join(t.TempDir(), "once")
	source := strings.NewReplacer(
		`import "net/http"`, `import ("net/http"; "os")`,
		"w.status == 0", "w.status == 0 || !broken",
	).Replace(latching)
	report, err := stdtest.Compare(t, stdtest.Variant{
		Source: source + fmt.Sprintf("\nvar broken = os.Mkdir(%q, 0o777) == nil // in the first process only\n", once),
		Run:    "^(TestEarlyHints|TestWriteHeader0)$",
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Lost) > 0 || len(report.Flaky) != 1 || !strings.HasPrefix(report.Flaky[0], "TestEarlyHints (again: 3 of 3 with the wrapper") {
		t.Errorf("lost = %q, flaky = %q, want none and TestEarlyHints", report.Lost, report.Flaky)
	}
	if !strings.Contains(report.String(), "TestEarlyHints") {
		t.Errorf("report = %q: does not name the flaky test", report)
	}
}

// A file that does not compile must not look like a wrapper that fails tests.
func TestSourceThatDoesNotBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("builds net/http's own tests; not run with -short")
	}
	_, err := stdtest.Compare(t, stdtest.Variant{Source: "package shim\n\nvar Wrap int = \"\"\n", Run: "^TestEarlyHints$"})
	if err == nil || !strings.Contains(err.Error(), "build failed") {
		t.Errorf("err = %v, want a failed build", err)
	}
}

const latching = `package shim

import "net/http"

type writer struct {
	http.ResponseWriter
	status int
}

func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *writer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		w.ResponseWriter.WriteHeader(status)
	}
}

func Wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(&writer{ResponseWriter: w}, r)
	})
}
`

const flushOnly = `package shim

import "net/http"

type writer struct {
	http.ResponseWriter
	http.Flusher
}

func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func Wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(&writer{w, w.(http.Flusher)}, r)
	})
}
`
