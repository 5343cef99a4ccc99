package weir_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeSnippetsAreExamples holds every Go block of the README against the
// example files, which the compiler checks.
func TestReadmeSnippetsAreExamples(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var examples strings.Builder
	for _, name := range []string{"example_test.go", "internal/crosstest/example_gin_test.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		examples.Write(text)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(blocks) == 0 {
		t.Fatal("README.md has no Go block")
	}
	for _, block := range blocks {
		// An example's body is indented by one tab, a README's is not.
		var body strings.Builder
		for line := range strings.Lines(block[1]) {
			if line != "\n" {
				line = "\t" + line
			}
			body.WriteString(line)
		}
		if !strings.Contains(examples.String(), body.String()) {
			t.Errorf("README.md has a block that no example contains:\n%s", block[1])
		}
	}
}

// TestReadmeCommands keeps the two commands a newcomer starts with.
func TestReadmeCommands(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"go run ./examples/gateway", "go test work"} {
		if !strings.Contains(string(readme), command) {
			t.Errorf("README.md does not show %q", command)
		}
	}
	ci, err := os.ReadFile(".ci/run")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(ci), "\ngo test work\n") {
		t.Error(".ci/run does not run the README's test command, go test work")
	}
}
