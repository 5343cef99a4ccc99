package demo

import (
	"encoding/binary"
	"io"
)

// NewBytes returns a reader of size bytes that are always the same: blocks of
// 8 KiB, each beginning with its number, so that a block lost, repeated or
// exchanged changes the sum of the whole.
func NewBytes(size int64) io.Reader {
	b := &blocks{left: size}
	x := uint32(1)
	for i := range b.block {
		x ^= x << 13 // xorshift32, enough to keep compression from helping
		x ^= x >> 17
		x ^= x << 5
		b.block[i] = byte(x)
	}
	b.rest = b.block[len(b.block):]
	return b
}

type blocks struct {
	block  [8 << 10]byte
	rest   []byte // of block, still to be read
	number uint64
	left   int64
}

func (b *blocks) Read(p []byte) (n int, err error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), b.left)]
	for n < len(p) {
		if len(b.rest) == 0 {
			binary.BigEndian.PutUint64(b.block[:], b.number)
			b.number++
			b.rest = b.block[:]
		}
		c := copy(p[n:], b.rest)
		b.rest = b.rest[c:]
		n += c
	}
	b.left -= int64(n)
	return n, nil
}
