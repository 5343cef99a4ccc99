package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/benchmarks/peer"
	"github.com/goweir/weir/capture"
)

// bodySender is a handler that writes a JSON document of about that size, in
// pieces of at most 32 KiB, and calls it what it is told.
func bodySender(contentType string, size int) http.Handler {
	body := []byte{'['}
	for i := 0; len(body) < size; i++ {
		body = fmt.Appendf(body, `{"id":%d,"name":"ann","tags":["a","b"],"price":1.50,"ok":true},`, i)
	}
	body[len(body)-1] = ']'
	values := []string{contentType}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = values
		for left := body; len(left) > 0; {
			n := min(len(left), 32<<10)
			w.Write(left[:n])
			left = left[n:]
		}
	})
}

func discardRecord(context.Context, *capture.Exchange) error { return nil }

// weirCapture masks nothing, as none of the others does.
func weirCapture(h http.Handler) http.Handler {
	return capture.Middleware(capture.SinkFunc(discardRecord), &capture.Options{DangerouslyKeepSecrets: true})(h)
}

// weirMasked masks secrets before it calls the sink, on the goroutine of the
// handler, since there is no queue.
func weirMasked(h http.Handler) http.Handler {
	return capture.Middleware(capture.SinkFunc(discardRecord), nil)(h)
}

// TestCaptureSpeed compares what it costs, in process, to record or log one
// response.
func TestCaptureSpeed(t *testing.T) {
	for _, c := range []struct {
		name, contentType string
		size              int
	}{
		{"skipped, 64 KiB", "image/png", 64 << 10},
		{"JSON, 100 bytes", "application/json", 100},
		{"JSON, 64 KiB", "application/json", 64<<10 - 100},
		{"JSON, 1 MiB", "application/json", 1 << 20},
	} {
		h := bodySender(c.contentType, c.size)
		cases := []pace.Case{
			{Name: "weir", Run: requests(weirCapture(h))},
			{Name: "weir, secrets masked", Run: requests(weirMasked(h))},
			{Name: "bare", Run: requests(h)},
		}
		for _, l := range peer.BodyLoggers {
			cases = append(cases, pace.Case{Name: l.Name, Run: requests(l.Wrap(h))})
		}
		compare(t, c.name, options(false), cases...)
	}
}

// TestCaptureAllocations counts what a request costs over the bare handler.
func TestCaptureAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools at random")
	}
	for _, c := range []struct {
		name, contentType string
		size              int
		want              float64
	}{
		{"skipped", "image/png", 100, 3},
		{"small JSON", "application/json", 100, 3},
		{"64 KiB JSON", "application/json", 64 << 10, 3},
	} {
		serve := requests(weirCapture(bodySender(c.contentType, c.size)))
		if got := testing.AllocsPerRun(100, func() { serve(1) }); got > c.want {
			t.Errorf("%s: %v allocations a request, want at most %v", c.name, got, c.want)
		}
	}
}

// TestBodyLoggersPass shows that what is measured serves what the handler wrote.
func TestBodyLoggersPass(t *testing.T) {
	h := bodySender("application/json", 100_000)
	loggers := append([]peer.BodyLogger{{Name: "weir", Wrap: weirCapture}}, peer.BodyLoggers...)
	for _, l := range loggers {
		w := httptest.NewRecorder()
		l.Wrap(h).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if w.Code != http.StatusOK || w.Body.Len() < 100_000 || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: %d with %d bytes, want 200 with a whole document", l.Name, w.Code, w.Body.Len())
		}
	}
}

func BenchmarkCapture(b *testing.B) {
	h := bodySender("application/json", 64<<10)
	for _, l := range append([]peer.BodyLogger{{Name: "weir", Wrap: weirCapture}}, peer.BodyLoggers...) {
		b.Run(l.Name, func(b *testing.B) {
			b.ReportAllocs()
			serve := requests(l.Wrap(h))
			for b.Loop() {
				serve(1)
			}
		})
	}
}
