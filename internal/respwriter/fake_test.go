package respwriter_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/goweir/weir/internal/respwriter"
)

type errorFlusher interface{ FlushError() error }

// fake is an inner writer with every optional interface. It behaves as
// net/http's does and writes down what reaches it.
type fake struct {
	log    *[]string
	header http.Header
	body   bytes.Buffer

	short  bool  // accept one byte less than given
	err    error // returned by what can return one
	reader io.Reader
}

func newFake(log *[]string) *fake { return &fake{log: log, header: http.Header{}} }

func (f *fake) logf(format string, args ...any) {
	*f.log = append(*f.log, fmt.Sprintf(format, args...))
}

func (f *fake) Header() http.Header { return f.header }

func (f *fake) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("invalid WriteHeader code %v", status))
	}
	f.logf("inner.WriteHeader %d", status)
}

func (f *fake) accept(n int) int {
	if f.short && n > 0 {
		return n - 1
	}
	return n
}

func (f *fake) Write(p []byte) (int, error) {
	n := f.accept(len(p))
	f.logf("inner.Write %d", n)
	f.body.Write(p[:n])
	return n, f.err
}

func (f *fake) WriteString(s string) (int, error) {
	n := f.accept(len(s))
	f.logf("inner.WriteString %d", n)
	f.body.WriteString(s[:n])
	return n, f.err
}

func (f *fake) ReadFrom(src io.Reader) (int64, error) {
	f.reader = src
	var b bytes.Buffer
	_, err := io.Copy(&b, src)
	n := f.accept(b.Len())
	f.logf("inner.ReadFrom %d", n)
	f.body.Write(b.Bytes()[:n])
	if f.err != nil {
		err = f.err
	}
	return int64(n), err
}

func (f *fake) Flush() { f.logf("inner.Flush") }

func (f *fake) FlushError() error {
	f.logf("inner.FlushError")
	return f.err
}

func (f *fake) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	f.logf("inner.Hijack")
	if f.err != nil {
		return nil, nil, f.err
	}
	server, client := net.Pipe()
	client.Close()
	return server, bufio.NewReadWriter(bufio.NewReader(server), bufio.NewWriter(server)), nil
}

func (f *fake) SetWriteDeadline(t time.Time) error {
	f.logf("inner.SetWriteDeadline %d", t.Unix())
	return f.err
}

func (f *fake) Push(target string, _ *http.PushOptions) error {
	f.logf("inner.Push %s", target)
	return f.err
}

func (f *fake) CloseNotify() <-chan bool {
	f.logf("inner.CloseNotify")
	return nil
}

// spy is a Hooks that writes down what it is told, into the same log.
type spy struct {
	log     *[]string
	want    int
	decided bool
	body    bytes.Buffer
	n       int64
}

func (s *spy) logf(format string, args ...any) {
	*s.log = append(*s.log, fmt.Sprintf(format, args...))
}

func (s *spy) Header(status int, h http.Header) {
	s.logf("Header %d", status)
	s.decided = true
	h.Set("X-Hook", fmt.Sprint(status))
}

func (s *spy) Informational(status int, _ http.Header) { s.logf("Informational %d", status) }

func (s *spy) Want() int {
	if !s.decided {
		s.logf("Want before Header")
	}
	return max(0, s.want-s.body.Len())
}

func (s *spy) Body(p []byte, n int64, err error) {
	s.logf("Body %d of %d %v", len(p), n, err)
	s.body.Write(p)
	s.n += n
}

func (s *spy) Flushing() { s.logf("Flushing") }

func (s *spy) WriteDeadline(t time.Time) { s.logf("WriteDeadline %d", t.Unix()) }

func (s *spy) Hijacked(conn net.Conn, brw *bufio.ReadWriter) (net.Conn, *bufio.ReadWriter) {
	s.logf("Hijacked")
	return conn, brw
}

// wrapped is a fake with a spy around it, and the log they share.
type wrapped struct {
	http.ResponseWriter
	rw    *respwriter.Writer
	inner *fake
	hooks *spy
	log   *[]string
}

func wrapFake() wrapped {
	log := new([]string)
	w := wrapped{rw: new(respwriter.Writer), inner: newFake(log), hooks: &spy{log: log}, log: log}
	w.ResponseWriter = w.rw.Wrap(w.inner, w.hooks)
	return w
}

var errFake = errors.New("fake error")
