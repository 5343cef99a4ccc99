package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Pos is a place in the file: line and column, both counted from 1, the
// column in characters. A struct or value type that has a field of this type
// learns where it was written.
type Pos struct{ Line, Column int }

func (p Pos) String() string { return fmt.Sprintf("%d:%d", p.Line, p.Column) }

// A Fault is one thing wrong with a configuration.
type Fault struct {
	File string
	Pos
	Field string // such as routes[0].limits[1].rate; empty for the whole file
	Text  string // what is wrong, and what is allowed
}

func (f Fault) Error() string {
	if f.Pos == (Pos{}) { // it was not read from a file
		return fmt.Sprintf("%s: %s", tame(f.Field), tame(f.Text))
	}
	if f.Field == "" {
		return fmt.Sprintf("%s:%v: %s", f.File, f.Pos, tame(f.Text))
	}
	return fmt.Sprintf("%s:%v: %s: %s", f.File, f.Pos, tame(f.Field), tame(f.Text))
}

// tame makes one short line of a text that may quote the file: no byte of the
// file steers a terminal or floods it.
func tame(s string) string {
	s = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '\ufffd'
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > 300 {
		return string(runes[:299]) + "…"
	}
	return s
}

// Faults is every fault of a configuration, in the order of the file.
type Faults []Fault

// Error returns the faults, one a line.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// sorted returns the faults in the order of the file and each of them once: a
// value used through an alias is looked at once for each use.
func (fs Faults) sorted() Faults {
	slices.SortStableFunc(fs, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return slices.CompactFunc(fs, func(a, b Fault) bool { return a.Pos == b.Pos && a.Text == b.Text })
}
