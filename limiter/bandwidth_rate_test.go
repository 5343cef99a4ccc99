package limiter_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/goweir/weir/limiter"
)

func TestParseByteRate(t *testing.T) {
	for s, want := range map[string]int64{
		"512KiB/s": 512 << 10, "2MiB/s": 2 << 20, "50MB/s": 50e6, "1B/s": 1, "0B/s": 0, "3GiB/s": 3 << 30, "1TiB/s": 1 << 40,
		"1000KB/s": 1e6, "9223372036854775807B/s": math.MaxInt64,
	} {
		if got, err := limiter.ParseByteRate(s); got != want || err != nil {
			t.Errorf("%q: %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "/s", "B/s", "512", "512KiB", "512KiB/m", "512 KiB/s", "512kib/s", "512Kib/s", "1.5MiB/s", "-1B/s", "+1B/s", "01B/s",
		"1/s", "1KiB/s/s", "1KiB/s ", "9223372036854775808B/s", "9007199254740992KiB/s", "16777216TiB/s"} {
		if got, err := limiter.ParseByteRate(s); got != 0 || err == nil {
			t.Errorf("%q: %d, no error", s, got)
		}
	}
}

// FormatByteRate is the inverse of ParseByteRate, and short.
func TestFormatByteRate(t *testing.T) {
	for bytes, want := range map[int64]string{0: "0B/s", 1: "1B/s", 1000: "1KB/s", 1024: "1KiB/s", 524288: "512KiB/s", 50e6: "50MB/s", 1 << 40: "1TiB/s", 1536: "1536B/s", 1024000: "1000KiB/s"} {
		if got := limiter.FormatByteRate(bytes); got != want {
			t.Errorf("%d: %q, want %q", bytes, got, want)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		bytes := rng.Int64() >> rng.IntN(63)
		if got, err := limiter.ParseByteRate(limiter.FormatByteRate(bytes)); got != bytes || err != nil {
			t.Fatalf("%d becomes %q and that %d, %v", bytes, limiter.FormatByteRate(bytes), got, err)
		}
	}
}
