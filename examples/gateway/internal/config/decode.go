package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// maxValues bounds the values of a file after its aliases are expanded, so that
// a small file cannot ask for a large configuration.
const maxValues = 50_000

// A decoder walks a syntax tree against Go types and keeps every fault it
// meets, where goccy/go-yaml's own strict decoder stops at the first.
//
// What the types say:
//   - a type that implements [encoding.TextUnmarshaler] reads a scalar;
//   - one that is a struct with tags as well reads a mapping, too;
//   - bool and string read what YAML calls so;
//   - a struct reads a mapping, a slice a sequence;
//   - the tag yaml:"name" names a field, default:"text" is read as if it stood
//     in the file when the field does not, and required:"true" demands it.
type decoder struct {
	file    string
	anchors map[string]*ast.AnchorNode
	values  int
	faults  Faults
}

func (d *decoder) fault(at Pos, field, format string, args ...any) {
	d.faults = append(d.faults, Fault{d.file, at, field, fmt.Sprintf(format, args...)})
}

// value reads n into dst and says whether anything was written there. A null
// leaves dst as it is, and neither it nor an empty list counts as something.
func (d *decoder) value(dst reflect.Value, n ast.Node, field string) (written bool) {
	if d.values++; d.values > maxValues {
		if d.values == maxValues+1 {
			d.fault(posOf(n), field, "more than %d values: are aliases multiplied?", maxValues)
		}
		return true
	}
	n, ok := d.resolve(n, field)
	if !ok {
		return true
	}
	if isNull(n) {
		return false
	}
	text, scalar := scalarText(n)
	switch unmarshaler, isText := dst.Addr().Interface().(encoding.TextUnmarshaler); {
	case isText && scalar:
		if err := unmarshaler.UnmarshalText([]byte(text)); err != nil {
			d.fault(posOf(n), field, "%v", err)
			dst.SetZero() // the checks that follow see a value that is whole, or none
			return true
		}
		setPos(dst, posOf(n))
	case isText && (dst.Kind() != reflect.Struct || len(fieldsOf(dst)) == 0):
		d.fault(posOf(n), field, "want one value, got %s", kindOf(n))
	case dst.Kind() == reflect.Bool:
		d.bool(dst, n, field)
	case dst.Kind() == reflect.String:
		d.string(dst, n, field)
	case dst.Kind() == reflect.Slice:
		return d.list(dst, n, field)
	case dst.Kind() == reflect.Struct:
		d.mapping(dst, n, field)
	default:
		panic("config: no way to read a " + dst.Type().String())
	}
	return true
}

func (d *decoder) bool(dst reflect.Value, n ast.Node, field string) {
	b, ok := n.(*ast.BoolNode)
	if !ok {
		d.fault(posOf(n), field, "want true or false, got %s", kindOf(n))
		return
	}
	dst.SetBool(b.Value)
}

func (d *decoder) string(dst reflect.Value, n ast.Node, field string) {
	text, _ := scalarText(n)
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode:
	default:
		d.fault(posOf(n), field, "want a text, got %s; quote it if it is one", kindOf(n))
		return
	}
	if text == "" {
		d.fault(posOf(n), field, "is empty")
		return
	}
	dst.SetString(text)
}

func (d *decoder) list(dst reflect.Value, n ast.Node, field string) (written bool) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.fault(posOf(n), field, "want a list, got %s", kindOf(n))
		return true
	}
	list := reflect.MakeSlice(dst.Type(), len(seq.Values), len(seq.Values))
	for i, v := range seq.Values {
		item := fmt.Sprintf("%s[%d]", field, i)
		setDefaults(list.Index(i))
		if !d.value(list.Index(i), v, item) {
			d.fault(posOf(v), item, "is empty")
		}
	}
	dst.Set(list)
	return list.Len() > 0
}

func (d *decoder) mapping(dst reflect.Value, n ast.Node, field string) {
	known := fieldsOf(dst)
	m, ok := n.(*ast.MappingNode)
	if !ok {
		d.fault(posOf(n), field, "want fields (%s), got %s", known, kindOf(n))
		return
	}
	setPos(dst, posOf(n))
	seen, written := map[string]Pos{}, map[string]bool{}
	for _, entry := range m.Values {
		at, name := posOf(entry.Key), entry.Key.GetToken().Value
		if entry.Key.IsMergeKey() {
			d.fault(at, field, "merge keys (<<) are not read here: write the fields out")
			continue
		}
		if first, ok := seen[name]; ok {
			d.fault(at, field, "%q is given twice, first at %v", name, first)
			continue
		}
		seen[name] = at
		f, ok := known.named(name)
		if !ok {
			d.fault(at, field, "unknown field %q: %s", name, known.hint(name))
			continue
		}
		written[name] = d.value(f.value, entry.Value, strings.TrimPrefix(field+"."+name, "."))
	}
	for _, f := range known {
		if f.required && !written[f.name] {
			d.fault(posOf(n), field, "%q is missing", f.name)
		}
	}
}
