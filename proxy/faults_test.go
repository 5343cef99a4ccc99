package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/proxy"
)

// The table in docs/proxy-faults.md is what happens here:
//
//	go test -run Faults ./proxy -update
var update = flag.Bool("update", false, "rewrite docs/proxy-faults.md")

// faultLimit is the time limit that a row is about. All others are at their
// defaults, which are far longer than a row may take.
const faultLimit = 100 * time.Millisecond

// A fault is one row of the table, or two.
type fault struct {
	name string

	// upstream answers; nil: 204 to everything.
	upstream func(t *testing.T) string

	// limit names the limit that ends it, and is set to faultLimit. "nothing": no
	// limit does. Empty: it ends at once.
	limit string

	// before brings about what the row is about. What it logs is not of the row.
	before func(t *testing.T, f front)

	// client sends the request and says what it sees; nil: a GET that is read to
	// its end.
	client func(t *testing.T, f front) string

	edit func(*proxy.Config)

	// around stands between capture and the proxy.
	around func(http.Handler) http.Handler

	// only restricts it to one protocol in front.
	only string
}

// A front is a server in front, and a client of it.
type front struct {
	proto  string
	url    string
	client *http.Client
	reach  <-chan struct{} // has an element for every request that came to the upstream
	server *http.Server
	proxy  *proxy.Proxy

	upstream string
}

// sees reads an answer and says how it ended.
func sees(res *http.Response, err error) string {
	if err != nil {
		return "no answer: " + kind(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	what := fmt.Sprint(res.StatusCode)
	if res.Header.Get("Content-Type") == "application/problem+json" {
		what += " problem"
	}
	if err != nil {
		return what + ", then " + kind(err)
	}
	if res.Header.Get("Retry-After") != "" {
		what += " with Retry-After"
	}
	if sum := res.Trailer.Get("X-Sum"); sum != "" {
		what += " with trailer"
	}
	if len(body) == 0 {
		what += ", no body"
	}
	return what + ", clean end"
}

// kind names an error that a client of net/http gets.
func kind(err error) string {
	switch {
	case err == nil:
		return "a clean end"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "unexpected EOF"
	case strings.Contains(err.Error(), "INTERNAL_ERROR"):
		return "RST_STREAM INTERNAL_ERROR"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, io.EOF):
		return "EOF"
	case errors.Is(err, context.Canceled):
		return "it left"
	}
	return err.Error()
}

func getAnswer(t *testing.T, f front) string {
	res, err := f.client.Get(f.url)
	return sees(res, err)
}

// rawUpstream returns an upstream that sends bytes and then closes, or resets, the
// connection.
func rawUpstream(s string) func(*testing.T) string {
	return func(t *testing.T) string { return answer(t, s) }
}

func resetting(s string) func(*testing.T) string {
	return func(t *testing.T) string {
		return script(t, func(c *net.TCPConn, _ *bufio.Reader, _ *http.Request) {
			io.WriteString(c, s)
			c.SetLinger(0)
		})
	}
}

// hanging sends bytes, and nothing more until the other side closes.
func hanging(s string) func(*testing.T) string {
	return func(t *testing.T) string {
		return script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
			io.WriteString(c, s)
			io.Copy(io.Discard, br)
		})
	}
}

const (
	okLength  = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
	okChunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
)

// endless is a request body that goes on until it is closed.
type endless struct{ done chan struct{} }

func (e endless) Read(p []byte) (int, error) {
	select {
	case <-e.done:
		return 0, io.EOF
	default:
		return len(p), nil
	}
}

// leaving sends a request, POST with a body that never ends, and leaves when it
// has come to the upstream, or, if read, when the answer has begun.
func leaving(method string, read bool) func(*testing.T, front) string {
	return func(t *testing.T, f front) string {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		pr, pw := io.Pipe()
		defer pr.Close()
		var body io.Reader
		if method == "POST" {
			body = pr
			go io.WriteString(pw, "half")
		}
		r, err := http.NewRequestWithContext(ctx, method, f.url, body)
		if err != nil {
			t.Fatal(err)
		}
		if !read {
			go func() {
				<-f.reach
				cancel()
				pw.CloseWithError(context.Canceled) // else the client waits for its own body
			}()
			return sees(f.client.Do(r))
		}
		res, err := f.client.Do(r)
		if err != nil {
			return "no answer: " + kind(err)
		}
		defer res.Body.Close()
		res.Body.Read(make([]byte, 1))
		cancel()
		pw.CloseWithError(context.Canceled)
		if _, err = io.Copy(io.Discard, res.Body); err != nil {
			err = context.Canceled // whatever else it meets on its way out
		}
		return fmt.Sprint(res.StatusCode, ", then ", kind(err))
	}
}

var faults = []struct {
	about string
	rows  []fault
}{
	{"The upstream", []fault{
		{name: "refuses connections", upstream: func(t *testing.T) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			return "http://" + l.Addr().String()
		}},
		{name: "does not exist by name", upstream: func(*testing.T) string { return "http://host.invalid" }},
		{name: "takes too long to connect to", limit: "Dial", edit: func(cfg *proxy.Config) { cfg.Timeouts.Dial = time.Nanosecond }},
		{name: "accepts and does not shake hands (TLS)", limit: "TLSHandshake", upstream: func(t *testing.T) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return "https://" + l.Addr().String()
		}},
		{name: "resets before its answer", upstream: resetting("")},
		{name: "closes before its answer", upstream: rawUpstream("")},
		{name: "closes within the header", upstream: rawUpstream("HTTP/1.1 200 OK\r\nX:")},
		{name: "resets within the header", upstream: resetting("HTTP/1.1 200 OK\r\nX:")},
		{name: "never sends a header", limit: "ResponseHeader", upstream: hanging("")},
		{name: "never ends its header", limit: "ResponseHeader", upstream: hanging("HTTP/1.1 200 OK\r\nX:")},
		{name: "speaks something else", upstream: rawUpstream("SSH-2.0-OpenSSH_9.2\r\n")},
		{name: "sends status 099", upstream: rawUpstream("HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n")},
		{name: "sends status 1000", upstream: rawUpstream("HTTP/1.1 1000 No\r\nContent-Length: 0\r\n\r\n")},
		{name: "sends status 999", upstream: rawUpstream("HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n")},
		{name: "sends a header beyond `MaxResponseHeaderBytes`", upstream: rawUpstream("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 70<<10) + "\r\n\r\n")},
		{name: "sends a header beyond `MaxResponseHeaderBytes` over HTTP/2", upstream: func(t *testing.T) string {
			return serveH2(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for i := range 10 {
					w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 10<<10))
				}
			})).URL
		}},
		{name: "sends two lengths that differ", upstream: rawUpstream("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")},
		{name: "sends a length and chunks", upstream: rawUpstream("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")},
		{name: "sends informational responses without end", upstream: rawUpstream(strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 1000))},
		{name: "switches protocols unasked", upstream: rawUpstream(switching)},
		{name: "closes before the first byte of a body with length", upstream: rawUpstream(okLength)},
		{name: "closes within a body with length", upstream: rawUpstream(okLength + "half")},
		{name: "resets within a body with length", upstream: resetting(okLength + "half")},
		{name: "closes before the first chunk", upstream: rawUpstream(okChunked)},
		{name: "closes within a chunk", upstream: rawUpstream(okChunked + "a\r\nhalf")},
		{name: "closes between two chunks", upstream: rawUpstream(okChunked + "4\r\nhalf\r\n")},
		{name: "closes within the last chunk", upstream: rawUpstream(okChunked + "4\r\nhalf\r\n0\r\n")},
		{name: "sends a chunk size that is none", upstream: rawUpstream(okChunked + "4\r\nhalf\r\nzz\r\n")},
		{name: "resets an HTTP/2 stream within the body", upstream: func(t *testing.T) string {
			return serveH2(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, "half")
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			})).URL
		}},
		{name: "stops within the body", limit: "UpstreamIdle", upstream: hanging(okChunked + "4\r\nhalf\r\n")},
		{name: "sends a byte every 400 ms, with `UpstreamIdle` at 2 s", limit: "nothing", edit: func(cfg *proxy.Config) {
			cfg.Timeouts.UpstreamIdle = 2 * time.Second
		}, upstream: func(t *testing.T) string {
			return script(t, func(c *net.TCPConn, _ *bufio.Reader, _ *http.Request) {
				io.WriteString(c, okLength+"four")
				for range 6 {
					io.WriteString(c, "x")
					time.Sleep(400 * time.Millisecond)
				}
			})
		}},
		{name: "ends a body by closing, without length or chunks", upstream: rawUpstream("HTTP/1.1 200 OK\r\n\r\nhalf")},
		{name: "sends trailers", upstream: rawUpstream("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 7\r\n\r\n")},
		{name: "says gzip and sends something else", upstream: rawUpstream("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnone")},
		{name: "never reads the request's body", limit: "UpstreamIdle",
			upstream: func(t *testing.T) string {
				over := make(chan struct{})
				url := script(t, func(*net.TCPConn, *bufio.Reader, *http.Request) { <-over })
				t.Cleanup(func() { close(over) }) // first: script waits for it
				return url
			},
			client: func(t *testing.T, f front) string {
				done := make(chan struct{})
				defer close(done)
				res, err := f.client.Post(f.url, "text/plain", endless{done})
				return sees(res, err)
			}},
		{name: "answers before it has read the request's body", upstream: func(t *testing.T) string {
			return script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
				io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
				io.Copy(io.Discard, br)
			})
		}, client: func(t *testing.T, f front) string {
			pr, pw := io.Pipe()
			defer pr.Close()
			go io.WriteString(pw, "half")
			res, err := f.client.Post(f.url, "text/plain", pr)
			return sees(res, err)
		}},
		{name: "breaks off a body without length, for a client of HTTP/1.0", only: "HTTP/1.1", upstream: rawUpstream(okChunked + "4\r\nhalf\r\n"),
			client: func(t *testing.T, f front) string {
				return sees(dial(t, f.url).send(t, "GET", "GET / HTTP/1.0\r\nHost: a\r\n\r\n"), nil)
			}},
		{name: "resets an HTTP/2 stream before its header", upstream: func(t *testing.T) string {
			return serveH2(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })).URL
		}},
		{name: "closes a kept connection when a GET is sent on it", upstream: closesKept, before: oneBefore},
		{name: "closes a kept connection when a POST is sent on it", upstream: closesKept, before: oneBefore, client: func(t *testing.T, f front) string {
			return sees(f.client.Post(f.url, "text/plain", strings.NewReader("body")))
		}},
		{name: "moves, with `Total` at 1 s", limit: "Total", edit: func(cfg *proxy.Config) {
			cfg.Timeouts.Total = time.Second // the header must be out by then
		}, upstream: func(t *testing.T) string {
			return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					io.WriteString(w, "x")
					http.NewResponseController(w).Flush()
					time.Sleep(time.Millisecond)
				}
			})).URL
		}},
		{name: "refuses an upgrade", only: "HTTP/1.1", upstream: rawUpstream("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"), client: upgrading},
		{name: "upgrades to something else", only: "HTTP/1.1", upstream: hanging("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"), client: upgrading},
		{name: "leaves a WebSocket", only: "HTTP/1.1", upstream: rawUpstream(switching), client: func(t *testing.T, f front) string {
			c := dial(t, f.url)
			res := c.send(t, "GET", handshake)
			_, err := c.br.ReadByte()
			c.Close() // a tunnel ends when both sides have
			return fmt.Sprint(res.StatusCode, ", then ", kind(err))
		}},
	}},
	{"The client", []fault{
		{name: "leaves before the header", upstream: hanging(""), client: leaving("GET", false)},
		{name: "leaves within its upload", upstream: hanging(""), client: leaving("POST", false)},
		{name: "leaves within the answer", upstream: hanging(okChunked + "4\r\nhalf\r\n"), client: leaving("GET", true)},
		{name: "leaves within both", upstream: hanging(okChunked + "4\r\nhalf\r\n"), client: leaving("POST", true), only: "HTTP/2"},
		{name: "closes its half after the request", only: "HTTP/1.1", upstream: hanging(""), client: func(t *testing.T, f front) string {
			c := dial(t, f.url)
			io.WriteString(c, getRoot)
			<-f.reach
			c.CloseWrite()
			res, err := http.ReadResponse(c.br, nil)
			return sees(res, err)
		}},
		{name: "stops within its upload", limit: "ClientIdle", upstream: hanging(""), client: func(t *testing.T, f front) string {
			pr, pw := io.Pipe()
			defer pr.Close()
			go io.WriteString(pw, "half")
			res, err := f.client.Post(f.url, "text/plain", pr)
			return sees(res, err)
		}},
		{name: "expects 100 and then sends nothing", only: "HTTP/1.1", limit: "ClientIdle", upstream: func(t *testing.T) string {
			return serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })).URL
		}, client: func(t *testing.T, f front) string {
			c := dial(t, f.url)
			res := c.send(t, "PUT", "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
			if res.StatusCode != 100 {
				return sees(res, nil)
			}
			res, err := http.ReadResponse(c.br, nil)
			return "100, then " + sees(res, err)
		}},
		{name: "sends chunks that are none", only: "HTTP/1.1", upstream: hanging(""), client: func(t *testing.T, f front) string {
			return sees(dial(t, f.url).send(t, "POST", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), nil)
		}},
		{name: "sends more than a MaxBytesReader in front allows", around: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Body = http.MaxBytesReader(w, r.Body, 10)
				next.ServeHTTP(w, r)
			})
		}, upstream: hanging(""), client: func(t *testing.T, f front) string {
			return sees(f.client.Post(f.url, "text/plain", strings.NewReader("more than ten bytes")))
		}},
		{name: "never reads the answer", limit: "ClientIdle",
			upstream: func(t *testing.T) string {
				return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					for b := make([]byte, 64<<10); r.Context().Err() == nil; {
						w.Write(b)
					}
				})).URL
			},
			client: func(t *testing.T, f front) string {
				r, err := http.NewRequest("GET", f.url, nil)
				if err != nil {
					t.Fatal(err)
				}
				res, err := f.client.Do(r)
				if err != nil {
					return "no answer: " + kind(err)
				}
				defer res.Body.Close()
				time.Sleep(5 * faultLimit) // the limit passes while nothing is read
				if _, err = io.Copy(io.Discard, res.Body); errors.Is(err, net.ErrClosed) || strings.Contains(fmt.Sprint(err), "reset by peer") {
					err = io.ErrUnexpectedEOF // what was on its way may be lost
				}
				return fmt.Sprint(res.StatusCode, ", then ", kind(err))
			}},
		{name: "sends two requests at once", only: "HTTP/1.1", client: func(t *testing.T, f front) string {
			c := dial(t, f.url)
			first := sees(c.send(t, "GET", getRoot+getRoot), nil)
			res, err := http.ReadResponse(c.br, nil)
			return first + "; " + sees(res, err)
		}},
		{name: "leaves a WebSocket", only: "HTTP/1.1", upstream: hanging(switching), client: func(t *testing.T, f front) string {
			c := dial(t, f.url)
			res := c.send(t, "GET", handshake)
			c.Close()
			return fmt.Sprint(res.StatusCode)
		}},
	}},
	{"The proxy", []fault{
		{name: "has opened the breaker", upstream: rawUpstream(""), edit: tripping(time.Hour), before: oneBefore},
		{name: "has opened the breaker, and the upstream is well again", upstream: wellLater(1), edit: tripping(time.Millisecond), before: func(t *testing.T, f front) {
			oneBefore(t, f)
			time.Sleep(10 * time.Millisecond)
		}},
		{name: "has opened the breaker, and the upstream is not well yet", upstream: rawUpstream(""), edit: tripping(time.Millisecond), before: func(t *testing.T, f front) {
			oneBefore(t, f)
			time.Sleep(10 * time.Millisecond)
		}},
		{name: "has one upstream, which fails, and goes on using it (Ejection)", upstream: wellLater(1), edit: func(cfg *proxy.Config) {
			cfg.Ejection = proxy.Ejection{Failures: 1}
		}, before: oneBefore},
		{name: "finds all upstreams down", upstream: rawUpstream(""), edit: func(cfg *proxy.Config) {
			cfg.HealthCheck = proxy.HealthCheck{Path: "/", Down: 1}
		}, before: func(t *testing.T, f front) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- f.proxy.CheckHealth(ctx) }()
			t.Cleanup(func() { cancel(); <-done })
			eventually(t, "the upstream is down", func() bool { return f.proxy.Upstreams()[0].Down })
			<-f.reach
		}},
		{name: "has no place free, and none may wait", upstream: hanging(""), before: occupied},
		{name: "has no place free in time", limit: "InFlight.Wait", upstream: hanging(""), before: occupied},
		{name: "has a place free in time", upstream: halves, edit: func(cfg *proxy.Config) {
			cfg.InFlight = proxy.InFlight{Max: 1, Queue: 1, Wait: time.Minute}
		}, before: func(t *testing.T, f front) {
			io.WriteString(dial(t, serve(t, f.proxy).URL), getRoot)
			<-f.reach
		}, client: func(t *testing.T, f front) string {
			go func() {
				for f.proxy.Upstreams()[0].Waiting == 0 {
					time.Sleep(time.Millisecond)
				}
				letGo(t, f)
			}()
			res, err := f.client.Get(f.url + "/other")
			return sees(res, err)
		}},
		{name: "sends a request again", upstream: wellLater(1), edit: func(cfg *proxy.Config) {
			cfg.Retries = proxy.Retries{Max: 1, Budget: 1}
		}},
		{name: "has a fallback, and the upstream breaks off before the header", upstream: rawUpstream(""), edit: func(cfg *proxy.Config) {
			cfg.Fallback = proxy.FixedAnswer(203, nil, []byte("sorry"))
		}},
		{name: "has a fallback and retries, and the upstream breaks off within the body", upstream: rawUpstream(okLength + "half"), edit: func(cfg *proxy.Config) {
			cfg.Fallback = proxy.FixedAnswer(203, nil, []byte("sorry"))
			cfg.Retries = proxy.Retries{Max: 1, Budget: 1, Statuses: []int{502}}
		}},
		{name: "is switched to its fallback by hand", upstream: rawUpstream(""), edit: func(cfg *proxy.Config) {
			cfg.Fallback = proxy.FixedAnswer(203, nil, []byte("sorry"))
		}, before: func(_ *testing.T, f front) { f.proxy.ForceFallback(true) }},
		{name: "loses an upstream from its list while that answers", upstream: halves, client: func(t *testing.T, f front) string {
			return inTheMiddle(t, f, func() {
				if err := f.proxy.SetUpstreams([]proxy.Upstream{{URL: "http://127.0.0.1:1"}}); err != nil {
					t.Error(err)
				}
			})
		}},
		{name: "shuts down while an answer is under way", upstream: halves, client: func(t *testing.T, f front) string {
			var stopped sync.WaitGroup
			defer stopped.Wait()
			return inTheMiddle(t, f, func() {
				stopped.Go(func() {
					if err := errors.Join(f.proxy.Shutdown(t.Context()), f.server.Shutdown(t.Context())); err != nil {
						t.Error(err)
					}
				})
				eventually(t, "no new connections", func() bool {
					c, err := net.Dial("tcp", strings.TrimPrefix(strings.TrimPrefix(f.url, "http://"), "https://"))
					if err == nil {
						c.Close()
					}
					return err != nil
				})
			})
		}},
		{name: "was shut down, and serves what is no upgrade", before: wasShutDown},
		{name: "was shut down, and is asked for an upgrade", only: "HTTP/1.1", before: wasShutDown, client: upgrading},
		{name: "has `MaxTunnels` upgraded connections", only: "HTTP/1.1", upstream: hanging(switching), edit: func(cfg *proxy.Config) { cfg.MaxTunnels = 1 },
			before: func(t *testing.T, f front) {
				openWS(t, serve(t, f.proxy).URL, 0)
				<-f.reach
			}, client: upgrading},
		{name: "shuts down, and both ends of a WebSocket answer", only: "HTTP/1.1", upstream: func(t *testing.T) string {
			return peer(t, make(chan []wsFrame, 1))
		}, client: func(t *testing.T, f front) string {
			c := openWS(t, f.url, 1)
			go f.proxy.Shutdown(t.Context())
			return closing(c, true)
		}},
		{name: "shuts down, and no end of a WebSocket answers", only: "HTTP/1.1", limit: "Shutdown", upstream: hanging(switching), client: func(t *testing.T, f front) string {
			c := openWS(t, f.url, 0)
			ctx, cancel := context.WithTimeout(t.Context(), faultLimit)
			defer cancel()
			go f.proxy.Shutdown(ctx)
			return closing(c, false)
		}},
		{name: "ends a WebSocket on which nothing moves", only: "HTTP/1.1", limit: "TunnelIdle", upstream: hanging(switching), client: func(t *testing.T, f front) string {
			return closing(openWS(t, f.url, 0), false)
		}},
	}},
	{"Code around the proxy", []fault{
		{name: "panics in Key", edit: func(cfg *proxy.Config) {
			cfg.Upstreams = append(cfg.Upstreams, proxy.Upstream{URL: "http://127.0.0.1:1"})
			cfg.Balance, cfg.Key = proxy.ByKey, func(*http.Request) string { panic("of a key") }
		}},
		{name: "panics with http.ErrAbortHandler in a transport", edit: func(cfg *proxy.Config) {
			cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper {
				return roundTrip(func(*http.Request) (*http.Response, error) { panic(http.ErrAbortHandler) })
			}
		}},
		{name: "panics in a fallback, before the header", upstream: rawUpstream(""), edit: func(cfg *proxy.Config) {
			cfg.Fallback = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("of a fallback") })
		}},
		{name: "panics in a fallback, after the header, and is recovered above", upstream: rawUpstream(""), edit: func(cfg *proxy.Config) {
			cfg.Fallback = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "half"); panic("of a fallback") })
		}, around: recovering},
		{name: "recovers the abort of an answer that broke off", upstream: rawUpstream(okChunked + "4\r\nhalf\r\n"), around: recovering},
		{name: "panics in a transport, before the header", edit: func(cfg *proxy.Config) {
			cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper {
				return roundTrip(func(*http.Request) (*http.Response, error) { panic("of a transport") })
			}
		}},
		{name: "panics in a body, after the header", edit: func(cfg *proxy.Config) {
			cfg.WrapTransport = func(http.RoundTripper) http.RoundTripper {
				return roundTrip(func(r *http.Request) (*http.Response, error) {
					return &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, ContentLength: -1, Header: http.Header{}, Request: r,
						Body: io.NopCloser(io.MultiReader(strings.NewReader("half"), panicking{}))}, nil
				})
			}
		}},
	}},
}

// oneBefore is a request before that of the row. It does not pass the front.
func oneBefore(_ *testing.T, f front) {
	serveOnce(aborting(f.proxy), nil)
	<-f.reach
}

// occupied leaves a request under way.
func occupied(t *testing.T, f front) {
	io.WriteString(dial(t, serve(t, f.proxy).URL), getRoot)
	<-f.reach
}

func wasShutDown(t *testing.T, f front) {
	if err := f.proxy.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func tripping(openFor time.Duration) func(*proxy.Config) {
	return func(cfg *proxy.Config) {
		cfg.Breaker = proxy.Breaker{FailureRatio: 1, MinRequests: 1, OpenFor: openFor}
	}
}

// wellLater is an upstream that closes n connections and then answers.
func wellLater(n int64) func(*testing.T) string {
	return func(t *testing.T) string {
		var asked atomic.Int64
		return script(t, func(c *net.TCPConn, _ *bufio.Reader, _ *http.Request) {
			if asked.Add(1) > n {
				io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
			}
		})
	}
}

// closesKept answers the first request of a connection, and closes it when it
// has read the second.
func closesKept(t *testing.T) string {
	return script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
		io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		if r, err := http.ReadRequest(br); err == nil {
			io.Copy(io.Discard, r.Body)
		}
	})
}

// halves is an upstream that sends the second half of its answer when it is asked
// to, by a request for /go.
func halves(t *testing.T) string {
	proceed := make(chan bool)
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/go":
			proceed <- true
			return
		case "/other":
			w.WriteHeader(204)
			return
		}
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		<-proceed
		io.WriteString(w, "half")
	})).URL
}

// letGo asks halves for the second.
func letGo(t *testing.T, f front) {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if _, _, _, err := get(c, f.upstream+"/go"); err != nil {
		t.Error(err)
	}
}

// inTheMiddle gets an answer of halves, and does something between the two.
func inTheMiddle(t *testing.T, f front, do func()) string {
	res, err := f.client.Get(f.url)
	if err != nil {
		return sees(res, err)
	}
	if _, err := io.ReadFull(res.Body, make([]byte, 4)); err != nil {
		t.Error(err)
	}
	do()
	letGo(t, f)
	return sees(res, nil)
}

func upgrading(t *testing.T, f front) string {
	return sees(dial(t, f.url).send(t, "GET", handshake), nil)
}

// closing says how a WebSocket ends, and answers a Close frame if it is told to.
func closing(c *rawConn, answers bool) string {
	what := "101"
	for {
		frame, err := readWS(c.br)
		if err != nil {
			return what + ", then " + kind(err)
		}
		if frame != wsClose(false) {
			return fmt.Sprint(what, ", then ", frame)
		}
		what += ", Close frame 1001"
		if answers {
			c.Write(wsFrame{8, true, frame.payload}.bytes())
		}
	}
}

type panicking struct{}

func (panicking) Read([]byte) (int, error) { panic("of a body") }

// A logLines is a slog.Handler that keeps message, status, side and phase.
type logLines struct {
	slog.Handler
	mu  sync.Mutex
	got []string
}

func (l *logLines) Enabled(context.Context, slog.Level) bool { return true }

func (l *logLines) Handle(_ context.Context, r slog.Record) error {
	line := strings.TrimPrefix(r.Message, "proxy: ")
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "status" || a.Key == "side" || a.Key == "phase" {
			line += ", " + a.Value.String()
		}
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, line)
	return nil
}

func (l *logLines) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = nil
}

// observe plays a fault and returns the row: what the client sees, what ends it,
// the record, the log. The slots of p must be free when its test has ended.
func (f fault) observe(t *testing.T, proto string) (p *proxy.Proxy, columns []string) {
	up := ""
	if f.upstream != nil {
		up = f.upstream(t)
	} else {
		up = answer(t, "HTTP/1.1 204 No Content\r\n\r\n")
	}
	logged, told := &logLines{}, &notebook{}
	reach := make(chan struct{}, 1)
	p = newProxy(t, func(cfg *proxy.Config) {
		cfg.InFlight.Max = 1
		cfg.ErrorLog, cfg.Observer = slog.New(logged), told
		switch f.limit {
		case "TLSHandshake":
			cfg.Timeouts.TLSHandshake = faultLimit
		case "ResponseHeader":
			cfg.Timeouts.ResponseHeader = faultLimit
		case "UpstreamIdle":
			cfg.Timeouts.UpstreamIdle = faultLimit
		case "ClientIdle":
			cfg.Timeouts.ClientIdle = faultLimit
		case "Total":
			cfg.Timeouts.Total = faultLimit
		case "TunnelIdle":
			cfg.Timeouts.TunnelIdle = faultLimit
		case "InFlight.Wait":
			cfg.InFlight.Queue, cfg.InFlight.Wait = 1, faultLimit
		}
		cfg.TLS = trusted(t)
		if f.edit != nil {
			f.edit(cfg)
		}
		if wrap := cfg.WrapTransport; wrap == nil {
			cfg.WrapTransport = func(base http.RoundTripper) http.RoundTripper {
				return roundTrip(func(r *http.Request) (*http.Response, error) {
					select {
					case reach <- struct{}{}:
					default:
					}
					return base.RoundTrip(r)
				})
			}
		}
	}, up)
	recorded := make(chan string, 2)
	var inner http.Handler = p
	if f.around != nil {
		inner = f.around(p)
	}
	h := capture.Middleware(capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		recorded <- fmt.Sprintf("%d `%s`", x.Status, x.Outcome)
		return nil
	}), nil)(inner)
	var s *httptest.Server
	if proto == "HTTP/2" {
		s = serveH2(t, h)
	} else {
		s = serve(t, h)
	}
	play := f.client
	if play == nil {
		play = getAnswer
	}
	s.Client().Transport.(*http.Transport).DisableCompression = true // bodies are compared as they are sent
	at := front{proto, s.URL, s.Client(), reach, s.Config, p, up}
	if f.before != nil {
		f.before(t, at)
		logged.reset()
		told.take()
	}
	start := time.Now()
	client := play(t, at)
	var record string
	select {
	case record = <-recorded:
	case <-time.After(time.Minute):
		t.Error("no record within a minute")
	}
	took := time.Since(start)
	s.Client().CloseIdleConnections()
	bound := "at once"
	if f.limit == "nothing" {
		bound = f.limit
	} else if f.limit != "" {
		bound = "`" + f.limit + "`"
		if f.limit != "Dial" && took < faultLimit {
			t.Errorf("ended after %v, before %s", took, f.limit)
		}
	}
	if took > time.Minute {
		t.Errorf("ended after %v", took)
	}
	logged.mu.Lock()
	defer logged.mu.Unlock()
	log := strings.Join(logged.got, "; ")
	if log == "" {
		log = "-"
	}
	if strings.HasPrefix(record, "200") && strings.HasSuffix(client, "RST_STREAM INTERNAL_ERROR") {
		client = "200 or no answer, then RST_STREAM INTERNAL_ERROR" // net/http's client may see the reset first
	}
	told.agree(t, log)
	return p, []string{client, bound, record, log}
}

// trusted is the configuration that accepts the upstreams of serveH2.
func trusted(t *testing.T) *tls.Config {
	return serveH2(t, nil).Client().Transport.(*http.Transport).TLSClientConfig
}

const faultsHead = `# What happens when something breaks

Written by the tests: ` + "`go test -run Faults ./proxy -update`" + `. Each row is played over real connections, with
` + "`capture`" + ` in front of the proxy, once for each protocol in front; where both agree there is one row.

- **Client sees**: the status, "problem" if the body is application/problem+json, and how the body ends. A clean end
  stands only where the upstream's was one, or cannot be told from one.
- **Ended by**: the field of ` + "`Timeouts`" + ` or of another part of ` + "`Config`" + ` that ends it, the context of ` + "`Shutdown`" + `, or "at once".
- **Record**: status and outcome in capture's record, which exists for every row.
- **Log**: what the proxy logs: a status for what went wrong, which the client may not have got, whose fault it was, and
  in which phase. An Observer is told the same.
- **Returned**: the slot at the upstream is free again (` + "`InFlight`" + ` has one), and goroutines and descriptors are as many
  as before.

What is not here, because it is not the proxy's: key functions and refusals of limits that panic (` + "`limiter`" + `), sinks and
redactors that panic, disks that are full (` + "`capture`" + `), signals and the configuration (the example gateway). A panic on a
goroutine that carries a tunnel, in a connection that ` + "`WrapTransport`" + ` has wrapped, ends the process, as on any goroutine
that nobody waits for.
`

// slots returns how many requests p counts as under way or waiting.
func slots(p *proxy.Proxy) (n int) {
	for _, up := range p.Upstreams() {
		n += up.InFlight + up.Waiting
	}
	return n
}

// TestFaults plays every fault and compares the table with the file.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("some 100 exchanges, many of which wait for a limit; not run with -short")
	}
	openPoller(t)
	var doc bytes.Buffer
	doc.WriteString(faultsHead)
	for _, section := range faults {
		fmt.Fprintf(&doc, "\n## %s\n\n| %s | in front | client sees | ended by | record | log | returned |\n| --- | --- | --- | --- | --- | --- | --- |\n", section.about, strings.ToLower(section.about))
		for _, f := range section.rows {
			var seen []string
			for _, proto := range []string{"HTTP/1.1", "HTTP/2"} {
				if f.only != "" && f.only != proto {
					continue
				}
				goroutines, fds := runtime.NumGoroutine(), descriptors()
				var p *proxy.Proxy
				var columns []string
				t.Run(f.name+" "+proto, func(t *testing.T) { p, columns = f.observe(t, proto) })
				if p == nil {
					continue // it has failed, or was not asked for
				}
				returned := "yes"
				for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() > goroutines || descriptors() > fds || slots(p) > 0; time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Errorf("%s, %s: goroutines: %d, before %d; descriptors: %d, before %d; slots: %d", f.name, proto,
							runtime.NumGoroutine(), goroutines, descriptors(), fds, slots(p))
						returned = "no"
						break
					}
				}
				seen = append(seen, strings.Join(append(columns, returned), " | "))
			}
			if len(seen) == 2 && seen[0] == seen[1] {
				fmt.Fprintf(&doc, "| %s | both | %s |\n", f.name, seen[0])
				continue
			}
			for i, columns := range seen {
				proto := []string{"HTTP/1.1", "HTTP/2"}[i]
				if f.only != "" {
					proto = f.only
				}
				fmt.Fprintf(&doc, "| %s | %s | %s |\n", f.name, proto, columns)
			}
		}
	}
	const file = "../docs/proxy-faults.md"
	if *update {
		if err := os.WriteFile(file, doc.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	wanted := map[string]bool{}
	for line := range strings.Lines(string(want)) {
		wanted[line] = true
	}
	for line := range strings.Lines(doc.String()) {
		if !wanted[line] {
			t.Errorf("not in docs/proxy-faults.md: %s", line)
		}
	}
	if !t.Failed() && !bytes.Equal(want, doc.Bytes()) {
		t.Error("docs/proxy-faults.md has lines too many or in another order")
	}
	if t.Failed() {
		t.Log("if that is meant: go test -run Faults ./proxy -update")
	}
}
