package weirecho4

import (
	"bufio"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"
)

// maxRefusal is how much of a body is held back because it may be dropped.
const maxRefusal = 16 << 10

// refusal is the writer of a middleware. It holds an error back that is written
// before next is called.
type refusal struct {
	writer
	coding []string // the Content-Encoding before the middleware
	wrote  bool     // something was sent
	passes bool     // next was called
	status int      // of what is held back; 0 is nothing
	header http.Header
	body   []byte
}

func (w *refusal) wrap(inner *echo.Response) {
	w.response = inner
	w.coding = inner.Header()["Content-Encoding"]
}

// pass says that next was called, so that nothing is a refusal any more.
func (w *refusal) pass() {
	w.release()
	w.passes = true
}

// release sends what is held back.
func (w *refusal) release() {
	if w.status == 0 {
		return
	}
	status, body, h := w.status, w.body, w.Header()
	w.status, w.body, w.wrote = 0, nil, true
	later := maps.Clone(h)
	set(h, w.header)
	w.writer.WriteHeader(status)
	set(h, later) // trailers
	if len(body) > 0 {
		w.writer.Write(body)
	}
}

// err returns what is held back as an error of Echo.
func (w *refusal) err() error {
	if w.status == 0 {
		return nil
	}
	h := w.Header()
	set(h, w.header)
	h.Del("Content-Type")
	h.Del("Content-Length")
	if coding := h["Content-Encoding"]; !slices.Equal(coding, w.coding) {
		if h.Del("Content-Encoding"); w.coding != nil {
			h["Content-Encoding"] = w.coding
		}
	}
	return echo.NewHTTPError(w.status)
}

func set(h, to http.Header) {
	clear(h)
	maps.Copy(h, to)
}

func (w *refusal) WriteHeader(status int) {
	switch {
	case w.status != 0:
		// The first one counts, as in net/http.
	case !w.passes && !w.wrote && 400 <= status && status <= 999:
		// What is set later is not sent.
		w.status, w.header = status, w.Header().Clone()
	default:
		w.wrote = w.wrote || status >= 200 || status == http.StatusSwitchingProtocols
		w.writer.WriteHeader(status)
	}
}

// holds reports whether n more bytes can be held back.
func (w *refusal) holds(n int) bool {
	if w.status != 0 && len(w.body)+n <= maxRefusal {
		return true
	}
	w.release()
	w.wrote = true
	return false
}

func (w *refusal) Write(p []byte) (int, error) {
	if w.holds(len(p)) {
		w.body = append(w.body, p...)
		return len(p), nil
	}
	return w.writer.Write(p)
}

func (w *refusal) WriteString(s string) (int, error) {
	if w.holds(len(s)) {
		w.body = append(w.body, s...)
		return len(s), nil
	}
	return w.writer.WriteString(s)
}

func (w *refusal) ReadFrom(src io.Reader) (int64, error) {
	if w.status != 0 {
		return io.Copy(struct{ io.Writer }{w}, src)
	}
	w.wrote = true
	return w.writer.ReadFrom(src)
}

func (w *refusal) Flush() { w.FlushError() }

func (w *refusal) FlushError() error {
	w.release()
	w.wrote = true
	return w.writer.FlushError()
}

func (w *refusal) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.release()
	return w.writer.Hijack()
}
