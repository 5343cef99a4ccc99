package capture_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/goweir/weir/capture"
)

// What a request costs over the bare handler: the recording, the copy of the
// request, and the record.
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
		{"skipped", "image/png", 2, 3},
		{"small JSON", "application/json", 2, 3},
		{"as large as the cap", "application/json", 64 << 10, 3},
		{"1 MiB", "application/json", 1 << 20, 3},
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

	// An observer costs none, nor does a record that is thinned.
	h := capture.Middleware(capture.SinkFunc(discard), &capture.Options{Observer: silent{}, RefusalsPerSecond: -1})(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				capture.From(r.Context()).Refused("limit")
			}
		}))
	for _, method := range []string{"GET", "POST"} {
		w, r := new(sinkhole), browserRequest()
		r.Method = method
		if n := testing.AllocsPerRun(100, func() { h.ServeHTTP(w, r) }); n > 3 {
			t.Errorf("%s with an observer: %v allocations, want at most 3", method, n)
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

type silent struct{}

func (silent) Observe(context.Context, capture.Event) {}
