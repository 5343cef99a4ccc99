package config

import (
	"encoding"
	"reflect"
	"strings"
)

// A field is a field of a struct as the file sees it.
type field struct {
	name     string
	fallback string // the default, as one would write it; empty: the zero value
	required bool
	value    reflect.Value
}

type fields []field

// fieldsOf lists the fields of a struct that have a yaml tag.
func fieldsOf(v reflect.Value) fields {
	var fs fields
	for f, value := range v.Fields() {
		if name, ok := f.Tag.Lookup("yaml"); ok {
			fs = append(fs, field{name, f.Tag.Get("default"), f.Tag.Get("required") == "true", value})
		}
	}
	return fs
}

func (fs fields) named(name string) (field, bool) {
	for _, f := range fs {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

func (fs fields) String() string {
	names := make([]string, len(fs))
	for i, f := range fs {
		names[i] = f.name
	}
	return strings.Join(names, ", ")
}

// hint says what an unknown name may have been meant to be.
func (fs fields) hint(name string) string {
	best, least := "", 1+max(1, len(name)/3)
	for _, f := range fs {
		if n := distance(name, f.name); n < least {
			best, least = f.name, n
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	return "want one of " + fs.String()
}

// distance is how many letters must be put in, taken out or replaced to make a
// into b (Levenshtein). Beyond 64 bytes it does not look: no name is that long.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0]++
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// setDefaults gives every field inside v what its tag says. It panics if a
// default cannot be read: that is a fault of this program, found by its tests.
func setDefaults(v reflect.Value) {
	if v.Kind() != reflect.Struct {
		return
	}
	for _, f := range fieldsOf(v) {
		setDefaults(f.value)
		if f.fallback == "" {
			continue
		}
		switch p := f.value.Addr().Interface().(type) {
		case encoding.TextUnmarshaler:
			if err := p.UnmarshalText([]byte(f.fallback)); err != nil {
				panic("config: default of " + f.name + ": " + err.Error())
			}
		case *string:
			*p = f.fallback
		case *bool:
			*p = f.fallback == "true"
		default:
			panic("config: no default for a " + f.value.Type().String())
		}
	}
}
