package capture_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/goweir/weir/capture"
)

// The documented line, whole.
func TestJSONLShape(t *testing.T) {
	var out bytes.Buffer
	start := time.Date(2026, 11, 21, 18, 0, 0, 5_000_000, time.FixedZone("", 3600))
	r := post("application/json", `{"in":1}`)
	r.Header.Add("X-Two", "a")
	r.Header.Add("X-Two", "b")
	r.Header.Set("Cookie", "id=1")
	r.RequestURI, r.URL.RawQuery = "", "q=1"
	capture.Middleware(capture.SinkFunc(func(ctx context.Context, x *capture.Exchange) error {
		c := x.Clone()
		c.Start, c.Duration, c.FirstByte = start, 1500*time.Microsecond, time.Millisecond
		return capture.JSONL(&out).Record(ctx, c)
	}), nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		r.Pattern = "POST /"
		capture.From(r.Context()).Set("user", "42")
		w.WriteHeader(103)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "10")
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "{\"out\": 2}")
		w.Header().Set("X-Sum", "7")
	})).ServeHTTP(new(sinkhole), r)
	want := `{"time":"2026-11-21T17:00:00.005Z","duration_ms":1.5,"first_byte_ms":1,"client":"192.0.2.1",` +
		`"proto":"HTTP/1.1","method":"POST","scheme":"http","host":"example.com","path":"/","query":"q=1","route":"POST /",` +
		`"status":200,"informational":[103],"outcome":"ok","attributes":{"user":"42"},` +
		`"request":{"size":8,"content_length":8,"content_type":"application/json",` +
		`"header":{"Content-Type":["application/json"],"Cookie":["REDACTED"],"X-Two":["a","b"]},` +
		`"captured":8,"body":"{\"in\":1}","complete":true},` +
		`"response":{"size":10,"content_length":10,"content_type":"application/json",` +
		`"header":{"Content-Length":["10"],"Content-Type":["application/json"],"Trailer":["X-Sum"]},` +
		`"trailer":{"X-Sum":["7"]},"captured":10,"body":"{\"out\": 2}"}}` + "\n"
	if got := out.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// writes remembers each call of Write.
type writes struct {
	mu    sync.Mutex
	calls []string
	n     int // most bytes taken; 0: all
	err   error
}

func (w *writes) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	if w.n > 0 {
		n = min(n, w.n)
	}
	w.calls = append(w.calls, string(p[:n]))
	return n, w.err
}

func TestJSONLWritesWholeLines(t *testing.T) {
	var w writes
	h := exchanges(capture.JSONL(&w), capture.NewBudget(10<<20), 50_000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				h.ServeHTTP(new(sinkhole), get("/?x"))
			}
		})
	}
	wg.Wait()
	if len(w.calls) != 80 {
		t.Errorf("%d calls of Write for 80 records", len(w.calls))
	}
	for _, line := range w.calls {
		if !oneValidLine(line) {
			t.Fatalf("not one valid line: %.200q", line)
		}
	}
}

func oneValidLine(s string) bool {
	line, ok := strings.CutSuffix(s, "\n")
	return ok && !strings.Contains(line, "\n") && json.Valid([]byte(line)) && utf8.ValidString(line)
}

func TestJSONLReportsItsWriter(t *testing.T) {
	full := errors.New("no space left on device")
	w := &writes{n: 10, err: full}
	sink := capture.JSONL(w)
	x := new(capture.Exchange)
	if err := sink.Record(t.Context(), x); err != full {
		t.Errorf("Record returned %v", err)
	}
	w.err = nil
	if err := sink.Record(t.Context(), x); err != io.ErrShortWrite {
		t.Errorf("after a short write Record returned %v", err)
	}
	w.n = 0
	for range 2 {
		if err := sink.Record(t.Context(), x); err != nil {
			t.Error(err)
		}
	}
	// The cut lines end, and the next ones are whole.
	lines := strings.Split(strings.Join(w.calls, ""), "\n")
	if len(lines) != 5 || json.Valid([]byte(lines[1])) || !json.Valid([]byte(lines[2])) || !json.Valid([]byte(lines[3])) {
		t.Errorf("lines %q", lines)
	}

	q := capture.Async(capture.JSONL(&writes{n: 1, err: full}), nil)
	h := exchanges(q, nil, 10)
	for range 20 {
		h.ServeHTTP(new(sinkhole), get("/?x"))
	}
	if err := q.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := q.Stats(); s.Offered != 20 || s.DroppedFailed != 20 {
		t.Errorf("%+v", s)
	}
}

func FuzzJSONL(f *testing.F) {
	f.Add("GET", "/a", "q=1", "User-Agent", "curl", []byte(`{"a":1}`), 100)
	f.Add("\n", "/\u2028", "\xff", "X\r\nY", "a\x00\"\\b", []byte("a\xffb"), 2)
	f.Add("", "", "", "", "", []byte("aé€😀"), 5)
	f.Fuzz(func(t *testing.T, method, path, query, name, value string, body []byte, limit int) {
		var out bytes.Buffer
		r := get("/")
		r.Method, r.URL.Path, r.URL.RawQuery = method, path, query
		r.Header[name] = []string{value, value}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), -1
		r.Header["Content-Type"], r.Header["Content-Encoding"] = []string{"text/plain"}, nil
		opts := &capture.Options{RequestCap: max(1, limit), DangerouslyKeepSecrets: true}
		capture.Middleware(capture.JSONL(&out), opts)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			capture.From(r.Context()).Set(name, value)
			io.Copy(w, r.Body)
		})).ServeHTTP(httptest.NewRecorder(), r)
		if !oneValidLine(out.String()) {
			t.Fatalf("not one valid line: %q", out.String())
		}
		var got struct {
			Request struct {
				Size         int
				Captured     int
				Body         string
				BodyEncoding string `json:"body_encoding"`
			}
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		want := body[:min(len(body), max(1, limit), 64<<20)]
		switch sent := got.Request; {
		case sent.Size != len(body) || sent.Captured != len(want):
			t.Errorf("size %d, captured %d of %d", sent.Size, sent.Captured, len(want))
		case sent.BodyEncoding == "base64":
			var b []byte
			json.Unmarshal([]byte(`"`+sent.Body+`"`), &b)
			if !bytes.Equal(b, want) || utf8.Valid(want) {
				t.Errorf("base64 of %q for %q", b, want)
			}
		case !strings.HasPrefix(string(want), sent.Body) || len(want)-len(sent.Body) >= utf8.UTFMax:
			t.Errorf("body %q for %q", sent.Body, want)
		}
	})
}

func TestSlog(t *testing.T) {
	var out bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&out, nil))
	serve := func(h http.HandlerFunc) map[string]any {
		t.Helper()
		out.Reset()
		func() {
			defer func() { recover() }()
			capture.Middleware(capture.Slog(logger), nil)(h).ServeHTTP(httptest.NewRecorder(), post("application/json", "{}"))
		}()
		var m map[string]any
		if err := json.Unmarshal(out.Bytes(), &m); err != nil {
			t.Fatalf("%v in %s", err, out.String())
		}
		return m
	}
	m := serve(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		capture.From(r.Context()).Set("user", "42")
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Vary", "A")
		w.Header().Add("Vary", "B")
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, "not \xff text")
	})
	request, response := m["request"].(map[string]any), m["response"].(map[string]any)
	header := response["header"].(map[string]any)
	if m["level"] != "INFO" || m["msg"] != "http exchange" || m["status"] != 200.0 || m["outcome"] != "ok" ||
		m["attributes"].(map[string]any)["user"] != "42" || request["body"] != "{}" || request["complete"] != true ||
		response["body"] != "bm90IP8gdGV4dA==" || response["body_encoding"] != "base64" ||
		header["Set-Cookie"] != "REDACTED" || len(header["Vary"].([]any)) != 2 {
		t.Errorf("logged %s", out.String())
	}
	if m := serve(func(http.ResponseWriter, *http.Request) { panic("x") }); m["level"] != "ERROR" || m["outcome"] != "panic" {
		t.Errorf("a panic: %v", m)
	}
	if m := serve(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }); m["level"] != "ERROR" {
		t.Errorf("a 503: %v", m)
	}
	if m := serve(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }); m["level"] != "WARN" {
		t.Errorf("an abort: %v", m)
	}
	off := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))
	out.Reset()
	capture.Slog(off).Record(t.Context(), new(capture.Exchange))
	if out.Len() > 0 {
		t.Errorf("logged although switched off: %s", out.String())
	}
}
