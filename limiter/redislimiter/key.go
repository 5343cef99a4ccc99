package redislimiter

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"

	"github.com/goweir/weir/limiter"
)

// keyOf returns the key of a quota's state: prefix:{hash}, or prefix:{slot}hash.
// The hash is over Name behind its length, Algorithm, Window where that is more
// than half of a ratio, and Key, so that no two quotas spell the same; it is cut
// to 128 bits. Whoever reads the server's keys learns nothing of the caller's,
// and a caller's bytes cannot choose a slot.
func (l *Limiter) keyOf(p *limiter.Policy, key string) string {
	var array [256]byte
	b := array[:0]
	b = binary.AppendUvarint(b, uint64(len(p.Name)))
	b = append(b, p.Name...)
	b = append(b, byte(p.Algorithm))
	window := int64(0)
	if p.Algorithm >= limiter.FixedWindow {
		window = int64(p.Window)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(window))
	b = append(b, key...)

	var sum [sha256.Size]byte
	if l.secret == nil {
		sum = sha256.Sum256(b)
	} else {
		m := l.macs.Get().(*mac)
		m.sum(b, &sum)
		l.macs.Put(m)
	}
	var name [64]byte
	k := append(name[:0], l.before...)
	k = base64.RawURLEncoding.AppendEncode(k, sum[:16])
	k = append(k, l.after...)
	return string(k)
}

// A mac is an HMAC with what it works on: whatever is passed through an interface
// is on the heap.
type mac struct {
	hash hash.Hash
	text []byte
}

func newMAC(secret []byte) func() any {
	return func() any { return &mac{hash: hmac.New(sha256.New, secret)} }
}

func (m *mac) sum(text []byte, sum *[sha256.Size]byte) {
	m.text = append(m.text[:0], text...)
	m.hash.Reset()
	m.hash.Write(m.text)
	m.text = m.hash.Sum(m.text[:0])
	copy(sum[:], m.text)
}

// slots is the number of hash slots of a Redis Cluster.
const slots = 16384

// slotOf returns the slot of a key of ours: the CRC16 (XMODEM) of what is between
// the braces, as the Redis Cluster specification has it.
func (l *Limiter) slotOf(key string) uint16 {
	tag := key[l.tagFrom:]
	for i := range len(tag) {
		if tag[i] == '}' {
			tag = tag[:i]
			break
		}
	}
	crc := uint16(0)
	for i := range len(tag) {
		crc ^= uint16(tag[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc % slots
}
