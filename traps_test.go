package weir_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// traps is how many numbered traps are known in each section of docs/traps.md.
var traps = map[string]int{"Limiter": 37, "Capture": 34, "Proxy": 26, "Adapters": 15}

// TestTrapsAreCovered holds docs/traps.md against the tests of all modules: each
// trap has a test named after its number or a reason why not, never both.
func TestTrapsAreCovered(t *testing.T) {
	tests := trapTests(t)
	ledger, err := os.ReadFile("docs/traps.md")
	if err != nil {
		t.Fatal(err)
	}
	var section string
	next := map[string]int{}
	row := regexp.MustCompile(`^\| (\d+) \| (.+?) \| ?(.*?) ?\|$`)
	for line := range strings.Lines(string(ledger)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "## "); ok {
			section = name
			next[section] = 1
			continue
		}
		m := row.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if want := fmt.Sprint(next[section]); m[1] != want {
			t.Errorf("%s: row %s where %s should stand", section, m[1], want)
		}
		id := fmt.Sprintf("%s%02d", section, next[section])
		next[section]++
		reason := m[3]
		switch {
		case len(tests[id]) == 0 && reason == "":
			t.Errorf("%s (%s): no test TestTrap%s_..., and no reason in docs/traps.md", id, m[2], id)
		case len(tests[id]) > 0 && reason != "":
			t.Errorf("%s: docs/traps.md says %q, but there is %s", id, reason, strings.Join(tests[id], ", "))
		}
		delete(tests, id)
	}
	for section, n := range traps {
		if got := next[section] - 1; got != n {
			t.Errorf("docs/traps.md has %d rows for %s, want %d", got, section, n)
		}
	}
	for id, names := range tests {
		t.Errorf("%s: docs/traps.md has no row %s", strings.Join(names, ", "), id)
	}
}

// trapTests finds the functions TestTrap<Section><NN>_<Name> below this folder,
// by "<Section><NN>".
func trapTests(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	decl := regexp.MustCompile(`(?m)^func (TestTrap([A-Z][a-z]+\d\d)_\w+)\(t \*testing\.T\)`)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		for _, m := range decl.FindAllStringSubmatch(string(src), -1) {
			found[m[2]] = append(found[m[2]], path+": "+m[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatal("no TestTrap functions found")
	}
	return found
}
