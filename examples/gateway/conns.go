package main

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/goweir/weir/examples/gateway/internal/config"
)

// A connLimit bounds connections, in all and of one peer, before anything is
// read from them. What is too many is closed at once.
type connLimit struct {
	mu      sync.Mutex
	max     int // 0: no bound
	perIP   int // 0: no bound
	trust   []netip.Prefix
	open    int
	peers   map[netip.Prefix]int
	refused atomic.Int64
}

func newConnLimit() *connLimit { return &connLimit{peers: map[netip.Prefix]int{}} }

// set changes the bounds; connections that are open stay so.
func (l *connLimit) set(s config.Server, trust []netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.max, l.perIP, l.trust = int(s.MaxConnections), int(s.PerIP), trust
}

// listen returns a listener whose connections are bounded.
func (l *connLimit) listen(ln net.Listener) net.Listener { return &boundedListener{ln, l} }

type boundedListener struct {
	net.Listener
	limit *connLimit
}

func (b *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := conn.(*net.TCPConn)
		if !ok {
			return conn, nil
		}
		addr, peer := peerOf(conn)
		if b.limit.take(addr, peer) {
			return &boundedConn{tcp, sync.OnceFunc(func() { b.limit.give(peer) })}, nil
		}
		b.limit.refused.Add(1)
		conn.Close()
	}
}

// peerOf returns the address of a peer, and what it is counted by: an IPv6 one
// by its /64, since one subscriber has at least that many.
func peerOf(conn net.Conn) (addr netip.Addr, counted netip.Prefix) {
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		addr = tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	counted, _ = addr.Prefix(bits)
	return addr, counted
}

func (l *connLimit) take(addr netip.Addr, peer netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.max > 0 && l.open >= l.max || l.perIP > 0 && l.peers[peer] >= l.perIP && !l.trustedLocked(addr) {
		return false
	}
	l.open++
	l.peers[peer]++
	return true
}

func (l *connLimit) trustedLocked(addr netip.Addr) bool {
	return slices.ContainsFunc(l.trust, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (l *connLimit) give(peer netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.peers[peer]--; l.peers[peer] == 0 {
		delete(l.peers, peer)
	}
}

// A boundedConn gives its place back when it is closed. It keeps what net/http
// and the proxy look for in a TCP connection: sendfile, half-closing, resetting.
type boundedConn struct {
	*net.TCPConn
	give func()
}

func (c *boundedConn) Close() error {
	c.give()
	return c.TCPConn.Close()
}
