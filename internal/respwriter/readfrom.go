package respwriter

import (
	"io"
	"net/http"
	"sync"
)

// sniffLen is how much net/http's ReadFrom copies before it sends the header. A
// prefix shorter than that would look to it like a short response.
const sniffLen = 512

// readFrom leaves the copying to the inner ReadFrom: first of a prefix, as long
// as the hooks want to see bytes, and then of src unchanged, because net/http
// recognises files by type and sends them by sendfile.
//
// Writing the prefix by Write would be simpler, but net/http sends at other
// moments then, and a short body with a Content-Length instead of in chunks.
func (w *writer) readFrom(src io.Reader) (total int64, err error) {
	inner := w.inner.(io.ReaderFrom)
	if w.undecided() || w.watching() && w.hooks.Want() > 0 {
		n, more, err := w.prefix.readFrom(w, inner, src)
		if !more {
			return n, err
		}
		total = n
	}
	limited, _ := src.(*io.LimitedReader)
	var slice *io.LimitedReader
	for {
		want := int64(Unknown)
		if limited != nil {
			want = max(0, limited.N)
		}
		m, err := w.admit(want)
		if err != nil {
			return total, err
		}
		from := src
		if m < want {
			if slice == nil {
				slice = new(io.LimitedReader)
			}
			// What is limited already is not limited again but anew, because
			// net recognises only a file within one io.LimitedReader.
			*slice = io.LimitedReader{R: src, N: m}
			if limited != nil {
				slice.R = limited.R
			}
			from = slice
		}
		n, err := inner.ReadFrom(from)
		if m < want && limited != nil {
			limited.N -= m - slice.N
		}
		if w.watching() {
			w.hooks.Body(nil, n, err)
		}
		total += n
		if err != nil || m == want || n < m {
			return total, err
		}
	}
}

// prefix is the part of a source that the hooks see. It is a field of writer so
// that it costs no allocation, and not pooled as its buffer is, so that an inner
// writer that keeps it finds nothing but an empty reader.
type prefix struct {
	w        *writer
	src      io.Reader
	buf      *[32 << 10]byte
	pending  int   // bytes in buf that were handed out and not yet reported
	reported int64 // bytes reported to the hooks
	drained  bool  // the hooks want no more; src may have it
}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// readFrom makes inner read from p until the hooks want no more; more says that
// src is to be continued.
func (p *prefix) readFrom(w *writer, inner io.ReaderFrom, src io.Reader) (n int64, more bool, err error) {
	*p = prefix{w: w, src: src, buf: buffers.Get().(*[32 << 10]byte)}
	defer func() {
		buffers.Put(p.buf)
		*p = prefix{}
	}()
	n, err = inner.ReadFrom(p)
	if p.pending > 0 || err != nil {
		p.report(int(n-p.reported), err)
	}
	return n, p.drained && err == nil, err
}

// report tells the hooks that n of the pending bytes were accepted.
func (p *prefix) report(n int, err error) {
	p.w.wrote(p.buf[:p.pending], n, err)
	p.reported += int64(n)
	p.pending = 0
}

// fill reads up to size bytes into buf. The final header is decided by the first
// byte: a source that has none leaves it to the handler, which often goes on to
// answer with an error.
func (p *prefix) fill(size int) (int, error) {
	if p.pending > 0 {
		p.report(p.pending, nil) // or inner would not ask for more
	}
	if p.src == nil {
		return 0, io.EOF
	}
	want := sniffLen - int(min(p.reported, sniffLen))
	if p.w.watching() && !p.w.undecided() {
		want = max(want, p.w.hooks.Want())
	}
	if want <= 0 {
		p.drained = true
		return 0, io.EOF
	}
	m, err := p.w.admit(int64(min(want, size, len(p.buf))))
	if err != nil {
		return 0, err
	}
	n, err := p.src.Read(p.buf[:m])
	if n > 0 {
		p.w.commit(http.StatusOK)
	}
	p.pending = n
	return n, err
}

func (p *prefix) Read(b []byte) (int, error) {
	n, err := p.fill(len(b))
	if n > 0 {
		copy(b, p.buf[:n])
	}
	return n, err
}

// WriteTo spares inner a buffer of its own.
func (p *prefix) WriteTo(dst io.Writer) (total int64, err error) {
	for {
		n, rerr := p.fill(len(p.buf))
		if n > 0 {
			nw, werr := dst.Write(p.buf[:n])
			if werr == nil && nw < n {
				werr = io.ErrShortWrite
			}
			total += int64(nw)
			if werr != nil {
				// readFrom reports it, with the error.
				return total, werr
			}
		}
		if rerr == io.EOF {
			return total, nil
		}
		if rerr != nil {
			return total, rerr
		}
	}
}
