package weirprom

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
)

// other is the label of what there was no room for.
const other = "other"

// series finds what belongs to a combination of labels, without an allocation
// or a lock once it is known.
type series[K comparable, V any] struct {
	max     int
	make    func(K) V
	coarser func(K) K // what has no room shares this; at last it returns its argument

	known atomic.Pointer[map[K]V] // copied to be changed
	mu    sync.Mutex
}

func newSeries[K comparable, V any](limit int, coarser func(K) K, make func(K) V) *series[K, V] {
	s := &series[K, V]{max: limit, make: make, coarser: coarser}
	s.known.Store(&map[K]V{})
	return s
}

func (s *series[K, V]) of(k K) V {
	if v, ok := (*s.known.Load())[k]; ok {
		return v
	}
	return s.add(k)
}

// add returns what belongs to k, or to something coarser when there are too many
// of its kind.
func (s *series[K, V]) add(k K) V {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := *s.known.Load()
	for room := s.max; ; room += s.max {
		if v, ok := known[k]; ok {
			return v
		}
		next := s.coarser(k)
		if len(known) < room || next == k {
			break
		}
		k = next
	}
	v := s.make(k)
	grown := maps.Clone(known)
	grown[k] = v
	s.known.Store(&grown)
	return v
}

// A named is two labels: a name that the configuration chose, and a word of a
// fixed set.
type named struct{ name, word string }

func (n named) coarser() named { return named{other, n.word} }

func otherName(string) string { return other }

func itself[K any](k K) K { return k }

// label returns s as a label may be: Prometheus takes UTF-8 only.
func label(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// word returns a String of package limiter as other labels are written.
func word(s string) string { return strings.ReplaceAll(s, " ", "_") }
