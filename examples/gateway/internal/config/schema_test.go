package config_test

import (
	"encoding/json"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/goweir/weir/examples/gateway/internal/config"
)

var update = flag.Bool("update", false, "write gateway.schema.json anew")

const schemaFile = "../../gateway.schema.json"

// The schema beside the configuration is that of the types, with what the README
// says of each field. -update writes it anew.
func TestSchemaIsThatOfTheTypes(t *testing.T) {
	rows := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| .*? \\| (.*) \\|$").FindAllStringSubmatch(readFile(t, "../../README.md"), -1)
	about := map[string]string{}
	for _, row := range rows {
		about[row[1]] = strings.NewReplacer("`", "", "<code>", "", "</code>", "", "&#124;", "|").Replace(strings.TrimSpace(row[2]))
	}
	schema := config.Schema(func(field string) string {
		if inner, ok := strings.CutPrefix(field, "routes[].in_flight."); ok {
			field = "in_flight." + inner
		}
		return about[field]
	})
	want, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile(schemaFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if readFile(t, schemaFile) != string(want) {
		t.Error("gateway.schema.json is not that of the types: go test ./internal/config -run Schema -update")
	}
}

// The configuration that is built in names its schema for editors.
func TestBuiltInNamesItsSchema(t *testing.T) {
	if first, _, _ := strings.Cut(readFile(t, "../../gateway.yaml"), "\n"); first != "# yaml-language-server: $schema=gateway.schema.json" {
		t.Errorf("gateway.yaml begins with %q", first)
	}
}

// Whatever Parse accepts of the examples the schema accepts, and it refuses some
// of what Parse refuses: a part of JSON Schema, enough for this one, is done
// here.
func TestSchemaAcceptsWhatParseDoes(t *testing.T) {
	var schema any
	if err := json.Unmarshal([]byte(readFile(t, schemaFile)), &schema); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{whole, everything, readFile(t, "../../gateway.yaml")} {
		if faults := judge(schema, plain(t, text), "$"); len(faults) > 0 {
			t.Errorf("the schema refuses what Parse accepts: %v", faults)
		}
	}
	for _, text := range []string{
		"routes: []\nlisten: 1", "listen: a:1", "routes: [{path: /, upstreams: [demo], limit: 1}]",
		"routes: [{path: /, upstreams: [demo], limits: [{name: a, key: ip, rate: 10}]}]",
		"routes: [{path: /, upstreams: [demo], limits: [{name: a, key: ip, rate: 1/s, algorithm: x}]}]",
		"routes: [{path: /, upstreams: [{weight: 1}]}]", "routes: [{path: /, upstreams: [demo], capture: yes please}]",
	} {
		if len(judge(schema, plain(t, text), "$")) == 0 {
			t.Errorf("the schema accepts %s", text)
		}
	}
}
