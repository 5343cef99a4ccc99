// Package memhttp serves HTTP/1.1 over connections in memory, for tests in a
// [testing/synctest] bubble: unlike a socket, net.Pipe lets the bubble's clock
// advance while all its goroutines wait.
package memhttp

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
)

// A Server is an [http.Server] that listens in memory.
type Server struct {
	URL string // without a trailing slash; only Client can reach it

	server    *http.Server
	transport *http.Transport
}

// NewServer starts a server that is closed when t ends, with all connections. A
// handler that does not end then is reported by the bubble as a deadlock.
func NewServer(t testing.TB, handler http.Handler) *Server {
	l := &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
	s := &Server{
		URL:       "http://memhttp.test",
		server:    &http.Server{Handler: handler},
		transport: &http.Transport{DialContext: l.dial},
	}
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(l) }()
	t.Cleanup(func() {
		s.transport.CloseIdleConnections()
		s.server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("memhttp: Serve = %v", err)
		}
	})
	return s
}

// Client returns a client whose every request goes to s, whatever its host.
// Each connection comes from a port of its own on 127.0.0.1.
func (s *Server) Client() *http.Client { return &http.Client{Transport: s.transport} }

type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	close  sync.Once
	dialed atomic.Int32
}

func (l *listener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	port := 49152 + int(l.dialed.Add(1))%16384 // the range for clients, RFC 6335
	select {
	case l.conns <- conn{server, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}}:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.close.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

// conn has an address that parses, where net.Pipe has the word "pipe".
type conn struct {
	net.Conn
	remote net.Addr
}

func (c conn) RemoteAddr() net.Addr { return c.remote }
