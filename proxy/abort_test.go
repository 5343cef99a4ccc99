package proxy_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/goweir/weir/proxy"
)

const bodySize = 100_000

// dying returns upstreams that break off after n of bodySize bytes, by name.
func dying(t *testing.T, n int) map[string]*httptest.Server {
	part := strings.Repeat("x", n)
	abort := func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, part)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	raw := func(header, body string) *httptest.Server {
		return &httptest.Server{URL: script(t, func(c *net.TCPConn, _ *bufio.Reader, _ *http.Request) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n"+header+"\r\n\r\n"+body)
		})}
	}
	chunk := ""
	if n > 0 {
		chunk = fmt.Sprintf("%x\r\n%s\r\n", n, part)
	}
	return map[string]*httptest.Server{
		"chunked":      raw("Transfer-Encoding: chunked", chunk),
		"half a chunk": raw("Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s", bodySize+1, part)),
		"length":       raw(fmt.Sprintf("Content-Length: %d", bodySize+1), part),
		"HTTP/2":       serveH2(t, http.HandlerFunc(abort)),
		"HTTP/2, length": serveH2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(bodySize+1))
			abort(w, r)
		})),
	}
}

func TestTrapProxy01_BrokenAnswer(t *testing.T) {
	noLeaks(t)
	for _, n := range []int{0, 1, bodySize / 2, bodySize} {
		for name, up := range dying(t, n) {
			p := newProxy(t, func(cfg *proxy.Config) {
				if up.TLS != nil {
					cfg.TLS = up.Client().Transport.(*http.Transport).TLSClientConfig
				}
			}, up.URL)
			for above, h := range map[string]http.Handler{"nothing": p, "a recovering middleware": recovering(p)} {
				for front, s := range map[string]*httptest.Server{"HTTP/1.1": serve(t, h), "HTTP/2": serveH2(t, h)} {
					t.Run(fmt.Sprintf("%s cut at %d to %s under %s", name, n, front, above), func(t *testing.T) {
						status, _, body, err := get(s.Client(), s.URL)
						if err == nil {
							t.Errorf("client got %d with %d bytes and a clean end, want an error", status, len(body))
						}
						if len(body) > n || len(body) < n && front == "HTTP/1.1" && up.TLS == nil {
							t.Errorf("client got %d bytes, %d came before the break", len(body), n)
						}
						s.Client().CloseIdleConnections()
					})
				}
			}
		}
	}
}

// TestBareBrokenAnswer shows that the trap is one: under a middleware that
// recovers, ReverseProxy gives the client half an answer as a whole one.
func TestBareBrokenAnswer(t *testing.T) {
	up := dying(t, bodySize/2)["chunked"]
	h := recovering(bare(t, up.URL))
	for front, s := range map[string]*httptest.Server{"HTTP/1.1": serve(t, h), "HTTP/2": serveH2(t, h)} {
		status, _, body, err := get(s.Client(), s.URL)
		if err != nil || status != 200 || len(body) == bodySize+1 {
			t.Errorf("%s: bare ReverseProxy gave %d, %d bytes, %v; the trap is closed upstream", front, status, len(body), err)
		}
	}
}

// A handler that is not run by an http.Server is told by the panic as well.
func TestBrokenAnswerWithoutServer(t *testing.T) {
	p := newProxy(t, nil, dying(t, 1)["chunked"].URL)
	defer func() {
		if v := recover(); v != http.ErrAbortHandler {
			t.Errorf("panic = %v, want http.ErrAbortHandler", v)
		}
	}()
	p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
}

// The client learns of the break at once even if it is in the middle of an
// upload that the transport is still reading.
func TestBrokenAnswerDuringUpload(t *testing.T) {
	noLeaks(t)
	up := script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
		br.Discard(len("half")) // else the close would be a reset that overtakes the answer
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
	})
	p := newProxy(t, nil, up)
	s := serve(t, recovering(fullDuplex(p)))
	res := dial(t, s.URL).send(t, "POST", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
	if b, err := io.ReadAll(res.Body); err != io.ErrUnexpectedEOF {
		t.Errorf("%d %q, %v; want an unexpected EOF", res.StatusCode, b, err)
	}
}

// HTTP/1.0 knows no chunks: what has no length ends where its connection is
// closed, which many a proxy in front still relies on. A break must look unlike.
func TestBrokenAnswerHTTP10(t *testing.T) {
	noLeaks(t)
	const half, raw = bodySize / 2, "GET / HTTP/1.0\r\nHost: a\r\n\r\n"
	for name, up := range dying(t, half) {
		p := newProxy(t, func(cfg *proxy.Config) {
			if up.TLS != nil {
				cfg.TLS = up.Client().Transport.(*http.Transport).TLSClientConfig
			}
		}, up.URL)
		for above, h := range map[string]http.Handler{"nothing": p, "a recovering middleware": recovering(p)} {
			res := dial(t, serve(t, h).URL).send(t, "GET", raw)
			if n, err := io.Copy(io.Discard, res.Body); res.StatusCode != 200 || err == nil {
				t.Errorf("%s under %s: %d with %d bytes and a clean end", name, above, res.StatusCode, n)
			}
			s := serveH2(t, h) // speaks HTTP/1 when asked
			c, err := tls.Dial("tcp", strings.TrimPrefix(s.URL, "https://"), s.Client().Transport.(*http.Transport).TLSClientConfig)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(c, raw)
			if res, err = http.ReadResponse(bufio.NewReader(c), nil); err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, res.Body); err == nil {
				t.Errorf("%s under %s, TLS: %d bytes and a clean end", name, above, n)
			}
			c.Close()
		}
	}
	res := dial(t, serve(t, bare(t, dying(t, half)["chunked"].URL)).URL).send(t, "GET", raw)
	if n, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Errorf("through a bare ReverseProxy: %d bytes, %v; the trap is closed upstream", n, err)
	}
	whole := answer(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n")
	res = dial(t, serve(t, newProxy(t, nil, whole)).URL).send(t, "GET", raw)
	if b, err := io.ReadAll(res.Body); string(b) != "whole" || err != nil {
		t.Errorf("a whole answer: %q, %v", b, err)
	}
}

func TestWholeAnswerIsNotBroken(t *testing.T) {
	noLeaks(t)
	for name, raw := range map[string]string{
		"chunked":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
		"length":        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
		"until closed":  "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nx",
		"HTTP/1.0":      "HTTP/1.0 200 OK\r\n\r\nx",
		"CL and TE":     "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
		"with trailers": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 7\r\n\r\n",
	} {
		h := recovering(newProxy(t, nil, answer(t, raw)))
		for front, s := range map[string]*httptest.Server{"HTTP/1.1": serve(t, h), "HTTP/2": serveH2(t, h)} {
			res, err := s.Client().Get(s.URL)
			if err != nil {
				t.Errorf("%s, %s: %v", name, front, err)
				continue
			}
			body, err := io.ReadAll(res.Body)
			if err != nil || string(body) != "x" {
				t.Errorf("%s, %s: body %q, %v", name, front, body, err)
			}
			if name == "with trailers" && res.Trailer.Get("X-Sum") != "7" {
				t.Errorf("%s, %s: trailers %v", name, front, res.Trailer)
			}
			s.Client().CloseIdleConnections()
		}
	}
}
