package weirecho4

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
)

// writer adds to Echo's response what that lacks of net/http's.
type writer struct {
	response *echo.Response
	hijacked bool
	ended    atomic.Bool // response is Echo's again, maybe for another request
}

// to returns whom to write to.
func (w *writer) to() http.ResponseWriter {
	if w.ended.Load() {
		return nobody{}
	}
	return w.response
}

// nobody takes what is written when the request has ended.
type nobody struct{}

var errEnded = errors.New("weirecho4: the request has ended")

func (nobody) Header() http.Header       { return http.Header{} }
func (nobody) WriteHeader(int)           {}
func (nobody) Write([]byte) (int, error) { return 0, errEnded }

func (w *writer) Unwrap() http.ResponseWriter { return w.to() }

func (w *writer) Header() http.Header { return w.to().Header() }

func (w *writer) WriteHeader(status int) {
	if 100 <= status && status < 200 && status != http.StatusSwitchingProtocols {
		w.beneath().WriteHeader(status)
		return
	}
	w.to().WriteHeader(status)
}

// beneath returns the writer for informational responses. Echo's response would
// take them for the final one (labstack/echo#3106), so it is what is beneath the
// last of these, or beneath the last before the next writer of this package.
func (w *writer) beneath() http.ResponseWriter {
	if w.ended.Load() {
		return nobody{}
	}
	found := w.response.Writer
	for next := found; ; {
		switch t := next.(type) {
		case *writer, *refusal:
			return found
		case *echo.Response:
			next = t.Writer
			found = next
		case interface{ Unwrap() http.ResponseWriter }:
			next = t.Unwrap()
		default:
			return found
		}
	}
}

func (w *writer) Write(p []byte) (int, error) { return w.to().Write(p) }

func (w *writer) WriteString(s string) (int, error) { return io.WriteString(w.to(), s) }

func (w *writer) Flush() { w.FlushError() }

// FlushError sends the header, which Echo's response does not notice when it is
// flushed itself; and it returns an error where that would panic.
func (w *writer) FlushError() error {
	if w.ended.Load() {
		return errEnded
	}
	if r := w.response; !r.Committed {
		r.WriteHeader(cmp.Or(r.Status, http.StatusOK))
	}
	return http.NewResponseController(w.response.Writer).Flush()
}

func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.ended.Load() {
		return nil, nil, errEnded
	}
	conn, brw, err := w.response.Hijack()
	if err == nil {
		// Or an error would be answered on a connection that is somebody else's.
		w.hijacked, w.response.Committed = true, true
	}
	return conn, brw, err
}

func (w *writer) Push(target string, opts *http.PushOptions) error {
	for to := w.to(); ; {
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
	if w.ended.Load() {
		return 0, errEnded
	}
	r := w.response
	fast, ok := r.Writer.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{r}, src)
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
// what a client would take for a complete answer. net/http cannot end an answer
// properly once its write deadline has passed, so it resets the stream or closes
// the connection.
func (w *writer) abort(v any) bool {
	err, _ := v.(error)
	if w.hijacked || !errors.Is(err, http.ErrAbortHandler) && !w.response.Committed {
		return false
	}
	http.NewResponseController(w.response).SetWriteDeadline(time.Unix(1, 0))
	return true
}
