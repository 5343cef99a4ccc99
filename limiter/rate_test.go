package limiter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

var rates = []struct {
	s      string
	limit  int
	window time.Duration // 0: not a rate
	format string        // "": s itself
}{
	{"10/s", 10, time.Second, ""},
	{"100/5m", 100, 5 * time.Minute, ""},
	{"1/h", 1, time.Hour, ""},
	{"1/d", 1, 24 * time.Hour, ""},
	{"7/7d", 7, 7 * 24 * time.Hour, ""},
	{"10/500ms", 10, 500 * time.Millisecond, ""},
	{"3/us", 3, time.Microsecond, ""},
	{"3/1500ns", 3, 1500, ""},
	{"0/s", 0, time.Second, ""},
	{"9223372036854775807/s", 1<<63 - 1, time.Second, ""},
	{"1/9223372036854775807ns", 1, 1<<63 - 1, ""},
	{"1/1s", 1, time.Second, "1/s"},
	{"1/60s", 1, time.Minute, "1/m"},
	{"1/90s", 1, 90 * time.Second, ""},
	{"1/48h", 1, 48 * time.Hour, "1/2d"},

	{"", 0, 0, ""},
	{"10", 0, 0, ""},
	{"/s", 0, 0, ""},
	{"10/", 0, 0, ""},
	{"10/5", 0, 0, ""},
	{"10/0s", 0, 0, ""},
	{"10/999ns", 0, 0, ""},
	{"10/s ", 0, 0, ""},
	{" 10/s", 0, 0, ""},
	{"10 /s", 0, 0, ""},
	{"10/ s", 0, 0, ""},
	{"10/S", 0, 0, ""},
	{"10-S", 0, 0, ""},
	{"S-10", 0, 0, ""},
	{"-1/s", 0, 0, ""},
	{"+1/s", 0, 0, ""},
	{"1/-1s", 0, 0, ""},
	{"01/s", 0, 0, ""},
	{"1/01s", 0, 0, ""},
	{"1.5/s", 0, 0, ""},
	{"1/1.5s", 0, 0, ""},
	{"1_000/s", 0, 0, ""},
	{"0x10/s", 0, 0, ""},
	{"1e3/s", 0, 0, ""},
	{"1/1h30m", 0, 0, ""},
	{"1/sec", 0, 0, ""},
	{"1/s/s", 0, 0, ""},
	{"1/µs", 0, 0, ""},
	{"١/s", 0, 0, ""},
	{"9223372036854775808/s", 0, 0, ""},
	{"1/106752d", 0, 0, ""},
	{"1/99999999999999999999s", 0, 0, ""},
}

func TestParseRate(t *testing.T) {
	for _, tt := range rates {
		limit, window, err := limiter.ParseRate(tt.s)
		if tt.window == 0 {
			if err == nil || limit != 0 || window != 0 || !strings.HasPrefix(err.Error(), "limiter: rate ") {
				t.Errorf("ParseRate(%q) = %d, %v, %v; want an error", tt.s, limit, window, err)
			}
			continue
		}
		if err != nil || limit != tt.limit || window != tt.window {
			t.Errorf("ParseRate(%q) = %d, %v, %v; want %d, %v", tt.s, limit, window, err, tt.limit, tt.window)
		}
		want := tt.format
		if want == "" {
			want = tt.s
		}
		if got := limiter.FormatRate(limit, window); got != want {
			t.Errorf("FormatRate(%d, %v) = %q, want %q", limit, window, got, want)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	for _, tt := range rates {
		f.Add(tt.s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		limit, window, err := limiter.ParseRate(s)
		if err != nil {
			return
		}
		p := limiter.Policy{Name: "p", Limit: limit, Window: window}
		if err := p.Validate(); err != nil {
			t.Fatalf("ParseRate(%q) = %d, %v, which is no policy: %v", s, limit, window, err)
		}
		again := limiter.FormatRate(limit, window)
		limit2, window2, err := limiter.ParseRate(again)
		if err != nil || limit2 != limit || window2 != window {
			t.Fatalf("ParseRate(%q) = %d, %v; written as %q it is %d, %v, %v", s, limit, window, again, limit2, window2, err)
		}
		if len(again) > len(s) {
			t.Fatalf("FormatRate made %q of %q", again, s)
		}
	})
}
