package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"strings"
)

// mask stands where a secret is.
const mask = "●●●"

// Text returns a configuration, or a part of it, as YAML with every default
// written out, which [Parse] reads as the same again; but secrets are masked.
func Text(v any) string { return text(v, true) }

// Identity is like Text with the secrets in it: two values with the same
// identity say the same. Where they were written does not matter.
func Identity(v any) string { return text(v, false) }

func text(v any, masked bool) string {
	p := printer{masked: masked}
	rv := reflect.New(reflect.TypeOf(v)).Elem() // addressable
	rv.Set(reflect.ValueOf(v))
	p.fields(rv, "")
	return p.String()
}

type printer struct {
	strings.Builder
	masked bool
}

// fields writes a struct, a line or more for each field that says something.
// begin stands before the first line, and as many spaces before the others.
func (p *printer) fields(v reflect.Value, begin string) {
	indent := strings.Repeat(" ", len(begin))
	for f, value := range v.Fields() {
		name, ok := f.Tag.Lookup("yaml")
		if !ok || !says(f.Tag, value) {
			continue
		}
		p.WriteString(begin + name + ":")
		begin = indent
		if secret := f.Tag.Get("secret"); secret != "" && p.masked {
			p.WriteString(" " + quote(hide(value.String(), secret)) + "\n")
			continue
		}
		switch scalar, ok := scalarOf(value); {
		case ok:
			p.WriteString(" " + scalar + "\n")
		case value.Kind() == reflect.Slice:
			p.list(value, indent)
		default:
			if text := p.nested(value, indent+"  "); text != "" {
				p.WriteString("\n" + text)
			} else {
				p.WriteString(" {}\n")
			}
		}
	}
}

func (p *printer) nested(v reflect.Value, begin string) string {
	inner := printer{masked: p.masked}
	inner.fields(v, begin)
	return inner.String()
}

func (p *printer) list(v reflect.Value, indent string) {
	p.WriteString("\n")
	for i := range v.Len() {
		if scalar, ok := scalarOf(v.Index(i)); ok {
			p.WriteString(indent + "  - " + scalar + "\n")
			continue
		}
		p.WriteString(p.nested(v.Index(i), indent+"  - "))
	}
}

// says reports whether a value is more than nothing, which a zero is only where
// there is another default. Blocks whose mere presence
// says something have the tag block.
func says(tag reflect.StructTag, v reflect.Value) bool {
	switch {
	case v.Kind() == reflect.Slice:
		return v.Len() > 0
	case v.Kind() == reflect.Struct && structFields(v.Type()):
		if _, block := tag.Lookup("block"); block {
			return !v.FieldByName("Pos").IsZero()
		}
		for f, value := range v.Fields() {
			if _, ok := f.Tag.Lookup("yaml"); ok && says(f.Tag, value) {
				return true
			}
		}
		return false
	}
	_, has := tag.Lookup("default")
	return has || !v.IsZero()
}

// structFields reports whether a type has fields of its own in the file.
func structFields(t reflect.Type) bool {
	for f := range t.Fields() {
		if _, ok := f.Tag.Lookup("yaml"); ok {
			return true
		}
	}
	return false
}

func scalarOf(v reflect.Value) (string, bool) {
	if v.Kind() == reflect.Struct && structFields(v.Type()) {
		return "", false
	}
	if _, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok || v.Kind() == reflect.String || v.Kind() == reflect.Bool {
		return quoteUnless(v.Kind() == reflect.Bool, fmt.Sprint(v.Interface())), true
	}
	return "", false
}

func quoteUnless(plain bool, s string) string {
	if plain || isPlain.MatchString(s) {
		return s
	}
	return quote(s)
}

// isPlain matches what YAML reads as a text, or the decoder as a scalar, without
// quotes.
var isPlain = regexp.MustCompile(`^(/?[a-z_][a-z_/.\-]*|[0-9][0-9A-Za-z./]*)$`)

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// hide masks a secret, or the password in a URL.
func hide(s, kind string) string {
	if kind == "url" {
		if u, err := url.Parse(s); err == nil {
			return u.Redacted()
		}
	}
	return mask
}
