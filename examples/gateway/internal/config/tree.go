package config

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds on what is parsed at all. The parser takes quadratic time in the number
// of keys of a mapping (50,000: 15 s) and in the depth of nesting (100,000
// brackets: 50 s), into which it recurses.
const (
	MaxBytes  = 256 << 10
	maxTokens = 80_000 // 1000 routes with three limits each
	maxDepth  = 32
)

// tree returns the only document of a YAML file, nil after a fault.
func (d *decoder) tree(data []byte) ast.Node {
	if len(data) > MaxBytes {
		d.fault(Pos{1, 1}, "", "more than %d bytes", MaxBytes)
		return nil
	}
	tokens := lexer.Tokenize(string(bytes.TrimPrefix(data, []byte("\ufeff"))))
	if len(tokens) > maxTokens {
		d.fault(posOfToken(tokens[maxTokens]), "", "more than %d words and signs", maxTokens)
		return nil
	}
	if at, deep := tooDeep(tokens); deep {
		d.fault(at, "", "nested more than %d deep", maxDepth)
		return nil
	}
	// The walk reports duplicates itself, all of them.
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if e, ok := errors.AsType[yaml.Error](err); ok {
		if strings.Contains(e.GetMessage(), "'\t'") {
			d.fault(posOfToken(e.GetToken()), "", "not YAML: a tab; indent by spaces")
			return nil
		}
		d.fault(posOfToken(e.GetToken()), "", "not YAML: %s", e.GetMessage())
		return nil
	}
	if err != nil {
		d.fault(Pos{1, 1}, "", "not YAML: %v", err)
		return nil
	}
	var root ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if root != nil {
			d.fault(posOf(doc.Body), "", "a second document: want one")
			return nil
		}
		root = doc.Body
	}
	if root == nil {
		d.fault(Pos{1, 1}, "", "is empty: want at least routes")
	}
	return root
}

// tooDeep looks for nesting that needs few bytes a level: brackets, and list
// entries on one line. Nesting by indentation is bounded by MaxBytes.
func tooDeep(tokens token.Tokens) (Pos, bool) {
	depth, line, entries := 0, 0, 0
	for _, t := range tokens {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType:
			if t.Position.Line != line {
				line, entries = t.Position.Line, 0
			}
			entries++
		}
		if depth > maxDepth || entries > maxDepth {
			return posOfToken(t), true
		}
	}
	return Pos{}, false
}

// collectAnchors notes what each &name stands for. One name twice is a fault:
// which of them an alias means would depend on where it stands.
func (d *decoder) collectAnchors(root ast.Node) {
	d.anchors = map[string]*ast.AnchorNode{}
	for _, n := range ast.Filter(ast.AnchorType, root) {
		anchor := n.(*ast.AnchorNode)
		name := anchor.Name.GetToken().Value
		if first, ok := d.anchors[name]; ok {
			d.fault(posOf(anchor), "", "anchor &%s is given twice, first at %v", name, posOf(first))
			continue
		}
		d.anchors[name] = anchor
	}
}

// resolve follows anchors and aliases to the value they stand for.
func (d *decoder) resolve(n ast.Node, field string) (ast.Node, bool) {
	for range maxDepth {
		switch v := n.(type) {
		case *ast.AnchorNode:
			n = v.Value
		case *ast.AliasNode:
			name := v.Value.GetToken().Value
			target, ok := d.anchors[name]
			if !ok {
				d.fault(posOf(v), field, "no anchor &%s in this file", name)
				return nil, false
			}
			n = target
		case *ast.TagNode:
			d.fault(posOf(v), field, "tags (%.40s) are not read here", v.Start.Value)
			return nil, false
		default:
			return n, true
		}
	}
	d.fault(posOf(n), field, "an alias that leads to itself")
	return nil, false
}

func isNull(n ast.Node) bool {
	_, null := n.(*ast.NullNode)
	return n == nil || null
}

// scalarText returns what stands in the file for a scalar, unquoted.
func scalarText(n ast.Node) (text string, ok bool) {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, true
	case *ast.LiteralNode:
		return v.Value.Value, true
	case ast.ScalarNode:
		return v.GetToken().Value, true
	case *ast.MappingNode:
		return unsplit(v)
	}
	return "", false
}

// unsplit returns the text that the parser took for a key and its value: in
// {upstreams: [http://localhost:9001]} it splits at the colon before the port,
// where YAML (1.2.2, section 7.3.3) asks for a space after it.
func unsplit(m *ast.MappingNode) (text string, ok bool) {
	if m.IsFlowStyle || len(m.Values) != 1 {
		return "", false
	}
	key, value := m.Values[0].Key.GetToken(), m.Values[0].Value.GetToken()
	if _, scalar := m.Values[0].Value.(ast.ScalarNode); !scalar || key.Type != token.StringType && key.Type != token.IntegerType {
		return "", false
	}
	end := key.Position.Column + utf8.RuneCountInString(key.Value)
	if key.Position.Line != value.Position.Line || end+1 != value.Position.Column {
		return "", false
	}
	return key.Value + ":" + value.Value, true
}

func kindOf(n ast.Node) string {
	switch v := n.(type) {
	case *ast.MappingNode:
		return "fields"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode:
		return fmt.Sprintf("the text %.40q", v.Value)
	case *ast.LiteralNode:
		return "a block of text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return fmt.Sprintf("the number %.40s", n.GetToken().Value)
	case *ast.BoolNode:
		return n.GetToken().Value
	}
	return "something else"
}

// posOf says where a value begins: for a mapping without braces at its first
// key, where the tree has the colon.
func posOf(n ast.Node) Pos {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return posOf(m.Values[0].Key)
	}
	if n == nil {
		return Pos{1, 1}
	}
	return posOfToken(n.GetToken())
}

func posOfToken(t *token.Token) Pos {
	if t == nil || t.Position == nil {
		return Pos{1, 1}
	}
	return Pos{max(1, t.Position.Line), max(1, t.Position.Column)}
}

// setPos tells v where it was written, if it has a field for that.
func setPos(v reflect.Value, at Pos) {
	if v.Kind() != reflect.Struct {
		return
	}
	if f := v.FieldByName("Pos"); f.IsValid() && f.Type() == reflect.TypeFor[Pos]() {
		f.Set(reflect.ValueOf(at))
	}
}
