package capture_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/goweir/weir/capture"
)

// har is the part of HTTP Archive 1.2 that capture writes. Pointers are for
// members that the format requires.
type har struct {
	Log *struct {
		Version *string
		Creator *struct{ Name, Version *string }
		Entries *[]harEntry
	}
}

type harEntry struct {
	StartedDateTime *time.Time
	Time            *float64
	Request         *struct {
		Method, URL, HTTPVersion *string
		Cookies                  *[]any
		Headers, QueryString     *[]harPair
		PostData                 *struct{ MimeType, Text, Encoding *string }
		HeadersSize, BodySize    *int64
	}
	Response *struct {
		Status                               *int
		StatusText, HTTPVersion, RedirectURL *string
		Cookies                              *[]any
		Headers                              *[]harPair
		Content                              *struct {
			Size           *int64
			MimeType       *string
			Text, Encoding string
		}
		HeadersSize, BodySize *int64
	}
	Cache   *struct{}
	Timings *struct{ Send, Wait, Receive *float64 }
}

type harPair struct{ Name, Value *string }

// parseHAR reads an archive and reports what it lacks.
func parseHAR(t testing.TB, text []byte) []harEntry {
	t.Helper()
	var a har
	if err := json.Unmarshal(text, &a); err != nil {
		t.Fatalf("%v in %.200q", err, text)
	}
	missing := func(where string, members ...any) {
		t.Helper()
		for i, m := range members {
			if s := fmt.Sprintf("%v", m); s == "<nil>" {
				t.Errorf("%s: required member %d is missing", where, i)
			}
		}
	}
	if a.Log == nil || a.Log.Entries == nil {
		t.Fatalf("no log or no entries in %.200q", text)
	}
	if a.Log.Version == nil || *a.Log.Version != "1.2" || a.Log.Creator == nil {
		t.Error("no version, or no creator")
	}
	for _, e := range *a.Log.Entries {
		if e.Request == nil || e.Response == nil || e.Response.Content == nil || e.Timings == nil {
			t.Fatalf("an entry lacks its request, response or timings")
		}
		rq, rs, tm := e.Request, e.Response, e.Timings
		missing("entry", e.StartedDateTime, e.Time, e.Cache)
		missing("request", rq.Method, rq.URL, rq.HTTPVersion, rq.Cookies, rq.Headers, rq.QueryString, rq.HeadersSize, rq.BodySize)
		missing("response", rs.Status, rs.StatusText, rs.HTTPVersion, rs.RedirectURL, rs.Cookies, rs.Headers, rs.HeadersSize, rs.BodySize)
		missing("content", rs.Content.Size, rs.Content.MimeType)
		missing("timings", tm.Send, tm.Wait, tm.Receive)
		if p := rq.PostData; p != nil {
			missing("postData", p.MimeType, p.Text)
		}
		if sum := *tm.Send + *tm.Wait + *tm.Receive; *tm.Wait < 0 || *tm.Receive < 0 || sum-*e.Time > 0.01 || *e.Time-sum > 0.01 {
			t.Errorf("timings %v, %v and %v do not make up %v", *tm.Send, *tm.Wait, *tm.Receive, *e.Time)
		}
		for _, pairs := range []*[]harPair{rq.Headers, rq.QueryString, rs.Headers} {
			for _, p := range *pairs {
				missing("pair", p.Name, p.Value)
			}
		}
	}
	return *a.Log.Entries
}

func TestHARShape(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.har")
	h := must(capture.OpenHAR(name))
	r := httptest.NewRequest("POST", "https://example.com/a%2Fb?q=1+2&token=s3cret", strings.NewReader(`{"in":1}`))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Cookie", "a=s3cret")
	capture.Middleware(capture.SinkFunc(func(ctx context.Context, x *capture.Exchange) error {
		c := x.Clone()
		c.Start, c.Duration, c.FirstByte = time.Date(2026, 11, 21, 18, 0, 0, 0, time.UTC), 1500*time.Microsecond, time.Millisecond
		return h.Record(ctx, c)
	}), &capture.Options{ResponseCap: 4})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		r.Pattern = "POST /"
		capture.From(r.Context()).Set("user", "42")
		w.WriteHeader(103)
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Location", "/next?code=s3cret")
		w.WriteHeader(201)
		io.WriteString(w, "ab€ is cut")
	})).ServeHTTP(new(sinkhole), r)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	want := `{"log":{"version":"1.2","creator":{"name":"weir","version":"1"},"entries":[` + "\n" +
		`{"startedDateTime":"2026-11-21T18:00:00Z","time":1.5,"request":{"method":"POST",` +
		`"url":"https://example.com/a%2Fb?q=1+2&token=REDACTED","httpVersion":"HTTP/1.1","cookies":[],` +
		`"headers":[{"name":"Content-Type","value":"application/json"},{"name":"Cookie","value":"REDACTED"}],` +
		`"headersSize":-1,"bodySize":8,"queryString":[{"name":"q","value":"1 2"},{"name":"token","value":"REDACTED"}],` +
		`"postData":{"mimeType":"application/json","text":"{\"in\":1}"},"_complete":true},` +
		`"response":{"status":201,"statusText":"Created","httpVersion":"HTTP/1.1","cookies":[],` +
		`"headers":[{"name":"Content-Type","value":"text/plain"},{"name":"Location","value":"/next?code=REDACTED"}],` +
		`"headersSize":-1,"bodySize":12,"_skipped":"cap","_truncated":true,"redirectURL":"/next?code=REDACTED",` +
		`"content":{"size":12,"mimeType":"text/plain","text":"ab"}},` +
		`"cache":{},"timings":{"send":0,"wait":1,"receive":0.5},"_client":"192.0.2.1","_route":"POST /","_outcome":"ok",` +
		`"_informational":[103],"_attributes":{"user":"42"}}` + "\n]}}\n"
	text := must(os.ReadFile(name))
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	parseHAR(t, text)
	if info := must(os.Stat(name)); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

// The file is a valid document at any moment, and goes on after a restart.
func TestHARIsAlwaysValid(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.har")
	n := 0
	for range 3 {
		h := must(capture.OpenHAR(name))
		if got := len(parseHAR(t, must(os.ReadFile(name)))); got != n {
			t.Fatalf("%d entries after it was opened, want %d", got, n)
		}
		serve := exchanges(h, nil, 10)
		for range 3 {
			serve.ServeHTTP(new(sinkhole), get("/?x"))
			n++
			if got := len(parseHAR(t, must(os.ReadFile(name)))); got != n {
				t.Fatalf("%d entries, want %d", got, n)
			}
		}
		if n > 5 {
			continue // as if the process had died
		}
		if err := errors.Join(h.Close(), h.Close()); err != nil {
			t.Error(err)
		}
		if err := h.Record(t.Context(), new(capture.Exchange)); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Record after Close returned %v", err)
		}
	}
	var wg sync.WaitGroup
	h := must(capture.OpenHAR(name))
	serve := exchanges(h, nil, 10_000)
	for range 8 {
		wg.Go(func() {
			for range 10 {
				serve.ServeHTTP(new(sinkhole), get("/?x"))
			}
		})
	}
	wg.Wait()
	h.Close()
	if got := len(parseHAR(t, must(os.ReadFile(name)))); got != n+80 {
		t.Errorf("%d entries, want %d", got, n+80)
	}
}

// Whatever part of a write reached the disk, the archive is opened again with all
// entries that are whole.
func TestOpenHARAfterACrash(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.har")
	grow := func() string {
		h := must(capture.OpenHAR(name))
		defer h.Close()
		exchanges(h, nil, 10).ServeHTTP(new(sinkhole), get("/?x"))
		return string(must(os.ReadFile(name)))
	}
	const tail = "\n]}}\n"
	before := ""
	for n := range 3 {
		after := grow()
		kept := strings.TrimSuffix(before, tail) // which the write leaves alone
		for cut := len(kept); cut < len(after); cut++ {
			text := after[:cut]
			if cut < len(before) {
				text += before[cut:]
			}
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			want := n
			if cut >= len(after)-len(tail) {
				want++ // the entry is whole, only the tail is not
			}
			h, err := capture.OpenHAR(name)
			if err != nil {
				t.Fatalf("record %d cut at %d: %v", n, cut, err)
			}
			if got := len(parseHAR(t, must(os.ReadFile(name)))); got != want {
				t.Fatalf("record %d cut at %d: %d entries, want %d", n, cut, got, want)
			}
			h.Close()
		}
		if err := os.WriteFile(name, []byte(after), 0o600); err != nil {
			t.Fatal(err)
		}
		before = after
	}
}

func TestOpenHARRefusesOtherFiles(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole.har")
	h := must(capture.OpenHAR(whole))
	exchanges(h, nil, 10).ServeHTTP(new(sinkhole), get("/?x"))
	h.Close()
	text := must(os.ReadFile(whole))
	for i, other := range []string{"x", "precious\n", strings.Repeat("precious", 100), `{"log":{}}`, string(text[1:])} {
		name := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(name, []byte(other), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := capture.OpenHAR(name); err == nil {
			t.Errorf("%q was opened as an archive", other)
		}
		if got := must(os.ReadFile(name)); string(got) != other {
			t.Errorf("%q became %q", other, got)
		}
	}
	for _, name := range []string{filepath.Join(dir, "none", "a.har"), dir, os.DevNull} {
		if _, err := capture.OpenHAR(name); err == nil || !strings.HasPrefix(err.Error(), "capture: ") {
			t.Errorf("OpenHAR(%q) returned %v", name, err)
		}
	}
}

func FuzzHAR(f *testing.F) {
	f.Add("GET", "/a", "q=1", "User-Agent", "curl", []byte(`{"a":1}`), 100)
	f.Add("\n", "/\u2028", "\xff&&=&%zz=%", "X\r\nY", "a\x00\"\\b", []byte("a\xffb"), 2)
	f.Add("", "", "", "", "", []byte("aé€😀"), 5)
	name := filepath.Join(f.TempDir(), "a.har")
	f.Fuzz(func(t *testing.T, method, path, query, name1, value string, body []byte, limit int) {
		os.Remove(name)
		h := must(capture.OpenHAR(name))
		defer h.Close()
		r := get("/")
		r.Method, r.URL.Path, r.URL.RawQuery, r.Host = method, path, query, value
		r.Header[name1] = []string{value, value}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), -1
		r.Header["Content-Type"] = []string{"text/plain"}
		handler := capture.Middleware(h, &capture.Options{ResponseCap: max(1, limit), DangerouslyKeepSecrets: true})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Pattern = value
			capture.From(r.Context()).Set(name1, value)
			w.Header().Set("Content-Type", "text/plain")
			w.Write(body)
		}))
		handler.ServeHTTP(httptest.NewRecorder(), r)
		handler.ServeHTTP(httptest.NewRecorder(), get("/"))
		text := must(os.ReadFile(name))
		if !utf8.Valid(text) {
			t.Fatalf("not UTF-8: %q", text)
		}
		if lines := bytes.Count(text, []byte("\n")); lines != 4 { // head, two entries, tail
			t.Errorf("%d lines, want 4", lines)
		}
		entries := parseHAR(t, text)
		if len(entries) != 2 {
			t.Fatalf("%d entries", len(entries))
		}
		for _, e := range entries {
			want := body[:min(len(body), max(1, limit))]
			switch content := e.Response.Content; {
			case *content.Size != int64(len(body)):
				t.Errorf("size %d of %d", *content.Size, len(body))
			case content.Encoding == "base64":
				got, err := base64.StdEncoding.DecodeString(content.Text)
				if err != nil || !bytes.Equal(got, want) || utf8.Valid(want) {
					t.Errorf("base64 of %q for %q, %v", got, want, err)
				}
			case !strings.HasPrefix(string(want), content.Text) || len(want)-len(content.Text) >= utf8.UTFMax:
				t.Errorf("text %q for %q", content.Text, want)
			}
		}
	})
}
