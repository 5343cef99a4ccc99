package config_test

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/goweir/weir/examples/gateway/internal/config"
)

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Whatever the README and the configuration that is built in show can be used
// as it stands there.
func TestExamplesParse(t *testing.T) {
	parse(t, readFile(t, "../../gateway.yaml"))
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(readFile(t, "../../README.md"), -1)
	if len(blocks) == 0 {
		t.Error("no YAML in the README")
	}
	for _, b := range blocks {
		parse(t, b[1])
	}
}

// The README's table has a row for each field, with its default.
func TestReadmeListsEveryField(t *testing.T) {
	readme := readFile(t, "../../README.md")
	var walk func(prefix string, typ reflect.Type)
	walk = func(prefix string, typ reflect.Type) {
		for f := range typ.Fields() {
			name, ok := f.Tag.Lookup("yaml")
			if !ok {
				continue
			}
			row := "| `" + prefix + name + "` | "
			if f.Tag.Get("required") == "true" {
				row += "required |"
			} else if value := f.Tag.Get("default"); value != "" {
				row += "`" + value + "` |"
			}
			inner := f.Type
			prefix := prefix + name + "."
			if inner.Kind() == reflect.Slice {
				inner, prefix = inner.Elem(), strings.TrimSuffix(prefix, ".")+"[]."
			}
			_, scalar := reflect.New(inner).Interface().(interface{ UnmarshalText([]byte) error })
			isStruct := inner.Kind() == reflect.Struct && (!scalar || hasFields(inner))
			if prefix == "routes[].in_flight." || prefix == "routes[].fallback.upstreams[]." {
				isStruct = false // has a row of its own, which refers to another
			}
			if !strings.Contains(readme, row) && (!isStruct || f.Type.Kind() == reflect.Slice) {
				t.Errorf("README.md has no row that begins with %s", row)
			}
			if isStruct {
				walk(prefix, inner)
			}
		}
	}
	walk("", reflect.TypeFor[config.Config]())
}

func hasFields(typ reflect.Type) bool {
	for f := range typ.Fields() {
		if _, ok := f.Tag.Lookup("yaml"); ok {
			return true
		}
	}
	return false
}

// The faults that the README shows are those that the file would get.
func TestReadmeFaults(t *testing.T) {
	_, err := config.Parse("gateway.yaml", []byte(`listen: :8080
routes:
  - path: /
    upstream: ["http://127.0.0.1:9001"]
    limits:
      - {name: client, key: ip, rate: 10 per second}
`))
	readme := readFile(t, "../../README.md")
	for line := range strings.Lines(err.Error()) {
		if !strings.Contains(line, "is missing") && !strings.Contains(readme, strings.TrimSpace(line)) {
			t.Errorf("README.md does not show %s", line)
		}
	}
}
