package main_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// A client that stops in the middle of whatever it does is let go.
func TestClientsThatStall(t *testing.T) {
	early := dying(t, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n", "no", false)
	g := start(t, `
timeouts: {read_header: 1s, idle: 1s, stall: 1s}
routes:
  - {path: /early, upstreams: ["`+early+`"]}
  - {path: /echo, upstreams: [demo]}
  - {path: /refused, upstreams: [demo], limits: [{name: none, key: global, rate: 0/s}]}
`)
	for _, tt := range []struct{ name, sent, want string }{
		{"before a request", "", ""},
		{"in a header", "GET / HTTP/1.1\r\nHost: a\r\nX-Slow:", ""},
		{"in an upload", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf", "HTTP/1.1 408 "},
		{"in a refused upload", "POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf", "HTTP/1.1 429 "},
		{"in an upload that was answered early", "POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf", "HTTP/1.1 403 "},
		{"in an upload that has no route", "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf", "HTTP/1.1 404 "},
		{"after an answer", "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			began := time.Now()
			c.SetDeadline(began.Add(20 * time.Second))
			io.WriteString(c, tt.sent)
			answer, err := io.ReadAll(c)
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("let go after %v, %v; want soon after 1s", took, err)
			}
			if !strings.HasPrefix(string(answer), tt.want) {
				t.Errorf("got %.40q, want %q", answer, tt.want)
			}
		})
	}
}

func TestHeaderTooLarge(t *testing.T) {
	g := start(t, "routes: [{path: /, upstreams: [demo]}]")
	for size, want := range map[int]int{16 << 10: 200, 48 << 10: 431} {
		req := request(t, "GET", g.URL+"/echo", "")
		req.Header.Set("X-Large", strings.Repeat("x", size))
		res, _, err := do(t, req)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != want {
			t.Errorf("a header of %d bytes: %s, want %d", size, res.Status, want)
		}
	}
}

// What moves may take longer than every time limit.
func TestSlowStreamsLive(t *testing.T) {
	g := start(t, `
timeouts: {read_header: 1s, idle: 1s, stall: 1s, upstream: {header: 1s, idle: 20s}}
routes: [{path: /, upstreams: [demo]}]
`)
	clock := open(t, g.URL+"/clock")
	buf := make([]byte, 1<<10)
	for range 4 { // one event a second
		if _, err := clock.Body.Read(buf); err != nil {
			t.Fatalf("an event stream was cut: %v", err)
		}
	}
}
