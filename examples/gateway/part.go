package main

import (
	"sync"
	"sync/atomic"
)

// A part is something of a chain that chains after it may keep: a limit and its
// counters, a proxy and what it knows of its upstreams. It ends with the last
// chain that has it.
type part struct {
	id    string // what makes it another one
	name  string // what it is of; parts of a chain have different names
	value any
	close func() // nil: nothing to do
	users atomic.Int32
}

// parts are those of a chain, by name.
type parts map[string]*part

// reuse returns the part with a name that was there before, if it still is what
// is wanted, or else the one that make returns.
func reuse[T any](b *builder, name, id string, make func() (T, func(), error)) (value T, kept bool, err error) {
	if p, ok := b.before[name]; ok && p.id == id {
		b.parts[name] = p
		p.users.Add(1)
		return p.value.(T), true, nil
	}
	value, end, err := make()
	if err != nil {
		return value, false, err
	}
	p := &part{id: id, name: name, value: value, close: end}
	p.users.Store(1)
	b.parts[name] = p
	return value, false, nil
}

// release ends the parts that no other chain has, at the same time.
func (ps parts) release() {
	var wg sync.WaitGroup
	for _, p := range ps {
		if p.users.Add(-1) == 0 && p.close != nil {
			wg.Go(p.close)
		}
	}
	wg.Wait()
}
