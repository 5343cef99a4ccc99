package config_test

import (
	"fmt"
	"regexp"
	"slices"
	"testing"

	"github.com/goccy/go-yaml"
)

// plain reads YAML as an editor does, without knowing what it means.
func plain(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// judge holds a value against a JSON Schema that uses only type, properties,
// required, additionalProperties, items, enum, const, pattern, minLength,
// minimum, maximum and anyOf, and returns what is wrong.
func judge(schema, value any, at string) (faults []string) {
	s := schema.(map[string]any)
	fault := func(format string, args ...any) { faults = append(faults, at+": "+fmt.Sprintf(format, args...)) }
	if choices, ok := s["anyOf"].([]any); ok {
		if !slices.ContainsFunc(choices, func(c any) bool { return len(judge(c, value, at)) == 0 }) {
			fault("%v is none of %v", value, choices)
		}
	}
	if types, ok := s["type"]; ok && !slices.ContainsFunc(list(types), func(name any) bool { return isType(name.(string), value) }) {
		fault("%v is no %v", value, types)
		return faults
	}
	if names, ok := s["enum"].([]any); ok && !slices.Contains(names, value) {
		fault("%v is none of %v", value, names)
	}
	if want, ok := s["const"]; ok && fmt.Sprint(want) != fmt.Sprint(value) {
		fault("%v is not %v", value, want)
	}
	switch v := value.(type) {
	case string:
		if p, ok := s["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v) {
			fault("%q does not match %s", v, p)
		}
		if _, ok := s["minLength"]; ok && v == "" {
			fault("is empty")
		}
	case []any:
		for i, item := range v {
			if items, ok := s["items"]; ok {
				faults = append(faults, judge(items, item, fmt.Sprintf("%s[%d]", at, i))...)
			}
		}
	case map[string]any:
		properties, _ := s["properties"].(map[string]any)
		for name, inner := range v {
			if p, ok := properties[name]; ok {
				faults = append(faults, judge(p, inner, at+"."+name)...)
			} else if s["additionalProperties"] == false {
				fault("unknown %s", name)
			}
		}
		for _, name := range list(s["required"]) {
			if _, ok := v[name.(string)]; !ok {
				fault("%s is missing", name)
			}
		}
	default:
		if n, ok := number(v); ok {
			if least, ok := s["minimum"].(float64); ok && n < least {
				fault("%v is below %v", n, least)
			}
			if most, ok := s["maximum"].(float64); ok && n > most {
				fault("%v is above %v", n, most)
			}
		}
	}
	return faults
}

func list(v any) []any {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		return v
	}
	return []any{v}
}

func isType(name string, value any) bool {
	n, isNumber := number(value)
	switch v := value.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case []any:
		return name == "array"
	case map[string]any:
		return name == "object"
	default:
		_ = v
		return isNumber && (name == "number" || name == "integer" && n == float64(int64(n)))
	}
}

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case int:
		return float64(n), true
	case int64:
		return float64(n), true
	case uint64:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}
