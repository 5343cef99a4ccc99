package limiter

import (
	"bufio"
	"crypto/tls"
	"net"
)

// Hijacked implements [respwriter.Hooks]. What it returns has the methods of the
// connection, as those of TCP are how copying between two of them stays in the
// kernel, and CloseWrite is how a tunnel ends one direction.
func (x *occupant) Hijacked(conn net.Conn, brw *bufio.ReadWriter) (net.Conn, *bufio.ReadWriter) {
	switch c := conn.(type) {
	case *net.TCPConn:
		return &occupiedTCP{c, x}, brw
	case *net.UnixConn:
		return &occupiedUnix{c, x}, brw
	case *tls.Conn:
		return &occupiedTLS{c, x}, brw
	case halfCloser:
		return &occupiedHalf{c, x}, brw
	}
	return &occupiedConn{conn, x}, brw
}

type halfCloser interface {
	net.Conn
	CloseWrite() error
}

type (
	occupiedTCP struct {
		*net.TCPConn
		x *occupant
	}
	occupiedUnix struct {
		*net.UnixConn
		x *occupant
	}
	occupiedTLS struct {
		*tls.Conn
		x *occupant
	}
	occupiedHalf struct {
		halfCloser
		x *occupant
	}
	occupiedConn struct {
		net.Conn
		x *occupant
	}
)

func (c *occupiedTCP) Close() error  { return c.x.close(c.TCPConn) }
func (c *occupiedUnix) Close() error { return c.x.close(c.UnixConn) }
func (c *occupiedTLS) Close() error  { return c.x.close(c.Conn) }
func (c *occupiedHalf) Close() error { return c.x.close(c.halfCloser) }
func (c *occupiedConn) Close() error { return c.x.close(c.Conn) }

func (x *occupant) close(conn net.Conn) error {
	defer x.giveBack()
	return conn.Close()
}
