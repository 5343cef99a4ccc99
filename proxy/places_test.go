package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/proxy"
)

// However an exchange ends, its place at the upstream is free again: with one
// place in all, the next request is served.
func TestPlacesComeBack(t *testing.T) {
	noLeaks(t)
	up := script(t, func(c *net.TCPConn, br *bufio.Reader, r *http.Request) {
		switch r.URL.Path {
		case "/good":
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngood")
		case "/reset":
			c.SetLinger(0)
		case "/truncated":
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
		case "/garbage":
			io.WriteString(c, "garbage\r\n\r\n")
		case "/1xx":
			io.WriteString(c, strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 20))
		case "/switches":
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
		case "/ws":
			io.WriteString(c, switching+"hello")
			io.Copy(io.Discard, br)
		case "/endless":
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for {
				if _, err := io.WriteString(c, "4\r\nmore\r\n"); err != nil {
					return
				}
			}
		default: // "/silent", "/upload"
			io.Copy(io.Discard, br)
		}
	})
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.InFlight.Max = 1
		cfg.Breaker = proxy.Breaker{FailureRatio: 1, MinRequests: 1000}
		cfg.Retries = proxy.Retries{Max: 1, Statuses: []int{503}, MaxBody: 100, Budget: 1}
		cfg.Timeouts.ResponseHeader = 200 * time.Millisecond
		cfg.Timeouts.UpstreamIdle = 200 * time.Millisecond
	}, up)
	for name, s := range map[string]string{"std": serve(t, p).URL, "recovered": serve(t, recovering(p)).URL} {
		get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n" }
		ws := strings.Replace(handshake, "/ws", "%", 1)
		for _, tt := range []struct {
			name, raw string
			leave     bool // the client does, as soon as there is an answer
		}{
			{"reset", get("/reset"), false},
			{"truncated", get("/truncated"), false},
			{"garbage", get("/garbage"), false},
			{"1xx", get("/1xx"), false},
			{"header timeout", get("/silent"), false},
			{"upload that is not read", "PUT /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789", false},
			{"upload that stalls", "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123", true},
			{"download that is left", get("/endless"), true},
			{"tunnel", strings.Replace(ws, "%", "/ws", 1), true},
			{"other protocol", strings.Replace(ws, "%", "/switches", 1), false},
			{"upgrade that is not answered", strings.Replace(ws, "%", "/reset", 1), false},
		} {
			c := dial(t, s)
			io.WriteString(c, tt.raw)
			if tt.leave {
				eventually(t, name+": "+tt.name+": under way", func() bool { return p.Upstreams()[0].InFlight == 1 })
				time.Sleep(10 * time.Millisecond)
				c.Close()
			} else {
				for {
					res, err := http.ReadResponse(c.br, nil)
					if err == nil && res.StatusCode == 103 {
						continue
					}
					if err == nil {
						io.Copy(io.Discard, res.Body)
					}
					break
				}
				c.Close()
			}
			eventually(t, name+": "+tt.name+": the place is free", func() bool { return p.Upstreams()[0].InFlight == 0 })
			c = dial(t, s)
			res := c.send(t, "GET", get("/good"))
			if b, _ := io.ReadAll(res.Body); string(b) != "good" && res.StatusCode != 504 { // which is this machine's slowness; without a place it is 503
				t.Errorf("%s: after %s: %d", name, tt.name, res.StatusCode)
			}
			c.Close()
			eventually(t, "the place is free", func() bool { return p.Upstreams()[0].InFlight == 0 })
		}
	}
	if got := p.Upstreams()[0]; got.Breaker != proxy.BreakerClosed || got.Waiting != 0 {
		t.Errorf("%+v", got)
	}
}
