package proxy

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

// slowFrames reads all of a direction anew and returns where its frames end,
// whether one of the whole ones is a Close frame, and whether something follows
// them that is no frame.
func slowFrames(b []byte, masked bool) (ends []int, closed, lost bool) {
	for at := 0; ; {
		b := b[at:]
		if len(b) < 2 {
			return ends, closed, false
		}
		head, size := 2, uint64(b[1]&127)
		extended := map[uint64]int{126: 2, 127: 8}[size]
		if b[1]>>7 == 1 {
			head += 4
		}
		if head += extended; len(b) < head {
			return ends, closed, false
		}
		if extended > 0 {
			size = binary.BigEndian.Uint64(append(make([]byte, 8-extended), b[2:2+extended]...))
		}
		op := b[0] & 15
		if (b[1]>>7 == 1) != masked || size > 1<<63-1 || op >= 8 && (size > 125 || b[0]>>7 == 0) {
			return ends, closed, true
		}
		if uint64(len(b)-head) < size {
			return ends, closed, false
		}
		at += head + int(size)
		ends = append(ends, at)
		closed = closed || op == 8
	}
}

// FuzzFrames cuts a stream into chunks and asks for a Close frame somewhere. What
// comes out must be the stream up to a place between two frames, then the Close
// frame, and nothing else.
func FuzzFrames(f *testing.F) {
	text := []byte{0x81, 0x02, 'h', 'i'}
	masked := []byte{0x81, 0x82, 1, 2, 3, 4, 'h', 'i'}
	long := append([]byte{0x82, 126, 0, 200}, make([]byte, 200)...)
	huge := append([]byte{0x82, 127, 0, 0, 0, 0, 0, 0, 1, 0}, make([]byte, 256)...)
	for _, stream := range [][]byte{
		nil, text, masked, long, huge, {0x88, 0}, {0x88, 0x80, 1, 2, 3, 4}, slices.Concat(text, []byte{0x88, 2, 3, 0xe8}, text),
		slices.Concat(masked, masked, []byte{0x89, 0x80, 0, 0, 0, 0}), {0x89, 126, 0, 200}, {0x09, 0}, {0x82, 127, 0xff},
		slices.Concat(long, huge, text), []byte("GET / HTTP/1.1\r\n"), {0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 1, 0},
	} {
		for _, size := range []byte{1, 3, 255} {
			f.Add(stream, size, uint16(len(stream)/2), len(stream) > 1 && stream[1] > 127)
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte, size byte, at uint16, masked bool) {
		var out bytes.Buffer
		tunnel := &tunnel{}
		d := &tunnel.up
		*d = flow{tunnel: tunnel, dst: &out, frames: frames{masked: masked}}
		asked, sent := -1, 0
		for rest := stream; ; {
			if sent >= int(at) && asked < 0 {
				asked = sent
				d.close()
			}
			seen, _, lost := slowFrames(stream[:sent], masked)
			if d.frames.lost != lost || d.frames.between() != (!lost && (sent == 0 || slices.Contains(seen, sent))) {
				t.Fatalf("after %d of % x: %+v, ends are %v, lost %t", sent, stream, d.frames, seen, lost)
			}
			if len(rest) == 0 {
				break
			}
			n := min(int(size)+1, len(rest))
			if err := d.send(rest[:n]); err != nil {
				t.Fatal(err)
			}
			sent, rest = sent+n, rest[n:]
		}
		if _, closed, _ := slowFrames(stream, masked); d.frames.closed != closed || d.over.Load() != closed {
			t.Fatalf("% x: closed %t, over %t, want %t", stream, d.frames.closed, d.over.Load(), closed)
		}

		want := stream
		if asked >= 0 {
			// The first end of a frame from there on is where the Close frame goes,
			// if none went before.
			ends, _, _ := slowFrames(stream, masked)
			if i := slices.IndexFunc(append([]int{0}, ends...), func(end int) bool { return end >= asked }); i >= 0 {
				end := append([]int{0}, ends...)[i]
				if _, closed, lost := slowFrames(stream[:max(end, asked)], masked); !closed && !lost {
					want = stream[:end]
				}
			}
		}
		got := out.Bytes()
		if !bytes.HasPrefix(got, want) {
			t.Fatalf("% x, asked at %d: sent % x, want % x first", stream, asked, got, want)
		}
		end := got[len(want):]
		if d.closed != (len(end) > 0) || asked >= 0 && len(want) < len(stream) && !d.closed {
			t.Fatalf("% x, asked at %d: then % x", stream, asked, end)
		}
		if d.closed {
			if ends, closed, lost := slowFrames(end, masked); len(ends) != 1 || !closed || lost || ends[0] != len(end) {
				t.Fatalf("% x is not one Close frame", end)
			}
		}
		if n := d.bytes.Load(); n != int64(len(want)) {
			t.Fatalf("%d bytes counted, %d sent", n, len(want))
		}
	})
}
