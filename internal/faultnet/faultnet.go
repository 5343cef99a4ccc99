// Package faultnet is a bad network between a client and a server, for tests: a
// TCP proxy whose faults can be switched while connections are open, and a
// server that sends bytes by a script.
package faultnet

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// An End is how a connection ends.
type End int

const (
	// FIN closes it, as a process that exits does. What was sent before arrives.
	FIN End = iota
	// RST resets it. What was sent before may be lost.
	RST
	// Hang leaves it open and lets nothing pass any more, until the client closes.
	Hang
)

// Faults are what a Proxy does to connections. The zero value is a good network.
type Faults struct {
	// Latency is added to all that passes, each way. It delays and does not slow
	// down: what is sent meanwhile arrives as much later, up to a MiB in flight.
	Latency time.Duration

	// Jitter adds a random part of itself to the latency. Order is kept.
	Jitter time.Duration

	// Bandwidth is the bytes a second of each connection, each way.
	Bandwidth int

	// CutToServer and CutToClient end each connection, by End, after so many
	// bytes in that direction, which still pass.
	CutToServer, CutToClient int64

	// LoseReply is called with what a client sends, as it arrives in one piece or
	// more, and says whether the reply to it is lost. What was sent passes. When
	// the server answers, the answer is dropped and the connection ends, by End.
	// It is called from many goroutines at once, and may keep nothing.
	LoseReply func(sent []byte) bool

	// End is how the faults above end a connection, to both sides.
	End End

	// BlackHole takes what is sent and delivers nothing. New connections are
	// accepted and go nowhere. All that lost something hang for ever.
	BlackHole bool

	// Refuse refuses new connections.
	Refuse bool
}

// Nth returns a LoseReply that is true for its nth call only, from 1.
func Nth(n int64) func([]byte) bool {
	var calls atomic.Int64
	return func([]byte) bool { return calls.Add(1) == n }
}

// Stats are counts since the start.
type Stats struct {
	Connections        int64 // accepted, also by a black hole
	ToServer, ToClient int64 // bytes delivered

	// RoundTrips is how often a client sent something as the first thing on a
	// connection or after an answer. Requests that do not wait for each other's
	// answers count as one.
	RoundTrips int64
}

// A Proxy forwards connections to a server. It is safe for concurrent use.
type Proxy struct {
	t        testing.TB
	addr     string
	upstream string
	faults   atomic.Pointer[Faults]
	held     net.PacketConn // see New

	connections, toServer, toClient, roundTrips atomic.Int64

	wg sync.WaitGroup // of connections

	mu       sync.Mutex
	listener net.Listener  // nil when refusing
	accepted chan struct{} // closed when the listener's loop has ended
	conns    map[*conn]bool
	closed   bool
}

// New starts a proxy to upstream, a host and port, on a port of 127.0.0.1. It is
// closed with the test. Where upstream refuses a connection, the client's is
// reset.
func New(t testing.TB, upstream string) *Proxy {
	t.Helper()
	p := &Proxy{t: t, upstream: upstream, conns: map[*conn]bool{}}
	p.faults.Store(&Faults{})
	var err error
	for range 100 {
		// Kernels give such ports to no client, so that Refuse keeps its own and
		// no client that dials it connects to itself. Other proxies look at the one
		// of UDP first.
		p.addr = fmt.Sprintf("127.0.0.1:%d", 30_000+rand.IntN(2_700))
		if p.held, err = net.ListenPacket("udp", p.addr); err != nil {
			continue
		}
		if err = p.listenLocked(); err == nil {
			break
		}
		p.held.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func (p *Proxy) listenLocked() error {
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	p.listener, p.accepted = l, make(chan struct{})
	go func() {
		defer close(p.accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.connections.Add(1)
			p.wg.Go(func() { p.serve(c.(*net.TCPConn)) })
		}
	}()
	return nil
}

// refuseLocked returns when the port is closed.
func (p *Proxy) refuseLocked() {
	if p.listener != nil {
		p.listener.Close()
		<-p.accepted
		p.listener = nil
	}
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.refuseLocked()
	p.mu.Unlock()
	p.Reset()
	p.wg.Wait()
	p.held.Close()
}

// Addr returns the proxy's host and port.
func (p *Proxy) Addr() string { return p.addr }

// Set changes the faults from the next packet on, for open connections and new
// ones. What is on its way keeps the latency it had. Counts of bytes begin anew.
func (p *Proxy) Set(f Faults) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults.Store(&f)
	if f.Refuse || p.closed {
		p.refuseLocked()
		return
	}
	for deadline := time.Now().Add(10 * time.Second); p.listener == nil; time.Sleep(time.Millisecond) {
		if err := p.listenLocked(); err != nil && time.Now().After(deadline) {
			p.t.Fatal(err)
		}
	}
}

// Reset resets all connections that are open.
func (p *Proxy) Reset() {
	p.mu.Lock()
	conns := make([]*conn, 0, len(p.conns))
	for c := range p.conns {
		conns = append(conns, c)
	}
	p.mu.Unlock()
	for _, c := range conns {
		c.end(RST)
	}
}

// Stats returns what has happened so far.
func (p *Proxy) Stats() Stats {
	return Stats{
		Connections: p.connections.Load(),
		ToServer:    p.toServer.Load(),
		ToClient:    p.toClient.Load(),
		RoundTrips:  p.roundTrips.Load(),
	}
}
