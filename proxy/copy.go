package proxy

import (
	"io"
	"net/http"
	"time"
)

// A body is the upstream's answer as ReverseProxy reads it, and what copies it.
//
// ReverseProxy has one buffer for a response, of a size fixed before the first
// byte, and flushes after each part of one that has no length. So Read gives it
// only what fits a small buffer, and copies the rest by itself, with buffers and
// flushes as they are needed; ReverseProxy then sees an end or an error.
type body struct {
	src  io.ReadCloser
	x    *exchange
	kind kind

	begun bool // the header is out: ReverseProxy reads only then
	ended bool // all of it was read
	bytes int64
	err   error
}

// A kind of body is sent on in its own way.
type kind uint8

const (
	sized  kind = iota // with a Content-Length, and sent as buffers fill
	events             // every part is flushed: somebody waits for it
	chunks             // parts that come together are sent together
)

func kindOf(res *http.Response) kind {
	switch {
	case isEventStream(res):
		return events
	case res.ContentLength < 0:
		return chunks
	}
	return sized
}

const (
	// flushDelay is how long a part of an answer without a length may wait for
	// more that it is sent with.
	flushDelay = 10 * time.Millisecond

	// pause is how long a read must take to be taken for a wait. What comes after
	// one is sent and flushed at once: it is not part of a rush.
	pause = time.Millisecond
)

// Read reads for ReverseProxy, which writes to the client between two calls.
func (b *body) Read(p []byte) (int, error) {
	b.begun = true
	if b.kind == sized {
		n, err := b.read(p)
		if err != nil || n < len(p) {
			return n, err
		}
		return b.over(b.copy(p, n))
	}
	defer b.x.flushes.Store(false)
	if b.kind == chunks {
		return b.over(b.gather(p))
	}
	b.x.flush() // the header
	return b.over(b.copy(p, 0))
}

func (*body) over(err error) (int, error) {
	if err == nil {
		err = io.EOF
	}
	return 0, err
}

func (b *body) read(p []byte) (int, error) {
	b.x.watch.await(answerTrack, upstreamSide)
	n, err := b.src.Read(p)
	b.x.watch.await(answerTrack, clientSide)
	b.bytes += int64(n)
	if err == io.EOF {
		b.ended = true
	} else if err != nil {
		b.err = err
	}
	return n, err
}

func (b *body) Close() error { return b.src.Close() }

// copy sends on the n bytes that were read into first, and then all that
// follows.
func (b *body) copy(first []byte, n int) (err error) {
	free := &b.x.proxy.buffers
	p := first
	defer func() { b.x.lender.end(free, p, first) }()
	for {
		start := time.Now()
		if n > 0 {
			if err := b.write(p[:n]); err != nil {
				return err
			}
			if b.kind == events {
				b.x.flush()
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch took := time.Since(start); {
		case n == len(p) && (len(p) < mediumBuffer || b.kind == sized && took < pause):
			p = free.swap(p, first, free.larger(len(p)))
		case n <= len(first), took >= flushDelay:
			p = free.swap(p, first, first)
		}
		n, err = b.read(p)
	}
}

// write writes all of p to the client.
func (b *body) write(p []byte) error {
	n, err := b.x.lender.write(b.x.w, p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// flush sends what the server holds back. Errors are seen by the next Write, or
// there is nothing to flush.
func (x *exchange) flush() { http.NewResponseController(x.w).Flush() }

// A gathering collects the parts of an answer that come together, and sends them
// together. Its timer sends what has waited long enough, while the reader waits
// for more.
type gathering struct {
	body *body

	// lock is held by who writes, which may take as long as the client likes. It
	// is no Mutex, because in a testing/synctest bubble time does not pass while
	// somebody waits for one.
	lock     chan struct{}
	buf      []byte // read into from to on, by nobody but the reader
	from, to int    // what is not written yet
	due      bool   // something must be flushed
	armed    bool   // timer will fire
	over     bool
	timer    *time.Timer
	err      error // of a write
	panicked any   // by a write of timer's
}

// gather sends on all of an answer that has no length.
func (b *body) gather(small []byte) error {
	g := &gathering{body: b, lock: make(chan struct{}, 1), buf: small, due: true} // the header
	free := &b.x.proxy.buffers
	g.lock <- struct{}{}
	defer func() {
		// Locked in all ways to here.
		if g.from < g.to && g.err == nil && g.panicked == nil {
			g.sendLocked(true) // the upstream's body has panicked
		}
		g.over = true
		if g.timer != nil {
			g.timer.Stop()
		}
		b.x.lender.end(free, g.buf, small)
		<-g.lock
	}()
	b.x.watch.await(answerTrack, upstreamSide)
	for {
		g.armLocked()
		p := g.buf[g.to:]
		start := time.Now()
		n, err := g.readUnlocked(p)
		b.x.watch.await(answerTrack, clientSide)
		b.bytes += int64(n)
		g.to += n
		waited := time.Since(start) >= pause
		full := len(g.buf)-g.to < len(g.buf)/4
		g.due = g.due || n > 0
		if g.err == nil && g.panicked == nil && (err != nil || waited || full) {
			g.sendLocked(waited && err == nil)
		}
		switch took := time.Since(start); {
		case g.panicked != nil:
			panic(g.panicked)
		case g.err != nil:
			return g.err
		case err == io.EOF:
			b.ended = true
			return nil
		case err != nil:
			b.err = err
			return err
		case g.to > 0: // there is room, and something in it
		case full && took < pause:
			g.buf = free.swap(g.buf, small, free.larger(len(g.buf)))
		case waited && n <= len(small), took >= flushDelay:
			g.buf = free.swap(g.buf, small, small)
		}
		b.x.watch.await(answerTrack, upstreamSide)
	}
}

func (g *gathering) readUnlocked(p []byte) (int, error) {
	<-g.lock
	defer func() { g.lock <- struct{}{} }()
	return g.body.src.Read(p)
}

// sendLocked writes what was gathered. An error is kept.
func (g *gathering) sendLocked(flush bool) {
	p := g.buf[g.from:g.to]
	g.from, g.to = 0, 0 // before the write, which may panic
	if len(p) > 0 {
		g.err = g.body.write(p)
	}
	if flush && g.due && g.err == nil {
		g.body.x.flush()
		g.due = false
	}
}

// armLocked sees to it that nothing waits for longer than flushDelay.
func (g *gathering) armLocked() {
	if g.armed || !g.due {
		return
	}
	g.armed = true
	if g.timer == nil {
		g.timer = time.AfterFunc(flushDelay, g.fire)
	} else {
		g.timer.Reset(flushDelay)
	}
}

// fire runs while the reader waits for the upstream, or for the lock.
func (g *gathering) fire() {
	g.lock <- struct{}{}
	defer func() { <-g.lock }()
	g.armed = false
	if g.over || g.err != nil || !g.due {
		return
	}
	defer func() {
		// Whoever wrote the ResponseWriter expects its panics on the handler's
		// goroutine.
		if g.panicked = recover(); g.panicked != nil || g.err != nil {
			g.body.x.abandon()
		}
	}()
	w := &g.body.x.watch
	w.turn(answerTrack, clientSide, 0)
	start := time.Now()
	// The reader may be reading behind what was gathered, so that nothing is
	// moved.
	p := g.buf[g.from:g.to]
	g.from = g.to
	if len(p) > 0 {
		g.err = g.body.write(p)
	}
	if g.err == nil {
		g.body.x.flush()
		g.due = false
	}
	// A part of the upstream's may have come meanwhile.
	w.turn(answerTrack, upstreamSide, time.Since(start))
}
