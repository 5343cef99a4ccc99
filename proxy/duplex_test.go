package proxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/proxy"
)

// parrot is an upstream that sends each part of a body back at once.
func parrot(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	rc.EnableFullDuplex()
	rc.Flush()
	b := make([]byte, 100)
	for {
		n, err := r.Body.Read(b)
		w.Write(b[:n])
		rc.Flush()
		if err != nil {
			return
		}
	}
}

// converse sends each part when the one before it has come back, and returns
// what came.
func talkBothWays(t *testing.T, server string, patience time.Duration, parts ...string) string {
	t.Helper()
	c := dial(t, server)
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
	body := bufio.NewReader(nil)
	var got strings.Builder
	for i, part := range parts {
		fmt.Fprintf(c, "%x\r\n%s\r\n", len(part), part)
		if i == 0 {
			res, err := http.ReadResponse(c.br, &http.Request{Method: "POST"})
			if err != nil {
				return err.Error()
			}
			body.Reset(res.Body)
		}
		b := make([]byte, len(part))
		n, err := io.ReadFull(body, b)
		got.Write(b[:n])
		if err != nil {
			return got.String()
		}
	}
	io.WriteString(c, "0\r\n\r\n")
	rest, err := io.ReadAll(body)
	if err != nil || len(rest) > 0 {
		t.Errorf("at the end: %q, %v", rest, err)
	}
	// The connection can be used again.
	if res := c.send(t, "GET", getRoot); res.StatusCode != 200 {
		t.Errorf("next request: %d", res.StatusCode)
	}
	return got.String()
}

func TestTrapProxy17_FullDuplex(t *testing.T) {
	noLeaks(t)
	up := serve(t, http.HandlerFunc(parrot))
	for name, h := range map[string]http.Handler{
		"Proxy":                newProxy(t, func(cfg *proxy.Config) { cfg.FullDuplex = true }, up.URL),
		"Proxy without limits": newProxy(t, func(cfg *proxy.Config) { cfg.FullDuplex, cfg.Timeouts.ClientIdle = true, -1 }, up.URL),
		"ReverseProxy":         bare(t, up.URL),
	} {
		patience := time.Minute
		if name == "ReverseProxy" {
			patience = 300 * time.Millisecond // nothing will come
		}
		got := talkBothWays(t, serve(t, h).URL, patience, "a", "bc", "d")
		if (got == "abcd") != (name != "ReverseProxy") {
			t.Errorf("%s: %q came back of what was sent in parts", name, got)
		}
	}
}

// An exchange that fails while the client still sends ends in good order:
// ReverseProxy leaves the transport reading, and net/http panics when it clears
// up (golang/go#68560), or reads the rest of the body as the next request.
func TestFullDuplexFails(t *testing.T) {
	noLeaks(t)
	breaks := answer(t, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx")
	early := answer(t, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
	for _, tt := range []struct {
		name, upstream string
		fallback       http.Handler
		status         int
	}{
		{"unreachable", "http://127.0.0.1:1", nil, 502},
		{"unreachable, with a fallback", "http://127.0.0.1:1", proxy.FixedAnswer(203, nil, nil), 203},
		{"answers early", early, nil, 413},
		{"breaks off", breaks, nil, 200},
	} {
		for _, limit := range []time.Duration{0, -1} {
			t.Run(fmt.Sprint(tt.name, limit), func(t *testing.T) {
				t.Parallel() // the server lets a connection linger that it closes early
				p := newProxy(t, func(cfg *proxy.Config) {
					cfg.FullDuplex, cfg.Timeouts.ClientIdle, cfg.Fallback = true, limit, tt.fallback
				}, tt.upstream)
				out := &lockedBuffer{}
				s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/smuggled" {
						t.Error("the rest of a body was served as a request")
					}
					p.ServeHTTP(w, r)
				}))
				s.Config.ErrorLog = log.New(out, "", 0)
				s.Start()
				for range 5 {
					c := dial(t, s.URL)
					c.SetDeadline(time.Now().Add(time.Minute))
					// A part of a body of which the rest comes after the answer.
					res := c.send(t, "POST", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\npart")
					io.Copy(io.Discard, res.Body)
					io.WriteString(c, "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"+strings.Repeat("x", 1000))
					if res.StatusCode != tt.status {
						t.Errorf("%s: %d, want %d", tt.name, res.StatusCode, tt.status)
					}
					if rest, _ := io.ReadAll(c.br); len(rest) > 0 {
						t.Errorf("%s: the connection went on with %q", tt.name, rest)
					}
					c.Close()
				}
				s.Close()
				if got := out.String(); got != "" {
					t.Errorf("%s, limit %v: the server logged %q", tt.name, limit, got)
				}
			})
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}
