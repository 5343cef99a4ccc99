package capture_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/goweir/weir/capture"
)

// FuzzSplits writes a body in random pieces by random means. The client gets
// what the handler wrote, and the capture is its beginning.
func FuzzSplits(f *testing.F) {
	f.Add([]byte(`{"a":1}`), uint64(1), 4, "application/json")
	f.Add(bytes.Repeat([]byte("0123456789"), 1000), uint64(2), 700, "text/plain")
	f.Add(bytes.Repeat([]byte("0123456789"), 1000), uint64(3), 700, "")
	f.Add([]byte("\x89PNG\x0d\x0a\x1a\x0a"), uint64(4), 700, "")
	f.Add(bytes.Repeat([]byte{0}, 5000), uint64(5), 1, "")
	f.Fuzz(func(t *testing.T, body []byte, seed uint64, limit int, contentType string) {
		limit = max(1, min(limit, 1<<20))
		budget := capture.NewBudget(1 << 30)
		w := &copier{ResponseRecorder: httptest.NewRecorder()}
		x := recordOn(t, w, &capture.Options{ResponseCap: limit, Budget: budget, DangerouslyKeepSecrets: true}, get("/"), func(w http.ResponseWriter, r *http.Request) {
			if contentType != "" {
				w.Header()["Content-Type"] = []string{contentType}
			}
			rnd := rand.New(rand.NewPCG(seed, 0))
			for left := body; len(left) > 0; {
				n := 1 + rnd.IntN(len(left))
				if rnd.IntN(2) == 0 {
					n = min(n, 1+rnd.IntN(600))
				}
				p := left[:n]
				left = left[n:]
				var sent int64
				var err error
				switch rnd.IntN(4) {
				case 0:
					var n int
					n, err = w.Write(p)
					sent = int64(n)
				case 1:
					var n int
					n, err = io.WriteString(w, string(p))
					sent = int64(n)
				case 2:
					sent, err = w.(io.ReaderFrom).ReadFrom(bytes.NewReader(p))
				case 3:
					sent, err = io.Copy(w, struct{ io.Reader }{bytes.NewReader(p)})
				}
				if sent != int64(n) || err != nil {
					t.Fatalf("%d of %d bytes accepted, %v", sent, n, err)
				}
				if rnd.IntN(4) == 0 {
					w.(http.Flusher).Flush()
				}
			}
		})
		if !bytes.Equal(w.Body.Bytes(), body) {
			t.Fatalf("the client got %d bytes, the handler wrote %d", w.Body.Len(), len(body))
		}
		b := x.Response.Body
		want := ""
		if b.Skipped == "" || b.Skipped == capture.SkipCap {
			want = string(body[:min(len(body), limit)])
		}
		if b.Size != int64(len(body)) || captured(b) != want || b.Truncated != (want != "" && len(body) > limit) {
			t.Errorf("size %d of %d, captured %d of %d, a prefix: %v; %+v", b.Size, len(body),
				b.Len(), len(want), strings.HasPrefix(string(body), captured(b)), b)
		}
		if budget.InUse() != 0 {
			t.Errorf("%d bytes in use", budget.InUse())
		}
	})
}

// copier is a ResponseWriter with everything that net/http's HTTP/1 has for
// writing.
type copier struct{ *httptest.ResponseRecorder }

func (w *copier) ReadFrom(src io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{w.ResponseRecorder}, src)
}
