package config

import (
	"encoding"
	"reflect"
	"strconv"
)

// Schema returns a JSON Schema (2020-12) of the file, for editors. about says
// what stands in the description of a field, such as routes[].path. It is
// stricter than nothing and laxer than [Parse], which alone knows everything.
func Schema(about func(field string) string) map[string]any {
	s := schemaOf(reflect.New(reflect.TypeFor[Config]()).Elem(), "", about)
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "The configuration of weir's gateway"
	return s
}

func schemaOf(v reflect.Value, field string, about func(string) string) map[string]any {
	scalar := schemaOfScalar(v)
	switch {
	case v.Kind() == reflect.Slice:
		item := reflect.New(v.Type().Elem()).Elem()
		return map[string]any{"type": []string{"array", "null"}, "items": schemaOf(item, field+"[]", about)}
	case v.Kind() == reflect.Struct && structFields(v.Type()):
		object := schemaOfFields(v, field, about)
		if scalar == nil {
			return object
		}
		return map[string]any{"anyOf": []any{scalar, object}}
	case scalar == nil:
		panic("config: no schema for a " + v.Type().String())
	}
	return scalar
}

func schemaOfFields(v reflect.Value, field string, about func(string) string) map[string]any {
	properties, required := map[string]any{}, []string{}
	for f, value := range v.Fields() {
		name, ok := f.Tag.Lookup("yaml")
		if !ok {
			continue
		}
		inner := name
		if field != "" {
			inner = field + "." + name
		}
		s := schemaOf(value, inner, about)
		if text := about(inner); text != "" {
			s["description"] = text
		}
		if fallback, ok := f.Tag.Lookup("default"); ok {
			s["default"] = defaultOf(value, fallback)
		}
		if f.Tag.Get("required") == "true" {
			required = append(required, name)
		}
		properties[name] = s
	}
	object := map[string]any{"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		object["required"] = required
		object["type"] = "object"
	}
	return object
}

// defaultOf returns a default as a value of its type.
func defaultOf(v reflect.Value, text string) any {
	if v.Kind() == reflect.Bool {
		return text == "true"
	}
	if number, err := strconv.ParseFloat(text, 64); err == nil {
		return number
	}
	return text
}

// schemaOfScalar returns what a scalar may be, nil if v is none.
func schemaOfScalar(v reflect.Value) map[string]any {
	pattern := func(p string) map[string]any { return map[string]any{"type": "string", "pattern": p} }
	names := func(names []string) map[string]any { return map[string]any{"enum": names} }
	number := func(least, most float64) map[string]any {
		return map[string]any{"type": "number", "minimum": least, "maximum": most}
	}
	switch v.Interface().(type) {
	case Size, FileSize:
		return map[string]any{"anyOf": []any{pattern(`^[0-9]+ *([KMG]i?B|kB|B)$`), map[string]any{"const": 0}}}
	case Duration:
		return pattern(`^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`)
	case ByteRate:
		return pattern(`^(0|[1-9][0-9]*)([KMGT]i?)?B/s$`)
	case Rate:
		return pattern(`^(0|[1-9][0-9]*)/([1-9][0-9]*)?(d|h|m|s|ms|us|ns)$`)
	case Status:
		return map[string]any{"anyOf": []any{pattern(`^[1-5]xx$`), map[string]any{"type": "integer", "minimum": 0, "maximum": 599}}}
	case Count:
		return map[string]any{"type": "integer", "minimum": 1}
	case Share:
		return number(0, 1)
	case Factor:
		return number(1, 10)
	case Full:
		return names(fullNames)
	case Balance:
		return names(balanceNames)
	case Bodies:
		return names(bodiesNames)
	case Query:
		return names(queryNames)
	case HeaderForm:
		return names(headerForms)
	case Unkeyed:
		return names(unkeyedNames)
	case LogFormat:
		return names([]string{string(TextFormat), string(JSONFormat)})
	case WhenDown:
		return names([]string{"local", "open", "closed"})
	case Algorithm:
		return names([]string{"token_bucket", "leaky_bucket", "fixed_window", "sliding_window", "sliding_log"})
	}
	if v.Kind() == reflect.Bool {
		return map[string]any{"type": "boolean"}
	}
	if _, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok || v.Kind() == reflect.String {
		return map[string]any{"type": "string", "minLength": 1}
	}
	return nil
}
