package weirotel

import (
	"maps"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

const (
	// other is the attribute of what there was no room for.
	other = "other"

	// maxSeries is how many combinations a metric has before that.
	maxSeries = 1000
)

// A key is the attributes of a metric: what the configuration named, and a word
// of a fixed set. Which attributes they are is up to the metric.
type key struct{ name, route, word, word2 string }

// coarser returns a key that more events share; in the end, itself.
func (k key) coarser() key {
	if k.route != other && k.route != "" {
		k.route = other
		return k
	}
	k.name = other
	return k
}

// A measure is the options of a measurement, made once.
type measure struct {
	add    []metric.AddOption
	record []metric.RecordOption
}

// series finds the options of a combination of attributes, without a lock once
// it is known.
type series struct {
	attributes func(key) []attribute.KeyValue

	known atomic.Pointer[map[key]*measure] // copied to be changed
	mu    sync.Mutex
}

func newSeries(attributes func(key) []attribute.KeyValue) *series {
	s := &series{attributes: attributes}
	s.known.Store(&map[key]*measure{})
	return s
}

func (s *series) of(k key) *measure {
	if m, ok := (*s.known.Load())[k]; ok {
		return m
	}
	return s.grow(k)
}

// grow returns the options of k, or of something coarser when there are too many
// of its kind.
func (s *series) grow(k key) *measure {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := *s.known.Load()
	for room := maxSeries; ; room += maxSeries {
		if m, ok := known[k]; ok {
			return m
		}
		next := k.coarser()
		if len(known) < room || next == k {
			break
		}
		k = next
	}
	set := metric.WithAttributeSet(attribute.NewSet(s.attributes(k)...))
	m := &measure{add: []metric.AddOption{set}, record: []metric.RecordOption{set}}
	grown := maps.Clone(known)
	grown[k] = m
	s.known.Store(&grown)
	return m
}
