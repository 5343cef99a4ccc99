package weir_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goweir/weir/internal/diagnose"
)

// TestDiagnosticsHavePages holds the codes of warnings, of all modules, against
// the sections of docs/diagnostics.md, and against the tests.
func TestDiagnosticsHavePages(t *testing.T) {
	codes := map[string]bool{}
	for _, name := range diagnose.Names() {
		codes[name] = true
	}
	literal := regexp.MustCompile(`Warn\([^;]{0,600}?"code", "([^"]+)"|(?m:^\s+(?:const )?code += "([a-z-]+)"$)`)
	var tests strings.Builder
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		src, err := os.ReadFile(path)
		if strings.HasSuffix(path, "_test.go") {
			tests.Write(src)
			return err
		}
		for _, m := range literal.FindAllSubmatch(src, -1) {
			codes[string(m[1])+string(m[2])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("docs/diagnostics.md")
	if err != nil {
		t.Fatal(err)
	}
	var sections []string
	for line := range strings.Lines(string(page)) {
		if name, ok := strings.CutPrefix(line, "## "); ok {
			sections = append(sections, strings.TrimSpace(name))
		}
	}
	for code := range codes {
		if !slices.Contains(sections, code) {
			t.Errorf("docs/diagnostics.md has no section %q", code)
		}
		if !strings.Contains(tests.String(), code) {
			t.Errorf("no test has the code %q", code)
		}
	}
	for _, s := range sections {
		if !codes[s] {
			t.Errorf("docs/diagnostics.md has a section %q, which nothing tells of", s)
		}
	}
}
