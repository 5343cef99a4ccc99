package capture_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/goweir/weir/capture"
)

func TestMiddlewareRecordsAnExchange(t *testing.T) {
	r := httptest.NewRequest("POST", "http://example.com/a%2Fb?x=1&token=t0psecret", strings.NewReader(`{"in":1}`))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer t0psecret")
	r.RemoteAddr = "192.0.2.7:1234"
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{rest...}", func(w http.ResponseWriter, r *http.Request) {
		capture.From(r.Context()).Set("user", "42")
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != `{"in":1}` {
			t.Errorf("handler read %q, %v", body, err)
		}
		w.Header().Set("Content-Type", "application/problem+json; charset=utf-8")
		w.Header().Set("Set-Cookie", "id=t0psecret")
		w.WriteHeader(http.StatusTeapot)
		w.Write([]byte(`{"out":2}`))
	})
	x, w := record(t, nil, r, mux.ServeHTTP)
	if w.Code != 418 || w.Body.String() != `{"out":2}` {
		t.Errorf("client got %d %q", w.Code, w.Body)
	}
	for _, c := range []struct{ name, got, want string }{
		{"method", x.Method, "POST"},
		{"host", x.Host, "example.com"},
		{"path", x.Path, "/a%2Fb"},
		{"query", x.Query, "x=1&token=REDACTED"},
		{"route", x.Route, "POST /{rest...}"},
		{"client", x.Client.String(), "192.0.2.7"},
		{"proto", x.Proto, "HTTP/1.1"},
		{"outcome", string(x.Outcome), "ok"},
		{"Authorization", x.Request.Header.Get("authorization"), "REDACTED"},
		{"Set-Cookie", x.Response.Header.Get("Set-Cookie"), "REDACTED"},
		{"request body", string(x.Request.Body.Bytes()), `{"in":1}`},
		{"response body", string(x.Response.Body.Bytes()), `{"out":2}`},
		{"attribute", x.Attributes[0].Name + "=" + x.Attributes[0].Value, "user=42"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, c.got, c.want)
		}
	}
	if x.Status != 418 || x.Request.Body.Size != 8 || !x.Request.Body.Complete || x.Request.Body.Declared != 8 ||
		x.Response.Body.Size != 9 || x.Response.Body.Declared != -1 {
		t.Errorf("record %+v", x)
	}
	if r.Pattern != "POST /{rest...}" {
		t.Errorf("outside, r.Pattern is %q", r.Pattern)
	}
}

func TestAsyncJSONL(t *testing.T) {
	var out bytes.Buffer
	q := capture.Async(capture.JSONL(&out), nil)
	h := capture.Middleware(q, nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, "{\n  \"a\": \"\u2028é\"\n}\n")
	}))
	for range 3 {
		h.ServeHTTP(httptest.NewRecorder(), get("/"))
	}
	if err := q.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines, want 3:\n%s", len(lines), out.String())
	}
	for _, line := range lines {
		var x struct {
			Status   int
			Response struct{ Body string }
		}
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if want := "{\n  \"a\": \"\u2028é\"\n}\n"; x.Response.Body != want || x.Status != 200 {
			t.Errorf("got %q, %d; want %q, 200", x.Response.Body, x.Status, want)
		}
	}
	if s := q.Stats(); s.Offered != 3 || s.Delivered != 3 || s.Waiting != 0 {
		t.Errorf("stats %+v", s)
	}
}
