package crosstest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestAdapterReadmes holds what the READMEs of the adapters show against what
// the compiler and the tests know: every Go block of more than three lines is
// part of an example here, and every test that a line names is in the file it
// links to.
func TestAdapterReadmes(t *testing.T) {
	for name, example := range map[string]string{
		"weirecho":  "example_echo_test.go",
		"weirecho4": "example_echo4_test.go",
		"weirchi":   "example_chi_test.go",
		"weirgin":   "example_gin_test.go",
	} {
		dir := filepath.Join("..", "..", "adapters", name)
		readme := readText(t, filepath.Join(dir, "README.md"))
		code := readText(t, example)
		quoted := 0
		for _, block := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(readme, -1) {
			if strings.Count(block[1], "\n") <= 3 {
				continue
			}
			quoted++
			var body strings.Builder
			for line := range strings.Lines(block[1]) {
				if line != "\n" {
					line = "\t" + line
				}
				body.WriteString(line)
			}
			if !strings.Contains(code, body.String()) {
				t.Errorf("%s: README.md has a block that %s does not contain:\n%s", name, example, block[1])
			}
		}
		links := regexp.MustCompile(`\[(Test\w+)\]\((\w+\.go)\)`).FindAllStringSubmatch(readme, -1)
		for _, link := range links {
			if !strings.Contains(readText(t, filepath.Join(dir, link[2])), "\nfunc "+link[1]+"(t *testing.T)") {
				t.Errorf("%s: README.md names %s, which is not in %s", name, link[1], link[2])
			}
		}
		if quoted == 0 || len(links) == 0 {
			t.Errorf("%s: README.md has %d examples and names %d tests", name, quoted, len(links))
		}
	}
}

func readText(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
