// Package respwriter wraps an [http.ResponseWriter] so that middleware can see
// the response go by without changing it.
//
// It is the only such wrapper in weir's core. What it promises:
//
//   - The wrapper has exactly those optional interfaces that the inner writer
//     has: Flusher, FlushError, Hijacker, ReaderFrom, StringWriter, Pusher and
//     CloseNotifier. Everything else (read deadlines, full duplex) is reached by
//     Unwrap, as [http.ResponseController] does. SetWriteDeadline is there in any
//     case, and gives what an [http.ResponseController] for the inner writer does;
//     and so is FlushError where that would find a Flush by Unwrap, because the
//     hooks must not miss that the header is sent.
//   - Informational responses (1xx but 101) pass and settle nothing.
//   - Calls that are mistakes (a second WriteHeader, a code that panics, a
//     write after Hijack or after the handler returned) reach the inner writer
//     and behave as they would without the wrapper.
//   - One allocation a request, none a Write; io.Copy of a file still reaches
//     sendfile.
//
// The package imports the standard library only, because Go's own net/http
// tests are run with this package mapped into GOROOT.
package respwriter

import (
	"bufio"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"sync/atomic"
	"time"
	"unsafe"
)

// Hooks are told what passes through a wrapped writer. They are called by the
// goroutine that calls the writer, and by none that calls it after
// [Writer.Finish]; a Write that is under way in another goroutine when the
// handler returns may still tell its hook. Embed [NoHooks] to implement only
// some.
type Hooks interface {
	// Header is called right before the final header is sent: by WriteHeader
	// with a status of 200 or more, or 101; with 200 before the first Write,
	// WriteString or Flush, or when ReadFrom has got a first byte, and by
	// Finish if there was none of them; with 101 before a Hijack. h is the live
	// map: what is set here is sent.
	// It is called once, or again if the first attempt failed (a Hijack that
	// returned an error, a WriteHeader that panicked).
	Header(status int, h http.Header)

	// Informational is called after a 1xx response other than 101 was handed
	// to the inner writer.
	Informational(status int, h http.Header)

	// Want says how many more body bytes the hooks would like to see. ReadFrom
	// asks it, after Header: that many bytes are copied through memory and
	// shown to Body, the rest goes to the inner ReadFrom and is only counted.
	// Write and WriteString show everything regardless, and ReadFrom the first
	// 512 bytes if the header was not decided before or any are wanted.
	Want() int

	// Body is called after n body bytes were accepted by the inner writer,
	// with the error it returned, which for ReadFrom may be the source's. p
	// holds those bytes, or is nil if they never were in memory. p must not be
	// kept or changed. A FlushError that fails is told as well, with no bytes: it
	// is about those that were accepted before.
	Body(p []byte, n int64, err error)

	// Flushing is called before each Flush or FlushError, after Header. What was
	// written until the first of them is what net/http guesses a Content-Type
	// from.
	Flushing()

	// WriteDeadline is called before a write deadline is set, even if the inner writer
	// has none, and by whatever goroutine sets it. One in the past is how a
	// handler breaks an answer off where somebody above may recover its panic;
	// over HTTP/2 it also cancels the request's context, as a client does that
	// leaves.
	WriteDeadline(t time.Time)

	// Hijacked is called after a successful Hijack and returns what the
	// handler gets.
	Hijacked(conn net.Conn, brw *bufio.ReadWriter) (net.Conn, *bufio.ReadWriter)
}

// A Pacer is a Hooks that has a say in when body bytes go.
type Pacer interface {
	Hooks

	// Admit says how many of the next n body bytes may go now: from 1 to n, or
	// 0 of 0. It may wait before it answers. The inner writer is handed no more
	// than that before Body has told how many of them it took and Admit is asked
	// again; an error is returned to who writes, and nothing more is handed on.
	// ReadFrom asks for [Unknown] if it does not know how much there is; if all
	// that it asks for is admitted, the source reaches the inner ReadFrom
	// unchanged, else in slices, each an [io.LimitedReader].
	Admit(n int64) (int64, error)
}

// Unknown stands for an unknown number of bytes.
const Unknown = math.MaxInt64

// NoHooks implements [Hooks] by doing nothing.
type NoHooks struct{}

func (NoHooks) Header(int, http.Header)        {}
func (NoHooks) Informational(int, http.Header) {}
func (NoHooks) Want() int                      { return 0 }
func (NoHooks) Body([]byte, int64, error)      {}
func (NoHooks) Flushing()                      {}
func (NoHooks) WriteDeadline(time.Time)        {}
func (NoHooks) Hijacked(c net.Conn, brw *bufio.ReadWriter) (net.Conn, *bufio.ReadWriter) {
	return c, brw
}

// A Writer is the state of one wrapped response. It is meant to be a field of
// the per-request struct of a middleware, so that both cost one allocation
// together. It must not be copied or used for a second response, because
// handlers may write after they returned.
type Writer struct {
	w writer
}

// Wrap returns inner with hooks, which may be a [Pacer]. It may be called once.
func (w *Writer) Wrap(inner http.ResponseWriter, hooks Hooks) http.ResponseWriter {
	w.w.inner, w.w.hooks = inner, hooks
	w.w.pacer, _ = hooks.(Pacer)
	return combine(&w.w, interfacesOf(inner))
}

// Is reports whether w is a wrapped writer, as returned by Wrap.
func Is(w http.ResponseWriter) bool {
	_, ok := w.(interface{ watching() bool })
	return ok
}

// HooksOf returns the hooks that w was wrapped with, or nil if w is no wrapped
// writer.
func HooksOf(w http.ResponseWriter) Hooks {
	if h, ok := w.(interface{ hooked() Hooks }); ok {
		return h.hooked()
	}
	return nil
}

// Informed tells the hooks of w, if it is a wrapped writer, of an informational
// response that was sent past it.
func Informed(w http.ResponseWriter, status int) {
	if i, ok := w.(interface{ informed(status int) }); ok {
		i.informed(status)
	}
}

// Status returns the final status, 101 after a Hijack without one, and 0 before
// the final header.
func (w *Writer) Status() int { return w.w.status }

// Hijacked reports whether the handler took the connection over.
func (w *Writer) Hijacked() bool { return w.w.hijacked }

// Finish says that the handler has ended: by returning, or by a panic. A
// handler that returned without a header gets the implicit 200 that net/http
// would send, so Header is called with it. After Finish no hook is called.
// A second call does nothing.
func (w *Writer) Finish(returned bool) {
	if returned {
		w.w.commit(http.StatusOK)
	}
	w.w.done.Store(true)
}

// writer has the methods that every http.ResponseWriter has. The types that
// add optional ones are generated: see combine.
type writer struct {
	inner    http.ResponseWriter
	hooks    Hooks
	pacer    Pacer // hooks, if it is one
	status   int
	hijacked bool
	done     atomic.Bool // atomic: handlers do write after they returned
	prefix   prefix
}

// watching reports whether what is done now belongs to the response. After
// Finish no other field may be touched: somebody else may be reading them.
func (w *writer) watching() bool { return !w.done.Load() && !w.hijacked }

// undecided reports whether the final header is still to come.
func (w *writer) undecided() bool { return w.watching() && w.status == 0 }

// commit calls the hook for a final header that no WriteHeader precedes.
func (w *writer) commit(status int) {
	if w.undecided() {
		w.hooks.Header(status, w.inner.Header())
		w.status = status
	}
}

func (w *writer) Unwrap() http.ResponseWriter { return w.inner }

func (w *writer) hooked() Hooks { return w.hooks }

func (w *writer) Header() http.Header { return w.inner.Header() }

// SetWriteDeadline is what http.ResponseController looks for.
func (w *writer) SetWriteDeadline(t time.Time) error {
	if !w.done.Load() { // hijacked is not for other goroutines
		w.hooks.WriteDeadline(t)
	}
	return http.NewResponseController(w.inner).SetWriteDeadline(t)
}

func (w *writer) WriteHeader(status int) {
	switch {
	case !w.undecided() || status < 100 || status > 999:
		// A mistake: net/http logs the first and panics on the second.
		w.inner.WriteHeader(status)
	case status < 200 && status != http.StatusSwitchingProtocols:
		w.inner.WriteHeader(status)
		w.informed(status)
	default:
		w.hooks.Header(status, w.inner.Header())
		w.inner.WriteHeader(status)
		w.status = status
	}
}

func (w *writer) informed(status int) {
	if w.undecided() {
		w.hooks.Informational(status, w.inner.Header())
	}
}

func (w *writer) Write(p []byte) (int, error) {
	w.commit(http.StatusOK)
	if w.pacer != nil {
		return w.pace(len(p), func(from, to int) (int, error) {
			n, err := w.inner.Write(p[from:to])
			w.wrote(p[from:to], n, err)
			return n, err
		})
	}
	n, err := w.inner.Write(p)
	w.wrote(p, n, err)
	return n, err
}

func (w *writer) writeString(s string) (int, error) {
	w.commit(http.StatusOK)
	inner := w.inner.(io.StringWriter)
	// Hooks must not change p any more than an io.Writer may, so the string's
	// own bytes can be shown without a copy.
	p := unsafe.Slice(unsafe.StringData(s), len(s))
	if w.pacer != nil {
		return w.pace(len(s), func(from, to int) (int, error) {
			n, err := inner.WriteString(s[from:to])
			w.wrote(p[from:to], n, err)
			return n, err
		})
	}
	n, err := inner.WriteString(s)
	w.wrote(p, n, err)
	return n, err
}

// pace writes size bytes as the pacer admits them.
func (w *writer) pace(size int, write func(from, to int) (int, error)) (total int, err error) {
	for {
		m, err := w.admit(int64(size - total))
		if err != nil {
			return total, err
		}
		n, err := write(total, total+int(m))
		total += n
		if err != nil || n < int(m) || total == size {
			return total, err
		}
	}
}

// admit returns how many of n bytes may go now.
func (w *writer) admit(n int64) (int64, error) {
	if w.pacer == nil || !w.watching() {
		return n, nil
	}
	return w.pacer.Admit(n)
}

func (w *writer) wrote(p []byte, n int, err error) {
	if w.watching() {
		n = max(0, min(n, len(p)))
		w.hooks.Body(p[:n], int64(n), err)
	}
}

func (w *writer) flush() {
	w.commit(http.StatusOK)
	w.flushing()
	w.inner.(http.Flusher).Flush()
}

func (w *writer) flushError() error {
	w.commit(http.StatusOK)
	w.flushing()
	err := http.NewResponseController(w.inner).Flush()
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		w.wrote(nil, 0, err) // of what was written before, and held back
	}
	return err
}

func (w *writer) flushing() {
	if w.watching() {
		w.hooks.Flushing()
	}
}

func (w *writer) hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.undecided() {
		// Not latched: the handler may still answer if Hijack fails.
		w.hooks.Header(http.StatusSwitchingProtocols, w.inner.Header())
	}
	conn, brw, err := w.inner.(http.Hijacker).Hijack()
	if err != nil || !w.watching() {
		return conn, brw, err
	}
	w.hijacked = true
	if w.status == 0 {
		w.status = http.StatusSwitchingProtocols
	}
	conn, brw = w.hooks.Hijacked(conn, brw)
	return conn, brw, nil
}

func (w *writer) push(target string, opts *http.PushOptions) error {
	return w.inner.(http.Pusher).Push(target, opts)
}

func (w *writer) closeNotify() <-chan bool {
	//lint:ignore SA1019 passed on to handlers that still use it
	return w.inner.(http.CloseNotifier).CloseNotify()
}
