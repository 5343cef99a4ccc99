package faultnet

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A conn is a client's connection and the proxy's to the server.
type conn struct {
	p              *Proxy
	client, server *net.TCPConn // server is nil in a black hole

	asked  atomic.Bool            // the last to speak was the client
	losing atomic.Pointer[Faults] // those that what the server says next is lost to
	hung   atomic.Bool            // nothing passes any more

	once sync.Once
	done chan struct{}
}

func (p *Proxy) serve(client *net.TCPConn) {
	c := &conn{p: p, client: client, done: make(chan struct{})}
	if !p.faults.Load().BlackHole {
		server, err := net.DialTimeout("tcp", p.upstream, 10*time.Second)
		if err != nil {
			client.SetLinger(0)
			client.Close()
			return
		}
		c.server = server.(*net.TCPConn)
	}
	p.mu.Lock()
	p.conns[c] = true
	closed := p.closed
	p.mu.Unlock()
	if closed {
		c.end(RST)
	}
	defer c.end(FIN)
	if c.server == nil {
		io.Copy(io.Discard, client)
		return
	}
	up := &link{c: c, from: c.client, to: c.server, fromClient: true, queue: newQueue()}
	down := &link{c: c, from: c.server, to: c.client, queue: newQueue()}
	var wg sync.WaitGroup
	for _, l := range []*link{up, down} {
		wg.Go(l.read)
		wg.Go(l.write)
	}
	wg.Wait()
}

func (c *conn) end(how End) {
	if how == Hang {
		c.hung.Store(true)
		return
	}
	c.once.Do(func() {
		close(c.done)
		for _, side := range []*net.TCPConn{c.client, c.server} {
			if side == nil {
				continue
			}
			if how == RST {
				side.SetLinger(0)
			}
			side.Close()
		}
		c.p.mu.Lock()
		delete(c.p.conns, c)
		c.p.mu.Unlock()
	})
}

// A link is one direction of a connection.
type link struct {
	c          *conn
	from, to   *net.TCPConn
	fromClient bool
	queue      queue

	// Of the goroutine that writes.
	timer  *time.Timer
	faults *Faults   // those that passed counts for
	passed int64     // bytes
	free   time.Time // when the bandwidth allows the next byte
}

// errLost stands for a reply that is not to arrive.
var errLost = errors.New("lost")

// read takes what comes and says when it is to arrive.
func (l *link) read() {
	buf := make([]byte, 32<<10)
	for {
		n, err := l.from.Read(buf)
		f := l.c.p.faults.Load()
		due := time.Now().Add(f.Latency)
		if f.Jitter > 0 {
			due = due.Add(rand.N(f.Jitter))
		}
		if n > 0 {
			p := packet{due: due, data: bytes.Clone(buf[:n])}
			if l.fromClient {
				if !l.c.asked.Swap(true) {
					l.c.p.roundTrips.Add(1)
				}
			} else {
				l.c.asked.Store(false)
				if l.c.losing.Load() != nil {
					p = packet{due: due, err: errLost}
				}
			}
			if !l.queue.push(p, l.c.done) {
				return
			}
		}
		if err != nil {
			l.queue.push(packet{due: due, err: err}, l.c.done)
			return
		}
	}
}

// write delivers what was read, or does not.
func (l *link) write() {
	l.timer = time.NewTimer(0)
	defer l.timer.Stop()
	for {
		p, ok := l.queue.pop(l.c.done)
		if !ok || !l.sleepUntil(p.due) {
			return
		}
		switch {
		case p.err == nil:
			if !l.deliver(p.data) {
				return
			}
		case p.err == errLost:
			l.c.end(l.c.losing.Load().End)
		case l.c.hung.Load():
			if l.fromClient {
				l.c.end(FIN)
			}
			return
		case p.err == io.EOF:
			l.to.CloseWrite()
			return
		default:
			l.c.end(RST)
			return
		}
	}
}

// deliver reports whether the link goes on.
func (l *link) deliver(data []byte) bool {
	f := l.c.p.faults.Load()
	if l.fromClient && f.LoseReply != nil && !l.c.hung.Load() && f.LoseReply(data) {
		l.c.losing.Store(f)
	}
	for len(data) > 0 {
		f = l.c.p.faults.Load()
		if f.BlackHole {
			l.c.hung.Store(true)
		}
		if l.c.hung.Load() {
			return true
		}
		if f != l.faults {
			l.faults, l.passed = f, 0
		}
		piece := data
		if f.Bandwidth > 0 {
			piece = piece[:min(len(piece), max(1, f.Bandwidth/100))]
		}
		cut, delivered := f.CutToClient, &l.c.p.toClient
		if l.fromClient {
			cut, delivered = f.CutToServer, &l.c.p.toServer
		}
		if cut > 0 {
			piece = piece[:min(int64(len(piece)), cut-l.passed)]
		}
		if f.Bandwidth > 0 {
			if now := time.Now(); l.free.Before(now) {
				l.free = now
			}
			l.free = l.free.Add(time.Duration(len(piece)) * time.Second / time.Duration(f.Bandwidth))
			if !l.sleepUntil(l.free) {
				return false
			}
		}
		n, err := l.to.Write(piece)
		delivered.Add(int64(n))
		if err != nil {
			// A server that is gone may have answered before; that comes first.
			if !l.fromClient {
				l.c.end(RST)
			}
			return l.fromClient
		}
		data = data[n:]
		l.passed += int64(n)
		if cut > 0 && l.passed == cut {
			l.c.end(f.End)
		}
	}
	return true
}

func (l *link) sleepUntil(t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return true
	}
	l.timer.Reset(d)
	select {
	case <-l.timer.C:
		return true
	case <-l.c.done:
		return false
	}
}

// A packet is what was read at once, or why nothing more is.
type packet struct {
	due  time.Time
	data []byte
	err  error
}

// inFlight bounds the bytes that a link holds, as a receive window does.
const inFlight = 1 << 20

// A queue has one goroutine that pushes and one that pops.
type queue struct {
	mu         *sync.Mutex
	packets    []packet
	size       int
	more, room chan struct{}
}

func newQueue() queue {
	return queue{mu: new(sync.Mutex), more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func (q *queue) push(p packet, done <-chan struct{}) bool {
	for {
		q.mu.Lock()
		ok := q.size < inFlight
		if ok {
			q.packets = append(q.packets, p)
			q.size += len(p.data)
		}
		q.mu.Unlock()
		if ok {
			notify(q.more)
			return true
		}
		select {
		case <-q.room:
		case <-done:
			return false
		}
	}
}

func (q *queue) pop(done <-chan struct{}) (packet, bool) {
	for {
		var p packet
		q.mu.Lock()
		ok := len(q.packets) > 0
		if ok {
			p, q.packets[0] = q.packets[0], p
			q.packets = q.packets[1:]
			q.size -= len(p.data)
		}
		q.mu.Unlock()
		if ok {
			notify(q.room)
			return p, true
		}
		select {
		case <-q.more:
		case <-done:
			return packet{}, false
		}
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
