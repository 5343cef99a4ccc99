package proxy

import (
	"net/http"
	"sync"
	"sync/atomic"
	"unsafe"
)

// The sizes of buffers that answers are copied with. What is idle, and that is
// what most of many streams are at any moment, holds a small one.
const (
	smallBuffer  = 4 << 10
	mediumBuffer = 32 << 10
	largeBuffer  = 128 << 10

	// maxLarge is how many large ones a Proxy uses at the same time. They make
	// downloads cheaper, but a client that stops reading keeps the one it has.
	maxLarge = 32

	// What is read ahead of http.Transport, by at most maxAhead connections of a
	// Proxy at the same time. Those of clients that stop reading keep theirs.
	aheadBuffer = 64 << 10
	maxAhead    = 16
)

// buffers are the free buffers of one Proxy.
type buffers struct {
	small, medium, large bufferPool
	inUse                atomic.Int32 // large ones
	ahead                bufferPool
	aheadInUse           atomic.Int32
}

func (b *buffers) init() {
	b.small.size, b.medium.size, b.large.size = smallBuffer, mediumBuffer, largeBuffer
	b.ahead.size = aheadBuffer
}

// takeAhead returns a buffer to read ahead with, or nil if there is none to be
// had. giveAhead takes it back.
func (b *buffers) takeAhead() []byte {
	if b.aheadInUse.Add(1) > maxAhead {
		b.aheadInUse.Add(-1)
		return nil
	}
	return b.ahead.Get()
}

func (b *buffers) giveAhead(p []byte) {
	b.ahead.Put(p)
	b.aheadInUse.Add(-1)
}

// larger returns a buffer of the next size, or nil if there is none to be had.
func (b *buffers) larger(than int) []byte {
	switch {
	case than < smallBuffer:
		return b.small.Get()
	case than < mediumBuffer:
		return b.medium.Get()
	case than >= largeBuffer:
		return nil
	}
	if b.inUse.Add(1) > maxLarge {
		b.inUse.Add(-1)
		return nil
	}
	return b.large.Get()
}

// swap returns next instead of p, which it takes back unless it is the one
// that was there at first. Without a next it returns p.
func (b *buffers) swap(p, first, next []byte) []byte {
	if next == nil {
		return p
	}
	switch {
	case len(p) == len(first):
	case len(p) == largeBuffer:
		b.large.Put(p)
		b.inUse.Add(-1)
	case len(p) == mediumBuffer:
		b.medium.Put(p)
	default:
		b.small.Put(p)
	}
	return next
}

// A lender is a Proxy's buffers as one exchange uses them. As a
// httputil.BufferPool it has those of one size for ReverseProxy.
type lender struct {
	*bufferPool
	lost bool
}

// write writes p to w. If that fails, whatever buffer p is in is not used again:
// net/http's Write returns when an HTTP/2 stream is reset, though its server may
// still be sending p (golang/go#20704), and would send a part of another's answer.
func (l *lender) write(w http.ResponseWriter, p []byte) (int, error) {
	l.lost = true // unless it returns
	n, err := w.Write(p)
	l.lost = err != nil
	return n, err
}

// end takes p back when all is written, unless it is first, which is
// ReverseProxy's to put back.
func (l *lender) end(free *buffers, p, first []byte) {
	switch {
	case !l.lost:
		free.swap(p, first, first)
	case len(p) == largeBuffer:
		free.inUse.Add(-1)
	}
}

func (l *lender) Put(p []byte) {
	if !l.lost {
		l.bufferPool.Put(p)
	}
}

// A bufferPool implements httputil.BufferPool. It holds pointers to arrays,
// because a slice put into a sync.Pool costs an allocation for its header.
type bufferPool struct {
	size int
	pool sync.Pool
}

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*byte); ok {
		return unsafe.Slice(b, p.size)
	}
	return make([]byte, p.size)
}

func (p *bufferPool) Put(b []byte) {
	if len(b) == p.size {
		p.pool.Put(unsafe.SliceData(b))
	}
}
