package crosstest

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	_ "github.com/gorilla/websocket" // its source is what the test needs

	"github.com/goweir/weir/internal/stdtest"
)

// gorillaExempt are tests that find something else behind a proxy than without
// one, with the reason.
var gorillaExempt = map[string]string{
	"TestBadMethod": "it sends the handshake with POST and expects the server's own answer; the front door refuses it, see TestTrapProxy08",
}

// TestGorillaWebSocketThroughProxy runs the tests that gorilla/websocket has for
// clients and servers together, with a proxy in front of each server, and
// compares with the same tests without.
func TestGorillaWebSocketThroughProxy(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", "github.com/gorilla/websocket").Output()
	if err != nil {
		t.Fatal(err)
	}
	source := strings.TrimSpace(string(out))
	run := func(name string, replace ...string) stdtest.Results {
		dir, at := t.TempDir(), mustAbs(t, "testdata/gorilla")
		files, err := filepath.Glob(filepath.Join(source, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%q has no Go files: %v", source, err)
		}
		overlay := map[string]string{}
		for _, path := range files {
			base := filepath.Base(path)
			if base == "example_test.go" { // of another package, which imports the real one
				continue
			}
			if base == "client_server_test.go" {
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				for i := 0; i < len(replace); i += 2 {
					if !strings.Contains(string(text), replace[i]) {
						t.Fatalf("%s has no %s: this version needs other edits", path, replace[i])
					}
					text = []byte(strings.ReplaceAll(string(text), replace[i], replace[i+1]))
				}
				path = filepath.Join(dir, base)
				if err := os.WriteFile(path, text, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			overlay[filepath.Join(at, base)] = path
		}
		text, err := json.Marshal(map[string]any{"Replace": overlay})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "overlay.json")
		if err := os.WriteFile(file, text, 0o666); err != nil {
			t.Fatal(err)
		}
		r, err := stdtest.GoTest(t, ".", "./testdata/gorilla", "-overlay="+file, "-timeout=5m", "-count=1", "-run="+strings.Join(clientServerTests(t, source), "|"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return r
	}
	without := run("without")
	through := run("through the proxy",
		"httptest.NewServer(", "newFront(",
		"httptest.NewTLSServer(", "newTLSFront(",
		"httptest.NewUnstartedServer(", "newUnstartedFront(")

	passed := 0
	for _, name := range slices.Sorted(maps.Keys(without.Passed)) {
		top, _, _ := strings.Cut(name, "/")
		switch reason := gorillaExempt[top]; {
		case reason != "" && through.Passed[name] > 0:
			t.Errorf("%s passes, though exempt because %s", name, reason)
		case reason == "" && through.Passed[name] == 0:
			t.Errorf("%s passes without the proxy and not through it:\n%s", name, through.Output[name])
		case reason == "" && !strings.Contains(name, "/"):
			passed++
		}
	}
	t.Logf("%d of %d tests pass through the proxy", passed, len(clientServerTests(t, source)))
	if want := len(clientServerTests(t, source)) - len(gorillaExempt); passed != want {
		t.Errorf("%d tests pass through the proxy, want %d; without it failed: %v", passed, want, slices.Collect(maps.Keys(without.Failed)))
	}
}

func mustAbs(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// clientServerTests returns the names of the tests that have a client and a
// server.
func clientServerTests(t *testing.T, source string) (names []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(source, "client_server_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(text, -1) {
		names = append(names, "^"+string(m[1])+"$")
	}
	return names
}
