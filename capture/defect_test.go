package capture_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goweir/weir/capture"
)

func TestDefectCapture_EarlyHintsThenAnError(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(103)
		w.WriteHeader(500)
	}))
	defer upstream.Close()
	target := must(url.Parse(upstream.URL))
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	s, srv := server(t, nil, proxy.ServeHTTP)

	var hints []int
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
		hints = append(hints, code)
		return nil
	}}
	r := must(http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "GET", srv.URL, nil))
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	x := s.next(t)
	if resp.StatusCode != 500 || !slices.Equal(hints, []int{103}) {
		t.Errorf("client got %d and hints %v", resp.StatusCode, hints)
	}
	if x.Status != 500 || !slices.Equal(x.Informational, []int{103}) {
		t.Errorf("recorded %d and %v", x.Status, x.Informational)
	}
}

func TestDefectCapture_CaptureIsAPrefixAcrossTheCap(t *testing.T) {
	for _, parts := range [][]string{
		{strings.Repeat("A", 61440), strings.Repeat("B", 10240), strings.Repeat("C", 10240)},
		{strings.Repeat("A", 65536), "x", "y", "z"},
		{strings.Repeat("A", 65535), "xy", "z"},
	} {
		whole := strings.Join(parts, "")
		x, _ := record(t, nil, get("/"), func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			for _, p := range parts {
				io.WriteString(w, p)
			}
		})
		if b := x.Response.Body; captured(b) != whole[:64<<10] || b.Size != int64(len(whole)) || !b.Truncated {
			t.Errorf("captured %d bytes, a prefix: %v; size %d", b.Len(), strings.HasPrefix(whole, captured(b)), b.Size)
		}
	}
	// Exactly the cap is not cut.
	x, _ := record(t, nil, get("/"), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, strings.Repeat("A", 64<<10))
	})
	if b := x.Response.Body; b.Truncated || b.Skipped != "" || b.Len() != 64<<10 {
		t.Errorf("exactly the cap: %+v", b)
	}
}

func TestDefectCapture_StatusIsWhatWasSent(t *testing.T) {
	for _, c := range []struct {
		name   string
		h      http.HandlerFunc
		status int
		size   int64
	}{
		{"1xx, then implicit 200", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(103)
			io.WriteString(w, "ok")
		}, 200, 2},
		{"superfluous", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "ok")
			w.WriteHeader(500)
		}, 200, 2},
		{"abort", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, 0, 0},
		{"a refused body", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(304)
			io.WriteString(w, "never sent at all")
		}, 304, 0},
	} {
		s := newShelf()
		srv := httptest.NewUnstartedServer(capture.Middleware(s, nil)(c.h))
		srv.Config.ErrorLog = discardLog()
		srv.Start()
		resp, err := srv.Client().Get(srv.URL)
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != c.status {
				t.Errorf("%s: client got %d", c.name, resp.StatusCode)
			}
		} else if c.status != 0 {
			t.Errorf("%s: %v", c.name, err)
		}
		if x := s.next(t); x.Status != c.status || x.Response.Body.Size != c.size {
			t.Errorf("%s: recorded %d, %d bytes; want %d, %d", c.name, x.Status, x.Response.Body.Size, c.status, c.size)
		}
		srv.Close()
	}
}

func TestDefectCapture_TypesAreMatchedWhole(t *testing.T) {
	for _, contentType := range []string{
		"", "application/octet-stream", "image/png", "application/jsonp", "application/json-foo", "json",
		"application/x-json-not", "+json", "textual/plain", "application/javascript", "application/",
	} {
		x, _ := record(t, nil, get("/"), func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = []string{contentType}
			io.WriteString(w, "{}")
		})
		if b := x.Response.Body; b.Skipped != capture.SkipContentType || b.Len() != 0 {
			t.Errorf("%q: captured %d bytes, skipped %q", contentType, b.Len(), b.Skipped)
		}
	}
}

func TestDefectCapture_ReadFromIsCounted(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file.txt")
	text := strings.Repeat("0123456789", 20_000)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for way, h := range map[string]http.HandlerFunc{
		"io.Copy": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			io.Copy(w, strings.NewReader(text))
		},
		"io.Copy of a file": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			f := must(os.Open(name))
			defer f.Close()
			io.Copy(w, f)
		},
		"ServeFile": func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, name) },
	} {
		s, srv := server(t, nil, h)
		resp, err := srv.Client().Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		b := s.next(t).Response.Body
		if string(got) != text || b.Size != int64(len(text)) || captured(b) != text[:64<<10] {
			t.Errorf("%s: client %d bytes, size %d, captured %d", way, len(got), b.Size, b.Len())
		}
	}
}

func TestDefectCapture_WriteStringIsCaptured(t *testing.T) {
	x, _ := record(t, nil, get("/"), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.(io.StringWriter).WriteString(`{"a"`)
		io.WriteString(w, `:1}`)
	})
	if got := captured(x.Response.Body); got != `{"a":1}` {
		t.Errorf("captured %q", got)
	}
}

// A sink that keeps what it should not finds it empty, never filled with
// another exchange.
func TestDefectCapture_KeptRecordShowsNothingOfOthers(t *testing.T) {
	budget := capture.NewBudget(1 << 20)
	var kept []*capture.Exchange
	var bodies []capture.Body // copies share what is taken back
	sink := capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		want := strings.Repeat(x.Query, 1000)
		if got := captured(x.Response.Body); got != want {
			t.Errorf("record %s shows %.20q", x.Query, got)
		}
		kept, bodies = append(kept, x), append(bodies, x.Response.Body)
		return nil
	})
	h := capture.Middleware(sink, &capture.Options{Budget: budget})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("X-Mark", r.URL.RawQuery)
		for range 10 {
			io.WriteString(w, strings.Repeat(r.URL.RawQuery, 100))
		}
	}))
	for i := range 26 {
		mark := string(rune('a' + i))
		capture.Poison(budget) // whoever reads a free buffer reads this
		h.ServeHTTP(httptest.NewRecorder(), get("/?"+mark+mark))
	}
	for i, x := range kept {
		if got := captured(x.Response.Body) + captured(bodies[i]); got != "" {
			t.Errorf("kept record %s shows %.40q", x.Query, got)
		}
		if x.Response.Header.Get("X-Mark") != x.Query {
			t.Errorf("kept record %s has the header of %s", x.Query, x.Response.Header.Get("X-Mark"))
		}
	}
	if n := budget.InUse(); n != 0 {
		t.Errorf("%d bytes of budget still taken", n)
	}
}

// Where there is nothing to take over, as under HTTP/2, nothing pretends so.
func TestDefectCapture_HijackUnderHTTP2(t *testing.T) {
	s := newShelf()
	srv := httptest.NewUnstartedServer(capture.Middleware(s, nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := w.(http.Hijacker); ok {
			t.Error("the writer claims to be a Hijacker")
		}
		if _, _, err := http.NewResponseController(w).Hijack(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("Hijack returned %v", err)
		}
		w.WriteHeader(426)
	})))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if x := s.next(t); x.Status != 426 || x.Outcome != capture.OutcomeOK || x.Proto != "HTTP/2.0" {
		t.Errorf("recorded %d, %s over %s", x.Status, x.Outcome, x.Proto)
	}
}
