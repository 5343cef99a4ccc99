package limiter

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Hijacked implements [respwriter.Hooks].
func (t *transfer) Hijacked(conn net.Conn, brw *bufio.ReadWriter) (net.Conn, *bufio.ReadWriter) {
	if t.b.opts.ExemptUpgrades {
		t.exempt(&t.down)
		t.exempt(&t.up)
		return conn, brw
	}
	if t.up == nil && t.b.opts.Bodies != ResponseBodies {
		t.up = t.pace()
	}
	t.users.Add(1)
	c := &pacedConn{Conn: conn, transfer: t}
	t.conn = c
	c.read.init()
	c.write.init()
	// What is in the buffers has come or gone; what follows is paced.
	if t.down != nil {
		t.down.keepOpen()
		if brw.Writer.Flush() == nil {
			brw.Writer.Reset(c)
		}
	}
	if t.up != nil {
		t.up.keepOpen()
		early, _ := brw.Reader.Peek(brw.Reader.Buffered())
		early = bytes.Clone(early)
		brw.Reader.Reset(io.MultiReader(bytes.NewReader(early), c))
		_, _ = brw.Reader.Peek(len(early)) // Buffered tells of them as before
	}
	return c, brw
}

// A pacedConn is a connection that a handler has taken over.
type pacedConn struct {
	net.Conn
	transfer    *transfer
	read, write waitLimit

	// writing keeps the slices of one Write together, as a connection itself
	// does: it is held while they wait, and only by who writes to it.
	writing sync.Mutex
	closed  sync.Once
}

// NetConn returns the connection that is paced.
func (c *pacedConn) NetConn() net.Conn { return c.Conn }

func (c *pacedConn) Write(b []byte) (total int, err error) {
	p := c.transfer.down
	if p == nil {
		return c.Conn.Write(b)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	for {
		var m int64
		if err := c.write.during(func(ctx context.Context) (err error) {
			m, err = p.admit(ctx, int64(len(b)-total))
			return err
		}); err != nil {
			return total, c.opError("write", err)
		}
		n, err := c.Conn.Write(b[total : total+int(m)])
		p.spend(int64(n))
		if total += n; err != nil || n < int(m) || total == len(b) {
			return total, err
		}
	}
}

func (c *pacedConn) Read(b []byte) (int, error) {
	p := c.transfer.up
	if p == nil {
		return c.Conn.Read(b)
	}
	if most := p.most(); int64(len(b)) > most {
		b = b[:most]
	}
	n, err := c.Conn.Read(b)
	for left := int64(n); left > 0; {
		// Nothing is lost if the wait ends early: the bytes are handed over.
		var m int64
		if waited := c.read.during(func(ctx context.Context) (err error) {
			m, err = p.admit(ctx, left)
			return err
		}); waited != nil {
			if err == nil {
				err = c.opError("read", waited)
			}
			break
		}
		p.spend(m)
		left -= m
	}
	return n, err
}

func (c *pacedConn) Close() error {
	err := c.Conn.Close()
	c.closed.Do(c.end)
	return err
}

// end ends the waits and the pacing.
func (c *pacedConn) end() {
	c.read.close()
	c.write.close()
	c.transfer.leave()
}

// CloseWrite closes the writing half, where the connection can.
func (c *pacedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (c *pacedConn) SetDeadline(t time.Time) error {
	c.read.set(t)
	c.write.set(t)
	return c.Conn.SetDeadline(t)
}

func (c *pacedConn) SetReadDeadline(t time.Time) error {
	c.read.set(t)
	return c.Conn.SetReadDeadline(t)
}

func (c *pacedConn) SetWriteDeadline(t time.Time) error {
	c.write.set(t)
	return c.Conn.SetWriteDeadline(t)
}

func (c *pacedConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: c.Conn.LocalAddr().Network(), Source: c.Conn.LocalAddr(), Addr: c.Conn.RemoteAddr(), Err: err}
}

// A waitLimit ends the waits of one direction of a connection when its deadline
// has passed or it is closed.
type waitLimit struct {
	mu     sync.Mutex
	closed bool
	ctx    context.Context
	cancel context.CancelFunc
}

func (l *waitLimit) init() { l.ctx, l.cancel = context.WithCancel(context.Background()) }

// set replaces the deadline. Who waits under the old one goes on under the new.
func (l *waitLimit) set(deadline time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	old := l.cancel
	if deadline.IsZero() {
		l.init()
	} else {
		l.ctx, l.cancel = context.WithDeadline(context.Background(), deadline)
	}
	old()
}

func (l *waitLimit) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.cancel()
}

// during calls wait until it succeeds or may not go on.
func (l *waitLimit) during(wait func(context.Context) error) error {
	for {
		l.mu.Lock()
		ctx := l.ctx
		l.mu.Unlock()
		err := wait(ctx)
		if err == nil {
			return nil
		}
		l.mu.Lock()
		closed, same := l.closed, ctx == l.ctx
		l.mu.Unlock()
		switch {
		case closed:
			return net.ErrClosed
		case same:
			return os.ErrDeadlineExceeded
		}
	}
}
