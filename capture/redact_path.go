package capture

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// A pathSet is what Options.RedactPaths says: a machine that has a place for the
// beginning of each path and one after each of its segments.
type pathSet struct {
	places []pathPlace
	starts []int
	words  int // uint64s for a bit for each place
}

// A pathPlace says how a path goes on.
type pathPlace struct {
	end   bool   // not at all: the value is masked
	deep  bool   // at any depth below
	name  string // in letters and digits; empty for others
	index int    // below 0 for others
	any   bool   // with every child
}

// parsePaths reads JSONPath expressions: of RFC 9535 the child and descendant
// segments with one name, index or wildcard each.
func parsePaths(exprs []string) (*pathSet, []error) {
	if len(exprs) == 0 {
		return nil, nil
	}
	var errs []error
	set := new(pathSet)
	for _, expr := range exprs {
		set.starts = append(set.starts, len(set.places))
		places, at := parsePath(expr)
		if at >= 0 {
			errs = append(errs, fmt.Errorf("capture: RedactPaths: %q is no path from byte %d on "+
				"(allowed: $ followed by .name, ['name'], [0], [*], .*, and the same after .. for any depth)", expr, at))
		}
		set.places = append(append(set.places, places...), pathPlace{end: true})
	}
	set.words = (len(set.places) + 63) / 64
	return set, errs
}

// parsePath returns the places of a path, and the index of what it cannot read
// or -1.
func parsePath(expr string) (places []pathPlace, at int) {
	rest, ok := strings.CutPrefix(expr, "$")
	if !ok {
		return nil, 0
	}
	for rest != "" {
		fault := len(expr) - len(rest)
		next := pathPlace{index: -1}
		var dotted bool
		if rest, next.deep = strings.CutPrefix(rest, ".."); next.deep {
			dotted = !strings.HasPrefix(rest, "[")
		} else {
			rest, dotted = strings.CutPrefix(rest, ".")
		}
		var name string
		if dotted {
			end := strings.IndexFunc(rest, func(r rune) bool { return r < 0x80 && r != '_' && r != '*' && !isAlphanumeric(byte(r)) })
			if end < 0 {
				end = len(rest)
			}
			name, rest = rest[:end], rest[end:]
			next.any = name == "*"
			if !next.any && (name == "" || isDigit(name[0]) || strings.Contains(name, "*")) {
				return nil, fault
			}
		} else {
			if rest, ok = strings.CutPrefix(rest, "["); !ok {
				return nil, fault
			}
			if rest != "" && (rest[0] == '\'' || rest[0] == '"') {
				name, rest, ok = cutQuoted(rest)
			} else {
				var inner string
				inner, _, ok = strings.Cut(rest, "]")
				rest = rest[len(inner):]
				if next.any = inner == "*"; !next.any {
					n, err := strconv.ParseUint(inner, 10, 31)
					next.index, ok = int(n), ok && err == nil
				}
			}
			if !ok || !strings.HasPrefix(rest, "]") {
				return nil, fault
			}
			rest = rest[1:]
		}
		if !next.any && next.index < 0 {
			if next.name = string(appendPlain(nil, name)); next.name == "" {
				return nil, fault
			}
		}
		places = append(places, next)
	}
	return places, -1
}

// cutQuoted cuts the name in quotes that s begins with.
func cutQuoted(s string) (name, rest string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == s[0]:
			return b.String(), s[i+1:], true
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

// A trail is how far the paths have come at the value at hand, and at what
// encloses it. Without paths all its methods do nothing.
type trail struct {
	set    *pathSet
	here   []uint64 // the places reached at the value at hand
	stack  []uint64 // those of the open brackets
	counts []int    // how many elements each had so far
}

func (t *trail) reset(set *pathSet) {
	t.set, t.stack, t.counts = set, t.stack[:0], t.counts[:0]
	if set != nil && len(t.here) != set.words {
		t.here = make([]uint64, set.words)
	}
}

// text begins a document, and reports whether all of it is masked.
func (t *trail) text() (hide bool) {
	if t.set == nil {
		return false
	}
	clear(t.here)
	for _, at := range t.set.starts {
		hide = t.reach(at) || hide
	}
	return hide
}

func (t *trail) reach(at int) (hide bool) {
	t.here[at/64] |= 1 << (at % 64)
	return t.set.places[at].end
}

// enter follows the value at hand into its brackets.
func (t *trail) enter() {
	if t.set != nil {
		t.stack = append(t.stack, t.here...)
		t.counts = append(t.counts, 0)
	}
}

func (t *trail) leave() {
	if t.set != nil {
		t.stack = t.stack[:len(t.stack)-t.set.words]
		t.counts = t.counts[:len(t.counts)-1]
	}
}

// member steps to a member, and reports whether its value is masked.
func (t *trail) member(plain []byte) (hide bool) {
	if t.set == nil {
		return false
	}
	return t.step(func(p *pathPlace) bool { return p.name != "" && p.name == string(plain) })
}

// element steps to the next element of an array.
func (t *trail) element() (hide bool) {
	if t.set == nil {
		return false
	}
	n := &t.counts[len(t.counts)-1]
	index := *n
	*n++
	return t.step(func(p *pathPlace) bool { return p.index == index })
}

func (t *trail) step(is func(*pathPlace) bool) (hide bool) {
	clear(t.here)
	for w, word := range t.stack[len(t.stack)-t.set.words:] {
		for ; word != 0; word &= word - 1 {
			at := w*64 + bits.TrailingZeros64(word)
			p := &t.set.places[at]
			if p.end {
				continue
			}
			if p.deep {
				t.reach(at)
			}
			if p.any || is(p) {
				hide = t.reach(at+1) || hide
			}
		}
	}
	return hide
}
