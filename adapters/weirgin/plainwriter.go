package weirgin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
)

var errEnded = errors.New("weirgin: the request has ended")

// plainWriter is what net/http code writes to: it behaves as net/http's own
// writer does, on top of Gin's.
type plainWriter struct {
	outer   gin.ResponseWriter
	inner   http.ResponseWriter // what Gin's own stands on; nil if that cannot be told
	r       *http.Request
	settled bool  // outer was given the final status
	taken   bool  // hijacked
	past    int64 // body bytes that outer has not seen

	deferred atomic.Bool // a status is not to be sent yet; set by next, maybe in another goroutine
	ended    atomic.Bool // outer is Gin's again, maybe for another request
}

func (w *plainWriter) begin(c *gin.Context) {
	w.outer, w.inner, w.r = c.Writer, beneath(c.Writer), c.Request
}

// beneath returns the first writer below w that is not Gin's.
func beneath(w gin.ResponseWriter) http.ResponseWriter {
	var at http.ResponseWriter = w
	for {
		if _, ok := at.(gin.ResponseWriter); !ok {
			return at
		}
		if u, ok := at.(interface{ Unwrap() http.ResponseWriter }); ok {
			at = u.Unwrap()
		} else {
			at = embedded(at)
		}
	}
}

// embedded returns the writer that w embeds under the name of its type, as
// nearly every writer written for Gin does. The interface gin.ResponseWriter has
// no Unwrap, so neither have they.
func embedded(w http.ResponseWriter) (inner http.ResponseWriter) {
	if v := reflect.Indirect(reflect.ValueOf(w)); v.Kind() == reflect.Struct {
		if f := v.FieldByName("ResponseWriter"); f.IsValid() && f.CanInterface() {
			inner, _ = f.Interface().(http.ResponseWriter)
		}
	}
	return inner
}

// ginsOwn is the type of the writer that Gin makes.
var ginsOwn = reflect.TypeOf((&gin.Context{}).Copy().Writer)

func (w *plainWriter) isGins() bool { return w.inner != nil && reflect.TypeOf(w.outer) == ginsOwn }

// Unwrap leaves out what stands between: Gin reuses its writer for another
// request, and a late call must not get there.
func (w *plainWriter) Unwrap() http.ResponseWriter {
	if w.inner != nil {
		return w.inner
	}
	return w.outer
}

func (w *plainWriter) Header() http.Header {
	if w.ended.Load() {
		return http.Header{}
	}
	return w.outer.Header()
}

func (w *plainWriter) WriteHeader(status int) {
	if w.ended.Load() {
		return
	}
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		// Gin would take it for the final one (gin-gonic/gin#3289).
		if w.inner != nil {
			w.inner.WriteHeader(status)
		}
		return
	}
	w.settled = true
	w.outer.WriteHeader(status)
	if !w.deferred.Load() {
		w.outer.WriteHeaderNow()
	}
}

// imply settles on net/http's implicit 200, in place of the 404 that Gin has
// stored where it has found no route.
func (w *plainWriter) imply() {
	if !w.settled && !w.outer.Written() {
		w.outer.WriteHeader(http.StatusOK)
	}
	w.settled = true
}

func (w *plainWriter) Write(p []byte) (int, error) {
	if w.ended.Load() {
		return 0, errEnded
	}
	w.imply()
	return w.outer.Write(p)
}

func (w *plainWriter) WriteString(s string) (int, error) {
	if w.ended.Load() {
		return 0, errEnded
	}
	w.imply()
	return w.outer.WriteString(s)
}

// ReadFrom lets net/http send files by sendfile, which Gin does not. Only Gin's
// own writer is gone around: another may want to see or change the body.
func (w *plainWriter) ReadFrom(src io.Reader) (int64, error) {
	if w.ended.Load() {
		return 0, errEnded
	}
	to, counts := w.outer.(io.ReaderFrom)
	if !counts && w.isGins() {
		to, _ = w.inner.(io.ReaderFrom)
	}
	var first int64
	if !w.outer.Written() {
		first = sniffLen
	}
	n, rest, err := readFrom(w, first, to, src)
	if !counts {
		w.past += rest
	}
	return n + rest, err
}

// sniffLen is how much net/http looks at to guess a Content-Type.
const sniffLen = 512

// readFrom copies src to w, first bytes at least, and leaves the rest to to if
// that is not nil. The header goes out with the first byte: a source that has
// none leaves it to the handler, which often goes on to answer with an error.
func readFrom(w io.Writer, first int64, to io.ReaderFrom, src io.Reader) (n, rest int64, err error) {
	plain := struct{ io.Writer }{w}
	if to == nil {
		n, err = io.Copy(plain, src)
		return n, 0, err
	}
	if first > 0 {
		if n, err = io.Copy(plain, io.LimitReader(src, first)); err != nil || n < first {
			return n, 0, err
		}
	}
	rest, err = to.ReadFrom(src)
	return n, rest, err
}

func (w *plainWriter) Flush() { w.FlushError() }

func (w *plainWriter) FlushError() error {
	if w.ended.Load() {
		return errEnded
	}
	w.imply()
	if f, ok := w.outer.(interface{ FlushError() error }); ok {
		return f.FlushError()
	}
	if w.isGins() {
		w.outer.WriteHeaderNow()
		return http.NewResponseController(w.inner).Flush()
	}
	w.outer.Flush() // it may have reasons not to
	return nil
}

// Hijack asks first: Gin panics if the connection cannot be had.
func (w *plainWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.ended.Load() {
		return nil, nil, errEnded
	}
	_, ours := w.outer.(*ginWriter)
	_, ok := w.inner.(http.Hijacker)
	if !ours && !ok && (w.inner != nil || w.r.ProtoMajor > 1) {
		return nil, nil, fmt.Errorf("weirgin: Hijack: %w", http.ErrNotSupported)
	}
	conn, brw, err := w.outer.Hijack()
	if err == nil {
		w.settled, w.taken = true, true
	}
	return conn, brw, err
}

// Push implements http.Pusher.
func (w *plainWriter) Push(target string, opts *http.PushOptions) error {
	if !w.ended.Load() {
		if p := w.outer.Pusher(); p != nil {
			return p.Push(target, opts)
		}
	}
	return http.ErrNotSupported
}

// CloseNotify implements http.CloseNotifier, where Gin panics if the server does
// not: some code, ReverseProxy under httptest.ResponseRecorder for one, asks
// whoever has the method.
func (w *plainWriter) CloseNotify() <-chan bool {
	//lint:ignore SA1019 kept for handlers that still use it
	if n, ok := w.inner.(http.CloseNotifier); ok {
		return n.CloseNotify()
	}
	gone := make(chan bool, 1)
	context.AfterFunc(w.r.Context(), func() { gone <- true })
	return gone
}

// abort breaks the connection, or resets the stream of HTTP/2: with its deadline
// missed it cannot end properly, whoever recovers the panic.
func (w *plainWriter) abort() {
	if w.taken {
		return // the connection is not the response's any more
	}
	if err := http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0)); err != nil {
		diagnoseAbort(err)
	}
}

// end gives the response back to Gin.
func (w *plainWriter) end(c *gin.Context) {
	w.ended.Store(true)
	if w.past > 0 {
		c.Writer = &counted{w.outer, w.past}
	}
}

// counted is Gin's own writer after bytes have gone around it.
type counted struct {
	gin.ResponseWriter
	past int64
}

func (w *counted) Size() int { return w.ResponseWriter.Size() + int(w.past) }

func (w *counted) Unwrap() http.ResponseWriter { return w.ResponseWriter }
