package capture

import (
	"sync"
	"sync/atomic"
)

const (
	defaultBudget = 64 << 20

	// Most bodies worth recording fit the first chunk, which is also all that is
	// held while a response without a Content-Type is undecided.
	firstChunk = 512
	nextChunk  = 4 << 10
)

// A Budget bounds the memory that captured bodies take: those of exchanges that
// are running and of records that no sink is done with. Bodies take it in chunks
// of at most 4 KiB, as they grow. What does not fit is counted and marked
// [SkipBudget]; nothing waits for room.
//
// A Budget may be shared by any number of middlewares, whose bodies then have
// one bound together. Its methods are safe for concurrent use.
type Budget struct {
	limit int64
	used  atomic.Int64

	// Free chunks. They are not counted: the garbage collector takes them when
	// they stay unused.
	first, next sync.Pool
}

// NewBudget returns a budget of so many bytes. With 0 or less no body is
// captured at all, only measured.
func NewBudget(bytes int64) *Budget {
	return &Budget{limit: bytes}
}

// InUse returns how many bytes are taken at the moment.
func (b *Budget) InUse() int64 { return b.used.Load() }

// take returns an empty chunk, or nil if the budget has no room for it.
func (b *Budget) take(size int) *chunk {
	for {
		used := b.used.Load()
		if used+int64(size) > b.limit {
			return nil
		}
		if b.used.CompareAndSwap(used, used+int64(size)) {
			break
		}
	}
	if c, ok := b.pool(size).Get().(*chunk); ok {
		return c
	}
	return &chunk{buf: make([]byte, 0, size)}
}

// give takes back a list of chunks.
func (b *Budget) give(c *chunk) {
	var size int
	for c != nil {
		next := c.next
		size += cap(c.buf)
		c.next, c.buf = nil, c.buf[:0]
		b.pool(cap(c.buf)).Put(c)
		c = next
	}
	b.used.Add(-int64(size))
}

func (b *Budget) pool(size int) *sync.Pool {
	if size == firstChunk {
		return &b.first
	}
	return &b.next
}

type chunk struct {
	next *chunk
	buf  []byte
}

// data holds the captured bytes of one body. Records share it by pointer, so
// that a record kept too long finds it empty rather than used by another.
type data struct {
	mu         sync.Mutex // a sink that keeps a record may read while it ends
	budget     *Budget    // nil for the plain memory of a clone
	head, tail *chunk
	n          int
	shown      bool   // the bytes are decoded and redacted
	codings    string // until then: those they are in
}

// write appends p and returns how much of it the budget had room for.
func (d *data) write(p []byte) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writeLocked(p)
}

func (d *data) writeLocked(p []byte) (n int) {
	for len(p) > 0 {
		if d.tail == nil || len(d.tail.buf) == cap(d.tail.buf) {
			if d.tail != nil && d.tail.next != nil {
				d.tail = d.tail.next
			} else if !d.growLocked() {
				break
			}
		}
		t := d.tail
		m := copy(t.buf[len(t.buf):cap(t.buf)], p)
		t.buf = t.buf[:len(t.buf)+m]
		n, p = n+m, p[m:]
	}
	d.n += n
	return n
}

func (d *data) growLocked() bool {
	size := nextChunk
	if d.tail == nil {
		size = firstChunk
	}
	c := d.budget.take(size)
	switch {
	case c == nil:
		return false
	case d.tail == nil:
		d.head = c
	default:
		d.tail.next = c
	}
	d.tail = c
	return true
}

// rewrite replaces the bytes by p with the spans masked. It writes into the
// memory of d first, and reports whether the budget had room for the rest.
func (d *data) rewrite(p []byte, spans []span, with string) (fits bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := d.head; c != nil; c = c.next {
		c.buf = c.buf[:0]
	}
	d.tail, d.n = d.head, 0
	fits = true
	put := func(p []byte) { fits = fits && d.writeLocked(p) == len(p) }
	done := 0
	for _, s := range spans {
		put(p[done:s.from])
		put([]byte(with))
		done = s.to
	}
	put(p[done:])
	if d.tail != nil && d.tail.next != nil {
		d.budget.give(d.tail.next)
		d.tail.next = nil
	}
	return fits
}

// show lets the bytes be seen.
func (d *data) show() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shown = true
}

// free empties d and gives its memory back. It may be called again.
func (d *data) free() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.budget == nil || d.head == nil {
		return
	}
	head := d.head
	d.head, d.tail, d.n = nil, nil, 0
	d.budget.give(head)
}

// cut shortens d to its first n bytes, which must be in the first chunk.
func (d *data) cut(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.head.buf, d.n = d.head.buf[:n], n
}

// peek returns the first chunk, which must not be kept.
func (d *data) peek() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.head == nil {
		return nil
	}
	return d.head.buf
}

func (d *data) len() int {
	if d == nil {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.n
}

// seen returns how many bytes may be seen.
func (d *data) seen() int {
	if d == nil {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.shown {
		return 0
	}
	return d.n
}

// appendTo appends what may be seen.
func (d *data) appendTo(b []byte) []byte {
	if d.seen() == 0 {
		return b
	}
	return d.appendRaw(b)
}

func (d *data) appendRaw(b []byte) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := d.head; c != nil; c = c.next {
		b = append(b, c.buf...)
	}
	return b
}
