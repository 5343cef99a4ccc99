package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/goweir/weir/proxy"
)

// witness is an upstream that remembers the targets it was asked for.
func witness(t testing.TB) (s *httptest.Server, seen *atomic.Int64, last *atomic.Value) {
	seen, last = new(atomic.Int64), new(atomic.Value)
	s = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		last.Store(r.RequestURI)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.Host, r.RequestURI)
	}))
	return s, seen, last
}

// refused sends raw to a Proxy and to a bare ReverseProxy. The first must answer
// with status and not contact the upstream. It returns what the upstream was
// asked for by the second, which is "" if it was not contacted.
func refused(t *testing.T, status int, raw string) (bareTarget string) {
	t.Helper()
	up, seen, last := witness(t)
	method, _, _ := strings.Cut(raw, " ")
	problemOf(t, dial(t, serve(t, newProxy(t, nil, up.URL)).URL).send(t, method, raw), status)
	if n := seen.Load(); n != 0 {
		t.Errorf("the upstream was asked for %q by %q", last.Load(), raw)
	}
	dial(t, serve(t, bare(t, up.URL)).URL).send(t, method, raw)
	if seen.Load() == 0 {
		return ""
	}
	return last.Load().(string)
}

func TestTrapProxy05_OpaqueTarget(t *testing.T) {
	noLeaks(t)
	raw := "GET http:http://internal/admin HTTP/1.1\r\nHost: a\r\n\r\n"
	if got := refused(t, 400, raw); got != "http://internal/admin" {
		t.Errorf("bare ReverseProxy asked for %q; the trap is closed upstream", got)
	}
}

func TestTrapProxy06_Connect(t *testing.T) {
	noLeaks(t)
	for _, raw := range []string{
		"CONNECT internal:22 HTTP/1.1\r\nHost: internal:22\r\n\r\n",
		"CONNECT /path HTTP/1.1\r\nHost: a\r\n\r\n",
		"CONNECT internal:22 HTTP/1.1\r\nHost: internal:22\r\nContent-Length: 4\r\n\r\nbody",
		"CONNECT internal:22 HTTP/1.0\r\nHost: internal:22\r\n\r\n",
	} {
		refused(t, 405, raw)
	}

	// Over HTTP/2 the body has no length.
	up, seen, _ := witness(t)
	connect := func(h http.Handler) (*http.Response, error) {
		s := serveH2(t, h)
		t.Cleanup(s.Client().CloseIdleConnections)
		r, _ := http.NewRequest("CONNECT", s.URL, io.MultiReader(strings.NewReader("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")))
		return s.Client().Do(r)
	}
	res, err := connect(newProxy(t, nil, up.URL))
	if err != nil {
		t.Fatal(err)
	}
	problemOf(t, res, 405)
	if res.Header.Get("Allow") == "" {
		t.Error("405 without Allow, see RFC 9110 section 15.5.6")
	}
	res.Body.Close()
	if seen.Load() != 0 {
		t.Error("the upstream was contacted")
	}
	if res, err := connect(bare(t, up.URL)); err == nil {
		res.Body.Close()
	}
	if seen.Load() == 0 {
		t.Error("bare ReverseProxy did not contact the upstream; the trap is closed upstream")
	}
}

func TestTrapProxy07_UpgradeToOtherProtocols(t *testing.T) {
	noLeaks(t)
	h2c := "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
	if refused(t, 400, h2c) == "" {
		t.Error("bare ReverseProxy did not forward h2c; the trap is closed upstream")
	}
	for _, fields := range []string{
		"Connection: upgrade\r\nUpgrade: h2c",
		"Connection: upgrade\r\nUpgrade: WebSocket, h2c",
		"Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c",
		"Connection: upgrade\r\nUpgrade: websocket/13",
		"Connection: upgrade\r\nUpgrade: web\u017focket",
		"Connection: upgrade\r\nUpgrade:",
		"Connection: keep-alive\r\nUpgrade: TLS/1.0", // not asked for, but not hidden either
	} {
		refused(t, 400, "GET / HTTP/1.1\r\nHost: a\r\n"+fields+"\r\n\r\n")
	}
}

func TestTrapProxy08_UpgradeWithBody(t *testing.T) {
	noLeaks(t)
	fields := "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
	if refused(t, 400, "POST / HTTP/1.1\r\n"+fields+"Content-Length: 4\r\n\r\nbody") == "" {
		t.Error("bare ReverseProxy did not forward it; the trap is closed upstream")
	}
	for _, raw := range []string{
		"GET / HTTP/1.1\r\n" + fields + "Content-Length: 4\r\n\r\nbody",
		"GET / HTTP/1.1\r\n" + fields + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\n" + fields + "\r\n",
		"GET / HTTP/1.0\r\n" + fields + "\r\n",
	} {
		refused(t, 400, raw)
	}
}

// What stands behind a refused message may be the body of what was refused and
// must not be taken for a request.
func TestRefusalEndsTheConnection(t *testing.T) {
	noLeaks(t)
	up, seen, _ := witness(t)
	c := dial(t, serve(t, newProxy(t, nil, up.URL)).URL)
	res := c.send(t, "CONNECT", "CONNECT internal:22 HTTP/1.1\r\nHost: internal:22\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
	problemOf(t, res, 405)
	if rest, _ := io.ReadAll(c.br); len(rest) > 0 || seen.Load() != 0 {
		t.Errorf("connection went on: %q, upstream asked %d times", rest, seen.Load())
	}
}

func TestTargets(t *testing.T) {
	noLeaks(t)
	for _, tt := range []struct {
		target, host string
		status       int
		want         string // at the upstream
	}{
		{"/", "a", 200, "/base/"},
		{"/a//b/", "a", 200, "/base/a//b/"},
		{"/a%2Fb%20c?x=%20", "a", 200, "/base/a%2Fb%20c?x=%20"},
		{"/a?", "a", 200, "/base/a?"},
		{"/.well-known/...", "a", 200, "/base/.well-known/..."},
		{"/a;b=c/x..y", "a", 200, "/base/a;b=c/x..y"},
		{"/'()*!$&+,:@[]", "a", 200, "/base/'()*!$&+,:@[]"},
		{"/%C3%A9%0a", "a", 200, "/base/%C3%A9%0a"},
		{"http://a/x?y", "a", 200, "/base/x?y"},
		{"http://a", "a", 200, "/base/"},
		{"http://a?q=1", "a", 200, "/base/?q=1"},
		{"http://A/x", "b", 200, "/base/x"}, // net/http takes A for the host
		{"http://u:p@a/x", "a", 400, ""},
		{"ftp://a/x", "a", 400, ""},
		{"*", "a", 400, ""},
		{"http:x", "a", 400, ""},
		{"/..", "a", 400, ""},
		{"/x/../y", "a", 400, ""},
		{"/x/./y", "a", 400, ""},
		{"/x/.", "a", 400, ""},
		{"/%2e%2E/y", "a", 400, ""},
		{"/.%2e", "a", 400, ""},
		{"/..%2fy", "a", 400, ""},
		{"/x%5c..%5cy", "a", 400, ""},
		{`/..\y`, "a", 400, ""},
		{"/..;/y", "a", 400, ""},
		{"/.;x=1/y", "a", 400, ""},
	} {
		up, _, last := witness(t)
		s := serve(t, newProxy(t, nil, up.URL+"/base/"))
		res := dial(t, s.URL).send(t, "GET", "GET "+tt.target+" HTTP/1.1\r\nHost: "+tt.host+"\r\n\r\n")
		got, _ := last.Load().(string)
		if res.StatusCode != tt.status || got != tt.want {
			t.Errorf("%s: %d, upstream asked for %q; want %d, %q", tt.target, res.StatusCode, got, tt.status, tt.want)
		}
		if tt.status != 200 {
			problemOf(t, res, tt.status)
		}
	}
}

// A middleware that has changed the one and not the other leaves open which
// host is meant.
func TestHostThatDiffersFromTarget(t *testing.T) {
	up, seen, _ := witness(t)
	r := httptest.NewRequest("GET", "http://a/x", nil)
	r.Host = "b"
	rec := httptest.NewRecorder()
	newProxy(t, nil, up.URL).ServeHTTP(rec, r)
	problemOf(t, rec.Result(), 400)
	if seen.Load() != 0 {
		t.Error("the upstream was contacted")
	}
}

func TestTrapProxy22_StripPrefix(t *testing.T) {
	noLeaks(t)
	up, _, last := witness(t)
	s := serve(t, newProxy(t, func(cfg *proxy.Config) { cfg.StripPrefix = "/api/v1" }, up.URL+"/base"))
	b := serve(t, http.StripPrefix("/api/v1", bare(t, up.URL+"/base")))
	for _, tt := range []struct {
		target string
		status int
		want   string // at the upstream
		bare   string // what http.StripPrefix and SetURL make of it, if that is worse
	}{
		{"/api/v1", 200, "/base/", ""},
		{"/api/v1/", 200, "/base/", ""},
		{"/api/v1/x/", 200, "/base/x/", ""},
		{"/api/v1/x%2Fy", 200, "/base/x%2Fy", ""},
		{"/%61pi/v1/x", 200, "/base/x", ""},
		{"/api/v1x", 404, "", "/base/x"},
		{"/api/v1%2Fx", 404, "", "/base/%2Fx"},
		{"/api%2Fv1/x", 404, "", ""},
		{"/api", 404, "", ""},
		{"/x/api/v1", 404, "", ""},
		{"//api/v1/x", 404, "", ""},
		{"/API/v1/x", 404, "", ""},
		{"/api/v1//other/x", 400, "", "/base//other/x"},
		{"/api/v1/../x", 400, "", "/base/../x"},
		{"/api/v1/%2e%2e/x", 400, "", "/base/%2e%2e/x"},
		{"/api/../api/v1/x", 400, "", ""},
	} {
		last.Store("")
		res := dial(t, s.URL).send(t, "GET", "GET "+tt.target+" HTTP/1.1\r\nHost: a\r\n\r\n")
		if got := last.Load(); res.StatusCode != tt.status || got != tt.want {
			t.Errorf("%s: %d, upstream asked for %q; want %d, %q", tt.target, res.StatusCode, got, tt.status, tt.want)
		}
		if tt.bare == "" {
			continue
		}
		dial(t, b.URL).send(t, "GET", "GET "+tt.target+" HTTP/1.1\r\nHost: a\r\n\r\n")
		if got := last.Load(); got != tt.bare {
			t.Errorf("%s: bare asked for %q, not %q; the trap is closed upstream", tt.target, got, tt.bare)
		}
	}
}

func TestEscapedSlashes(t *testing.T) {
	noLeaks(t)
	up, _, last := witness(t)
	pass := serve(t, newProxy(t, nil, up.URL))
	refuse := serve(t, newProxy(t, func(cfg *proxy.Config) { cfg.RefuseEscapedSlashes = true }, up.URL))
	for target, escaped := range map[string]bool{
		"/a%2Fb": true, "/a%2f": true, "/%5Cb": true, "/a%5cb": true, `/a\b`: true, "/a%20%2F": true, "/%252F/%2F": true,
		"/a/b": false, "/a%20b": false, "/%25": false, "/%252F": false, "/a?b=%2F%5C": false, "/%35c%32f": false,
	} {
		raw := "GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n"
		last.Store("")
		want := strings.ReplaceAll(target, `\`, "%5C")
		if res := dial(t, pass.URL).send(t, "GET", raw); res.StatusCode != 200 || last.Load() != want {
			t.Errorf("%s: %d, upstream asked for %q; want that it passes", target, res.StatusCode, last.Load())
		}
		last.Store("")
		res := dial(t, refuse.URL).send(t, "GET", raw)
		if escaped {
			problemOf(t, res, 400)
		}
		if got := last.Load(); (got == "") != escaped || (res.StatusCode == 200) != !escaped {
			t.Errorf("%s: %d, upstream asked for %q; want refused %t", target, res.StatusCode, got, escaped)
		}
	}
}

// Not a fault of ReverseProxy, which does the same with Rewrite: a server that
// splits at semicolons and one that does not must see the same query.
func TestTrapProxy23_Query(t *testing.T) {
	noLeaks(t)
	up, _, last := witness(t)
	with := func(q proxy.QueryPolicy) string {
		return serve(t, newProxy(t, func(cfg *proxy.Config) { cfg.Query = q }, up.URL)).URL
	}
	clean, refuse, raw := with(proxy.QueryClean), with(proxy.QueryRefuse), with(proxy.QueryRaw)
	many := "/?a" + strings.Repeat("&", 9_999)
	for target, cleaned := range map[string]string{
		"/":                   "/",
		"/?":                  "/?",
		"/?a=1&b=2":           "/?a=1&b=2",
		"/?a=%20%3b+x&&b":     "/?a=%20%3b+x&&b",
		"/?a=1&a=2;b=3":       "/?a=1",
		"/?a=%zz&b=1":         "/?b=1",
		"/?b=1&a=%f":          "/?b=1",
		"/?b=1&%":             "/?b=1",
		many:                  many,
		many + "&b":           "/",
		"/?url=http://x/?y=z": "/?url=http://x/?y=z",
	} {
		for server, want := range map[string]string{clean: cleaned, refuse: target, raw: target} {
			status := 200
			if server == refuse && target != cleaned {
				status, want = 400, ""
			}
			last.Store("")
			res := dial(t, server).send(t, "GET", "GET "+target+" HTTP/1.1\r\nHost: a\r\n\r\n")
			if got := last.Load(); res.StatusCode != status || got != want {
				t.Errorf("%.50s: %d, upstream asked for %.50q, want %.50q", target, res.StatusCode, got, want)
			}
			if status == 400 {
				problemOf(t, res, 400)
			}
		}
	}
	// Go's parser takes it for a part of the query, most others for its end.
	problemOf(t, dial(t, refuse).send(t, "GET", "GET /?a=1#&b=2 HTTP/1.1\r\nHost: a\r\n\r\n"), 400)
}
