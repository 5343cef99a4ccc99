package main_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func newUpstream(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// An upstream that is killed in mid-body must never look like one that was done:
// the client sees an error.
func TestUpstreamDiesInMidBody(t *testing.T) {
	const part = "half of it"
	for _, tt := range []struct {
		name, head, chunk string
	}{
		{"with a length", "Content-Length: 1000\r\n\r\n", part},
		{"chunked", "Transfer-Encoding: chunked\r\n\r\n", "a\r\n" + part + "\r\n"},
		{"within a chunk", "Transfer-Encoding: chunked\r\n\r\n", "ff\r\n" + part},
	} {
		for _, how := range []string{"closed", "reset"} {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				upstream := dying(t, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"+tt.head, tt.chunk, how == "reset")
				g := start(t, "", "-upstream", upstream)
				_, body, err := do(t, request(t, "GET", g.URL+"/", ""))
				if err == nil {
					t.Errorf("the client read %q and a clean end", body)
				}
				// A reset may overtake what was sent before it.
				if got := string(body); got != part && (how == "closed" || !strings.HasPrefix(part, got)) {
					t.Errorf("the client read %q, the upstream sent %q", got, part)
				}
				records := g.stop(t)
				if len(records) != 1 || records[0].Outcome != "abort" || records[0].Status != 200 {
					t.Errorf("the records are %+v, want one of an exchange that went wrong", records)
				}
			})
		}
	}
}

// dying is an upstream that sends head, then chunk, and is gone.
func dying(t *testing.T, head, chunk string, reset bool) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4<<10)
				if _, err := c.Read(buf); err != nil {
					return
				}
				io.WriteString(c, head)
				io.WriteString(c, chunk)
				if reset {
					c.(*net.TCPConn).SetLinger(0)
				}
			}()
		}
	}()
	return "http://" + ln.Addr().String()
}

func TestUpstreamThatIsNotThere(t *testing.T) {
	away := closedPort(t)
	g := start(t, "", "-upstream", "http://"+away)
	res, body := get(t, g.URL+"/")
	if res.StatusCode != 502 || res.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %s with %s, want 502 as problem+json", res.Status, body)
	}
	if strings.Contains(string(body), away) {
		t.Errorf("the client is told where the upstream is: %s", body)
	}
}

// Targets that are no path would be redirected to "/" by ServeMux.
func TestOddTargets(t *testing.T) {
	g := start(t, "", "-upstream", "http://127.0.0.1:1")
	for _, tt := range []struct{ line, want string }{
		{"GET http:opaque HTTP/1.1", "HTTP/1.1 400"},
		{"GET * HTTP/1.1", "HTTP/1.1 400"},
		{"CONNECT example.com:443 HTTP/1.1", "HTTP/1.1 40"},
		{"GET http://example.com/ HTTP/1.1", "HTTP/1.1 502"},
	} {
		c, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, tt.line+"\r\nHost: example.com\r\nConnection: close\r\n\r\n")
		answer, err := io.ReadAll(c)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", tt.line, err)
		}
		if !strings.HasPrefix(string(answer), tt.want) {
			t.Errorf("%s: got %.60q, want %s", tt.line, answer, tt.want)
		}
		c.Close()
	}
	if records := g.stop(t); len(records) != 4 {
		t.Errorf("%d records, want 4: %+v", len(records), records)
	}
}
