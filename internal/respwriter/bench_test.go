package respwriter_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/goweir/weir/internal/respwriter"
)

// sink is an inner writer with net/http's interfaces for HTTP/1.1 that costs
// nothing.
type sink struct {
	header http.Header
	buf    [32 << 10]byte
}

func (s *sink) Header() http.Header                          { return s.header }
func (s *sink) WriteHeader(int)                              {}
func (s *sink) Write(p []byte) (int, error)                  { return len(p), nil }
func (s *sink) WriteString(p string) (int, error)            { return len(p), nil }
func (s *sink) Flush()                                       {}
func (s *sink) FlushError() error                            { return nil }
func (s *sink) CloseNotify() <-chan bool                     { return nil }
func (s *sink) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errors.ErrUnsupported }
func (s *sink) ReadFrom(src io.Reader) (n int64, err error) {
	for {
		nr, err := src.Read(s.buf[:])
		n += int64(nr)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// state is what a middleware allocates for a request.
type state struct {
	rw    respwriter.Writer
	hooks greedy
}

// greedy wants everything and counts it.
type greedy struct {
	respwriter.NoHooks
	n int64
}

func (*greedy) Want() int                         { return 1 << 20 }
func (h *greedy) Body(_ []byte, n int64, _ error) { h.n += n }

// block is a source of fixed length that can be read again.
type block struct {
	size, left int
}

func (b *block) Read(p []byte) (int, error) {
	if b.left == 0 {
		b.left = b.size
		return 0, io.EOF
	}
	n := min(len(p), b.left)
	b.left -= n
	return n, nil
}

// What the package promises: one allocation a request, the middleware's own
// state included, and none for anything that is written.
func TestAllocs(t *testing.T) {
	inner := &sink{header: http.Header{}}
	p, text := make([]byte, 4096), string(make([]byte, 4096))
	var keep http.ResponseWriter
	if got := testing.AllocsPerRun(100, func() {
		s := new(state)
		keep = s.rw.Wrap(inner, &s.hooks)
		keep.WriteHeader(200)
		keep.Write(p)
		s.rw.Finish(true)
	}); got > 1 {
		t.Errorf("a request costs %v allocations, want 1", got)
	}

	s := new(state)
	w := s.rw.Wrap(inner, &s.hooks)
	src := &block{size: 100_000, left: 100_000}
	for name, f := range map[string]func(){
		"Write":       func() { w.Write(p) },
		"WriteString": func() { w.(io.StringWriter).WriteString(text) },
		"ReadFrom":    func() { w.(io.ReaderFrom).ReadFrom(src) },
		"Flush":       func() { w.(http.Flusher).Flush() },
	} {
		if got := testing.AllocsPerRun(100, f); got > 0 {
			t.Errorf("%s costs %v allocations, want 0", name, got)
		}
	}
	if s.hooks.n < 100*(4096+4096+100_000) {
		t.Errorf("hooks counted %d bytes: not what was measured", s.hooks.n)
	}

	// The first ReadFrom also decides the header.
	if got := testing.AllocsPerRun(100, func() {
		s := new(state)
		keep = s.rw.Wrap(inner, &s.hooks)
		keep.(io.ReaderFrom).ReadFrom(src)
		s.rw.Finish(true)
	}); got > 1 {
		t.Errorf("a request answered by ReadFrom costs %v allocations, want 1", got)
	}
}

func BenchmarkWrap(b *testing.B) {
	inner := &sink{header: http.Header{}}
	var keep http.ResponseWriter
	b.ReportAllocs()
	for b.Loop() {
		s := new(state)
		keep = s.rw.Wrap(inner, &s.hooks)
		s.rw.Finish(true)
	}
	_ = keep
}

func BenchmarkWrite(b *testing.B) {
	p := make([]byte, 1024)
	benchmark(b, func(w http.ResponseWriter) { w.Write(p) })
}

func BenchmarkWriteString(b *testing.B) {
	text := string(make([]byte, 1024))
	benchmark(b, func(w http.ResponseWriter) { w.(io.StringWriter).WriteString(text) })
}

func BenchmarkReadFrom(b *testing.B) {
	src := &block{size: 64 << 10, left: 64 << 10}
	benchmark(b, func(w http.ResponseWriter) { w.(io.ReaderFrom).ReadFrom(src) })
}

// benchmark runs f on the inner writer itself, and through a wrapper whose hooks
// want nothing and everything.
func benchmark(b *testing.B, f func(http.ResponseWriter)) {
	inner := &sink{header: http.Header{}}
	for _, bb := range []struct {
		name string
		w    http.ResponseWriter
	}{
		{"unwrapped", inner},
		{"nohooks", new(respwriter.Writer).Wrap(inner, respwriter.NoHooks{})},
		{"wanting", new(respwriter.Writer).Wrap(inner, new(greedy))},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			bb.w.WriteHeader(200)
			for b.Loop() {
				f(bb.w)
			}
		})
	}
}
