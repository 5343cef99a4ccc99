package weirgin

import (
	"bufio"
	"io"
	"net"
	"net/http"

	"github.com/gin-gonic/gin"
)

// ginWriter is what Gin's handlers write to: it behaves as Gin's own writer
// does, on top of the middleware's.
type ginWriter struct {
	http.ResponseWriter
	x      *exchange
	status int
	size   int // -1 before the header is written
}

var _ gin.ResponseWriter = (*ginWriter)(nil)

func (w *ginWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *ginWriter) Status() int { return w.status }

func (w *ginWriter) Size() int { return w.size }

func (w *ginWriter) Written() bool { return w.size >= 0 }

// WriteHeader only stores a status, which may be replaced until it is written.
// An informational one is sent at once.
func (w *ginWriter) WriteHeader(status int) {
	switch {
	case status >= 100 && status < 200 && status != http.StatusSwitchingProtocols:
		w.ResponseWriter.WriteHeader(status)
	case status > 0 && !w.Written():
		w.status = status
	}
}

func (w *ginWriter) WriteHeaderNow() {
	if !w.Written() {
		w.size = 0
		w.ResponseWriter.WriteHeader(w.status)
	}
}

func (w *ginWriter) Write(p []byte) (int, error) {
	w.WriteHeaderNow()
	n, err := w.ResponseWriter.Write(p)
	w.size += n
	return n, err
}

func (w *ginWriter) WriteString(s string) (int, error) {
	w.WriteHeaderNow()
	n, err := io.WriteString(w.ResponseWriter, s)
	w.size += n
	return n, err
}

// framedLen is how long a body may be for net/http to send it with its length.
const framedLen = 2 << 10

// ReadFrom writes short bodies: with ReadFrom net/http would send them in chunks,
// as it does not for Gin's writer, which has none.
func (w *ginWriter) ReadFrom(src io.Reader) (int64, error) {
	to, _ := w.ResponseWriter.(io.ReaderFrom)
	n, rest, err := readFrom(w, int64(framedLen+1-w.size), to, src)
	w.size += int(rest)
	return n + rest, err
}

func (w *ginWriter) Flush() { w.FlushError() }

func (w *ginWriter) FlushError() error {
	w.WriteHeaderNow()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack fails, as Gin's does, when a body was begun: Gin says so. It leaves the
// response as it is when it fails.
func (w *ginWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.size = 0
	}
	return conn, brw, err
}

func (w *ginWriter) Pusher() http.Pusher { return w.x.plain.outer.Pusher() }

func (w *ginWriter) CloseNotify() <-chan bool { return w.x.plain.CloseNotify() }
