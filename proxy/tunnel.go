package proxy

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/internal/respwriter"
)

// A tunnel is what an exchange needs more if it may become a WebSocket.
//
// ReverseProxy copies between the client's connection and the body of the 101.
// Both are wrapped, so that the copying is the tunnel's own: with small buffers,
// counted, and with a place between two frames where a Close frame fits.
type tunnel struct {
	respwriter.NoHooks
	writer   respwriter.Writer
	registry *tunnels
	exchange *exchange
	idle     time.Duration

	// After a 101.
	backend io.ReadWriteCloser
	client  net.Conn // set by Hijacked; mu guards it against cut
	up      flow     // from the client to the upstream
	down    flow

	uncancel func() bool // forgets about the request's context

	began time.Time
	moved atomic.Int64 // when something last did, as time since began

	mu     sync.Mutex
	timer  *time.Timer // ends it when idle; nil if there is no limit
	dying  bool        // timer fires for the last time
	reason error       // why the proxy ended it
	ended  bool        // the handler has returned, or both ends were closed
}

var (
	errSwitch     = errors.New("upstream switched to a protocol that was not asked for")
	errShutdown   = errors.New("the proxy shuts down")
	errTunnelIdle = errors.New("nothing was sent in either direction for too long")
)

// accept checks and cleans a 101 response.
//
// ReverseProxy does not close the connection of a 101 that it refuses, and
// relays all its hop-by-hop fields (golang/go#80875).
func (t *tunnel) accept(ctx context.Context, res *http.Response) error {
	if t == nil || !hasToken(res.Header["Connection"], "upgrade") || !hasToken(res.Header["Upgrade"], websocket) {
		res.Body.Close()
		return errSwitch
	}
	dropHopByHop(res.Header)
	res.Header["Connection"] = []string{"Upgrade"}
	// Of a list, the token that was asked for: ReverseProxy compares the whole
	// field with the request's.
	res.Header["Upgrade"] = []string{websocket}
	backend, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		res.Body.Close()
		return errors.New("the body of a 101 response cannot be written to: see Config.WrapTransport")
	}
	t.backend = backend
	t.began = time.Now()
	t.up.tunnel, t.down.tunnel = t, t
	t.up.frames.masked = true
	if !t.registry.open(t) {
		t.backend = nil
		backend.Close()
		return errShutdown
	}
	// ReverseProxy closes only the upstream's connection when the request is
	// cancelled. If that had ended before, it waits for the client for ever.
	t.uncancel = context.AfterFunc(ctx, func() {
		t.mu.Lock()
		t.reason = cmp.Or(t.reason, context.Cause(ctx))
		t.mu.Unlock()
		t.cut()
	})
	res.Body = &backendEnd{backend, t}
	return nil
}

// Hijacked wraps the client's connection, and hands on the bytes that it sent
// right behind its request. They are in the server's read buffer, where
// ReverseProxy does not look (golang/go#80875).
func (t *tunnel) Hijacked(conn net.Conn, brw *bufio.ReadWriter) (net.Conn, *bufio.ReadWriter) {
	if t.backend == nil {
		return conn, brw // not by a 101
	}
	if x := t.exchange; x.proxy.cfg.Observer != nil {
		x.observe(Event{Kind: EventTunnelOpen, Upstream: x.upstreamName(), Start: t.began})
	}
	early, _ := brw.Reader.Peek(brw.Reader.Buffered())
	t.mu.Lock()
	t.client = conn
	cut := t.ended
	if t.idle > 0 && !cut {
		t.timer = time.AfterFunc(t.idle, t.tick)
	}
	t.mu.Unlock()
	if cut {
		conn.Close()
	}
	return &clientEnd{conn, t, early}, brw
}

// A clientEnd is the client's connection as ReverseProxy copies from and to it.
type clientEnd struct {
	net.Conn
	tunnel *tunnel
	early  []byte
}

// WriteTo sends what the client sends to the upstream.
func (c *clientEnd) WriteTo(io.Writer) (int64, error) {
	err := c.tunnel.up.copy(c.tunnel.backend, c.Conn, c.early)
	return c.tunnel.up.bytes.Load(), err
}

func (c *clientEnd) CloseWrite() error { return closeWrite(c.Conn) }

// A backendEnd is the upstream's connection, likewise.
type backendEnd struct {
	io.ReadWriteCloser
	tunnel *tunnel
}

func (b *backendEnd) WriteTo(io.Writer) (int64, error) {
	err := b.tunnel.down.copy(b.tunnel.client, b.ReadWriteCloser, nil)
	return b.tunnel.down.bytes.Load(), err
}

func (b *backendEnd) CloseWrite() error { return closeWrite(b.ReadWriteCloser) }

// closeWrite keeps the half-close that ReverseProxy asks for. An error makes it
// end the tunnel.
func closeWrite(end any) error {
	if c, ok := end.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// A flow is one direction of a tunnel.
type flow struct {
	tunnel *tunnel
	bytes  atomic.Int64 // sent on
	over   atomic.Bool  // its source has sent a Close frame, or its last byte

	// mu is held while something is written, which may take as long as the peer
	// likes: it keeps a Close frame out of the middle of another.
	mu      sync.Mutex
	dst     io.Writer // nil before copy: the 101 may not be out yet
	frames  frames
	closing bool // a Close frame is due
	closed  bool // it was written, and nothing may follow it
}

// tunnelBuffer is the size of each direction's buffer. Most tunnels are idle,
// and most messages are small; one that fills it gets a larger one for as long
// as it needs it.
const tunnelBuffer = 1 << 10

// copy sends early and what it reads from src to dst, until src ends.
func (f *flow) copy(dst io.Writer, src io.Reader, early []byte) error {
	f.mu.Lock()
	f.dst = dst
	f.closeLocked()
	f.mu.Unlock()
	defer func() {
		f.over.Store(true)
		f.tunnel.check()
	}()
	if len(early) > 0 {
		if err := f.send(early); err != nil {
			return err
		}
	}
	first := make([]byte, tunnelBuffer)
	p := first
	free := f.tunnel.registry.buffers
	defer func() { free.swap(p, first, first) }()
	for {
		n, err := src.Read(p)
		if n > 0 {
			if err := f.send(p[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF || f.over.Load() && f.tunnel.asked() {
			// The second: after its Close frame src has nothing to say, and the
			// destination, which may wait for an end, is half-closed.
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case n == len(p) && len(p) < mediumBuffer:
			p = free.swap(p, first, free.larger(len(p)))
		case n < len(first):
			p = free.swap(p, first, first)
		}
	}
}

// send writes p to the destination, and the Close frame where it fits.
func (f *flow) send(p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(p) > 0 {
		n := f.frames.next(p)
		// Only if a Close frame is due must the bytes be written up to the end of
		// a frame and no further.
		for !f.closing && n < len(p) {
			n += f.frames.next(p[n:])
		}
		if !f.closed {
			written, err := f.dst.Write(p[:n])
			f.bytes.Add(int64(written))
			f.tunnel.moved.Store(int64(time.Since(f.tunnel.began)))
			if err != nil {
				return err
			}
		}
		p = p[n:]
		f.closeLocked()
	}
	if f.frames.closed {
		f.over.Store(true)
	}
	if f.closing {
		f.tunnel.check()
	}
	return nil
}

// close writes a Close frame as soon as no other is under way.
func (f *flow) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closing = true
	f.closeLocked()
}

func (f *flow) closeLocked() {
	// After a Close frame, its source's or ours, there must be no other: RFC
	// 6455 section 5.5.1.
	if f.dst == nil || !f.closing || f.closed || f.frames.closed || !f.frames.between() {
		return
	}
	f.closed = true
	f.dst.Write(closeFrame(goingAway, f.frames.masked)) // the reader of the other direction sees the error
}

// end asks both ends to leave. It does not wait for that.
func (t *tunnel) end(reason error) {
	t.mu.Lock()
	t.reason = cmp.Or(t.reason, reason)
	t.mu.Unlock()
	// Each on its own: a peer that does not read holds its flow's mu.
	go t.up.close()
	go t.down.close()
	t.check()
}

// check closes both connections when both ends have said that they will send
// nothing more. A server is the one to close first, RFC 6455 section 7.1.1, but
// neither end is let wait for the other's connection to end.
func (t *tunnel) check() {
	if !t.up.over.Load() || !t.down.over.Load() {
		return
	}
	if t.asked() {
		t.cut()
	}
}

// asked reports whether the ends were asked to leave.
func (t *tunnel) asked() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reason != nil
}

// cut closes both connections.
func (t *tunnel) cut() {
	t.mu.Lock()
	t.ended = true
	client := t.client
	t.mu.Unlock()
	t.backend.Close()
	if client != nil {
		client.Close()
	}
}

// tick ends a tunnel in which nothing has moved for too long: first kindly, and
// soon after that in any case.
func (t *tunnel) tick() {
	t.mu.Lock()
	if t.ended {
		t.mu.Unlock()
		return
	}
	if t.dying {
		t.mu.Unlock()
		t.cut()
		return
	}
	if rest := t.idle - (time.Since(t.began) - time.Duration(t.moved.Load())); rest > 0 {
		t.timer.Reset(rest)
		t.mu.Unlock()
		return
	}
	t.dying = true
	t.timer.Reset(lastFlush)
	t.mu.Unlock()
	t.end(errTunnelIdle)
}

// finish runs when the handler ends, with or without a tunnel.
func (t *tunnel) finish(x *exchange, done bool) {
	if t.backend != nil {
		t.backend.Close() // ReverseProxy keeps it open if Hijack fails
		t.uncancel()
	}
	t.writer.Finish(done)
	t.mu.Lock()
	t.ended = true
	if t.timer != nil {
		t.timer.Stop()
	}
	reason := t.reason
	t.mu.Unlock()
	t.registry.leave(t)
	if x.tunneled() {
		x.verdict = &verdict{err: reason}
		if x.proxy.cfg.Observer != nil {
			x.observe(Event{Kind: EventTunnelClose, Upstream: x.upstreamName(), Start: t.began, Duration: time.Since(t.began),
				BytesUp: t.up.bytes.Load(), BytesDown: t.down.bytes.Load(), Err: reason})
		}
		x.log(http.StatusSwitchingProtocols, "proxy: tunnel ended", reason,
			slog.Int64("bytes_up", t.up.bytes.Load()),
			slog.Int64("bytes_down", t.down.bytes.Load()),
			slog.Duration("lasted", time.Since(t.began)))
	}
}
