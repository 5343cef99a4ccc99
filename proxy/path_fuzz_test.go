package proxy_test

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/goweir/weir/proxy"
)

// slowStrip is what StripPrefix is documented to do, without regard to cost.
func slowStrip(prefix, escaped string) (rest string, ok bool) {
	want, got := strings.Split(prefix, "/"), strings.Split(escaped, "/")
	if len(got) < len(want) {
		return "", false
	}
	for i := range want {
		w, err1 := url.PathUnescape(want[i])
		g, err2 := url.PathUnescape(got[i])
		if err1 != nil || err2 != nil || w != g {
			return "", false
		}
	}
	return "/" + strings.Join(got[len(want):], "/"), true
}

// slowDots cuts a path at everything that some server takes for a separator.
func slowDots(decoded string) bool {
	for segment := range strings.SplitSeq(strings.ReplaceAll(decoded, `\`, "/"), "/") {
		segment, _, _ = strings.Cut(segment, ";")
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// FuzzPath holds the rewriting of paths against the slow functions above, and
// what is sent against what must never be.
func FuzzPath(f *testing.F) {
	for _, target := range []string{
		"/api", "/api/", "/api/x", "/apix", "/api/../x", "/api//evil", "/api%2Fx", "/api/%2e%2e/x", "/api/..;/x", `/api/..\x`,
		"/%61pi/x", "/api/x%2F..%2F..%2Fy", "/api/a?b=/../c", "*", "//api/x", "/api/.", "/api/...", "/api/%", "/api/é", "http:x", "http://a/api/x",
	} {
		for _, prefix := range []string{"", "/api", "/api/x", "/%61pi"} {
			f.Add(prefix, target)
		}
	}
	f.Fuzz(func(t *testing.T, prefix, target string) {
		var sent *url.URL
		p, err := proxy.New(proxy.Config{
			Upstreams:   []proxy.Upstream{{URL: "http://upstream/base%2Fx"}},
			StripPrefix: prefix,
			ErrorLog:    quiet,
			WrapTransport: func(http.RoundTripper) http.RoundTripper {
				return roundTrip(func(r *http.Request) (*http.Response, error) {
					sent = r.URL
					return &http.Response{StatusCode: 204, Header: http.Header{}, Body: http.NoBody}, nil
				})
			},
		})
		if err != nil {
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n")))
		if err != nil {
			return
		}
		escaped := r.URL.EscapedPath()
		rec := httptest.NewRecorder()
		p.ServeHTTP(rec, r)

		if sent == nil {
			if rec.Code != 400 && rec.Code != 404 {
				t.Fatalf("%q: not sent, but answered with %d", target, rec.Code)
			}
		} else {
			// Never out of the base, however the upstream reads it.
			got := sent.EscapedPath()
			if !strings.HasPrefix(got, "/base%2Fx/") || sent.RequestURI() != got+query(sent) {
				t.Errorf("%q: sent as %q, %q", target, got, sent.RequestURI())
			}
			decoded, err := url.PathUnescape(got)
			if err != nil || slowDots(decoded) || !strings.HasPrefix(path.Clean(decoded)+"/", "/base/x/") {
				t.Errorf("%q: sent as %q, which has dot segments or leaves the base", target, got)
			}
			if sent.Opaque != "" || sent.User != nil || sent.Host != "upstream" || sent.Scheme != "http" {
				t.Errorf("%q: sent to %q", target, sent)
			}
		}

		if r.URL.Opaque != "" || r.URL.User != nil || r.URL.Scheme != "" && r.URL.Scheme != "http" && r.URL.Scheme != "https" ||
			!strings.HasPrefix(escaped, "/") && escaped != "" {
			if rec.Code != 400 {
				t.Errorf("%q: %d, want 400", target, rec.Code)
			}
			return
		}
		if escaped == "" {
			escaped = "/"
		}
		rest, ok := slowStrip(strings.TrimSuffix(prefix, "/"), escaped)
		stripped := strings.TrimSuffix(prefix, "/") != ""
		want := 204
		switch {
		case slowDots(r.URL.Path):
			want = 400
		case !ok:
			want = 404
		case stripped && strings.HasPrefix(rest, "//"):
			want = 400
		}
		if rec.Code != want {
			t.Errorf("prefix %q, target %q: %d, want %d", prefix, target, rec.Code, want)
		}
		if sent != nil && sent.EscapedPath() != "/base%2Fx"+rest {
			t.Errorf("prefix %q, target %q: sent as %q, want /base%%2Fx%s", prefix, target, sent.EscapedPath(), rest)
		}
	})
}

func query(u *url.URL) string {
	if u.RawQuery == "" && !u.ForceQuery {
		return ""
	}
	return "?" + u.RawQuery
}

// FuzzRequest sends raw bytes through a server and a Proxy. Whatever they are,
// the upstream sees only requests that the front door would let in.
func FuzzRequest(f *testing.F) {
	for _, raw := range []string{
		getRoot, handshake, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "GET http:http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Forwarded-For, Upgrade\r\nUpgrade: h2c\r\nX_Forwarded_For: 1\r\n\r\n",
		"PUT /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n1\r\nx\r\n0\r\nA: b\r\n\r\n",
		"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.0\r\n\r\n",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		p, err := proxy.New(proxy.Config{
			Upstreams: []proxy.Upstream{{URL: "http://upstream/base"}},
			ErrorLog:  quiet,
			WrapTransport: func(http.RoundTripper) http.RoundTripper {
				return roundTrip(func(r *http.Request) (*http.Response, error) {
					if r.Body != nil {
						io.Copy(io.Discard, r.Body)
					}
					decoded := r.URL.Path
					h := r.Header
					if r.Method == "CONNECT" || r.URL.Host != "upstream" || r.URL.Opaque != "" || !strings.HasPrefix(decoded, "/base/") || slowDots(decoded) ||
						h.Get("Upgrade") != "" && (!strings.EqualFold(h.Get("Upgrade"), "websocket") || r.Method != "GET" || r.Body != nil || r.ContentLength != 0) ||
						len(h["X-Forwarded-For"]) > 1 || len(h["X-Forwarded-Proto"]) != 1 || h.Get("Forwarded") != "" || len(r.Trailer) > 0 {
						t.Errorf("%q became %s %s %v", raw, r.Method, r.URL, h)
					}
					for name := range h {
						if n := strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(name)); n != strings.ToLower(name) && strings.HasPrefix(n, "x-forwarded") {
							t.Errorf("%q: field %q was passed on", raw, name)
						}
					}
					return &http.Response{StatusCode: 204, Header: http.Header{}, Body: http.NoBody}, nil
				})
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		// The parser of net/http, without its sockets.
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil {
			return
		}
		r.RemoteAddr = "192.0.2.1:1"
		p.ServeHTTP(httptest.NewRecorder(), r)
	})
}
