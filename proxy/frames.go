package proxy

import (
	"crypto/rand"
	"encoding/binary"
)

// frames follows one direction of a WebSocket from frame to frame, RFC 6455
// section 5.2, and keeps nothing but the header it is in. The zero value is the
// start of a connection.
type frames struct {
	masked bool // as the direction demands, section 5.1: client to server
	closed bool // a Close frame has passed wholly
	lost   bool // what passed was no frame: nobody knows where the next begins

	head [14]byte
	have int    // bytes of head that were read; 0 between headers
	left uint64 // bytes of the payload that are still to come
}

// next takes the bytes of p up to the end of the frame that they are in, or all
// if it does not end there, and returns how many these are.
func (f *frames) next(p []byte) int {
	n := 0
	for n < len(p) && !f.lost {
		if f.left > 0 {
			k := min(f.left, uint64(len(p)-n))
			n += int(k)
			if f.left -= k; f.left == 0 {
				f.ended()
				return n
			}
			continue
		}
		f.head[f.have] = p[n]
		f.have++
		n++
		if f.have < 2 || f.have < f.headLen() {
			continue
		}
		f.have = 0
		switch size := f.head[1] & 0x7f; size {
		case 126:
			f.left = uint64(binary.BigEndian.Uint16(f.head[2:]))
		case 127:
			f.left = binary.BigEndian.Uint64(f.head[2:])
		default:
			f.left = uint64(size)
		}
		control := f.head[0]&0x08 != 0
		if f.head[1]&0x80 != 0 != f.masked || f.left>>63 != 0 || control && (f.left > 125 || f.head[0]&0x80 == 0) {
			f.lost = true
		} else if f.left == 0 {
			f.ended()
			return n
		}
	}
	if f.lost {
		return len(p)
	}
	return n
}

// headLen is the length of a header of which two bytes are known.
func (f *frames) headLen() int {
	n := 2
	switch f.head[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if f.head[1]&0x80 != 0 {
		n += 4
	}
	return n
}

func (f *frames) ended() {
	if f.head[0]&0x0f == opClose {
		f.closed = true
	}
}

// between reports whether a frame may begin here.
func (f *frames) between() bool { return !f.lost && f.have == 0 && f.left == 0 }

const opClose = 0x8

// goingAway is the status of a Close frame from an endpoint that goes down,
// RFC 6455 section 7.4.1.
const goingAway = 1001

// closeFrame returns a Close frame, section 5.5.1.
func closeFrame(status uint16, masked bool) []byte {
	payload := binary.BigEndian.AppendUint16(nil, status)
	if !masked {
		return append([]byte{0x80 | opClose, byte(len(payload))}, payload...)
	}
	var key [4]byte
	rand.Read(key[:]) // section 5.3: from a strong source
	for i := range payload {
		payload[i] ^= key[i%4]
	}
	frame := append([]byte{0x80 | opClose, 0x80 | byte(len(payload))}, key[:]...)
	return append(frame, payload...)
}
