package pace

import (
	"math/bits"
	"time"
)

// A histogram counts times in steps of at most a thirty-second of their length,
// from a nanosecond to half a minute.
type histogram struct {
	counts [steps * 32]uint32
	total  int

	longest time.Duration
}

const steps = 31 // powers of two from 32 ns

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(d)]++
	h.total++
	h.longest = max(h.longest, d)
}

func bucket(d time.Duration) int {
	u := uint64(max(0, d))
	if u < 32 {
		return int(u)
	}
	shift := bits.Len64(u) - 6
	return min((shift+1)*32+int(u>>shift)-32, steps*32-1)
}

// upper returns the longest time that is counted in bucket i.
func upper(i int) time.Duration {
	if i < 32 {
		return time.Duration(i)
	}
	shift := i/32 - 1
	return time.Duration((32+i%32+1)<<shift - 1)
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
	h.longest = max(h.longest, o.longest)
}

// quantile returns the time within which a share q of all lies.
func (h *histogram) quantile(q float64) time.Duration {
	rank := int(q * float64(h.total))
	for i, n := range h.counts {
		if rank -= int(n); rank < 0 {
			return min(upper(i), h.longest)
		}
	}
	return h.longest
}
