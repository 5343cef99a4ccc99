// Package decoders lets capture see into bodies that are compressed with br
// (Brotli, RFC 7932) or zstd (RFC 8878):
//
//	capture.Middleware(sink, &capture.Options{Decoders: decoders.All()})
//
// It is a package of its own because capture imports nothing but the standard
// library.
package decoders

import (
	"bufio"
	"errors"
	"io"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/goweir/weir/capture"
)

// All returns the decoders of this package by the coding they undo, for
// Options.Decoders of package capture. The map is the caller's own.
func All() map[string]capture.Decoder {
	return map[string]capture.Decoder{"br": Brotli, "zstd": Zstd}
}

const (
	largestBrotliWindow = 22      // bits
	largestZstdWindow   = 8 << 20 // RFC 9659, section 3
)

var errWindow = errors.New("decoders: the window is larger than 4 MiB")

// Brotli is a [capture.Decoder] for the coding br. It decodes bodies with a
// window of at most 4 MiB, which is what encoders use unless they are told
// otherwise, and holds as much memory while it decodes one. It is safe for
// concurrent use.
func Brotli(src io.Reader) io.ReadCloser {
	b := brotlis.Get().(*brotliReader)
	b.buf.Reset(src)
	b.err = nil
	if head, err := b.buf.Peek(1); err != nil {
		b.err = err
	} else if windowBits(head[0]) > largestBrotliWindow {
		b.err = errWindow
	}
	b.r.Reset(b.buf)
	return b
}

// windowBits returns the size of the window that a stream beginning with c
// declares, if that is more than 17 bits: RFC 7932, section 9.1.
func windowBits(c byte) int {
	if c&1 == 0 || c>>1&7 == 0 {
		return 0
	}
	return 17 + int(c>>1&7)
}

var brotlis = sync.Pool{New: func() any {
	return &brotliReader{buf: bufio.NewReaderSize(nil, 512), r: brotli.NewReader(nil)}
}}

type brotliReader struct {
	buf *bufio.Reader
	r   *brotli.Reader
	err error
}

func (b *brotliReader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	return b.r.Read(p)
}

func (b *brotliReader) Close() error {
	b.buf.Reset(nil)
	brotlis.Put(b)
	return nil
}

// Zstd is a [capture.Decoder] for the coding zstd. It decodes frames with a
// window of at most 8 MiB, the limit of RFC 9659 for HTTP, and holds as much
// memory while it decodes one. A body that was cut is decoded up to the last
// whole block, which encoders end at each flush and after 128 KiB at the latest.
// It is safe for concurrent use.
func Zstd(src io.Reader) io.ReadCloser {
	z := zstds.Get().(*zstdReader)
	z.err = z.d.Reset(src)
	return z
}

var zstds = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1), // which needs no goroutine, so the pool may forget it
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(largestZstdWindow),
	)
	if err != nil {
		panic(err) // of the options above
	}
	return &zstdReader{d: d}
}}

type zstdReader struct {
	d   *zstd.Decoder
	err error
}

func (z *zstdReader) Read(p []byte) (int, error) {
	if z.err != nil {
		return 0, z.err
	}
	return z.d.Read(p)
}

func (z *zstdReader) Close() error {
	z.d.Reset(nil) // lets go of the source
	zstds.Put(z)
	return nil
}
