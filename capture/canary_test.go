package capture_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/goweir/weir/capture"
)

// sinksUnderTest are all sinks; each writes what it has to w, and close waits
// until it has.
var sinksUnderTest = []struct {
	name string
	open func(w io.Writer) (sink capture.Sink, close func(context.Context) error)
}{
	{"JSONL", func(w io.Writer) (capture.Sink, func(context.Context) error) { return capture.JSONL(w), nil }},
	{"Slog, JSON", func(w io.Writer) (capture.Sink, func(context.Context) error) {
		return capture.Slog(slog.New(slog.NewJSONHandler(w, nil))), nil
	}},
	{"Slog, text", func(w io.Writer) (capture.Sink, func(context.Context) error) {
		return capture.Slog(slog.New(slog.NewTextHandler(w, nil))), nil
	}},
	{"Async", func(w io.Writer) (capture.Sink, func(context.Context) error) {
		q := capture.Async(capture.JSONL(w), &capture.AsyncOptions{OnError: func(err error) { fmt.Fprintln(w, err) }})
		return q, q.Close
	}},
	{"HAR", func(w io.Writer) (capture.Sink, func(context.Context) error) {
		f := must(os.CreateTemp("", "*.har"))
		f.Close()
		os.Remove(f.Name())
		h := must(capture.OpenHAR(f.Name()))
		return h, func(context.Context) error {
			defer os.Remove(f.Name())
			err := h.Close()
			text, _ := os.ReadFile(f.Name())
			w.Write(text)
			return err
		}
	}},
	{"Ring", func(w io.Writer) (capture.Sink, func(context.Context) error) {
		r := capture.NewRing(nil)
		return r, func(ctx context.Context) error {
			for n := int64(0); n < r.Last(); {
				x, number, err := r.Next(ctx, n)
				if err != nil {
					return err
				}
				n = number
				fmt.Fprintf(w, "%+v\n%s\n%s\n", x, x.Request.Body.Bytes(), x.Response.Body.Bytes())
			}
			return nil
		}
	}},
	{"a queue behind a function", func(w io.Writer) (capture.Sink, func(context.Context) error) {
		q := capture.Async(capture.JSONL(w), nil)
		return capture.SinkFunc(q.Record), q.Close
	}},
	{"a sink that prints all it can reach", func(w io.Writer) (capture.Sink, func(context.Context) error) {
		return capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
			for _, x := range []*capture.Exchange{x, x.Clone()} {
				text, err := json.Marshal(x)
				fmt.Fprintf(w, "%+v\n%#v\n%s %v\n", x, x, text, err)
				for _, m := range []capture.Message{x.Request, x.Response} {
					fmt.Fprintf(w, "%+v\n%s\n", m, m.Body.Bytes())
				}
			}
			return nil
		}), nil
	}},
	{"a sink that fails", func(w io.Writer) (capture.Sink, func(context.Context) error) {
		return capture.JSONL(brokenWriter{}), nil
	}},
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

// TestCanary plants a secret in each place that masking is promised for, and
// looks for them in everything that comes out.
func TestCanary(t *testing.T) {
	n := 0
	secret := func() string {
		n++
		return fmt.Sprintf("c4n4ry%02d", n)
	}
	jsonBody := `{"visible":"yes","password":"` + secret() + `","a":[{"accessToken":{"deep":["` + secret() + `"]}}],"\u0073ecret":"` + secret() +
		`","callback":"https://a/?token=` + secret() + `","body":"{\"api_key\":\"` + secret() + `\"}","card":{"number":"` + secret() + `"}}`
	formBody := "visible=yes&password=" + secret() + "&grant_type=x&code=" + secret() + "&next=%2F%3Ftoken%3D" + secret()
	textBody := "visible: yes\nAuthorization: Bearer " + secret() + "\npassword = " + secret() + "\n<login><password>" + secret() + "</password></login>\n"
	brokenBody := `{"visible":"no","password":"` + secret() + `"`
	unknownBody := secret() + secret()
	headers := map[string]string{
		"Authorization": "Bearer " + secret(), "Cookie": "id=" + secret(), "Set-Cookie": "id=" + secret(),
		"X-Api-Key": secret(), "X-Auth-Token": secret(), "Location": "https://u:" + secret() + "@a/",
	}
	query := "visible=yes&access_token=" + secret() + "&sig=" + secret()
	path := "/visible;jsessionid=" + secret()
	if n < 20 {
		t.Fatalf("only %d secrets", n)
	}

	exchanges := []struct{ request, requestBody, response, responseBody, coding string }{
		{"application/json", jsonBody, "application/problem+json", jsonBody, ""},
		{"application/x-www-form-urlencoded", formBody, "text/plain", textBody, ""},
		{"application/json", gz(jsonBody), "application/x-ndjson", gz(jsonBody + "\n" + jsonBody), "gzip"},
		{"text/xml", textBody, "", jsonBody, ""}, // sniffed as text
		{"application/json", brokenBody, "text/html", brokenBody, ""},
		{"multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\n" + unknownBody, "application/protobuf", "\x00" + unknownBody, ""},
		{"application/json", unknownBody, "application/json", unknownBody, "panics"},
	}
	opts := capture.Options{
		RedactPaths: []string{"$..number"},
		RequestBody: func(*http.Request, capture.SkipReason) capture.SkipReason { return "" },
		ResponseBody: func(*http.Request, int, http.Header, capture.SkipReason) capture.SkipReason {
			return ""
		},
		Decoders: map[string]capture.Decoder{"panics": func(src io.Reader) io.ReadCloser {
			text, _ := io.ReadAll(src)
			panic(string(text))
		}},
	}
	for _, s := range sinksUnderTest {
		var out lockedBuffer
		opts := opts
		opts.OnError = func(err error) { fmt.Fprintln(&out, "error:", err) }
		opts.Keep = func(x *capture.Exchange) bool {
			fmt.Fprintf(&out, "%+v %s%s\n", x, x.Request.Body.Bytes(), x.Clone().Response.Body.Bytes())
			return true
		}
		sink, closeSink := s.open(&out)
		h := capture.Middleware(sink, &opts)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			for name, value := range headers {
				w.Header().Set(name, value)
			}
			var i int
			fmt.Sscan(r.URL.Query().Get("n"), &i)
			if x := exchanges[i]; x.response != "" {
				w.Header().Set("Content-Type", x.response)
				w.Header().Set("Content-Encoding", x.coding)
			}
			w.Header().Set(http.TrailerPrefix+"X-Secret", headers["X-Api-Key"])
			for p := exchanges[i].responseBody; p != ""; {
				k := min(7, len(p))
				io.WriteString(w, p[:k])
				p = p[k:]
			}
		}))
		for i, x := range exchanges {
			for range 2 {
				r := post(x.request, x.requestBody)
				r.URL.Path, r.URL.RawQuery = path, fmt.Sprintf("%s&n=%d", query, i)
				if x.coding != "" {
					r.Header.Set("Content-Encoding", x.coding)
				}
				for name, value := range headers {
					r.Header.Set(name, value)
				}
				h.ServeHTTP(httptest.NewRecorder(), r)
			}
		}
		if closeSink != nil {
			if err := closeSink(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		got := out.String()
		for i := 1; i <= n; i++ {
			if at := strings.Index(got, fmt.Sprintf("c4n4ry%02d", i)); at >= 0 {
				t.Errorf("%s: secret %d in …%s…", s.name, i, got[max(0, at-200):min(len(got), at+50)])
			}
		}
		if !strings.Contains(got, "REDACTED") || !strings.Contains(got, "visible") || strings.Contains(got, `visible\":\"no`) {
			t.Errorf("%s: %.1000s", s.name, got)
		}
	}
}

// A canary that is cut at any offset leaves no part of it, whatever the kind of
// the body.
func TestCanaryCutAnywhere(t *testing.T) {
	for contentType, body := range map[string]string{
		"application/json":                  `{"a":1,"password":"c4n4ry","b":["x",{"token":{"c4n4ry":"c4n4ry"}}],"c":"?sig=c4n4ry"}`,
		"application/x-www-form-urlencoded": "a=1&password=c4n4ry&b=2&next=%2F%3Ftoken%3Dc4n4ry&%74oken=c4n4ry",
		"text/plain":                        "a\npassword: c4n4ry\ntoken='c4n4ry \\' c4n4ry' b\nsecret=\n  c4n4ry\n<a:token x='1' pin='c4n4ry'>c4n4ry</b>c4n4ry</a:token>",
		"text/plain; json":                  ` {"a":1,"password":"c4n4ry"}`,
	} {
		opts := &capture.Options{RequestBody: func(*http.Request, capture.SkipReason) capture.SkipReason { return "" }}
		for limit := 1; limit <= len(body); limit++ {
			opts.RequestCap = limit
			x, _ := record(t, opts, post(contentType, body), func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
			b := x.Request.Body
			if got := captured(b); strings.Contains(got, "c4n") || b.Len() == 0 || b.Truncated != (limit < len(body)) {
				t.Errorf("%s cut at %d: %q, %+v", contentType, limit, got, b)
			}
		}
	}
}

// Decoding and redaction take place where the sink runs, and nobody sees a body
// before.
func TestBodiesAreFinishedOnTheSinksSide(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	opts := &capture.Options{
		Decoders: map[string]capture.Decoder{"slow": func(src io.Reader) io.ReadCloser {
			once.Do(func() { close(entered) })
			<-release
			return io.NopCloser(src)
		}},
		Keep: func(x *capture.Exchange) bool {
			if b := x.Response.Body; b.Len() != 0 || len(b.Bytes()) != 0 || x.Clone().Response.Body.Len() != 0 {
				t.Errorf("Keep sees %q", b.Bytes())
			}
			return true
		},
	}
	s := newShelf()
	q := capture.Async(s, nil)
	h := capture.Middleware(q, opts)(coded("slow", "application/json", `{"token":1}`+strings.Repeat(" ", 9000)))
	h.ServeHTTP(httptest.NewRecorder(), get("/")) // returns although the decoder waits
	<-entered
	h.ServeHTTP(httptest.NewRecorder(), get("/"))
	if stats := q.Stats(); stats.Waiting != 2 || stats.WaitingBytes < 9000 {
		t.Errorf("%+v, want what was captured to count", stats)
	}
	close(release)
	if err := q.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := captured(s.next(t).Response.Body); !strings.HasPrefix(got, `{"token":"REDACTED"}  `) {
			t.Errorf("captured %.30q", got)
		}
	}
}

// What masking adds is taken from the budget, and given back.
func TestMasksWithinTheBudget(t *testing.T) {
	body := `{"a":"` + strings.Repeat("x", 464) + `","pin":1,"otp":2,"pwd":3,"sid":4}`
	for _, limit := range []int64{512 + 4<<10, 512 + 4<<10 - 1} {
		budget := capture.NewBudget(limit)
		var held int64
		s := newShelf()
		sink := capture.SinkFunc(func(ctx context.Context, x *capture.Exchange) error {
			held = budget.InUse()
			return s.Record(ctx, x)
		})
		cap := &capture.Options{Budget: budget, ResponseCap: 512}
		capture.Middleware(sink, cap)(coded("", "application/json", body)).ServeHTTP(httptest.NewRecorder(), get("/"))
		b := s.next(t).Response.Body
		if fits := limit >= 512+4<<10; fits && (b.Len() != len(body)+4*(len(`"REDACTED"`)-1) || !json.Valid(b.Bytes()) || b.Truncated) ||
			!fits && (b.Len() != 512 || !b.Truncated || b.Skipped != capture.SkipBudget) {
			t.Errorf("budget %d: %d bytes captured of %d, %+v", limit, b.Len(), len(body), b)
		}
		if held > limit || budget.InUse() != 0 {
			t.Errorf("budget %d: %d bytes held, then %d", limit, held, budget.InUse())
		}
	}
}
