package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/proxy"
)

// A wsFrame is a small WebSocket frame, unmasked.
type wsFrame struct {
	op      byte
	masked  bool
	payload string
}

// wsClose is the frame that a tunnel that is drained sends to both ends.
func wsClose(masked bool) wsFrame { return wsFrame{8, masked, "\x03\xe9"} } // 1001

func readWS(r io.Reader) (f wsFrame, err error) {
	var head [2]byte
	if _, err = io.ReadFull(r, head[:]); err != nil {
		return f, err
	}
	n := int(head[1] & 0x7f)
	if n > 125 {
		return f, fmt.Errorf("frame % x: longer than this test sends any", head)
	}
	f.op, f.masked = head[0]&0xf, head[1]&0x80 != 0
	var key [4]byte
	if f.masked {
		if _, err = io.ReadFull(r, key[:]); err != nil {
			return f, err
		}
	}
	b := make([]byte, n)
	_, err = io.ReadFull(r, b)
	for i := range b {
		b[i] ^= key[i%4]
	}
	f.payload = string(b)
	return f, err
}

// readAllWS reads frames until the connection ends, cleanly or not.
func readAllWS(r io.Reader) (all []wsFrame) {
	for {
		f, err := readWS(r)
		if err != nil {
			return all
		}
		all = append(all, f)
	}
}

func (f wsFrame) bytes() []byte {
	b := []byte{0x80 | f.op, byte(len(f.payload))}
	if !f.masked {
		return append(b, f.payload...)
	}
	b[1] |= 0x80
	b = append(b, 1, 2, 3, 4)
	for i := range len(f.payload) {
		b = append(b, f.payload[i]^byte(i%4+1))
	}
	return b
}

func sameFrames(t *testing.T, who string, got []wsFrame, want ...wsFrame) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s got %v, want %v", who, got, want)
	}
}

// peer is an upstream that sends "hi", answers each frame with the same and a
// Close frame by closing the connection as well; frames gets what it was sent.
func peer(t *testing.T, frames chan<- []wsFrame) string {
	return script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
		io.WriteString(c, switching)
		c.Write(wsFrame{2, false, "hi"}.bytes())
		var got []wsFrame
		defer func() { frames <- got }()
		for {
			f, err := readWS(br)
			if err != nil {
				return
			}
			got = append(got, f)
			c.Write(wsFrame{f.op, false, f.payload}.bytes())
			if f.op == 8 {
				return
			}
		}
	})
}

// openWS opens a WebSocket and reads n frames.
func openWS(t *testing.T, server string, n int) *rawConn {
	t.Helper()
	c := dial(t, server)
	if res := c.send(t, "GET", handshake); res.StatusCode != 101 {
		t.Fatalf("upgrade: %d", res.StatusCode)
	}
	for range n {
		if _, err := readWS(c.br); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestTrapProxy24_ShutdownDrainsTunnels(t *testing.T) {
	noLeaks(t)
	const n = 100
	frames := make(chan []wsFrame, n)
	up := peer(t, frames)
	p := newProxy(t, nil, up)
	s := serve(t, p)
	var clients sync.WaitGroup
	for range n {
		c := openWS(t, s.URL, 1)
		c.Write(wsFrame{2, true, "ho"}.bytes())
		if f, err := readWS(c.br); err != nil || f.payload != "ho" {
			t.Fatal(f, err)
		}
		clients.Go(func() {
			f, err := readWS(c.br)
			if err != nil || f != wsClose(false) {
				t.Errorf("client got %v, %v, want a Close frame", f, err)
			}
			c.Write(wsFrame{8, true, f.payload}.bytes())
			if rest := readAllWS(c.br); rest != nil {
				t.Errorf("client got %v after the Close frame", rest)
			}
			c.Close()
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- s.Config.Shutdown(ctx) }()
	if err := p.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v, although all ends answered", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("http.Server.Shutdown: %v", err)
	}
	clients.Wait()
	for range n {
		got := <-frames
		if len(got) != 2 || got[0] != (wsFrame{2, true, "ho"}) || got[1] != wsClose(true) {
			t.Errorf("upstream got %v, want a message and a Close frame", got)
		}
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown of what is shut down: %v", err)
	}

	// http.Server alone returns at once, and the tunnel goes on.
	b := serve(t, bare(t, up))
	c := openWS(t, b.URL, 1)
	if err := b.Config.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	c.Write(wsFrame{2, true, "ho"}.bytes())
	c.Write(wsFrame{8, true, "\x03\xe8"}.bytes())
	sameFrames(t, "bare ReverseProxy: the trap is closed upstream: client", readAllWS(c.br), wsFrame{2, false, "ho"}, wsFrame{8, false, "\x03\xe8"})
	c.Close()
}

// Ends that answer nothing are cut when ctx ends.
func TestShutdownCutsAtTheEndOfCtx(t *testing.T) {
	noLeaks(t)
	seen := make(chan []wsFrame, 1)
	up := script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
		io.WriteString(c, switching)
		seen <- readAllWS(br)
	})
	p := newProxy(t, nil, up)
	s := serve(t, p)
	c := openWS(t, s.URL, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v, want that ctx ended", err)
	}
	sameFrames(t, "client", readAllWS(c.br), wsClose(false))
	sameFrames(t, "upstream", <-seen, wsClose(true))
}

// A peer that reads nothing keeps the other from getting its Close frame no
// more than Shutdown from returning.
func TestShutdownWithPeerThatReadsNothing(t *testing.T) {
	noLeaks(t)
	seen, closed := make(chan []wsFrame, 1), make(chan bool, 1)
	up := script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
		io.WriteString(c, switching)
		go func() {
			for flood := bytes.Repeat(wsFrame{2, false, strings.Repeat("x", 100)}.bytes(), 100); ; {
				if _, err := c.Write(flood); err != nil {
					return
				}
			}
		}()
		br.Peek(1)
		closed <- true
		seen <- readAllWS(br)
	})
	p := newProxy(t, nil, up)
	c := openWS(t, serve(t, p).URL, 1)
	time.Sleep(200 * time.Millisecond) // the buffers between fill up
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-closed; cancel() }()
	if err := p.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	sameFrames(t, "upstream", <-seen, wsClose(true))
	c.Close()
}

// A Close frame waits for the end of the frame that it would cut into, and
// nothing follows it.
func TestShutdownBetweenFrames(t *testing.T) {
	noLeaks(t)
	seen, proceed := make(chan []wsFrame, 1), make(chan bool)
	message, masked := wsFrame{2, false, "message"}.bytes(), wsFrame{2, true, "message"}.bytes()
	const half = 9
	up := script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
		io.WriteString(c, switching)
		c.Write(message[:4])
		br.Peek(half)
		proceed <- true
		<-proceed
		c.Write(append(message[4:], message...))
		seen <- readAllWS(br)
	})
	p := newProxy(t, nil, up)
	s := serve(t, p)
	c := openWS(t, s.URL, 0)
	c.Write(masked[:half])
	first := make([]byte, 4)
	if _, err := io.ReadFull(c.br, first); err != nil || !bytes.Equal(first, message[:4]) {
		t.Fatalf("%q, %v", first, err)
	}
	<-proceed // the upstream's half has come, and so has the client's
	stopped := make(chan error, 1)
	go func() { stopped <- p.Shutdown(t.Context()) }()
	eventually(t, "upgrades refused", func() bool {
		c := dial(t, s.URL)
		defer c.Close()
		return c.send(t, "GET", handshake).StatusCode == 503
	})
	time.Sleep(50 * time.Millisecond) // Close frames are due in both directions, too
	proceed <- true
	rest := append(masked[half:], masked...)
	c.Write(append(rest, wsFrame{8, true, "\x03\xe9"}.bytes()...))
	sameFrames(t, "client", firstOf(readAllWS(io.MultiReader(bytes.NewReader(first), c.br))), wsFrame{2, false, "message"}, wsClose(false))
	c.Close()
	sameFrames(t, "upstream", firstOf(<-seen), wsFrame{2, true, "message"}, wsClose(true))
	if err := <-stopped; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// firstOf leaves out the second of two messages that came first: on a slow machine
// Close frames are due only after it.
func firstOf(frames []wsFrame) []wsFrame {
	if len(frames) > 1 && frames[0] == frames[1] {
		return frames[1:]
	}
	return frames
}

// An end that has said that it closes is not told so for a second time.
func TestShutdownDuringClosingHandshake(t *testing.T) {
	noLeaks(t)
	seen, got := make(chan []wsFrame, 1), make(chan bool, 1)
	up := script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
		io.WriteString(c, switching)
		f, _ := readWS(br)
		got <- true
		seen <- append([]wsFrame{f}, readAllWS(br)...)
	})
	p := newProxy(t, nil, up)
	c := openWS(t, serve(t, p).URL, 0)
	closing := wsFrame{8, true, "\x03\xe8bye"}
	c.Write(closing.bytes())
	<-got
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	p.Shutdown(ctx)
	sameFrames(t, "client", readAllWS(c.br), wsClose(false))
	sameFrames(t, "upstream", <-seen, closing)
}

func TestUpgradesAreRefusedAfterShutdown(t *testing.T) {
	noLeaks(t)
	agree, asked, closed := make(chan bool), make(chan bool, 1), make(chan bool, 1)
	up := script(t, func(c *net.TCPConn, br *bufio.Reader, r *http.Request) {
		if r.URL.Path != "/ws" {
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
			return
		}
		asked <- true
		<-agree
		io.WriteString(c, switching)
		io.Copy(io.Discard, br)
		closed <- true
	})
	p := newProxy(t, nil, up)
	s := serve(t, p)
	late := dial(t, s.URL)
	io.WriteString(late, handshake)
	<-asked
	if err := p.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	agree <- true
	problemOf(t, late.send(t, "GET", ""), 503)
	<-closed

	res := dial(t, s.URL).send(t, "GET", handshake)
	problemOf(t, res, 503)
	if res.Header.Get("Retry-After") == "" || !res.Close {
		t.Errorf("Retry-After %q, connection closed: %t", res.Header.Get("Retry-After"), res.Close)
	}
	if res := dial(t, s.URL).send(t, "GET", getRoot); res.StatusCode != 204 {
		t.Errorf("other request: %d, want the upstream's 204", res.StatusCode)
	}
}

func TestMaxTunnels(t *testing.T) {
	noLeaks(t)
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Sec-WebSocket-Key") == "" {
			http.Error(w, "", 403)
			return
		}
		echo(w, r)
	}))
	s := serve(t, newProxy(t, func(cfg *proxy.Config) { cfg.MaxTunnels = 2 }, up.URL))
	for range 3 { // refused upgrades take no room
		dial(t, s.URL).send(t, "GET", "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	}
	a, b := openWS(t, s.URL, 0), openWS(t, s.URL, 0)
	res := dial(t, s.URL).send(t, "GET", handshake)
	problemOf(t, res, 503)
	if res.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	if res := dial(t, s.URL).send(t, "GET", getRoot); res.StatusCode != 403 {
		t.Errorf("other request: %d, want the upstream's 403", res.StatusCode)
	}
	a.Close()
	var c *rawConn
	eventually(t, "room for another", func() bool {
		c = dial(t, s.URL)
		if c.send(t, "GET", handshake).StatusCode == 101 {
			return true
		}
		c.Close()
		return false
	})
	b.Close()
	c.Close()
}

// A tunnel of which the upstream's half has ended is ended when its request is
// cancelled.
func TestCancelledTunnelEnds(t *testing.T) {
	noLeaks(t)
	up := answer(t, switching)
	for name, h := range map[string]http.Handler{"Proxy": newProxy(t, nil, up), "ReverseProxy": bare(t, up)} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan bool, 1)
		s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() { ended <- true }()
			h.ServeHTTP(w, r.WithContext(ctx))
		}))
		c := openWS(t, s.URL, 0)
		if got := readAllWS(c.br); got != nil {
			t.Fatal(got)
		}
		cancel()
		if name == "Proxy" {
			<-ended
			continue
		}
		select {
		case <-ended:
			t.Error("bare ReverseProxy ends it as well; the fault is mended upstream")
		case <-time.After(100 * time.Millisecond):
		}
		c.Close()
		<-ended
	}
}

// What ends a tunnel, and how much went through, is in the log.
func TestTunnelIsAccounted(t *testing.T) {
	noLeaks(t)
	var out bytes.Buffer
	up := serve(t, http.HandlerFunc(echo))
	p := newProxy(t, func(cfg *proxy.Config) {
		cfg.ErrorLog = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}, up.URL)
	ended := make(chan bool, 1)
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- true }()
		p.ServeHTTP(w, r)
	}))
	c := dial(t, s.URL)
	c.send(t, "GET", handshake+string(wsFrame{2, true, "early"}.bytes()))
	payload := bytes.Repeat([]byte("x"), 1<<20)
	go writeFrame(c, payload, true)
	for range 2 {
		if _, err := readFrame(c.br); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	<-ended
	const up0, down0 = 6 + 5, 2 + 5
	want := fmt.Sprintf(" bytes_up=%d bytes_down=%d lasted=", up0+14+(1<<20), down0+10+(1<<20))
	if got := out.String(); strings.Count(got, "proxy: tunnel ended") != 1 || !strings.Contains(got, want) {
		t.Errorf("log is %q, want %q", got, want)
	}
}

// switched is a 101 whose connection is a pipe, for use in a bubble.
func switched(other chan<- net.Conn) roundTrip {
	return func(r *http.Request) (*http.Response, error) {
		near, far := net.Pipe()
		other <- far
		return &http.Response{StatusCode: 101, ProtoMajor: 1, ProtoMinor: 1, Body: near, Request: r,
			Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}}, nil
	}
}

func TestTunnelIdle(t *testing.T) {
	const limit = time.Hour // the default
	upstream := make(chan net.Conn, 1)
	inBubble(t, switched(upstream), nil, func(t *testing.T, c net.Conn, _ *statuses) {
		io.WriteString(c, handshake)
		br := bufio.NewReader(c)
		if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 101 {
			t.Fatal(res, err)
		}
		far := <-upstream
		// What moves in one direction alone lives.
		ping, pong := wsFrame{9, true, ""}, wsFrame{10, false, ""}
		for i := range 6 {
			time.Sleep(limit - time.Second)
			if i%2 == 0 {
				c.Write(ping.bytes())
				if f, err := readWS(far); f != ping || err != nil {
					t.Fatal(f, err)
				}
			} else {
				far.Write(pong.bytes())
				if f, err := readWS(br); f != pong || err != nil {
					t.Fatal(f, err)
				}
			}
		}
		began := time.Now()
		done := make(chan []wsFrame)
		go func() { done <- readAllWS(far) }()
		f, err := readWS(br)
		if took := time.Since(began); f != wsClose(false) || err != nil || took != limit {
			t.Errorf("client got %v, %v after %v; want a Close frame after %v", f, err, took, limit)
		}
		if rest := readAllWS(br); rest != nil {
			t.Errorf("client got %v more", rest)
		}
		sameFrames(t, "upstream", <-done, wsClose(true))
		if took := time.Since(began); took != limit+time.Second {
			t.Errorf("it ended after %v, want %v", took, limit+time.Second)
		}
	})
}

func TestTunnelIdleNone(t *testing.T) {
	upstream := make(chan net.Conn, 1)
	none := func(cfg *proxy.Config) { cfg.Timeouts.TunnelIdle = -1 }
	inBubble(t, switched(upstream), none, func(t *testing.T, c net.Conn, _ *statuses) {
		io.WriteString(c, handshake)
		br := bufio.NewReader(c)
		http.ReadResponse(br, nil)
		far := <-upstream
		time.Sleep(1000 * time.Hour)
		want := wsFrame{2, true, "still here"}
		c.Write(want.bytes())
		if f, err := readWS(far); f != want || err != nil {
			t.Error(f, err)
		}
		far.Close()
	})
}

// Upgrades that come to nothing, of every kind, one thousand in all.
func TestRefusedUpgradesLeakNothing(t *testing.T) {
	noLeaks(t)
	var turn atomic.Int64
	up := script(t, func(c *net.TCPConn, br *bufio.Reader, _ *http.Request) {
		switch turn.Add(1) % 5 {
		case 0:
			io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
		case 1:
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
			io.Copy(io.Discard, br) // until the proxy closes
		case 2:
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			io.Copy(io.Discard, br)
		case 3:
			io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n")
		case 4:
			// closes
		}
	})
	p := newProxy(t, nil, up)
	s := serve(t, p)
	before := descriptors()
	for range 1000 {
		c := dial(t, s.URL)
		if res := c.send(t, "GET", handshake); res.StatusCode == 101 {
			t.Fatal("a tunnel was opened")
		}
		c.Close()
	}
	p.CloseIdleConnections()
	eventually(t, "descriptors closed", func() bool { return descriptors() <= before })
	if err := p.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}
