package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/goweir/weir/internal/respwriter"
)

const websocket = "websocket"

// checkUpgrade refuses every request with an Upgrade field that is not the
// opening handshake of RFC 6455 section 4.1, whether or not Connection lists
// the field: intermediaries disagree on that.
func checkUpgrade(r *http.Request) *refusal {
	upgrade, ok := r.Header["Upgrade"]
	if !ok {
		return nil
	}
	if len(upgrade) != 1 || !isWebSocket(upgrade[0]) ||
		r.Method != http.MethodGet || r.ProtoMajor != 1 || r.ProtoMinor != 1 ||
		r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return refusedUpgrade
	}
	return nil
}

// isWebSocket compares without regard to case. The length keeps out letters
// beyond ASCII that fold to one of these.
func isWebSocket(token string) bool {
	return len(token) == len(websocket) && strings.EqualFold(token, websocket)
}

// wantsUpgrade reports whether r, which passed checkUpgrade, asks for one.
func wantsUpgrade(r *http.Request) bool {
	return len(r.Header["Upgrade"]) == 1 && hasToken(r.Header["Connection"], "upgrade")
}

// hasToken reports whether a list-valued field contains an ASCII token.
func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for element := range strings.SplitSeq(line, ",") {
			element = textproto.TrimString(element)
			if len(element) == len(token) && strings.EqualFold(element, token) {
				return true
			}
		}
	}
	return false
}

var errSwitch = errors.New("upstream switched to a protocol that was not asked for")

// A tunnel is what an exchange needs more if it may become a WebSocket.
type tunnel struct {
	respwriter.NoHooks
	writer  respwriter.Writer
	backend io.Closer // after a 101
}

// accept checks and cleans a 101 response.
//
// ReverseProxy does not close the connection of a 101 that it refuses, and
// relays all its hop-by-hop fields (golang/go#80875).
func (t *tunnel) accept(res *http.Response) error {
	if t == nil || !hasToken(res.Header["Connection"], "upgrade") || !hasToken(res.Header["Upgrade"], websocket) {
		res.Body.Close()
		return errSwitch
	}
	dropHopByHop(res.Header)
	res.Header["Connection"] = []string{"Upgrade"}
	// Of a list, the token that was asked for: ReverseProxy compares the whole
	// field with the request's.
	res.Header["Upgrade"] = []string{websocket}
	t.backend = res.Body
	return nil
}

// Hijacked hands on the bytes that the client sent right behind its request.
// They are in the server's read buffer, where ReverseProxy does not look
// (golang/go#80875).
func (t *tunnel) Hijacked(conn net.Conn, brw *bufio.ReadWriter) (net.Conn, *bufio.ReadWriter) {
	n := brw.Reader.Buffered()
	if n == 0 {
		return conn, brw // as it is, so that io.Copy finds its ReadFrom
	}
	early, _ := brw.Reader.Peek(n)
	c := &earlyConn{Conn: conn, early: early}
	if cw, ok := conn.(closeWriter); ok {
		return &earlyCloseWriter{c, cw}, brw
	}
	return c, brw
}

// An earlyConn is a connection of which some bytes were already read.
type earlyConn struct {
	net.Conn
	early []byte
}

func (c *earlyConn) Read(p []byte) (int, error) {
	if len(c.early) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.early)
	c.early = c.early[n:]
	return n, nil
}

type closeWriter interface{ CloseWrite() error }

// An earlyCloseWriter keeps the half-close that ReverseProxy asks for.
type earlyCloseWriter struct {
	*earlyConn
	closeWriter
}
