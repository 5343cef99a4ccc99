package proxy_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/proxy"
)

// headerAt returns the header that the upstream gets when the Proxy is sent raw
// fields. mw may be nil.
func headerAt(t *testing.T, mw func(http.Handler) http.Handler, edit func(*proxy.Config), fields string) http.Header {
	t.Helper()
	var got http.Header
	up := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	var h http.Handler = newProxy(t, edit, up.URL)
	if mw != nil {
		h = mw(h)
	}
	res := dial(t, serve(t, h).URL).send(t, "GET", "GET /x HTTP/1.1\r\nHost: front\r\n"+fields+"\r\n")
	if res.StatusCode != 200 {
		t.Fatalf("status %d", res.StatusCode)
	}
	return got
}

func resolver(t *testing.T, trust string) *clientip.Resolver {
	t.Helper()
	v, err := clientip.New([]netip.Prefix{netip.MustParsePrefix(trust)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestForwarded(t *testing.T) {
	noLeaks(t)
	forged := strings.Join([]string{
		"X-Forwarded-For: 192.0.2.9, 192.0.2.1", "X-Forwarded-Host: public", "X-Forwarded-Proto: https",
		"X-Forwarded-Prefix: /p", "X-Real-Ip: 192.0.2.9", "Forwarded: for=192.0.2.1", "X-Forwarded: 1",
		"X_Forwarded_For: 192.0.2.9", "x-forwarded_proto: https", "X.Forwarded.Host: evil", "x_real-ip: 1", "X-Forwarded_Anything: 1",
		"HTTP2-Settings: AAAA", "X-Other_Name: kept", "",
	}, "\r\n")
	trusting, distrusting := resolver(t, "127.0.0.0/8"), resolver(t, "192.0.2.0/24")
	direct := http.Header{
		"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"front"}, "X-Forwarded-Proto": {"http"},
		"X-Other_name": {"kept"},
	}
	behind := http.Header{
		"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Host": {"public"}, "X-Forwarded-Proto": {"https"},
		"X-Forwarded-Prefix": {"/p"}, "X-Real-Ip": {"192.0.2.9"}, "Forwarded": {"for=192.0.2.1"}, "X-Forwarded": {"1"},
		"X-Other_name": {"kept"},
	}
	onlyClient := direct.Clone()
	onlyClient.Set("X-Forwarded-For", "192.0.2.1")
	for _, tt := range []struct {
		name string
		mw   func(http.Handler) http.Handler
		edit func(*proxy.Config)
		want http.Header
	}{
		{"nobody trusted", nil, nil, direct},
		{"peer not trusted", nil, func(cfg *proxy.Config) { cfg.Trust = distrusting }, direct},
		{"peer trusted", nil, func(cfg *proxy.Config) { cfg.Trust = trusting }, behind},
		{"peer trusted, middleware", trusting.Middleware, func(cfg *proxy.Config) { cfg.Trust = trusting }, behind},
		{"middleware alone", trusting.Middleware, nil, onlyClient},
	} {
		edit := func(cfg *proxy.Config) {
			cfg.Via, cfg.RequestIDHeader = "-", "-"
			if tt.edit != nil {
				tt.edit(cfg)
			}
		}
		if got := headerAt(t, tt.mw, edit, forged); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: upstream got\n%v, want\n%v", tt.name, got, tt.want)
		}
	}

	// Values that a trusted proxy did not choose well are not passed on.
	odd := "X-Forwarded-Proto: javascript\r\nX-Forwarded-Host: a\r\nX-Forwarded-Host: b\r\n"
	got := headerAt(t, nil, func(cfg *proxy.Config) { cfg.Trust = trusting }, odd)
	if got.Get("X-Forwarded-Proto") != "http" || !reflect.DeepEqual(got["X-Forwarded-Host"], []string{"front"}) {
		t.Errorf("odd values: %v", got)
	}
}

// Of ReverseProxy's ways, none writes the field.
func TestForwardedField(t *testing.T) {
	noLeaks(t)
	trusting := resolver(t, "127.0.0.0/8")
	on := func(cfg *proxy.Config) { cfg.Forwarded = true }
	onTrusting := func(cfg *proxy.Config) { cfg.Forwarded, cfg.Trust = true, trusting }
	for _, tt := range []struct {
		name, fields string
		edit         func(*proxy.Config)
		want         []string
	}{
		{"off", "", nil, nil},
		{"off, forged", "Forwarded: for=192.0.2.9\r\n", nil, nil},
		{"direct", "", on, []string{"for=127.0.0.1;host=front;proto=http"}},
		{"forged", "Forwarded: for=192.0.2.9\r\n", on, []string{"for=127.0.0.1;host=front;proto=http"}},
		{"no chain", "X-Forwarded-For: 2001:db8::1\r\nX-Forwarded-Host: public:8080\r\nX-Forwarded-Proto: https\r\n", onTrusting,
			[]string{`for="[2001:db8::1]";host="public:8080";proto=https`}},
		{"chain", "Forwarded: for=192.0.2.1, for=192.0.2.2\r\nForwarded: for=\"[::1]\"\r\nX-Forwarded-Proto: https\r\n", onTrusting,
			[]string{"for=192.0.2.1, for=192.0.2.2", `for="[::1]"`, "for=127.0.0.1;host=front;proto=http"}},
		{"quotes", "X-Forwarded-Host: a\"b\\c,;for=1\r\n", onTrusting, []string{`for=127.0.0.1;host="a\"b\\c,;for=1";proto=http`}},
	} {
		if got := headerAt(t, nil, tt.edit, tt.fields)["Forwarded"]; !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: upstream got %q, want %q", tt.name, got, tt.want)
		}
	}

	// What was written is read by clientip, of which the source is another.
	for peer, want := range map[string]string{"[2001:db8::7%eth0]:1": "2001:db8::7", "[::ffff:192.0.2.7]:1": "192.0.2.7", "@": ""} {
		var sent string
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Forwarded = true
			cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper {
				return roundTrip(func(r *http.Request) (*http.Response, error) {
					sent = r.Header.Get("Forwarded")
					return &http.Response{StatusCode: 204, Header: http.Header{}, Body: http.NoBody}, nil
				})
			}
		}, "http://upstream")
		r := httptest.NewRequest("GET", "http://a:1/", nil)
		r.RemoteAddr = peer
		p.ServeHTTP(httptest.NewRecorder(), r)
		v, err := clientip.New([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, &clientip.Options{Forwarded: true})
		if err != nil {
			t.Fatal(err)
		}
		back := httptest.NewRequest("GET", "/", nil)
		back.RemoteAddr = "127.0.0.1:1"
		back.Header.Set("Forwarded", sent)
		if want == "" {
			if sent != `for=unknown;host="a:1";proto=http` {
				t.Errorf("%s: sent %q", peer, sent)
			}
		} else if got := v.Addr(back).String(); got != want {
			t.Errorf("%s: sent %q, which reads as %s, want %s", peer, sent, got, want)
		}
	}
}

func TestVia(t *testing.T) {
	noLeaks(t)
	for _, tt := range []struct {
		via, fields string
		want        []string
	}{
		{"", "", []string{"1.1 weir"}},
		{"", "Via: 1.0 a, 2 b\r\nVia: 1.1 c (d)\r\n", []string{"1.0 a, 2 b", "1.1 c (d)", "1.1 weir"}},
		{"", "Connection: Via\r\nVia: 1.0 a\r\n", []string{"1.1 weir"}},
		{"[::1]:80", "", []string{"1.1 [::1]:80"}},
		{"-", "", nil},
		{"-", "Via: 1.0 a\r\n", []string{"1.0 a"}},
	} {
		if got := headerAt(t, nil, func(cfg *proxy.Config) { cfg.Via = tt.via }, tt.fields)["Via"]; !reflect.DeepEqual(got, tt.want) {
			t.Errorf("Via %q, %q: upstream got %q, want %q", tt.via, tt.fields, got, tt.want)
		}
	}

	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header()["Got"] = r.Header["Via"] }))
	p := newProxy(t, nil, up.URL)
	old := dial(t, serve(t, p).URL).send(t, "GET", "GET / HTTP/1.0\r\n\r\n")
	s := serveH2(t, p)
	_, h, _, err := get(s.Client(), s.URL)
	if err != nil || old.Header.Get("Got") != "1.0 weir" || h.Get("Got") != "2 weir" {
		t.Errorf("HTTP/1.0: %q, HTTP/2: %q, %v", old.Header.Get("Got"), h.Get("Got"), err)
	}
	s.Client().CloseIdleConnections()
}

func TestRequestID(t *testing.T) {
	noLeaks(t)
	trusting := func(cfg *proxy.Config) { cfg.Trust = resolver(t, "127.0.0.0/8") }
	given := func(id string) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Request-Id", id)
				next.ServeHTTP(w, r)
			})
		}
	}
	long := strings.Repeat("x", 128)
	for _, tt := range []struct {
		name   string
		mw     func(http.Handler) http.Handler
		edit   func(*proxy.Config)
		fields string
		want   string // "" for a new one
	}{
		{"made", nil, nil, "", ""},
		{"from a client", nil, nil, "X-Request-Id: 7\r\n", ""},
		{"trusted", nil, trusting, "x-request-id: Root=1-6:7/_.~+@Z\r\n", "Root=1-6:7/_.~+@Z"},
		{"trusted, longest", nil, trusting, "X-Request-Id: " + long + "\r\n", long},
		{"trusted, too long", nil, trusting, "X-Request-Id: x" + long + "\r\n", ""},
		{"trusted, unsafe", nil, trusting, "X-Request-Id: a\"b\r\n", ""},
		{"trusted, space", nil, trusting, "X-Request-Id: a b\r\n", ""},
		{"trusted, beyond ASCII", nil, trusting, "X-Request-Id: \u00e9\r\n", ""},
		{"trusted, empty", nil, trusting, "X-Request-Id:\r\n", ""},
		{"trusted, two", nil, trusting, "X-Request-Id: 1\r\nX-Request-Id: 2\r\n", ""},
		{"trusted, hop by hop", nil, trusting, "Connection: x-request-id\r\nX-Request-Id: 1\r\n", ""},
		{"trusted, twin", nil, trusting, "X_Request_Id: 1\r\nX-Request.Id: 2\r\n", ""},
		{"middleware", given("m"), nil, "X-Request-Id: 7\r\n", "m"},
		{"middleware and trusted", given("m"), trusting, "X-Request-Id: 7\r\n", "m"},
		{"middleware, unsafe", given("<m>"), trusting, "X-Request-Id: 7\r\n", "7"},
	} {
		h := headerAt(t, tt.mw, tt.edit, tt.fields)
		got := h["X-Request-Id"]
		made := len(got) == 1 && len(got[0]) == 32 && strings.Trim(got[0], "0123456789abcdef") == ""
		if tt.want == "" && !made || tt.want != "" && !reflect.DeepEqual(got, []string{tt.want}) {
			t.Errorf("%s: upstream got %q, want %q", tt.name, got, tt.want)
		}
		for name := range h {
			if strings.ContainsAny(name, "_.") {
				t.Errorf("%s: upstream got %q as well", tt.name, name)
			}
		}
	}
	if a, b := headerAt(t, nil, nil, "").Get("X-Request-Id"), headerAt(t, nil, nil, "").Get("X-Request-Id"); a == b {
		t.Errorf("the same id twice: %q", a)
	}

	h := headerAt(t, nil, func(cfg *proxy.Config) { cfg.RequestIDHeader = "correlation-id" }, "X-Request-Id: 7\r\nCorrelation_Id: 1\r\n")
	if len(h.Get("Correlation-Id")) != 32 || h.Get("X-Request-Id") != "7" || h.Get("Correlation_id") != "" {
		t.Errorf("other name: %v", h)
	}
	h = headerAt(t, nil, func(cfg *proxy.Config) { cfg.RequestIDHeader = "-" }, "X-Request-Id: a b\r\n")
	if h.Get("X-Request-Id") != "a b" {
		t.Errorf("off: %v", h)
	}
}

// CVE-2021-33197 and its kin: a client names a field of ours as hop-by-hop.
func TestConnectionCannotRemoveForwarded(t *testing.T) {
	noLeaks(t)
	for _, line := range []string{
		"Connection: X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto",
		"Connection: x-forwarded-for\r\nConnection: X-FORWARDED-HOST",
		"Connection: ,close-not, x-forwarded-for",
	} {
		got := headerAt(t, nil, nil, line+"\r\n")
		if got.Get("X-Forwarded-For") != "127.0.0.1" || got.Get("X-Forwarded-Host") != "front" || got.Get("X-Forwarded-Proto") != "http" {
			t.Errorf("%q: upstream got %v", line, got)
		}
	}
}

func TestForwardedProtoOverTLS(t *testing.T) {
	noLeaks(t)
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Proto", r.Header.Get("X-Forwarded-Proto"))
	}))
	s := serveH2(t, newProxy(t, nil, up.URL))
	if _, h, _, err := get(s.Client(), s.URL); err != nil || h.Get("Proto") != "https" {
		t.Errorf("X-Forwarded-Proto = %q, %v; want https", h.Get("Proto"), err)
	}
	s.Client().CloseIdleConnections()
}

// A peer without an address (a unix socket, say) has none to pass on.
func TestForwardedWithoutAddress(t *testing.T) {
	noLeaks(t)
	var got http.Header
	up := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "@"
	r.Header.Set("X-Forwarded-For", "192.0.2.9")
	newProxy(t, nil, up.URL).ServeHTTP(httptest.NewRecorder(), r)
	if v, ok := got["X-Forwarded-For"]; ok || got == nil {
		t.Errorf("X-Forwarded-For = %q, want none", v)
	}
}

func TestHost(t *testing.T) {
	noLeaks(t)
	up, _, _ := witness(t)
	for preserve, want := range map[bool]string{false: strings.TrimPrefix(up.URL, "http://"), true: "front"} {
		s := serve(t, newProxy(t, func(cfg *proxy.Config) { cfg.PreserveHost = preserve }, up.URL))
		r, _ := http.NewRequest("GET", s.URL, nil)
		r.Host = "front"
		res, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		n, _ := res.Body.Read(b)
		res.Body.Close()
		if got := strings.Fields(string(b[:n]))[1]; got != want {
			t.Errorf("PreserveHost %t: upstream got Host %q, want %q", preserve, got, want)
		}
	}
}

func TestTrapProxy14_RequestTrailers(t *testing.T) {
	noLeaks(t)
	var got http.Header
	up := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		buf := make([]byte, 10)
		for {
			if _, err := r.Body.Read(buf); err != nil {
				break
			}
		}
		got = r.Trailer
	}))
	raw := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 7\r\n\r\n"
	dial(t, serve(t, newProxy(t, nil, up.URL)).URL).send(t, "POST", raw)
	if len(got) != 0 {
		t.Errorf("upstream got trailers %v, want none announced and none sent", got)
	}
	dial(t, serve(t, bare(t, up.URL)).URL).send(t, "POST", raw)
	if _, ok := got["X-Sum"]; !ok || got.Get("X-Sum") != "" {
		t.Errorf("bare ReverseProxy: %v; the trap is closed upstream", got)
	}
}

func TestTrapProxy16_Compression(t *testing.T) {
	noLeaks(t)
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Accepted", r.Header.Get("Accept-Encoding"))
	}))
	for name, h := range map[string]http.Handler{"Proxy": newProxy(t, nil, up.URL), "ReverseProxy": bare(t, up.URL)} {
		res := dial(t, serve(t, h).URL).send(t, "GET", "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if got := res.Header.Get("Accepted"); (got == "") != (name == "Proxy") {
			t.Errorf("%s: upstream got Accept-Encoding %q that the client did not send", name, got)
		}
	}
}
