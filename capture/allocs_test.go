package capture_test

import (
	"net/http"
	"testing"

	"github.com/goweir/weir/capture"
)

// What a request costs over the bare handler: the recording, the copy of the
// request, and the record with the context it is handed on with.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Log("not counted: the race detector empties pools at random")
		return
	}
	for _, c := range []struct {
		name, contentType string
		size              int
		want              float64
	}{
		{"skipped", "image/png", 2, 4},
		{"small JSON", "application/json", 2, 4},
		{"as large as the cap", "application/json", 64 << 10, 4},
		{"1 MiB", "application/json", 1 << 20, 4},
	} {
		h := capture.Middleware(capture.SinkFunc(discard), nil)(sender(c.contentType, c.size))
		w, r := new(sinkhole), browserRequest()
		got := testing.AllocsPerRun(100, func() {
			clear(w.h)
			h.ServeHTTP(w, r)
		})
		if got > c.want {
			t.Errorf("%s: %v allocations, want at most %v", c.name, got, c.want)
		}
	}

	// None for a Write, captured or not.
	for _, contentType := range []string{"text/plain", "image/png", ""} {
		recordOn(t, new(sinkhole), &capture.Options{ResponseCap: 512}, get("/"), func(w http.ResponseWriter, r *http.Request) {
			if contentType != "" {
				w.Header().Set("Content-Type", contentType)
			}
			p := []byte("0123456789")
			w.Write(p) // takes the chunk that the others fill
			if n := testing.AllocsPerRun(100, func() { w.Write(p) }); n > 0 {
				t.Errorf("%q: %v allocations a Write", contentType, n)
			}
		})
	}
}
