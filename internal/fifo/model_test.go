package fifo_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/goweir/weir/internal/fifo"
)

// A model is a Line as two lists, both sorted by class and then by when somebody
// came there: waiting has everybody, and line those that need nothing but slots.
// After every step it is worked out anew who may stand in line.
type model struct {
	size    fifo.Size
	holding []*caller
	waiting []*caller
	line    []*caller
}

type caller struct {
	fifo.Request
	cancel context.CancelFunc
	ended  atomic.Bool
	held   fifo.Held
	err    error

	want  error // by the model, once over
	over  bool  // served, or turned away
	freed bool  // what it held was given back
	keyed bool
}

func put(list []*caller, c *caller) []*caller {
	at := len(list)
	for at > 0 && list[at-1].Class > c.Class {
		at--
	}
	return slices.Insert(list, at, c)
}

func without(list []*caller, c *caller) []*caller {
	return slices.DeleteFunc(list, func(x *caller) bool { return x == c })
}

// inUse returns the slots held, of one key or of all.
func (m *model) inUse(key string) (n int) {
	for _, c := range m.holding {
		if key == "" || c.keyed && c.Key == key {
			n += c.N
		}
	}
	return n
}

func (m *model) free(n, taken, size int) bool { return taken == 0 || taken+n <= size }

// inLine says which of those who wait need nothing but slots.
func (m *model) inLine() map[*caller]bool {
	may := map[*caller]bool{}
	taken, stopped := map[string]int{}, map[string]bool{}
	for _, c := range m.waiting {
		if !c.keyed {
			may[c] = true
			continue
		}
		if _, seen := taken[c.Key]; !seen {
			taken[c.Key] = m.inUse(c.Key)
		}
		if m.size.PerKey > 0 && (stopped[c.Key] || !m.free(c.N, taken[c.Key], m.size.PerKey)) {
			stopped[c.Key] = true // nobody of its key overtakes it
			continue
		}
		taken[c.Key] += c.N
		may[c] = true
	}
	return may
}

// settle brings the line up to date, and then serves it as far as slots go.
func (m *model) settle() {
	may := m.inLine()
	m.line = slices.DeleteFunc(m.line, func(c *caller) bool { return !may[c] })
	for _, c := range m.waiting {
		if !may[c] || slices.Contains(m.line, c) {
			continue
		}
		m.line = put(m.line, c)
		for _, d := range m.waiting { // a key as a whole, which matters after Resize
			if c.keyed && d.keyed && d.Key == c.Key && may[d] && !slices.Contains(m.line, d) {
				m.line = put(m.line, d)
			}
		}
	}
	for len(m.line) > 0 && m.size.Slots > 0 && m.free(m.line[0].N, m.inUse(""), m.size.Slots) {
		c := m.line[0]
		m.leave(c)
		m.holding = append(m.holding, c)
		c.over = true
	}
}

func (m *model) leave(c *caller) {
	m.line, m.waiting = without(m.line, c), without(m.waiting, c)
}

// acquire adds c as if there were a place for it, and takes it out again if it
// would have to wait and has none.
func (m *model) acquire(c *caller) {
	c.keyed = c.Key != "" && m.size.PerKey > 0
	waiting := slices.Clone(m.waiting)
	line := slices.Clone(m.line)
	m.waiting = put(m.waiting, c)
	aside := !m.inLine()[c]
	// Does anybody else stand before it?
	if !aside && !slices.ContainsFunc(line, func(x *caller) bool { return x.Class <= c.Class }) &&
		m.size.Slots > 0 && m.free(c.N, m.inUse(""), m.size.Slots) {
		m.waiting = waiting
		m.holding = append(m.holding, c)
		c.over = true
		m.settle()
		return
	}
	m.waiting = waiting
	turned := func(victims []*caller, err, own error) bool {
		// The last of the worst class goes, if it is worse.
		var v *caller
		for _, x := range victims {
			if x.Class > c.Class {
				v = x // they are sorted
			}
		}
		if v == nil {
			c.over, c.want = true, own
			return true
		}
		m.leave(v)
		v.over, v.want = true, err
		return false
	}
	ofKey := slices.DeleteFunc(slices.Clone(m.waiting), func(x *caller) bool { return !x.keyed || x.Key != c.Key })
	if c.keyed && m.size.LengthPerKey > 0 && len(ofKey) >= m.size.LengthPerKey {
		if turned(ofKey, fifo.ErrKeyFull, fifo.ErrKeyFull) {
			return
		}
	} else if len(m.waiting) >= m.size.Length {
		full := fifo.ErrFull
		if aside {
			full = fifo.ErrKeyFull
		}
		if turned(m.waiting, fifo.ErrFull, full) {
			return
		}
	}
	m.bring()
	m.waiting = put(m.waiting, c)
	m.settle()
}

// bring is settle without serving: who was displaced has left room for others of
// its key before the newcomer is there.
func (m *model) bring() {
	slots := m.size.Slots
	m.size.Slots = 0
	m.settle()
	m.size.Slots = slots
}

func FuzzLineAgainstModel(f *testing.F) {
	f.Add([]byte{0, 0, 1, 1, 2, 0, 3, 2})
	f.Add([]byte{0, 3, 0, 5, 0, 9, 0, 13, 2, 0, 1, 0, 1, 0})
	f.Add([]byte{0, 1, 0, 1, 0, 2, 0, 0, 0, 4, 3, 1, 3, 7, 1, 0, 2, 2})
	f.Add([]byte{3, 77, 0, 12, 0, 12, 0, 24, 0, 37, 0, 13, 1, 0, 1, 1, 2, 1, 1, 0})
	f.Add([]byte{3, 90, 0, 12, 0, 38, 0, 12, 0, 26, 0, 12, 3, 40, 1, 2, 3, 199, 0, 60, 1, 0})
	f.Fuzz(func(t *testing.T, steps []byte) {
		if len(steps) > 200 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			size := fifo.Size{Slots: 2, Length: 3}
			l, m := fifo.New(size, 3), &model{size: size}
			var all []*caller
			for i := 0; i+1 < len(steps); i += 2 {
				switch arg := int(steps[i+1]); steps[i] % 4 {
				case 0:
					c := &caller{Request: fifo.Request{Class: arg % 3, N: 1 + arg/3%4}}
					if key := arg / 12 % 4; key > 0 {
						c.Key = fmt.Sprint(key)
					}
					var ctx context.Context
					ctx, c.cancel = context.WithCancel(t.Context())
					all = append(all, c)
					m.acquire(c)
					go func() { c.held, c.err = l.Acquire(ctx, c.Request); c.ended.Store(true) }()
				case 1: // somebody who holds slots gives them back
					if len(m.holding) > 0 {
						c := m.holding[arg%len(m.holding)]
						c.freed = true
						m.holding = without(m.holding, c)
						m.settle()
						l.Release(c.held)
					}
				case 2: // somebody who waits gives up
					if len(m.waiting) > 0 {
						c := m.waiting[arg%len(m.waiting)]
						m.leave(c)
						c.over, c.want = true, context.Canceled
						m.settle()
						c.cancel()
					}
				case 3:
					m.size = fifo.Size{Slots: arg % 5, Length: arg / 5 % 5, PerKey: arg / 25 % 4, LengthPerKey: arg / 100}
					m.settle()
					l.Resize(m.size)
				}
				synctest.Wait()
				keys := map[string]bool{}
				for _, c := range slices.Concat(m.holding, m.waiting) {
					if c.keyed {
						keys[c.Key] = true
					}
				}
				want := fifo.Stats{Slots: m.size.Slots, InUse: m.inUse(""), Waiting: len(m.waiting), Keys: len(keys)}
				if got := l.Stats(); got != want {
					t.Fatalf("step %d: %+v, want %+v", i/2, got, want)
				}
				for j, c := range all {
					if c.ended.Load() != c.over || c.over && c.err != c.want {
						t.Fatalf("step %d, caller %d: ended %t with %v; want %t with %v", i/2, j, c.ended.Load(), c.err, c.over, c.want)
					}
				}
			}
			for _, c := range all {
				c.cancel()
			}
		})
	})
}
