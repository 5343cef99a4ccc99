package weirecho

import (
	"bufio"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/labstack/echo/v5"
)

// maxRefusal is how much of a body is held back because it may be dropped.
const maxRefusal = 16 << 10

// refusal is the writer of a middleware. It holds an error back that is written
// before next is called.
type refusal struct {
	writer
	coding []string    // the Content-Encoding before the middleware
	passes atomic.Bool // nothing is held back, now and ever after

	// Middleware may call next in one goroutine and answer in another.
	mu     sync.Mutex
	status int // of what is held back; 0 is nothing
	header http.Header
	body   []byte
}

func (w *refusal) wrap(inner http.ResponseWriter) {
	w.inner = inner
	w.coding = inner.Header()["Content-Encoding"]
	// An answer that has begun cannot become another.
	if r, err := echo.UnwrapResponse(inner); err == nil && r.Committed {
		w.passes.Store(true)
	}
}

// end gives the response back to Echo.
func (w *refusal) end() {
	w.ended.Store(true)
	w.passes.Store(true) // to nobody
}

// pass sends what is held back. From then on everything is sent at once.
func (w *refusal) pass() {
	if w.passes.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.passLocked()
}

func (w *refusal) passLocked() {
	if w.status != 0 && !w.passes.Load() {
		h := w.Header()
		later := maps.Clone(h)
		set(h, w.header)
		w.writer.WriteHeader(w.status)
		set(h, later) // trailers
		if len(w.body) > 0 {
			w.writer.Write(w.body)
		}
		w.body = nil
	}
	w.passes.Store(true)
}

// err returns what is held back as an error of Echo.
func (w *refusal) err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == 0 || w.passes.Load() {
		return nil
	}
	h := w.Header()
	for name, values := range h {
		// What has no values is no field, but what one middleware leaves to
		// another: as long as it is not sent it may come late.
		if _, had := w.header[name]; !had && len(values) == 0 {
			w.header[name] = values
		}
	}
	set(h, w.header)
	h.Del("Content-Type")
	h.Del("Content-Length")
	if coding := h["Content-Encoding"]; !slices.Equal(coding, w.coding) {
		if h.Del("Content-Encoding"); w.coding != nil {
			h["Content-Encoding"] = w.coding
		}
	}
	return echo.NewHTTPError(w.status, http.StatusText(w.status))
}

func set(h, to http.Header) {
	clear(h)
	maps.Copy(h, to)
}

func (w *refusal) WriteHeader(status int) {
	informs := status < 200 && status != http.StatusSwitchingProtocols
	if !informs && !w.passes.Load() && w.keepStatus(status) {
		return
	}
	w.writer.WriteHeader(status)
}

// keepStatus reports whether status is held back, or comes after one that is, in
// which case it does not count, as in net/http.
func (w *refusal) keepStatus(status int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == 0 && 400 <= status && status <= 999 {
		// What is set later is not sent.
		w.status, w.header = status, w.Header().Clone()
	}
	if w.status == 0 {
		w.passLocked()
	}
	return !w.passes.Load()
}

// keep reports whether p is held back.
func keep[T []byte | string](w *refusal, p T) bool {
	if w.passes.Load() {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == 0 || len(w.body)+len(p) > maxRefusal {
		w.passLocked()
	}
	if w.passes.Load() {
		return false
	}
	w.body = append(w.body, p...)
	return true
}

func (w *refusal) Write(p []byte) (int, error) {
	if keep(w, p) {
		return len(p), nil
	}
	return w.writer.Write(p)
}

func (w *refusal) WriteString(s string) (int, error) {
	if keep(w, s) {
		return len(s), nil
	}
	return w.writer.WriteString(s)
}

func (w *refusal) ReadFrom(src io.Reader) (int64, error) {
	if w.holds() {
		return io.Copy(struct{ io.Writer }{w}, src)
	}
	n, err := w.writer.ReadFrom(src)
	if n > 0 { // else nothing was sent, nor the header
		w.passes.Store(true)
	}
	return n, err
}

func (w *refusal) holds() bool {
	if w.passes.Load() {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status != 0 && !w.passes.Load()
}

func (w *refusal) Flush() { w.FlushError() }

func (w *refusal) FlushError() error {
	w.pass()
	return w.writer.FlushError()
}

func (w *refusal) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.pass()
	return w.writer.Hijack()
}
