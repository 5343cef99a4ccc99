package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/proxy"
)

const handshake = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

// writeFrame writes one binary WebSocket frame, RFC 6455 section 5.2.
func writeFrame(w io.Writer, payload []byte, masked bool) error {
	b := []byte{0x82}
	mask := byte(0)
	if masked {
		mask = 0x80
	}
	switch n := len(payload); {
	case n < 126:
		b = append(b, mask|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, mask|127), uint64(n))
	}
	if masked {
		key := []byte{1, 2, 3, 4}
		b = append(b, key...)
		for i, c := range payload {
			b = append(b, c^key[i%4])
		}
	} else {
		b = append(b, payload...)
	}
	_, err := w.Write(b)
	return err
}

func readFrame(r *bufio.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := uint64(head[1] & 0x7f)
	if size := map[uint64]int{126: 2, 127: 8}[n]; size > 0 {
		var b [8]byte
		if _, err := io.ReadFull(r, b[8-size:]); err != nil {
			return nil, err
		}
		n = binary.BigEndian.Uint64(b[:])
	}
	var key [4]byte
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(r, key[:]); err != nil {
			return nil, err
		}
	}
	payload := make([]byte, n)
	_, err := io.ReadFull(r, payload)
	for i := range payload {
		payload[i] ^= key[i%4]
	}
	return payload, err
}

// echo is a WebSocket server that sends every frame back.
func echo(w http.ResponseWriter, r *http.Request) {
	conn, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	for {
		payload, err := readFrame(brw.Reader)
		if err != nil || writeFrame(conn, payload, false) != nil {
			return
		}
	}
}

func TestWebSocket(t *testing.T) {
	noLeaks(t)
	https := serveH2(t, http.HandlerFunc(echo)) // speaks HTTP/1.1 when asked
	for name, p := range map[string]http.Handler{
		"http":  newProxy(t, nil, serve(t, http.HandlerFunc(echo)).URL),
		"https": newProxy(t, func(cfg *proxy.Config) { cfg.TLS = https.Client().Transport.(*http.Transport).TLSClientConfig }, https.URL),
	} {
		c := dial(t, serve(t, p).URL)
		res := c.send(t, "GET", handshake)
		if got := res.Header.Get("Sec-WebSocket-Accept"); res.StatusCode != 101 || got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
			t.Fatalf("%s: %d, accept %q", name, res.StatusCode, got)
		}
		for _, n := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20} {
			want := make([]byte, n)
			rand.Read(want)
			errs := make(chan error, 1)
			go func() { errs <- writeFrame(c, want, true) }()
			got, err := readFrame(c.br)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s: frame of %d bytes came back as %d, %v", name, n, len(got), err)
			}
			if err := <-errs; err != nil {
				t.Fatalf("%s: sending %d bytes: %v", name, n, err)
			}
		}
		c.Close()
	}
}

// A client that closes its writing side still gets what the upstream sends.
func TestWebSocketHalfClose(t *testing.T) {
	noLeaks(t)
	up := script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
		io.WriteString(c, switching)
		got, _ := io.ReadAll(br)
		fmt.Fprintf(c, "got %d", len(got))
	})
	for _, early := range []string{"", "abc"} {
		c := dial(t, serve(t, newProxy(t, nil, up)).URL)
		if res := c.send(t, "GET", handshake+early); res.StatusCode != 101 {
			t.Fatalf("status %d", res.StatusCode)
		}
		io.WriteString(c, "def")
		c.CloseWrite()
		want := fmt.Sprintf("got %d", len(early)+3)
		if got, err := io.ReadAll(c.br); string(got) != want {
			t.Errorf("early %q: %q, %v; want %q", early, got, err, want)
		}
	}
}

// Not a fault of ReverseProxy: it does check for 101.
func TestTrapProxy04_RefusedUpgradeIsNoTunnel(t *testing.T) {
	noLeaks(t)
	up, _, last := witness(t)
	p := newProxy(t, nil, up.URL)
	c := dial(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/admin" {
			http.Error(w, "", 403)
			return
		}
		p.ServeHTTP(w, r)
	})).URL)
	if res := c.send(t, "GET", handshake); res.StatusCode != 200 {
		t.Fatalf("upgrade: %d, want the upstream's 200", res.StatusCode)
	} else if _, err := io.ReadAll(res.Body); err != nil {
		t.Fatal(err)
	}
	if res := c.send(t, "GET", "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"); res.StatusCode != 403 || last.Load() != "/ws" {
		t.Errorf("next request: %d, upstream asked for %q; want 403 by the guard", res.StatusCode, last.Load())
	}
}

func TestTrapProxy09_EarlyBytes(t *testing.T) {
	noLeaks(t)
	early := strings.Repeat("early ", 500)
	got := make(chan string, 1)
	up := func(patience time.Duration) string {
		return script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
			io.WriteString(c, switching)
			c.SetReadDeadline(time.Now().Add(patience))
			b := make([]byte, len(early))
			n, _ := io.ReadFull(br, b)
			got <- string(b[:n])
			io.WriteString(c, "done")
		})
	}
	for name, h := range map[string]http.Handler{
		"Proxy":        newProxy(t, nil, up(10*time.Second)),
		"ReverseProxy": bare(t, up(200*time.Millisecond)),
	} {
		c := dial(t, serve(t, h).URL)
		res := c.send(t, "GET", handshake+early)
		if g := <-got; res.StatusCode != 101 || (g == early) != (name == "Proxy") {
			t.Errorf("%s: %d, upstream got %d of %d early bytes", name, res.StatusCode, len(g), len(early))
		}
		if b, err := io.ReadAll(io.LimitReader(c.br, 4)); string(b) != "done" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestTrapProxy10_RefusedSwitchLeaksNothing(t *testing.T) {
	const n = 50
	for name, raw := range map[string]string{
		"other protocol":   "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
		"no protocol":      "HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"not in the field": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			// The collector closes what it finds unused, sooner or later.
			defer debug.SetGCPercent(debug.SetGCPercent(-1))
			up := script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
				io.WriteString(c, raw)
				io.Copy(io.Discard, br) // until the proxy closes
			})
			p, b := serve(t, newProxy(t, nil, up)), serve(t, bare(t, up))
			// The last of each is an answer to a request that asked for nothing.
			for _, request := range []string{handshake, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"} {
				before := descriptors()
				for range n {
					c := dial(t, p.URL)
					problemOf(t, c.send(t, "GET", request), 502)
					c.Close()
				}
				eventually(t, "descriptors closed", func() bool { return descriptors() <= before })
			}
			if name != "other protocol" {
				return // the transport takes it for an answer, and nothing leaks
			}
			before := descriptors()
			for range n {
				c := dial(t, b.URL)
				c.send(t, "GET", handshake)
				c.Close()
			}
			if got := descriptors(); before > 0 && got < before+n {
				t.Errorf("bare ReverseProxy: %d descriptors, before %d; the trap is closed upstream", got, before)
			}
		})
	}
}

// noHijack hides every optional interface, as many wrappers do.
type noHijack struct{ http.ResponseWriter }

func TestSwitchWithoutHijackerLeaksNothing(t *testing.T) {
	noLeaks(t)
	closed := make(chan bool, 1)
	up := script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
		io.WriteString(c, switching)
		io.Copy(io.Discard, br)
		closed <- true
	})
	p := newProxy(t, nil, up)
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.ServeHTTP(noHijack{w}, r) }))
	problemOf(t, dial(t, s.URL).send(t, "GET", handshake), 500)
	<-closed
}

func TestTrapProxy11_HopByHop(t *testing.T) {
	noLeaks(t)
	fields := "Connection: X-Nom, Upgrade\r\nX-Nom: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nX-Keep: 1\r\n"
	up := script(t, func(c *net.TCPConn, _ *bufio.Reader, r *http.Request) {
		if r.URL.Path == "/ws" {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x, websocket\r\n"+fields+"\r\n")
			return
		}
		io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n"+fields+"\r\nHTTP/1.1 200 OK\r\n"+fields+"Content-Length: 0\r\n\r\n")
	})
	p, b := serve(t, newProxy(t, nil, up)), serve(t, bare(t, up))
	leaked := func(h http.Header) bool {
		return h.Get("X-Nom") != "" || h.Get("Keep-Alive") != "" || h.Get("Proxy-Authenticate") != ""
	}
	check := func(name string, res *http.Response, status int) {
		t.Helper()
		if res.StatusCode != status || leaked(res.Header) || res.Header.Get("X-Keep") != "1" {
			t.Errorf("%s: %d %v", name, res.StatusCode, res.Header)
		}
	}

	res := dial(t, p.URL).send(t, "GET", handshake)
	check("101", res, 101)
	if c, u := res.Header.Values("Connection"), res.Header.Values("Upgrade"); len(c) != 1 || c[0] != "Upgrade" || len(u) != 1 || u[0] != "websocket" {
		t.Errorf("101: Connection %q, Upgrade %q", c, u)
	}
	plain := "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	c := dial(t, p.URL)
	check("103", c.send(t, "GET", plain), 103)
	check("200", c.send(t, "GET", ""), 200)
	if res := dial(t, b.URL).send(t, "GET", plain); !leaked(res.Header) {
		t.Errorf("bare ReverseProxy, 103: %v; the trap is closed upstream", res.Header)
	}
}

// What middleware sets when the header of a 101 is about to be sent arrives.
func TestSwitchKeepsHeaderOfMiddleware(t *testing.T) {
	noLeaks(t)
	up := serve(t, http.HandlerFunc(echo))
	p := newProxy(t, nil, up.URL)
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", "7")
		p.ServeHTTP(w, r)
	}))
	c := dial(t, s.URL)
	if res := c.send(t, "GET", handshake); res.StatusCode != 101 || res.Header.Get("X-Request-Id") != "7" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	c.Close()
}

// An upstream that switches protocols unasked, and where retries are on, is a
// broken one like any other.
func TestUnaskedSwitchIsSentAgain(t *testing.T) {
	noLeaks(t)
	switches := answer(t, switching)
	good := answer(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	for _, tt := range []struct {
		upstreams []string
		status    int
	}{{[]string{switches, good}, 200}, {[]string{switches}, 502}} {
		p := newProxy(t, func(cfg *proxy.Config) {
			cfg.Retries = proxy.Retries{Max: 2, Statuses: []int{503}, Budget: 1}
			cfg.Breaker = proxy.Breaker{FailureRatio: 1}
		}, tt.upstreams...)
		c := dial(t, serve(t, p).URL)
		for range 4 {
			if res := c.send(t, "GET", getRoot); res.StatusCode != tt.status {
				t.Errorf("%d upstreams: %d, want %d", len(tt.upstreams), res.StatusCode, tt.status)
			} else if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Error(err)
			}
		}
	}
}
