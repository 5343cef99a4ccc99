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

	// client sends the request and says what it sees; nil: a GET that is read to
	// its end.
	client func(t *testing.T, f front) string

	edit func(*proxy.Config)

	// only restricts it to one protocol in front.
	only string
}

// A front is a server in front, and a client of it.
type front struct {
	proto  string
	url    string
	client *http.Client
	reach  <-chan struct{} // has an element for every request that came to the upstream
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
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "unexpected EOF"
	case strings.Contains(err.Error(), "INTERNAL_ERROR"):
		return "RST_STREAM INTERNAL_ERROR"
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
		{name: "sends a byte every 150 ms, with `UpstreamIdle` at 1 s", limit: "nothing", edit: func(cfg *proxy.Config) {
			cfg.Timeouts.UpstreamIdle = time.Second
		}, upstream: func(t *testing.T) string {
			return script(t, func(c *net.TCPConn, _ *bufio.Reader, _ *http.Request) {
				io.WriteString(c, okLength)
				for range 10 {
					io.WriteString(c, "x")
					time.Sleep(150 * time.Millisecond)
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
	{"Code around the proxy", []fault{
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

// observe plays a fault and returns the row: what the client sees, what ends it,
// the record, the log.
func (f fault) observe(t *testing.T, proto string) (columns []string) {
	up := ""
	if f.upstream != nil {
		up = f.upstream(t)
	} else {
		up = answer(t, "HTTP/1.1 204 No Content\r\n\r\n")
	}
	logged, told := &logLines{}, &notebook{}
	reach := make(chan struct{}, 1)
	p := newProxy(t, func(cfg *proxy.Config) {
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
	h := capture.Middleware(capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		recorded <- fmt.Sprintf("%d `%s`", x.Status, x.Outcome)
		return nil
	}), nil)(p)
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
	start := time.Now()
	client := play(t, front{proto, s.URL, s.Client(), reach})
	var record string
	select {
	case record = <-recorded:
	case <-time.After(20 * time.Second):
		t.Error("no record within 20 s")
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
	if took > 20*time.Second {
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
	return []string{client, bound, record, log}
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
- **Ended by**: the field of ` + "`Timeouts`" + ` that ends it, or "at once".
- **Record**: status and outcome in capture's record, which exists for every row.
- **Log**: what the proxy logs: a status for what went wrong, which the client may not have got, whose fault it was, and
  in which phase. An Observer is told the same.
- **Returned**: goroutines and descriptors are as many afterwards as before.
`

// TestFaults plays every fault and compares the table with the file.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("some 100 exchanges, many of which wait for a limit; not run with -short")
	}
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
				var columns []string
				t.Run(f.name+" "+proto, func(t *testing.T) { columns = f.observe(t, proto) })
				returned := "yes"
				for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > goroutines || descriptors() > fds; time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Errorf("%s, %s: goroutines: %d, before %d; descriptors: %d, before %d", f.name, proto,
							runtime.NumGoroutine(), goroutines, descriptors(), fds)
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
