package limiter

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// byteUnits are the units of a byte rate, largest first.
var byteUnits = [...]struct {
	name string
	size int64
}{
	{"TiB", 1 << 40},
	{"TB", 1e12},
	{"GiB", 1 << 30},
	{"GB", 1e9},
	{"MiB", 1 << 20},
	{"MB", 1e6},
	{"KiB", 1 << 10},
	{"KB", 1e3},
	{"B", 1},
}

// ParseByteRate reads bytes per second: "512KiB/s", "2MiB/s", "100MB/s", "0B/s".
//
//	rate = number unit "/s"
//	unit = "B" / "KB" / "MB" / "GB" / "TB" / "KiB" / "MiB" / "GiB" / "TiB"
//
// KB is 1000 bytes and KiB 1024. The number is whole, as in [ParseRate]: no
// sign, space, fraction or leading zero. [FormatByteRate] is the inverse.
func ParseByteRate(s string) (bytes int64, err error) {
	fail := func(what string) (int64, error) {
		return 0, fmt.Errorf(`limiter: byte rate %q: %s; want a form such as "512KiB/s", "2MiB/s" or "100MB/s"`, s, what)
	}
	size, ok := strings.CutSuffix(s, "/s")
	if !ok {
		return fail(`does not end in "/s"`)
	}
	unit := strings.TrimLeft(size, "0123456789")
	n, ok := decimal(size[:len(size)-len(unit)])
	if !ok {
		return fail("does not begin with a whole number in range")
	}
	for _, u := range byteUnits {
		if u.name != unit {
			continue
		}
		if hi, lo := bits.Mul64(uint64(n), uint64(u.size)); hi > 0 || lo > math.MaxInt64 {
			return fail("is out of range")
		}
		return n * u.size, nil
	}
	return fail("the unit is none of B, KB, MB, GB, TB, KiB, MiB, GiB, TiB")
}

// FormatByteRate returns the expression that [ParseByteRate] reads as bytes, in
// the largest unit that divides it: 524288 is "512KiB/s".
func FormatByteRate(bytes int64) string {
	for _, u := range byteUnits {
		if bytes%u.size == 0 && (bytes != 0 || u.size == 1) {
			return strconv.FormatInt(bytes/u.size, 10) + u.name + "/s"
		}
	}
	panic("unreachable: every rate is a number of bytes")
}
