package crosstest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/goweir/weir/limiter"
)

// A shape is a combination of KeyFuncs: a leaf reads one value of the request,
// the others combine shapes. Values are what a client sends, so for one shape,
// which the server chose, they are all that can differ.
type shape struct {
	kind  string // "leaf", "join" or "first"
	value int    // of a leaf: its index
	of    []*shape
}

type valuesKey struct{}

func (s *shape) keyFunc() limiter.KeyFunc {
	if s.kind == "leaf" {
		return limiter.KeyByContext(func(ctx context.Context) string { return ctx.Value(valuesKey{}).([]string)[s.value] })
	}
	var keys []limiter.KeyFunc
	for _, part := range s.of {
		keys = append(keys, part.keyFunc())
	}
	if s.kind == "join" {
		return limiter.JoinKeys(keys...)
	}
	return limiter.KeyFirst(keys...)
}

// meaning is what must decide who shares a quota, as a structure: the text of a
// leaf, all parts of a join, the index and the part of a first. nil: no key.
func (s *shape) meaning(values []string) []any {
	if s.kind == "leaf" {
		if values[s.value] == "" {
			return nil
		}
		return []any{values[s.value]}
	}
	var parts []any
	for i, part := range s.of {
		m := part.meaning(values)
		switch {
		case m == nil && s.kind == "join":
			return nil
		case m != nil && s.kind == "first":
			return []any{i, m}
		}
		parts = append(parts, m)
	}
	if s.kind == "first" {
		return nil
	}
	return parts
}

func equal(a, b any) bool {
	x, ok := a.([]any)
	y, also := b.([]any)
	if !ok || !also {
		return !ok && !also && a == b
	}
	return (x == nil) == (y == nil) && slices.EqualFunc(x, y, equal)
}

// drawShape numbers the leaves from 0.
func drawShape(t *rapid.T, depth int, leaves *int) *shape {
	kinds := []string{"leaf", "join", "first"}
	if depth == 0 {
		kinds = kinds[:1]
	}
	s := &shape{kind: rapid.SampledFrom(kinds).Draw(t, "kind"), value: *leaves}
	if s.kind == "leaf" {
		*leaves++
		return s
	}
	for range rapid.IntRange(1, 3).Draw(t, "parts") {
		s.of = append(s.of, drawShape(t, depth-1, leaves))
	}
	return s
}

// values look like the texts that combinations are made of, so that one value
// can pretend to be several: digits, colons, and keys of other values. Some are
// longer than what is used as it is.
func drawValue(t *rapid.T, others []string) string {
	joined := func(t *rapid.T) string {
		other := rapid.SampledFrom(slices.Concat(others, []string{"a"})).Draw(t, "other")
		constant := func(*http.Request) (string, error) { return other, nil }
		key, err := rapid.SampledFrom([]func(...limiter.KeyFunc) limiter.KeyFunc{limiter.JoinKeys, limiter.KeyFirst}).Draw(t, "pretend")(constant)(nil)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	return rapid.OneOf(
		rapid.SampledFrom(slices.Concat(others, []string{"", "a"})),
		rapid.StringMatching(`[0-3ab:]{0,5}`),
		rapid.Custom(joined),
		rapid.Map(rapid.IntRange(254, 259), func(n int) string { return strings.Repeat("x", n) }),
	).Draw(t, "value")
}

// Two requests have the same key exactly if they mean the same.
func keysAreMeanings(t *rapid.T) {
	leaves := 0
	s := drawShape(t, 3, &leaves)
	var all, a, b []string
	for range leaves {
		a = append(a, drawValue(t, all))
		all = append(all, a[len(a)-1])
		b = append(b, drawValue(t, all))
		all = append(all, b[len(b)-1])
	}
	f := s.keyFunc()
	key := func(values []string) string {
		r := httptest.NewRequest("GET", "/", nil)
		key, err := f(r.WithContext(context.WithValue(r.Context(), valuesKey{}, values)))
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	x, y := key(a), key(b)
	if same := equal(s.meaning(a), s.meaning(b)); (x == y) != same {
		t.Errorf("%q has the key %q, %q has %q; the same meaning: %v", a, x, b, y, same)
	}
	if (x == "") != (s.meaning(a) == nil) {
		t.Errorf("%q has the key %q, want one: %v", a, x, s.meaning(a) != nil)
	}
}

func TestKeysAreMeanings(t *testing.T) { rapid.Check(t, keysAreMeanings) }

func FuzzKeysAreMeanings(f *testing.F) { f.Fuzz(rapid.MakeFuzz(keysAreMeanings)) }

// All lists of up to three short parts that could be taken for lengths and
// colons have keys of their own, also those of different numbers of parts.
func TestListsNeverCollide(t *testing.T) {
	var parts []string
	for last := []string{""}; len(last[0]) < 4; {
		var longer []string
		for _, s := range last {
			longer = append(longer, s+"1", s+":")
		}
		parts, last = append(parts, longer...), longer
	}
	// Lengths of two digits: without the colon, 1 2 10 ... could be read as 12.
	parts = append(parts, "2", "1111111111", "101111111111")

	seen := map[string][]string{}
	var extend func(list []string)
	extend = func(list []string) {
		if len(list) > 0 {
			var keys []limiter.KeyFunc
			for _, part := range list {
				keys = append(keys, func(*http.Request) (string, error) { return part, nil })
			}
			key, err := limiter.JoinKeys(keys...)(nil)
			if other := seen[key]; err != nil || other != nil {
				t.Fatalf("%q has the key %q, %v; so has %q", list, key, err, other)
			}
			seen[key] = slices.Clone(list)
		}
		if len(list) < 3 {
			for _, part := range parts {
				extend(append(list, part))
			}
		}
	}
	extend(nil)
	t.Logf("%d lists", len(seen))
}
