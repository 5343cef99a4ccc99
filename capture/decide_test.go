package capture_test

import (
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/goweir/weir/capture"
)

func TestResponseSkipReasons(t *testing.T) {
	head := func(pairs ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			h.Add(pairs[i], pairs[i+1])
		}
		return h
	}
	const ct, cd, ce = "Content-Type", "Content-Disposition", "Content-Encoding"
	for _, c := range []struct {
		name   string
		method string
		status int
		header http.Header
		want   capture.SkipReason
	}{
		{"json", "GET", 200, head(ct, "application/json"), ""},
		{"parameters and case", "GET", 200, head(ct, " Application/JSON ; charset=utf-8"), ""},
		{"+json", "GET", 500, head(ct, "application/vnd.api+JSON; v=1"), ""},
		{"text", "GET", 200, head(ct, "text/csv"), ""},
		{"inline", "GET", 200, head(ct, "text/csv", cd, "inline; filename=a.csv"), ""},
		{"identity", "GET", 200, head(ct, "text/csv", ce, "Identity"), ""},
		{"image", "GET", 200, head(ct, "image/svg+xml"), capture.SkipContentType},
		{"download", "GET", 200, head(ct, "application/octet-stream"), capture.SkipContentType},
		{"attachment", "GET", 200, head(ct, "application/json", cd, `Attachment; filename="a.json"`), capture.SkipAttachment},
		{"unknown disposition", "GET", 200, head(ct, "text/plain", cd, "whatever"), capture.SkipAttachment},
		{"event stream", "GET", 200, head(ct, "text/event-stream; charset=utf-8"), capture.SkipSSE},
		{"grpc", "POST", 200, head(ct, "application/grpc+json"), capture.SkipGRPC},
		{"grpc-web", "POST", 200, head(ct, "application/grpc-web-text"), capture.SkipGRPC},
		{"range", "GET", 206, head(ct, "text/plain"), capture.SkipRange},
		{"multipart", "GET", 200, head(ct, "multipart/mixed; boundary=x"), capture.SkipMultipart},
		{"gzip", "GET", 200, head(ct, "application/json", ce, "gzip"), ""},
		{"codings in any case, twice", "GET", 200, head(ct, "application/json", ce, " X-GZip , Deflate"), ""},
		{"unknown coding", "GET", 200, head(ct, "application/json", ce, "compress"), capture.SkipEncoded},
		{"too many codings", "GET", 200, head(ct, "application/json", ce, "gzip, gzip, gzip, gzip"), capture.SkipEncoded},
		{"second coding", "GET", 200, head(ct, "application/json", ce, "identity, br"), capture.SkipEncoded},
		{"coding on another line", "GET", 200, head(ct, "application/json", ce, "identity", ce, "zstd"), capture.SkipEncoded},
		{"gzip of an image", "GET", 200, head(ct, "image/bmp", ce, "gzip"), capture.SkipContentType},
		{"HEAD", "HEAD", 200, head(ct, "text/plain"), capture.SkipNoBody},
		{"204", "DELETE", 204, nil, capture.SkipNoBody},
		{"304", "GET", 304, head(ct, "text/plain"), capture.SkipNoBody},
		{"switching", "GET", 101, nil, capture.SkipUpgrade},
	} {
		t.Run(c.name, func(t *testing.T) {
			budget := capture.NewBudget(1 << 20)
			r := get("/")
			r.Method = c.method
			opts := &capture.Options{Budget: budget, DangerouslyKeepSecrets: true} // x is no JSON
			x, _ := record(t, opts, r, func(w http.ResponseWriter, r *http.Request) {
				maps.Copy(w.Header(), c.header)
				w.WriteHeader(c.status)
				io.WriteString(w, strings.Repeat("x", 1000))
				if held := budget.InUse() > 0; held != (c.want == "") {
					t.Errorf("%d bytes held", budget.InUse())
				}
			})
			if b := x.Response.Body; b.Skipped != c.want || (b.Len() > 0) != (c.want == "") {
				t.Errorf("skipped %q, captured %d; want %q", b.Skipped, b.Len(), c.want)
			}
		})
	}
}

func TestRequestSkipReasons(t *testing.T) {
	for _, c := range []struct {
		contentType, coding string
		want                capture.SkipReason
	}{
		{"application/json; charset=utf-8", "", ""},
		{"text/xml", "", ""},
		{"", "", capture.SkipContentType},
		{"application/x-www-form-urlencoded", "", capture.SkipContentType},
		{"multipart/form-data; boundary=x", "", capture.SkipMultipart},
		{"application/grpc", "", capture.SkipGRPC},
		{"application/json", "gzip", ""},
		{"application/json", "br", capture.SkipEncoded},
	} {
		r := post(c.contentType, "1234")
		r.Header.Set("Content-Encoding", c.coding)
		x, _ := record(t, nil, r, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
		if b := x.Request.Body; b.Skipped != c.want || b.Size != 4 || (b.Len() == 4) != (c.want == "") || !b.Complete {
			t.Errorf("%q %q: %+v, captured %d; want skipped %q", c.contentType, c.coding, b, b.Len(), c.want)
		}
	}
}

func TestStatusReason(t *testing.T) {
	answer := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			io.WriteString(w, "{}")
		}
	}
	for _, status := range []int{401, 403} {
		x, _ := record(t, nil, post("text/plain", "pw"), answer(status))
		if x.Request.Body.Skipped != capture.SkipStatus || x.Request.Body.Len() != 0 || x.Request.Body.Size != 2 ||
			captured(x.Response.Body) != "{}" {
			t.Errorf("%d: request %+v, response %+v", status, x.Request.Body, x.Response.Body)
		}
		x, _ = record(t, &capture.Options{UnauthorizedBodies: true}, post("text/plain", "pw"), answer(status))
		if captured(x.Request.Body) != "pw" {
			t.Errorf("%d, UnauthorizedBodies: %+v", status, x.Request.Body)
		}
	}
	// An upstream's own 429 is no refusal; what Refused was called for is.
	x, _ := record(t, nil, post("text/plain", "pw"), answer(429))
	if captured(x.Request.Body) != "pw" || captured(x.Response.Body) != "{}" {
		t.Errorf("429: %+v %+v", x.Request.Body, x.Response.Body)
	}
	for _, when := range []string{"before", "after"} {
		budget := capture.NewBudget(1 << 20)
		x, _ = record(t, &capture.Options{Budget: budget}, post("text/plain", "pw"), func(w http.ResponseWriter, r *http.Request) {
			live := capture.From(r.Context())
			if when == "before" {
				live.Refused("per client")
			}
			answer(429)(w, r)
			if when == "after" {
				live.Refused("per client")
			}
			if n := budget.InUse(); n != 0 {
				t.Errorf("%s: %d bytes held", when, n)
			}
		})
		if x.RefusedBy != "per client" || x.Request.Body.Skipped != capture.SkipStatus || x.Request.Body.Size != 2 ||
			x.Response.Body.Skipped != capture.SkipStatus || x.Response.Body.Size != 2 || x.Request.Body.Len()+x.Response.Body.Len() > 0 {
			t.Errorf("refused %s the answer: by %q, %+v %+v", when, x.RefusedBy, x.Request.Body, x.Response.Body)
		}
	}
}

func TestHooks(t *testing.T) {
	hello := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		io.WriteString(w, "<a/>")
	}
	t.Run("Match", func(t *testing.T) {
		s := newShelf()
		opts := &capture.Options{Match: func(r *http.Request) bool { return r.URL.Path != "/health" }}
		h := capture.Middleware(s, opts)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if live := capture.From(r.Context()); (live == nil) != (r.URL.Path == "/health") {
				t.Errorf("%s: live is %v", r.URL.Path, live)
			}
		}))
		h.ServeHTTP(new(sinkhole), get("/health"))
		h.ServeHTTP(new(sinkhole), get("/other"))
		if x := s.next(t); x.Path != "/other" || len(s) != 0 {
			t.Errorf("recorded %s and %d more", x.Path, len(s))
		}
	})
	t.Run("bodies", func(t *testing.T) {
		var asked []capture.SkipReason
		opts := &capture.Options{
			RequestBody: func(r *http.Request, skip capture.SkipReason) capture.SkipReason {
				asked = append(asked, skip)
				return capture.SkipSampledOut
			},
			ResponseBody: func(r *http.Request, status int, h http.Header, skip capture.SkipReason) capture.SkipReason {
				asked = append(asked, skip)
				if status == 200 && h.Get("Content-Type") == "application/xml" {
					return ""
				}
				return skip
			},
		}
		x, _ := record(t, opts, post("text/plain", "in"), hello)
		if len(asked) != 2 || asked[0] != "" || asked[1] != capture.SkipContentType {
			t.Errorf("hooks were asked with %q", asked)
		}
		if x.Request.Body.Skipped != capture.SkipSampledOut || x.Request.Body.Len() != 0 || captured(x.Response.Body) != "<a/>" {
			t.Errorf("request %+v, response %+v", x.Request.Body, x.Response.Body)
		}
		// Coded bytes are captured by no hook.
		x, _ = record(t, &capture.Options{
			ResponseBody: func(*http.Request, int, http.Header, capture.SkipReason) capture.SkipReason { return "" },
		}, get("/"), func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Encoding", "br")
			io.WriteString(w, "coded")
		})
		if x.Response.Body.Skipped != capture.SkipEncoded || x.Response.Body.Len() != 0 {
			t.Errorf("encoded: %+v", x.Response.Body)
		}
	})
	t.Run("Keep", func(t *testing.T) {
		s, budget := newShelf(), capture.NewBudget(1<<20)
		opts := &capture.Options{Budget: budget, Keep: func(x *capture.Exchange) bool { return x.Status >= 500 }}
		h := capture.Middleware(s, opts)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "text", map[string]int{"/bad": 500, "/good": 200}[r.URL.Path])
		}))
		h.ServeHTTP(new(sinkhole), get("/good"))
		h.ServeHTTP(new(sinkhole), get("/bad"))
		if x := s.next(t); x.Path != "/bad" || len(s) != 0 || budget.InUse() != 0 {
			t.Errorf("kept %s and %d more, %d bytes in use", x.Path, len(s), budget.InUse())
		}
	})
	t.Run("caps below 0", func(t *testing.T) {
		x, _ := record(t, &capture.Options{RequestCap: -1, ResponseCap: -1}, post("text/plain", "in"), func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, "out")
		})
		for _, b := range []capture.Body{x.Request.Body, x.Response.Body} {
			if b.Skipped != capture.SkipCap || b.Truncated || b.Len() != 0 || b.Size == 0 {
				t.Errorf("%+v", b)
			}
		}
	})
}

func TestEmpty(t *testing.T) {
	for _, c := range []struct {
		name        string
		contentType string
		status      int
		body        string
		want        bool
	}{
		{"json", "application/json", 200, "", true},
		{"error", "application/json", 500, "", false},
		{"with a body", "application/json", 200, "{}", false},
		{"download", "image/png", 200, "", false},
		{"no type", "", 200, "", false},
		{"204", "application/json", 204, "", false},
	} {
		x, _ := record(t, nil, get("/"), func(w http.ResponseWriter, r *http.Request) {
			if c.contentType != "" {
				w.Header().Set("Content-Type", c.contentType)
			}
			w.WriteHeader(c.status)
			io.WriteString(w, c.body)
		})
		if x.Empty != c.want {
			t.Errorf("%s: empty %v, want %v", c.name, x.Empty, c.want)
		}
	}
}
