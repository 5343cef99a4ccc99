package crosstest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	echo4 "github.com/labstack/echo/v4"
	echo4middleware "github.com/labstack/echo/v4/middleware"
	echo5 "github.com/labstack/echo/v5"
	echo5middleware "github.com/labstack/echo/v5/middleware"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/proxy"
)

var quiet = slog.New(slog.DiscardHandler)

// adapted marks what stands behind our adapters, and the whole of our chain.
const adapted = ", adapted"

// frameworks returns h mounted in each framework, in its own way and by our
// adapter, below the framework's own middleware that recovers, and below one
// that sets a header.
func frameworks(h http.Handler) map[string]http.Handler {
	const name, value = "X-Outer", "kept"
	outer := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(name, value)
			next.ServeHTTP(w, r)
		})
	}
	c := chi.NewRouter()
	c.Use(chimiddleware.Recoverer, outer)
	c.Handle("/*", h)

	gin.SetMode(gin.ReleaseMode)
	g := gin.New()
	g.Use(gin.RecoveryWithWriter(io.Discard), func(c *gin.Context) { c.Header(name, value) })
	g.Any("/*path", gin.WrapH(h))

	e4 := echo4.New()
	e4.Logger.SetOutput(io.Discard)
	e4.Use(echo4middleware.Recover(), func(next echo4.HandlerFunc) echo4.HandlerFunc {
		return func(c echo4.Context) error {
			c.Response().Header().Set(name, value)
			return next(c)
		}
	})
	e4.Any("/*", echo4.WrapHandler(h))

	e5 := echo5.New()
	e5.Logger = quiet
	e5.Use(echo5middleware.Recover(), func(next echo5.HandlerFunc) echo5.HandlerFunc {
		return func(c *echo5.Context) error {
			c.Response().Header().Set(name, value)
			return next(c)
		}
	})
	e5.Any("/*", echo5.WrapHandler(h))

	all := map[string]http.Handler{"net/http": outer(h), "chi": c, "Gin": g, "Echo v4": e4, "Echo v5": e5}
	for name, build := range makers() {
		discard := capture.SinkFunc(func(context.Context, *capture.Exchange) error { return nil })
		r := build(func(seen) {}, append([]func(http.Handler) http.Handler{outer}, ours(discard, everyone(1000))...)...)
		for _, path := range []string{"/x", "/taken", "/refused"} {
			r.Mount("GET", path, h)
			r.Mount("PUT", path, h)
		}
		all[name+adapted] = r
	}
	return all
}

// fronts serves h over HTTP/1.1 and HTTP/2.
func fronts(t *testing.T, h http.Handler) map[string]*httptest.Server {
	servers := map[string]*httptest.Server{}
	for _, proto := range []string{"HTTP/1.1", "HTTP/2"} {
		s := httptest.NewUnstartedServer(h)
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
		if s.EnableHTTP2 = proto == "HTTP/2"; s.EnableHTTP2 {
			s.StartTLS()
		} else {
			s.Start()
		}
		t.Cleanup(s.Close)
		t.Cleanup(s.CloseClientConnections)
		servers[proto] = s
	}
	return servers
}

func newProxy(t *testing.T, upstream *httptest.Server) *proxy.Proxy {
	t.Helper()
	cfg := proxy.Config{Upstreams: []proxy.Upstream{{URL: upstream.URL}}, ErrorLog: quiet}
	if upstream.TLS != nil {
		cfg.TLS = upstream.Client().Transport.(*http.Transport).TLSClientConfig
	}
	p, err := proxy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.CloseIdleConnections)
	return p
}

// bare is what users write without weir.
func bare(t *testing.T, upstream *httptest.Server) http.Handler {
	t.Helper()
	target, err := url.Parse(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if upstream.TLS != nil {
		transport = upstream.Client().Transport.(*http.Transport)
	}
	return &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport,
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, 0),
	}
}

// scripted is an upstream that sends raw to everyone and closes.
func scripted(t *testing.T, raw string) *httptest.Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(20 * time.Second))
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					io.WriteString(c, raw)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return &httptest.Server{URL: "http://" + l.Addr().String()}
}

// cutSize is how long a body that is cut would have been; half of it fills more
// than one buffer.
const cutSize = 100_000

// cut returns upstreams that break off after n bytes of body, by how it is
// framed. The last byte of all is the one that is missing from cutSize with
// length, and the end of the chunks otherwise.
func cut(t *testing.T, n int) map[string]*httptest.Server {
	part := strings.Repeat("x", n)
	chunk := ""
	if n > 0 {
		chunk = fmt.Sprintf("%x\r\n%s\r\n", n, part)
	}
	h2 := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, part)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	h2.EnableHTTP2 = true
	h2.StartTLS()
	t.Cleanup(h2.Close)
	return map[string]*httptest.Server{
		"chunked": scripted(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+chunk),
		"length":  scripted(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", cutSize+1, part)),
		"HTTP/2":  h2,
	}
}

// TestNeverACleanEnd cuts answers everywhere, and the client must see it behind
// every framework, though some of them recover the panic that says so.
func TestNeverACleanEnd(t *testing.T) {
	cells, swallowed := 0, map[string]int{}
	ends := func(s *httptest.Server) (clean bool, detail string) {
		res, err := s.Client().Get(s.URL + "/x")
		if err != nil {
			return false, err.Error()
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return err == nil, fmt.Sprintf("%d with %d bytes", res.StatusCode, len(body))
	}
	for _, n := range []int{0, 1, cutSize / 2, cutSize} {
		for framing, up := range cut(t, n) {
			for framework, h := range frameworks(newProxy(t, up)) {
				for proto, s := range fronts(t, h) {
					cells++
					if clean, detail := ends(s); clean {
						t.Errorf("%s cut at %d, through %s, to %s: %s and a clean end", framing, n, framework, proto, detail)
					}
					s.Client().CloseIdleConnections()
				}
			}
			if n != cutSize/2 {
				continue
			}
			for framework, h := range frameworks(bare(t, up)) {
				for proto, s := range fronts(t, h) {
					if clean, detail := ends(s); clean {
						swallowed[framework+" to "+proto]++
						if strings.HasSuffix(framework, adapted) {
							t.Errorf("%s, bare, through %s, to %s: %s and a clean end", framing, framework, proto, detail)
						}
					}
					s.Client().CloseIdleConnections()
				}
			}
		}
	}
	t.Logf("%d cells; with a bare ReverseProxy clean ends at half the body of 3 framings: %v", cells, swallowed)
	if len(swallowed) == 0 {
		t.Error("with a bare ReverseProxy no framework swallowed the break; the trap is closed upstream")
	}
}

// hinted returns the informational statuses and the answer that a client sees.
func hinted(t *testing.T, c *http.Client, r *http.Request) (infos []int, link string, status int, outer string) {
	t.Helper()
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			infos = append(infos, code)
			link = http.Header(h).Get("Link")
			return nil
		},
	}))
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body)
	return infos, link, res.StatusCode, res.Header.Get("X-Outer")
}

// TestInformationalThroughFrameworks: the final status and what outer middleware
// has set survive a 103, behind every framework.
func TestInformationalThroughFrameworks(t *testing.T) {
	wrong := map[string]int{}
	for _, status := range []int{200, 201, 204, 404, 502} {
		length := "Content-Length: 0\r\n"
		if status == 204 {
			length = ""
		}
		up := scripted(t, fmt.Sprintf("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\nHTTP/1.1 %d %s\r\n%s\r\n", status, http.StatusText(status), length))
		for framework, h := range frameworks(newProxy(t, up)) {
			for proto, s := range fronts(t, h) {
				r, err := http.NewRequest("GET", s.URL+"/x", nil)
				if err != nil {
					t.Fatal(err)
				}
				infos, link, got, outer := hinted(t, s.Client(), r)
				if !slices.Equal(infos, []int{103}) || link != "</a>" || got != status || outer != "kept" {
					t.Errorf("103 then %d, through %s, to %s: %v with Link %q, then %d with X-Outer %q", status, framework, proto, infos, link, got, outer)
				}
				s.Client().CloseIdleConnections()
			}
		}
		for framework, h := range frameworks(bare(t, up)) {
			for _, s := range fronts(t, h) {
				r, _ := http.NewRequest("GET", s.URL+"/x", nil)
				infos, _, got, outer := hinted(t, s.Client(), r)
				if !slices.Equal(infos, []int{103}) || got != status || outer != "kept" {
					wrong[framework]++
				}
				if strings.HasSuffix(framework, adapted) && (!slices.Equal(infos, []int{103}) || got != status) {
					t.Errorf("103 then %d, bare, through %s: %v, then %d", status, framework, infos, got)
				}
				s.Client().CloseIdleConnections()
			}
		}
	}
	t.Logf("with a bare ReverseProxy wrong, of 10: %v", wrong)
	if len(wrong) == 0 {
		t.Error("with a bare ReverseProxy all is well; the trap is closed upstream")
	}
}

// TestExpectThroughFrameworks: an upload that waits for consent gets it from the
// upstream, and the status that the upstream gives.
func TestExpectThroughFrameworks(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			w.WriteHeader(417)
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(201)
		w.Write(body)
	}))
	t.Cleanup(up.Close)
	for framework, h := range frameworks(newProxy(t, up)) {
		for proto, s := range fronts(t, h) {
			s.Client().Transport.(*http.Transport).ExpectContinueTimeout = 20 * time.Second
			for path, want := range map[string]int{"/taken": 201, "/refused": 417} {
				r, err := http.NewRequest("PUT", s.URL+path, strings.NewReader("body"))
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Expect", "100-continue")
				if _, _, got, outer := hinted(t, s.Client(), r); got != want || outer != "kept" {
					t.Errorf("%s through %s, to %s: %d with X-Outer %q, want %d", path, framework, proto, got, outer, want)
				}
			}
			s.Client().CloseIdleConnections()
		}
	}
}
