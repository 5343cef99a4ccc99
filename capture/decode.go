package capture

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
)

const (
	// largestRatio bounds what a body may grow by in decoding, except for its
	// first smallestLimit bytes.
	largestRatio  = 100
	smallestLimit = 4 << 10

	mostCodings = 3 // of one body; more have no use but harm
)

// A Decoder undoes a content coding (RFC 9110, section 8.4.1): it returns a
// reader of the content that src is the coded form of. src may end early; the
// reader should yield what there is up to there before it returns an error.
//
// What src says is not to be trusted: the reader must hold a bounded amount of
// memory. How much is read from it, and how much it may read from src, is
// bounded by its caller. Close is called once, and may put the reader back into
// a pool. A Decoder must be safe for concurrent use, its readers need not be.
type Decoder func(src io.Reader) io.ReadCloser

// decodersOf returns the decoders of Options by coding, in lower case.
func decodersOf(more map[string]Decoder) (map[string]Decoder, error) {
	all := map[string]Decoder{"gzip": gunzip, "x-gzip": gunzip, "deflate": inflate}
	var errs []error
	for _, coding := range slices.Sorted(maps.Keys(more)) {
		if more[coding] == nil {
			errs = append(errs, fmt.Errorf("capture: Decoders: that of %q is nil", coding))
		}
		all[strings.ToLower(coding)] = more[coding]
	}
	return all, errors.Join(errs...)
}

// codings returns the Content-Encoding of h.
func codings(h http.Header) string {
	return strings.Join(h["Content-Encoding"], ",")
}

// appendCodings appends the codings that a Content-Encoding names, in the order
// in which they were applied.
func appendCodings(dst []string, header string) []string {
	if header == "" {
		return dst
	}
	for coding := range strings.SplitSeq(header, ",") {
		coding = strings.ToLower(strings.TrimSpace(coding))
		if coding != "" && coding != "identity" {
			dst = append(dst, coding)
		}
	}
	return dst
}

// isBinary reports whether what is in a coding is hardly ever text, as far as
// that is known.
func isBinary(coding string) bool {
	switch coding {
	case "gzip", "x-gzip", "deflate", "br", "zstd":
		return true
	}
	return false
}

// decodable reports whether all codings of h can be undone.
func decodable(h http.Header, decoders map[string]Decoder) bool {
	var room [mostCodings + 1]string
	list := appendCodings(room[:0], codings(h))
	for _, coding := range list {
		if decoders[coding] == nil {
			return false
		}
	}
	return len(list) <= mostCodings
}

// decode appends to dst what src decodes to, up to limit bytes; more says that
// there are more. After an error dst has what came before it.
func decode(dst, src []byte, decoders map[string]Decoder, list []string, limit int) (_ []byte, more bool, err error) {
	limit = min(limit, max(smallestLimit, largestRatio*len(src)))
	var r io.Reader = bytes.NewReader(src)
	for _, coding := range slices.Backward(list) {
		d := decoders[coding](r)
		defer d.Close()
		// What lies between two codings is bounded, too: it is not larger than
		// what it decodes to, unless somebody made it so.
		r = &io.LimitedReader{R: d, N: 2*int64(limit) + 1<<10}
	}
	start := len(dst)
	dst = slices.Grow(dst, limit+1) // one more to see whether there is more
	for idle := 0; ; {
		n, err := r.Read(dst[len(dst) : start+limit+1])
		dst = dst[:len(dst)+n]
		if len(dst) > start+limit {
			return dst[:start+limit], true, nil
		}
		switch {
		case err == io.EOF:
			return dst, false, nil
		case err != nil:
			return dst, false, err
		case n > 0:
			idle = 0
		case idle == 100:
			return dst, false, io.ErrNoProgress
		default:
			idle++
		}
	}
}

var gunzippers = sync.Pool{New: func() any { return new(gunzipper) }}

type gunzipper struct {
	gzip.Reader
	err error
}

// gunzip decodes gzip, RFC 1952, of any number of members.
func gunzip(src io.Reader) io.ReadCloser {
	z := gunzippers.Get().(*gunzipper)
	z.err = z.Reset(src)
	return z
}

func (z *gunzipper) Read(p []byte) (int, error) {
	if z.err != nil {
		return 0, z.err
	}
	return z.Reader.Read(p)
}

func (z *gunzipper) Close() error {
	gunzippers.Put(z)
	return nil
}

var inflaters = sync.Pool{New: func() any { return &inflater{src: bufio.NewReaderSize(nil, 512)} }}

// An inflater reads either of the two formats that go by the name of deflate.
type inflater struct {
	src       *bufio.Reader
	zlib, raw io.ReadCloser // nil before the first use
	r         io.Reader
	err       error
}

// inflate decodes deflate: as RFC 9110, section 8.4.1.2, has it, which is zlib
// (RFC 1950), and as it is often sent, without the zlib header (RFC 1951).
func inflate(src io.Reader) io.ReadCloser {
	z := inflaters.Get().(*inflater)
	z.src.Reset(src)
	z.r, z.err = nil, nil
	head, err := z.src.Peek(2)
	switch {
	case len(head) == 0:
		z.err = err
	case len(head) == 2 && head[0]&0x0F == 8 && head[0]>>4 <= 7 && (int(head[0])<<8|int(head[1]))%31 == 0:
		if z.zlib == nil {
			z.zlib, z.err = zlib.NewReader(z.src)
		} else {
			z.err = z.zlib.(zlib.Resetter).Reset(z.src, nil)
		}
		z.r = z.zlib
	case z.raw == nil:
		z.raw = flate.NewReader(z.src)
		z.r = z.raw
	default:
		z.err = z.raw.(flate.Resetter).Reset(z.src, nil)
		z.r = z.raw
	}
	return z
}

func (z *inflater) Read(p []byte) (int, error) {
	if z.err != nil {
		return 0, z.err
	}
	return z.r.Read(p)
}

func (z *inflater) Close() error {
	inflaters.Put(z)
	return nil
}
