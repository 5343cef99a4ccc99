//go:build unix

package proxy

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// readAhead returns c, a connection to an upstream, with reads that take more
// than they are asked for while much is waiting.
//
// http.Transport reads each chunk of an answer with a buffer of its own, in
// pieces of 4 KiB or less than the chunk, and to give it a larger buffer would
// cost every idle connection as much.
func (b *buffers) readAhead(c net.Conn) net.Conn {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return c
	}
	a := &aheadConn{TCPConn: t, raw: raw, free: b}
	a.try = a.tryRead
	return a
}

// An aheadConn has a buffer only while there is something in it: it is taken to
// read what has arrived, and never to wait.
type aheadConn struct {
	*net.TCPConn
	raw  syscall.RawConn
	free *buffers
	try  func(fd uintptr) bool // tryRead

	mu       sync.Mutex // never held while a read waits
	buf      []byte     // nil, or with something from from to to on
	from, to int
	full     bool // the latest read ahead was as much as there was room for
	closed   bool
	n        int // of tryRead, as is errno
	errno    error
	err      error // what reading ahead ended with; told when buf is empty
}

func (a *aheadConn) Read(p []byte) (int, error) {
	if n, err := a.buffered(p); n > 0 || err != nil {
		return n, err
	}
	n, err := a.TCPConn.Read(p)
	if err == nil && n == len(p) && n <= smallBuffer {
		a.fill()
	}
	return n, err
}

// buffered reads what is there without waiting: nothing if that is unknown.
func (a *aheadConn) buffered(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.buf == nil && a.full && len(p) < mediumBuffer {
		a.fillLocked()
	}
	if a.buf == nil {
		err := a.err
		if len(p) > 0 {
			a.full, a.err = false, nil
		}
		return 0, err
	}
	n := copy(p, a.buf[a.from:a.to])
	if a.from += n; a.from == a.to {
		a.releaseLocked()
	}
	return n, nil
}

func (a *aheadConn) fill() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fillLocked()
}

// fillLocked reads ahead, if there is something and a buffer for it.
func (a *aheadConn) fillLocked() {
	a.full = false
	if a.closed || a.buf != nil || a.err != nil {
		return
	}
	if a.buf = a.free.takeAhead(); a.buf == nil {
		return
	}
	a.n, a.errno = 0, nil
	err := a.raw.Read(a.try)
	switch {
	case err == nil && a.errno == nil && a.n > 0:
		a.from, a.to, a.full = 0, a.n, a.n == len(a.buf)
		return
	case err == nil && a.errno != nil && a.errno != syscall.EAGAIN && a.errno != syscall.EINTR:
		// The kernel tells it once: the next read would find an end.
		a.err = &net.OpError{Op: "read", Net: "tcp", Source: a.LocalAddr(), Addr: a.RemoteAddr(), Err: os.NewSyscallError("read", a.errno)}
	}
	a.releaseLocked() // an end is found again by the next read
}

func (a *aheadConn) tryRead(fd uintptr) (done bool) {
	a.n, a.errno = syscall.Read(int(fd), a.buf)
	return true
}

func (a *aheadConn) releaseLocked() {
	if a.buf != nil {
		a.free.giveAhead(a.buf)
		a.buf = nil
	}
}

func (a *aheadConn) Close() error {
	a.mu.Lock()
	a.closed = true
	a.releaseLocked()
	a.mu.Unlock()
	return a.TCPConn.Close()
}

// WriteTo is there because that of the TCPConn would not see the buffer.
func (a *aheadConn) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{a})
}
