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
		h := l.macs.Get().(hash.Hash)
		h.Reset()
		h.Write(b)
		h.Sum(sum[:0])
		l.macs.Put(h)
	}
	k := make([]byte, 0, 64)
	k = append(k, l.before...)
	k = base64.RawURLEncoding.AppendEncode(k, sum[:16])
	k = append(k, l.after...)
	return string(k)
}

func newMAC(secret []byte) func() any {
	return func() any { return hmac.New(sha256.New, secret) }
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
