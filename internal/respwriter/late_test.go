package respwriter_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/internal/respwriter"
)

// lateHooks fails the test when anything is told after Finish.
type lateHooks struct {
	t        *testing.T
	finished bool
}

func (h *lateHooks) told(what string) {
	if h.finished {
		h.t.Errorf("%s after Finish", what)
	}
}

func (h *lateHooks) Header(int, http.Header)        { h.told("Header") }
func (h *lateHooks) Informational(int, http.Header) { h.told("Informational") }
func (h *lateHooks) Want() int                      { h.told("Want"); return 1 << 20 }
func (h *lateHooks) Body([]byte, int64, error)      { h.told("Body") }
func (h *lateHooks) Flushing()                      { h.told("Flushing") }
func (h *lateHooks) WriteDeadline(time.Time)        { h.told("WriteDeadline") }
func (h *lateHooks) Hijacked(conn net.Conn, brw *bufio.ReadWriter) (net.Conn, *bufio.ReadWriter) {
	h.told("Hijacked")
	return conn, brw
}

// A handler that leaves a goroutine behind writes after its return. The calls
// reach the inner writer, and neither a hook nor the recorded state; under -race
// this also shows that they touch nothing the middleware may be reading.
func TestWriteAfterReturn(t *testing.T) {
	for _, returned := range []bool{true, false} {
		var rw respwriter.Writer
		inner := newFake(new([]string))
		hooks := &lateHooks{t: t}
		w := rw.Wrap(inner, hooks)
		rw.Finish(returned)
		hooks.finished = true
		status := rw.Status()

		var wg sync.WaitGroup
		wg.Go(func() {
			w.WriteHeader(103)
			w.WriteHeader(404)
			w.Write([]byte("a"))
			io.WriteString(w, "ab")
			w.(io.ReaderFrom).ReadFrom(source(1000))
			w.(http.Flusher).Flush()
			w.(errorFlusher).FlushError()
			http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0))
			if conn, _, err := w.(http.Hijacker).Hijack(); conn == nil || err != nil {
				t.Errorf("Hijack = %v, %v, want what the inner writer returns", conn, err)
			}
			w.Write([]byte("abc"))
		})
		for range 100 {
			if rw.Status() != status || rw.Hijacked() {
				t.Errorf("Status = %d, Hijacked = %v, want %d, false as of Finish", rw.Status(), rw.Hijacked(), status)
				break
			}
		}
		wg.Wait()
		want := []string{"inner.WriteHeader 103", "inner.WriteHeader 404", "inner.Write 1", "inner.WriteString 2",
			"inner.ReadFrom 1000", "inner.Flush", "inner.FlushError", "inner.SetWriteDeadline 1", "inner.Hijack", "inner.Write 3"}
		if !slices.Equal(*inner.log, want) {
			t.Errorf("log = %q, want %q", *inner.log, want)
		}
	}
}

// The middleware finishes in the middle of a copy that another goroutine does.
func TestFinishDuringReadFrom(t *testing.T) {
	var rw respwriter.Writer
	hooks := &lateHooks{t: t}
	w := rw.Wrap(newFake(new([]string)), hooks)
	w.WriteHeader(200)
	reads := 0
	n, err := io.Copy(w, readerFunc(func(p []byte) (int, error) {
		reads++
		switch reads {
		case 2:
			rw.Finish(true)
			hooks.finished = true
		case 4:
			return 0, io.EOF
		}
		return copy(p, "abc"), nil
	}))
	if n != 9 || err != nil {
		t.Errorf("Copy = %d, %v, want all 9 bytes", n, err)
	}
	if reads != 4 {
		t.Errorf("%d reads, want 4", reads)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// An inner writer that keeps the reader it was given must not get at another
// response's bytes through it.
func TestReaderKeptByInnerWriter(t *testing.T) {
	inner := &keeping{ResponseWriter: httptest.NewRecorder()}
	var rw respwriter.Writer
	if _, err := io.Copy(rw.Wrap(inner, &wants{n: 1 << 20}), source(1000)); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	if n, err := inner.kept.Read(p); n != 0 || err != io.EOF {
		t.Errorf("Read = %d, %v, want nothing and the end", n, err)
	}
	if n, err := inner.kept.(io.WriterTo).WriteTo(io.Discard); n != 0 || err != nil {
		t.Errorf("WriteTo = %d, %v, want nothing", n, err)
	}
}

type keeping struct {
	http.ResponseWriter
	kept io.Reader
}

func (k *keeping) ReadFrom(src io.Reader) (int64, error) {
	if k.kept == nil {
		k.kept = src
	}
	return io.Copy(k.ResponseWriter, src)
}
