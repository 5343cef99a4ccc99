package weirecho

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/labstack/echo/v5"
)

// writer adds to one of Echo's writers what that lacks of net/http's.
type writer struct {
	http.ResponseWriter
	hijacked bool
}

// response returns Echo's response if it is right beneath.
func (w *writer) response() (*echo.Response, bool) {
	r, ok := w.ResponseWriter.(*echo.Response)
	return r, ok
}

func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *writer) WriteHeader(status int) {
	if 100 <= status && status < 200 && status != http.StatusSwitchingProtocols {
		w.beneath().WriteHeader(status)
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

// beneath returns the writer for informational responses. Echo's response would
// take them for the final one (labstack/echo#3106), so it is what is beneath the
// last of these, or beneath the last before the next writer of this package.
func (w *writer) beneath() http.ResponseWriter {
	found := w.ResponseWriter
	for next := found; ; {
		switch t := next.(type) {
		case *writer, *refusal:
			return found
		case *echo.Response:
			next = t.ResponseWriter
			found = next
		case interface{ Unwrap() http.ResponseWriter }:
			next = t.Unwrap()
		default:
			return found
		}
	}
}

func (w *writer) WriteString(s string) (int, error) { return io.WriteString(w.ResponseWriter, s) }

func (w *writer) Flush() { w.FlushError() }

func (w *writer) FlushError() error {
	to := w.ResponseWriter
	if r, ok := w.response(); ok {
		// Flushing sends the header, which Echo's response does not notice; and
		// it panics where it cannot flush.
		if !r.Committed {
			r.WriteHeader(cmp.Or(r.Status, http.StatusOK))
		}
		to = r.ResponseWriter
	}
	return http.NewResponseController(to).Flush()
}

func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.hijacked = true
		// Or an error would be answered on a connection that is somebody else's.
		if r, err := echo.UnwrapResponse(w.ResponseWriter); err == nil {
			r.Committed = true
		}
	}
	return conn, brw, err
}

func (w *writer) Push(target string, opts *http.PushOptions) error {
	for to := w.ResponseWriter; ; {
		switch t := to.(type) {
		case http.Pusher:
			return t.Push(target, opts)
		case interface{ Unwrap() http.ResponseWriter }:
			to = t.Unwrap()
		default:
			return http.ErrNotSupported
		}
	}
}

// sniffLen is how much net/http guesses a Content-Type from.
const sniffLen = 512

// ReadFrom lets io.Copy reach the ReadFrom of net/http, and so sendfile, past
// Echo's response, which has none.
func (w *writer) ReadFrom(src io.Reader) (int64, error) {
	to, r := w.ResponseWriter, (*echo.Response)(nil)
	if response, ok := w.response(); ok {
		to, r = response.ResponseWriter, response
	}
	fast, ok := to.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{w.ResponseWriter}, src)
	}
	if r == nil {
		return fast.ReadFrom(src)
	}
	// The header, and the functions that want to see it, wait for a first byte.
	n, err := io.Copy(struct{ io.Writer }{r}, io.LimitReader(src, sniffLen))
	if err != nil || n < sniffLen {
		return n, err
	}
	m, err := fast.ReadFrom(src)
	r.Size += m
	if m > 0 {
		r.Write(nil) // calls the functions of Response.After, who now see the size
	}
	return n + m, err
}

// abort breaks the exchange off, and reports so, if the panic v must not end in
// what a client would take for a complete answer. net/http cannot end an answer properly once
// its write deadline has passed, so it resets the stream or closes the
// connection.
func (w *writer) abort(v any) bool {
	err, _ := v.(error)
	r, _ := echo.UnwrapResponse(w.ResponseWriter)
	if w.hijacked || !errors.Is(err, http.ErrAbortHandler) && r != nil && !r.Committed {
		return false
	}
	http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Unix(1, 0))
	return true
}
