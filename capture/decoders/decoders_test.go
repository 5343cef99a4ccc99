package decoders_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/capture/decoders"
)

type compressor interface {
	io.WriteCloser
	Flush() error
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// compressors are the codings of HTTP, deflate in both of its readings.
var compressors = []struct {
	name, coding string
	new          func(io.Writer) compressor
}{
	{"gzip", "gzip", func(w io.Writer) compressor { return gzip.NewWriter(w) }},
	{"deflate", "deflate", func(w io.Writer) compressor { return zlib.NewWriter(w) }},
	{"raw deflate", "deflate", func(w io.Writer) compressor { return must(flate.NewWriter(w, 6)) }},
	{"br", "br", func(w io.Writer) compressor { return brotli.NewWriter(w) }},
	{"zstd", "zstd", func(w io.Writer) compressor { return must(zstd.NewWriter(w)) }},
}

func compress(t testing.TB, how func(io.Writer) compressor, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := how(&b)
	io.WriteString(w, text)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// record returns what capture makes of a response.
func record(opts *capture.Options, h http.Handler) (x *capture.Exchange) {
	sink := capture.SinkFunc(func(_ context.Context, y *capture.Exchange) error {
		x = y.Clone()
		return nil
	})
	defer func() { recover() }()
	capture.Middleware(sink, opts)(h).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	return x
}

func send(coding, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Encoding", coding)
		io.WriteString(w, body)
	}
}

// compressing is a middleware that compresses. With early it names the coding
// before the handler runs, as some do, else with the first byte.
func compressing(coding string, how func(io.Writer) compressor, early bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if early {
			w.Header().Set("Content-Encoding", coding)
		}
		cw := &compressingWriter{ResponseWriter: w, coding: coding, c: how(w)}
		next.ServeHTTP(cw, r)
		cw.c.Close()
	})
}

type compressingWriter struct {
	http.ResponseWriter
	coding string
	c      compressor
}

func (w *compressingWriter) Write(p []byte) (int, error) {
	w.Header().Set("Content-Encoding", w.coding)
	return w.c.Write(p)
}

func (w *compressingWriter) Flush() { w.c.Flush() }

// TestTrapCapture33_EveryCodingOnBothSides captures what the client reads: inside
// and outside of a compressor, early or late with its header, whole or aborted.
func TestTrapCapture33_EveryCodingOnBothSides(t *testing.T) {
	const begin, end = `{"id":7,"password":"c4n4ry","name":"Ada`, ` Lovelace"}`
	const masked = `{"id":7,"password":"REDACTED","name":"Ada`
	opts := &capture.Options{Decoders: decoders.All()}
	for _, c := range compressors {
		for _, early := range []bool{false, true} {
			for _, aborts := range []bool{false, true} {
				app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "application/json")
					io.WriteString(w, begin)
					http.NewResponseController(w).Flush()
					if aborts {
						panic(http.ErrAbortHandler)
					}
					io.WriteString(w, end)
				})
				want := masked + end
				if aborts {
					want = masked
				}
				var inside *capture.Exchange
				sink := capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
					inside = x.Clone()
					return nil
				})
				outside := record(opts, compressing(c.coding, c.new, early, capture.Middleware(sink, opts)(app)))
				for side, x := range map[string]*capture.Exchange{"inside": inside, "outside": outside} {
					b := x.Response.Body
					encoding := ""
					if side == "outside" {
						encoding = c.coding
					}
					if string(b.Bytes()) != want || b.Encoding != encoding || b.Truncated != (aborts && side == "outside") {
						t.Errorf("%s, %s, header early %v, aborts %v: captured %q, %+v", side, c.name, early, aborts, b.Bytes(), b)
					}
				}
			}
		}
	}
}

func TestSeveralCodings(t *testing.T) {
	const text = `{"a":"some text, some text"}`
	body := compress(t, compressors[3].new, compress(t, compressors[0].new, text))
	x := record(&capture.Options{Decoders: decoders.All()}, send("gzip, br", "application/json", body))
	if b := x.Response.Body; string(b.Bytes()) != text || b.Encoding != "gzip, br" || b.Skipped != "" {
		t.Errorf("captured %q, %+v", b.Bytes(), b)
	}
	x = record(nil, send("gzip, br", "application/json", body))
	if b := x.Response.Body; b.Len() != 0 || b.Skipped != capture.SkipEncoded {
		t.Errorf("without decoders: captured %q, %+v", b.Bytes(), b)
	}
	twice := compress(t, compressors[4].new, text[:9]) + compress(t, compressors[4].new, text[9:])
	if b := record(&capture.Options{Decoders: decoders.All()}, send("zstd", "application/json", twice)).Response.Body; string(b.Bytes()) != text {
		t.Errorf("two frames: captured %q, %+v", b.Bytes(), b)
	}
}

// zstdBomb is a frame of blocks that repeat one byte 128 KiB times each.
func zstdBomb(window byte, blocks int) string {
	b := []byte{0x28, 0xB5, 0x2F, 0xFD, 0, window}
	for i := range blocks {
		header := uint32(128<<10)<<3 | 1<<1
		if i == blocks-1 {
			header |= 1
		}
		b = append(b, byte(header), byte(header>>8), byte(header>>16), '1')
	}
	return string(b)
}

func TestTrapCapture33_BombsAreBounded(t *testing.T) {
	const kib128, mib8, mib16 = 7 << 3, 13 << 3, 14 << 3 // as exponents above 2^10
	brBomb := compress(t, func(w io.Writer) compressor { return brotli.NewWriterLevel(w, 5) }, strings.Repeat("1", 64<<20))
	wide := compress(t, func(w io.Writer) compressor {
		return brotli.NewWriterOptions(w, brotli.WriterOptions{Quality: 1, LGWin: 24})
	}, strings.Repeat("1", 1<<20))
	for _, c := range []struct {
		name, coding, body string
		want               int
		window             uint64
	}{
		{"zstd, 16 KB to 512 MiB", "zstd", zstdBomb(kib128, 4096), 64 << 10, 128 << 10},
		{"zstd, window of 8 MiB", "zstd", zstdBomb(mib8, 4096), 64 << 10, 8 << 20},
		{"zstd, window of 16 MiB", "zstd", zstdBomb(mib16, 4096), 0, 0},
		{"zstd, one segment of 1 GiB", "zstd", "\x28\xB5\x2F\xFD\xA0\x00\x00\x00\x40" + zstdBomb(0, 4096)[6:], 0, 0},
		{"br", "br", brBomb, min(64<<10, max(4<<10, 100*len(brBomb))), 4 << 20},
		{"br, window of 16 MiB", "br", wide, 0, 0},
		{"zstd in zstd", "zstd, zstd", compress(t, compressors[4].new, zstdBomb(kib128, 4096)), 1, 8 << 20},
	} {
		h := send(c.coding, "application/json", c.body)
		opts := &capture.Options{Decoders: decoders.All()}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		x := record(opts, h)
		runtime.ReadMemStats(&after)
		b := x.Response.Body
		if c.want > 0 && (b.Len() < c.want || b.Len() > 64<<10 || !b.Truncated || b.Skipped != capture.SkipCap) ||
			c.want == 0 && (b.Len() > 0 || b.Skipped != capture.SkipEncoded) {
			t.Errorf("%s: %d bytes made %d, %+v", c.name, len(c.body), b.Len(), b)
		}
		grown := after.TotalAlloc - before.TotalAlloc
		t.Logf("%s: %d bytes on the wire, %d KiB allocated, %d captured", c.name, len(c.body), grown>>10, b.Len())
		if grown > 2*c.window+2<<20 {
			t.Errorf("%s: %d KiB allocated", c.name, grown>>10)
		}
	}
}

// FuzzDecoders feeds each decoder with anything, with what it should decode, and
// with beginnings of that.
func FuzzDecoders(f *testing.F) {
	for i, c := range compressors {
		f.Add([]byte(compress(f, c.new, `{"a":"some text, some text"}`)), uint8(i), 20)
		f.Add([]byte(`{"a":"some text, some text"}`), uint8(i), 12)
	}
	f.Add([]byte(zstdBomb(7<<3, 100)), uint8(4), 50)
	all := decoders.All()
	opts := &capture.Options{Decoders: all, ResponseCap: 1 << 20, DangerouslyKeepSecrets: true}
	f.Fuzz(func(t *testing.T, data []byte, which uint8, at int) {
		c := compressors[int(which)%len(compressors)]
		b := record(opts, send(c.coding, "text/plain", string(data))).Response.Body
		if b.Skipped == capture.SkipRedaction {
			t.Fatalf("%s: the decoder panicked at %q", c.name, data)
		}
		if b.Len() > max(4<<10, 100*len(data)) || b.Size != int64(len(data)) {
			t.Fatalf("%s of %d bytes: %d captured, %+v", c.name, len(data), b.Len(), b)
		}
		body := compress(t, c.new, string(data))
		cut := body[:max(0, min(at, len(body)))]
		for part, ok := range map[string]func(got string) bool{
			body: func(got string) bool { return got == string(data) },
			cut:  func(got string) bool { return strings.HasPrefix(string(data), got) || got == cut },
		} {
			b := record(opts, send(c.coding, "text/plain", part)).Response.Body
			limit := max(4<<10, 100*len(part))
			if got := string(b.Bytes()); !ok(got) && !(len(data) > limit && got == string(data[:limit])) && got != part {
				t.Fatalf("%s of %q, %d of %d bytes: captured %q, %+v", c.name, data, len(part), len(body), got, b)
			}
		}
	})
}

func ExampleAll() {
	sink := capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		b := x.Response.Body
		fmt.Println(b.Encoding, string(b.Bytes()))
		return nil
	})
	see := capture.Middleware(sink, &capture.Options{Decoders: decoders.All()})

	h := see(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "br")
		br := brotli.NewWriter(w)
		defer br.Close()
		io.WriteString(br, `{"user":"ada","access_token":"s3cret"}`)
	}))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	// Output: br {"user":"ada","access_token":"REDACTED"}
}
