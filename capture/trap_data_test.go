package capture_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/goweir/weir/capture"
)

func TestTrapCapture29_SecretsAreMaskedBeforeQueueing(t *testing.T) {
	const canary = "c4nary"
	headers := []string{
		"Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-Api-Key", "X-Auth-Token",
		"X-Csrf-Token", "X-Client-Secret", "X-Password", "X-Amz-Security-Token", "X-Hub-Signature-256",
		"X-Vault-Token", "Private-Token", "X-Our-Own",
	}
	r := get("/a;jsessionid=" + canary + "/b?page=2&api_key=" + canary + "&Access-Token=" + canary +
		"&%74oken=" + canary + "&user%5Bpassword%5D=" + canary + "&x=1;secret=" + canary + "=&code=" + canary +
		"&next=https%3A%2F%2Fa%2F%3Ftoken%3D" + canary + "&twice=%2526token%253D" + canary +
		"&filter=%7B%22password%22%3A%22" + canary + "%22%7D&%zz=" + canary + "&sig=" + canary + "#")
	for _, name := range headers {
		r.Header.Add(name, canary)
		r.Header.Add(name, "second "+canary)
	}
	r.Header.Set("Referer", "https://user:"+canary+"@example.com/?q=1&token="+canary)
	r.Header.Set("Content-Type", "text/plain; from=https://a/?token="+canary)
	r.Trailer = http.Header{"X-Token": {canary}}
	queue := newShelf() // what a queue would hold
	var out, logs bytes.Buffer
	slogger := slog.New(slog.NewJSONHandler(&logs, nil))
	h := capture.Middleware(capture.SinkFunc(func(ctx context.Context, x *capture.Exchange) error {
		queue.Record(ctx, x)
		capture.Slog(slogger).Record(ctx, x)
		return capture.JSONL(&out).Record(ctx, x)
	}), &capture.Options{Redact: []string{"x_our-own"}})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range headers {
			w.Header().Add(name, canary)
		}
		w.Header().Set("Location", "/cb?state=1&code="+canary)
		w.Header().Set("Link", "</x?page=2>; rel=next, </y#access_token="+canary+">")
		w.Header().Set(http.TrailerPrefix+"X-Secret", canary)
		panic("secret " + canary)
	}))
	func() {
		defer func() { recover() }()
		h.ServeHTTP(httptest.NewRecorder(), r)
	}()
	x := queue.next(t)
	if strings.Contains(x.Path+x.Query, canary) || !strings.Contains(x.Query, "page=2") {
		t.Errorf("path %q, query %q", x.Path, x.Query)
	}
	for _, fields := range []capture.Header{x.Request.Header, x.Response.Header, x.Request.Trailer, x.Response.Trailer} {
		for _, f := range fields {
			if strings.Contains(f.Value, canary) {
				t.Errorf("%s: %s", f.Name, f.Value)
			}
		}
	}
	for name, text := range map[string]string{"JSONL": out.String(), "slog": logs.String()} {
		if i := strings.Index(text, canary); i >= 0 || text == "" {
			t.Errorf("%s: canary at %d in %s", name, i, text)
		}
	}
}

func TestTrapCapture30_NobodyBreaksALine(t *testing.T) {
	evil := "x\r\n{\"forged\":true}\u2028\u0085\x00\x1b[2J\xff\"\\"
	r := httptest.NewRequest("GET", "/", nil)
	r.URL.Path, r.URL.RawQuery, r.Host, r.Method, r.Pattern = evil, evil, evil, evil, evil
	r.Header["User-Agent"] = []string{evil}
	r.Header[evil] = []string{evil}
	var out, logs bytes.Buffer
	capture.Middleware(capture.SinkFunc(func(ctx context.Context, x *capture.Exchange) error {
		capture.Slog(slog.New(slog.NewJSONHandler(&logs, nil))).Record(ctx, x)
		return capture.JSONL(&out).Record(ctx, x)
	}), &capture.Options{DangerouslyKeepSecrets: true})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		live := capture.From(r.Context())
		live.Set(evil, evil)
		w.Header().Set("Content-Type", "text/"+evil)
		io.WriteString(w, evil)
	})).ServeHTTP(httptest.NewRecorder(), r)
	for name, text := range map[string]string{"JSONL": out.String(), "slog": logs.String()} {
		line, rest, _ := strings.Cut(text, "\n")
		if rest != "" || !json.Valid([]byte(line)) || strings.ContainsAny(line, "\r\x00\x1b") {
			t.Errorf("%s: not one valid line: %q", name, text)
		}
	}
	if strings.ContainsAny(out.String(), "\u2028\u0085") {
		t.Error("JSONL: a Unicode line separator stands in the line")
	}
	var got struct {
		Attributes map[string]string
		Response   struct {
			Body         []byte
			BodyEncoding string `json:"body_encoding"`
		}
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if string(got.Response.Body) != evil || got.Response.BodyEncoding != "base64" {
		t.Errorf("body %q, encoding %q", got.Response.Body, got.Response.BodyEncoding)
	}
}

func TestTrapCapture31_CutOnACharacter(t *testing.T) {
	const text = "aé€😀"
	for limit := 1; limit <= len(text); limit++ {
		var out bytes.Buffer
		h := capture.Middleware(capture.JSONL(&out), &capture.Options{ResponseCap: limit})
		h(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			io.WriteString(w, text)
		})).ServeHTTP(httptest.NewRecorder(), get("/"))
		var got struct {
			Response struct {
				Body         string
				BodyEncoding string `json:"body_encoding"`
				Captured     int
				Truncated    bool
			}
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		b := got.Response
		if !strings.HasPrefix(text, b.Body) || len(b.Body) < limit-3 || strings.Contains(b.Body, "\ufffd") ||
			b.BodyEncoding != "" || b.Captured != limit || b.Truncated != (limit < len(text)) {
			t.Errorf("cap %d: %+v", limit, b)
		}
	}
	// What is not text stays what it is, cut or not.
	for _, body := range []string{"\xff\xfe", "ab\xe2", "\x80\x80\x80\x80"} {
		x, _ := record(t, nil, get("/"), func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			io.WriteString(w, body)
		})
		if got := captured(x.Response.Body); got != body || utf8.ValidString(got) {
			t.Errorf("captured %q of %q", got, body)
		}
	}
}

func TestTrapCapture32_MislabelledDownloadIsCapped(t *testing.T) {
	size := int64(1 << 30)
	if testing.Short() {
		size = 64 << 20
	}
	budget := capture.NewBudget(1 << 20)
	x := recordOn(t, new(sinkhole), &capture.Options{Budget: budget}, get("/"), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.Copy(w, io.LimitReader(zeros{}, size))
		if n := budget.InUse(); n > 68<<10 {
			t.Errorf("%d bytes held", n)
		}
	})
	if b := x.Response.Body; b.Size != size || b.Len() != 0 || b.Skipped != capture.SkipRedaction {
		t.Errorf("recorded %+v, captured %d", b, b.Len())
	}
}

// sinkhole is a ResponseWriter that keeps nothing.
type sinkhole struct{ h http.Header }

func (w *sinkhole) Header() http.Header {
	if w.h == nil {
		w.h = http.Header{}
	}
	return w.h
}
func (w *sinkhole) WriteHeader(int)             {}
func (w *sinkhole) Write(p []byte) (int, error) { return len(p), nil }
