package capture_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/goweir/weir/capture"
)

func gz(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.String()
}

func zlibbed(text string) string {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.String()
}

func deflated(text string) string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, 9)
	io.WriteString(w, text)
	w.Close()
	return b.String()
}

// coded is a handler that sends bytes in a coding.
func coded(coding, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header()["Content-Encoding"] = strings.Split(coding, "|")
		io.WriteString(w, body)
	}
}

func TestDecoding(t *testing.T) {
	const text = `{"a":[1,2,3],"b":"é€😀","c":"some text that is not random, some text"}`
	garbage := "\x1f\x8b\x08\x00garbage"
	for _, c := range []struct {
		name, coding, body string
		want               string
		skip               capture.SkipReason
		encoding           string
	}{
		{"gzip", "gzip", gz(text), text, "", "gzip"},
		{"any case, with an alias and spaces", " X-GZip ", gz(text), text, "", " X-GZip "},
		{"deflate, zlib", "deflate", zlibbed(text), text, "", "deflate"},
		{"deflate, raw", "deflate", deflated(text), text, "", "deflate"},
		{"identity", "identity", text, text, "", ""},
		{"none", "", text, text, "", ""},
		{"two in one header", "deflate, gzip", gz(zlibbed(text)), text, "", "deflate, gzip"},
		{"two on two lines, and identity", "gzip|identity,deflate", deflated(gz(text)), text, "", "gzip,identity,deflate"},
		{"three", "gzip, gzip, gzip", gz(gz(gz(text))), text, "", "gzip, gzip, gzip"},
		{"several members", "gzip", gz(text[:10]) + gz("") + gz(text[10:]), text, "", "gzip"},
		{"nothing", "gzip", gz(""), "", "", ""},
		{"no bytes", "gzip", "", "", "", ""},
		{"garbage after it", "gzip", gz(text) + "garbage", text, capture.SkipEncoded, "gzip"},
		{"wrong checksum", "gzip", gz(text)[:len(gz(text))-8] + "\x01\x02\x03\x04\x05\x06\x07\x08", text, capture.SkipEncoded, "gzip"},
		{"garbage", "gzip", garbage, "", capture.SkipEncoded, ""},
		{"another coding than it says", "deflate", gz(text), "", capture.SkipEncoded, ""},
		{"the wrong order", "gzip, deflate", gz(zlibbed(text)), "", capture.SkipEncoded, ""},
		{"unknown", "br", gz(text), "", capture.SkipEncoded, ""},
		{"unknown among others", "gzip, snappy", gz(text), "", capture.SkipEncoded, ""},
		{"four", "gzip, gzip, gzip, gzip", gz(gz(gz(gz(text)))), "", capture.SkipEncoded, ""},
		{"a coding that is yet to come", "gzip", text, text, "", ""},
		{"a coding that is yet to come, of two", "deflate, gzip", text, text, "", ""},
	} {
		x, w := record(t, nil, get("/"), coded(c.coding, "application/json", c.body))
		b := x.Response.Body
		if w.Body.String() != c.body || b.Size != int64(len(c.body)) {
			t.Errorf("%s: the client got %d bytes of %d, size %d", c.name, w.Body.Len(), len(c.body), b.Size)
		}
		if captured(b) != c.want || b.Skipped != c.skip || b.Encoding != c.encoding || b.Truncated != (c.skip != "" && c.want != "") {
			t.Errorf("%s: captured %q of %+v", c.name, captured(b), b)
		}
		// Requests go the same way.
		r := post("application/json", c.body)
		r.Header["Content-Encoding"] = strings.Split(c.coding, "|")
		x, _ = record(t, nil, r, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
		if b := x.Request.Body; captured(b) != c.want || b.Skipped != c.skip && c.body != "" || b.Encoding != c.encoding {
			t.Errorf("%s: captured %q of request %+v", c.name, captured(b), b)
		}
	}
}

// A stream that is cut, by the cap or by whoever sent it, yields what it began
// with, redacted.
func TestDecodingACutStream(t *testing.T) {
	text := `{"password":"` + strings.Repeat("c4n4ry", 20) + `","a":"` + strings.Repeat("0123456789 more or less ", 30) + `"}`
	masked := strings.Replace(text, strings.Repeat("c4n4ry", 20), "REDACTED", 1)
	for coding, body := range map[string]string{"gzip": gz(text), "deflate": deflated(text), "deflate, gzip": gz(zlibbed(text))} {
		longest := 0
		for n := range len(body) {
			x, _ := record(t, &capture.Options{ResponseCap: 1 << 20}, get("/"), func(w http.ResponseWriter, r *http.Request) {
				coded(coding, "application/json", body[:n])(w, r)
				panic(http.ErrAbortHandler)
			})
			b := x.Response.Body
			got := captured(b)
			if got == masked && b.Skipped == "" { // only the end of the outer coding is missing
				break
			}
			if !strings.HasPrefix(masked, got) && got != `{"password":"REDACTED"` || b.Truncated != (got != "") || n > 0 && b.Skipped != capture.SkipEncoded {
				t.Fatalf("%s, %d of %d bytes: captured %q, %+v", coding, n, len(body), got, b)
			}
			longest = max(longest, len(got))
		}
		if longest < len(masked)*9/10 {
			t.Errorf("%s: at most %d bytes captured of %d", coding, longest, len(masked))
		}
		x, _ := record(t, &capture.Options{ResponseCap: len(body) - 15}, get("/"), coded(coding, "application/json", body))
		if b := x.Response.Body; !strings.HasPrefix(masked, captured(b)) || b.Len() == 0 || !b.Truncated || b.Skipped != capture.SkipCap {
			t.Errorf("%s: captured %q, %+v", coding, captured(b), b)
		}
	}
}

// What a body decodes to is bounded, however it is made.
func TestDecodingIsBounded(t *testing.T) {
	bomb := gz(strings.Repeat("1", 128<<20)) // 130 KB
	mebi, small, twice := gz(strings.Repeat("1", 1<<20)), gz(strings.Repeat("1", 64<<10)), gz(bomb)
	for _, c := range []struct {
		name, coding, body string
		limit, want        int
	}{
		{"cap", "gzip", bomb, 64 << 10, 64 << 10},
		{"a large cap", "gzip", bomb, 1 << 20, 1 << 20},
		{"ratio", "gzip", mebi, 1 << 20, 100 * len(mebi)},
		{"small bodies may grow more", "gzip", small, 64 << 10, 100 * len(small)},
		{"and the smallest to 4 KiB", "deflate", deflated(strings.Repeat("1", 5000)), 64 << 10, 4 << 10},
		{"within a bomb", "gzip, gzip", twice, 64 << 10, 100 * len(twice)},
		{"a bomb of nothing", "gzip, gzip", gz(strings.Repeat(gz(""), 1<<20)), 64 << 10, 0},
	} {
		var before, after runtime.MemStats
		h := coded(c.coding, "application/json", c.body)
		budget := capture.NewBudget(4 << 20)
		opts := &capture.Options{ResponseCap: c.limit, Budget: budget}
		record(t, opts, get("/"), h) // fills the pools
		runtime.ReadMemStats(&before)
		x, _ := record(t, opts, get("/"), h)
		runtime.ReadMemStats(&after)
		b := x.Response.Body
		if b.Len() != min(c.want, c.limit) || c.want > 0 && (!b.Truncated || b.Skipped != capture.SkipCap) ||
			c.want == 0 && b.Skipped != capture.SkipEncoded { // given up before its end
			t.Errorf("%s: captured %d bytes, want %d; %+v", c.name, b.Len(), min(c.want, c.limit), b)
		}
		// The record's clone and the recorder have a copy each.
		if grown := after.TotalAlloc - before.TotalAlloc; grown > uint64(8*c.limit+2*len(c.body)+256<<10) && !raceEnabled {
			t.Errorf("%s: %d bytes allocated", c.name, grown)
		}
		if budget.InUse() != 0 {
			t.Errorf("%s: %d bytes in use", c.name, budget.InUse())
		}
	}
}

// The budget has room for what was sent, but not for what that decodes to.
func TestDecodingWithinTheBudget(t *testing.T) {
	text := strings.Repeat("0123456789 some words and so on, ", 200)
	budget := capture.NewBudget(2 << 9)
	x, _ := record(t, &capture.Options{Budget: budget}, get("/"), coded("gzip", "text/plain", gz(text)))
	if b := x.Response.Body; b.Len() == 0 || b.Len() > 2<<9 || !strings.HasPrefix(text, captured(b)) || !b.Truncated || b.Skipped != capture.SkipBudget {
		t.Errorf("captured %d bytes, %+v", b.Len(), b)
	}
	if budget.InUse() != 0 {
		t.Errorf("%d bytes in use", budget.InUse())
	}
}

type oddReader struct {
	read   func([]byte) (int, error)
	closed *int
}

func (r oddReader) Read(p []byte) (int, error) { return r.read(p) }
func (r oddReader) Close() error               { *r.closed++; return nil }

// Decoders that others wrote may do anything but harm.
func TestForeignDecoders(t *testing.T) {
	closed := 0
	decoder := func(read func([]byte) (int, error)) capture.Decoder {
		return func(io.Reader) io.ReadCloser { return oddReader{read, &closed} }
	}
	opts := &capture.Options{Decoders: map[string]capture.Decoder{
		"Panic":  decoder(func([]byte) (int, error) { panic("c4n4ry") }),
		"idle":   decoder(func([]byte) (int, error) { return 0, nil }),
		"fail":   decoder(func(p []byte) (int, error) { return copy(p, "text"), io.ErrClosedPipe }),
		"chunks": decoder(func(p []byte) (int, error) { return copy(p, "text"), io.EOF }),
		"gzip":   decoder(func(p []byte) (int, error) { return copy(p, "ours"), io.EOF }),
	}}
	for _, c := range []struct {
		coding, want string
		skip         capture.SkipReason
	}{
		{"panic", "", capture.SkipRedaction},
		{"idle", "", capture.SkipEncoded},
		{"fail", "text", capture.SkipEncoded},
		{"gzip", "ours", ""},
		{"chunks", "text", ""},
	} {
		before := closed
		body := "\x01\xFF"
		if c.coding == "chunks" {
			body = "4;text" // a coding of others may well look like text
		}
		x, _ := record(t, opts, get("/"), coded(c.coding, "text/plain", body))
		if b := x.Response.Body; captured(b) != c.want || b.Skipped != c.skip {
			t.Errorf("%s: captured %q, %+v", c.coding, captured(b), b)
		}
		if closed != before+1 {
			t.Errorf("%s: closed %d times", c.coding, closed-before)
		}
	}
}
