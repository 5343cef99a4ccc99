package capture_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/goweir/weir/capture"
)

func discard(context.Context, *capture.Exchange) error { return nil }

// sender is a handler that writes size bytes in pieces of at most 32 KiB.
func sender(contentType string, size int) http.Handler {
	piece := make([]byte, min(size, 32<<10))
	for i := range piece {
		piece[i] = '1' // any number of them is JSON
	}
	values := []string{contentType}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = values
		for left := size; left > 0; left -= len(piece) {
			w.Write(piece[:min(left, len(piece))])
		}
	})
}

func browserRequest() *http.Request {
	r := get("/orders/17?page=2")
	for name, value := range map[string]string{
		"Accept":          "application/json",
		"Accept-Encoding": "gzip, deflate, br",
		"Accept-Language": "en",
		"Authorization":   "Bearer x",
		"Cookie":          "id=1",
		"User-Agent":      "Mozilla/5.0",
	} {
		r.Header.Set(name, value)
	}
	return r
}

func BenchmarkMiddleware(b *testing.B) {
	for _, c := range []struct {
		name, contentType string
		size              int
	}{
		{"2B skipped", "image/png", 2},
		{"2B json", "application/json", 2},
		{"64KiB json", "application/json", 64 << 10},
		{"64MiB json", "application/json", 64 << 20},
		{"64MiB skipped", "application/octet-stream", 64 << 20},
	} {
		bare := sender(c.contentType, c.size)
		for _, v := range []struct {
			name string
			h    http.Handler
		}{
			{"bare", bare},
			{"tee", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // the classic mistake
				bare.ServeHTTP(&bodyLogWriter{ResponseWriter: w}, r)
			})},
			{"capture", capture.Middleware(capture.SinkFunc(discard), nil)(bare)},
		} {
			b.Run(fmt.Sprintf("%s/%s", c.name, v.name), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(c.size))
				w, r := new(sinkhole), browserRequest()
				for b.Loop() {
					clear(w.h)
					v.h.ServeHTTP(w, r)
				}
			})
		}
	}
	b.Run("2B json/parallel", func(b *testing.B) {
		h := capture.Middleware(capture.SinkFunc(discard), nil)(sender("application/json", 2))
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			w, r := new(sinkhole), browserRequest()
			for pb.Next() {
				clear(w.h)
				h.ServeHTTP(w, r)
			}
		})
	})
	b.Run("many headers, hostile query", func(b *testing.B) {
		h := capture.Middleware(capture.SinkFunc(discard), nil)(sender("application/json", 2))
		r := browserRequest()
		for i := range 100 {
			r.Header.Set(fmt.Sprintf("X-Unknown-Name-%d", i), "https://a/?a=%25%33%44&b=1")
		}
		for range 1000 {
			r.URL.RawQuery += "&a=%253D;b=:"
		}
		b.ReportAllocs()
		w := new(sinkhole)
		for b.Loop() {
			clear(w.h)
			h.ServeHTTP(w, r)
		}
	})
}

func BenchmarkSinks(b *testing.B) {
	var kept *capture.Exchange
	capture.Middleware(capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		kept = x.Clone()
		return nil
	}), nil)(sender("application/json", 1<<10)).ServeHTTP(new(sinkhole), browserRequest())
	archive := must(capture.OpenHAR(filepath.Join(b.TempDir(), "a.har")))
	defer archive.Close()
	for name, sink := range map[string]capture.Sink{
		"JSONL": capture.JSONL(io.Discard),
		"HAR":   archive,
		"Ring":  capture.NewRing(nil),
		"Slog":  capture.Slog(slog.New(slog.NewJSONHandler(io.Discard, nil))),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := sink.Record(b.Context(), kept); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("Async", func(b *testing.B) {
		q := capture.Async(capture.SinkFunc(discard), nil)
		b.ReportAllocs()
		for b.Loop() {
			q.Record(b.Context(), kept)
		}
		if err := q.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
	})
}
