package faultnet_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/goweir/weir/internal/faultnet"
)

// An echo is a server that answers each line with the same line.
type echo struct {
	addr  string
	lines atomic.Int64 // read
	conns atomic.Int64 // open
}

func newEcho(t testing.TB) *echo {
	t.Helper()
	e := &echo{}
	e.addr = listen(t, func(c *net.TCPConn) {
		e.conns.Add(1)
		defer e.conns.Add(-1)
		for br := bufio.NewReader(c); ; {
			line, err := br.ReadString('\n')
			if err != nil {
				return
			}
			e.lines.Add(1)
			if _, err := io.WriteString(c, line); err != nil {
				return
			}
		}
	})
	return e
}

// listen starts a server that calls serve for each connection, which it closes.
func listen(t testing.TB, serve func(*net.TCPConn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

type client struct {
	*net.TCPConn
	br *bufio.Reader
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{c.(*net.TCPConn), bufio.NewReader(c)}
}

func (c *client) send(t testing.TB, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Errorf("sending %.20q: %v", text, err)
	}
}

// echoes checks that a line comes back.
func (c *client) echoes(t testing.TB, line string) {
	t.Helper()
	c.send(t, line+"\n")
	c.reads(t, line)
}

func (c *client) reads(t testing.TB, line string) {
	t.Helper()
	if got, err := c.br.ReadString('\n'); err != nil || got != line+"\n" {
		t.Errorf("read %q, %v, want the line %q", got, err, line)
	}
}

// ends reads want and the end, which must be this one. A reset may overtake what
// was sent before it.
func (c *client) ends(t testing.TB, how faultnet.End, want string) {
	t.Helper()
	if how == faultnet.Hang {
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		defer c.SetReadDeadline(time.Now().Add(20 * time.Second))
	}
	data, err := io.ReadAll(c.br)
	wantErr := map[faultnet.End]error{faultnet.RST: syscall.ECONNRESET, faultnet.Hang: os.ErrDeadlineExceeded}[how]
	if !errors.Is(err, wantErr) {
		t.Errorf("the connection ended with %v, want %v", err, wantErr)
	}
	if got := string(data); got != want && (how != faultnet.RST || !strings.HasPrefix(want, got)) {
		t.Errorf("read %.99q before the end, want %.99q", got, want)
	}
}

// ways are all an End can be.
var ways = map[string]faultnet.End{"FIN": faultnet.FIN, "RST": faultnet.RST, "Hang": faultnet.Hang}

// eventually waits for what has no event to wait for.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// Without faults all bytes arrive, both ways at once.
func TestForwards(t *testing.T) {
	const size = 16 << 20
	p := faultnet.New(t, listen(t, func(c *net.TCPConn) { io.Copy(c, c) }))
	c := dial(t, p.Addr())
	sent, got := sha256.New(), sha256.New()
	go func() {
		block := bytes.Repeat([]byte("0123456789abcdef~"), 10_000)
		w := io.MultiWriter(c, sent)
		for n := 0; n < size; n += len(block) {
			w.Write(block[:min(len(block), size-n)])
		}
		c.CloseWrite()
	}()
	n, err := io.Copy(got, c)
	if err != nil || n != size || !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
		t.Errorf("%d bytes came back, %v, want the %d sent", n, err, size)
	}
	if s := p.Stats(); s.Connections != 1 || s.ToServer != size || s.ToClient != size {
		t.Errorf("statistics = %+v, want 1 connection and %d bytes each way", s, size)
	}
}

// Either side may end its direction and go on reading.
func TestHalfClose(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		p := faultnet.New(t, listen(t, func(c *net.TCPConn) {
			data, _ := io.ReadAll(c)
			fmt.Fprintf(c, "%s and done", data)
		}))
		c := dial(t, p.Addr())
		c.send(t, "all")
		c.CloseWrite()
		c.ends(t, faultnet.FIN, "all and done")
	})
	t.Run("server", func(t *testing.T) {
		got := make(chan string, 1)
		p := faultnet.New(t, listen(t, func(c *net.TCPConn) {
			io.WriteString(c, "done")
			c.CloseWrite()
			data, _ := io.ReadAll(c)
			got <- string(data)
		}))
		c := dial(t, p.Addr())
		c.ends(t, faultnet.FIN, "done")
		c.send(t, "thanks")
		c.CloseWrite()
		if text := <-got; text != "thanks" {
			t.Errorf("the server read %q", text)
		}
	})
}

// A server's end is passed on as it is.
func TestPassesOnTheServersEnd(t *testing.T) {
	for name, how := range ways {
		t.Run(name, func(t *testing.T) {
			p := faultnet.New(t, faultnet.Script(t, how, faultnet.Step{Read: "\n", Write: "hello"}))
			p.Set(faultnet.Faults{Latency: 10 * time.Millisecond})
			c := dial(t, p.Addr())
			c.send(t, "hi\n")
			c.ends(t, how, "hello")
		})
	}
	t.Run("refused", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		p := faultnet.New(t, l.Addr().String())
		c, err := net.Dial("tcp", p.Addr())
		if err == nil {
			defer c.Close()
			_, err = c.Read(make([]byte, 1))
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, want a reset", err)
		}
	})
}

// An answer is not lost because the server listens no longer.
func TestAnswersEarly(t *testing.T) {
	p := faultnet.New(t, faultnet.Script(t, faultnet.FIN, faultnet.Step{Read: "\n", Write: "enough"}))
	p.Set(faultnet.Faults{Latency: 50 * time.Millisecond})
	c := dial(t, p.Addr())
	for range 10 {
		io.WriteString(c, "more\n") // in the end, to nobody
		time.Sleep(5 * time.Millisecond)
	}
	if got, err := io.ReadAll(c); string(got) != "enough" {
		t.Errorf("read %q, %v, want the answer", got, err)
	}
}

// A server that does not read stops the client, which is some MiB ahead at most.
func TestBackPressure(t *testing.T) {
	p := faultnet.New(t, faultnet.Script(t, faultnet.FIN, faultnet.Step{Sleep: time.Hour}))
	c := dial(t, p.Addr())
	c.SetWriteDeadline(time.Now().Add(time.Second))
	n, err := io.Copy(c, io.LimitReader(zeros{}, 256<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("sent %d bytes, %v, want a timeout", n, err)
	}
	if taken := n - p.Stats().ToServer; taken > 32<<20 {
		t.Errorf("the proxy has taken %d bytes that the server has not", taken)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// Latency delays each packet on its own.
func TestLatency(t *testing.T) {
	const latency, pause, lines = 100 * time.Millisecond, 20 * time.Millisecond, 20
	e := newEcho(t)
	p := faultnet.New(t, e.addr)
	c := dial(t, p.Addr())
	c.echoes(t, "at once")
	p.Set(faultnet.Faults{Latency: latency}) // also for what is open

	times := make(chan time.Time, lines)
	go func() {
		for i := range lines {
			times <- time.Now()
			c.send(t, fmt.Sprintln("line", i))
			time.Sleep(pause)
		}
	}()
	var sent, arrived [lines]time.Time
	for i := range lines {
		c.reads(t, fmt.Sprint("line ", i))
		sent[i], arrived[i] = <-times, time.Now()
		if took := arrived[i].Sub(sent[i]); took < 2*latency {
			t.Errorf("line %d took %v, want %v at least", i, took, 2*latency)
		}
	}
	// One after the other they would take 4 s; it is 600 ms.
	if took := arrived[lines-1].Sub(sent[0]); took > lines*2*latency*3/4 {
		t.Errorf("%d lines took %v: they wait for each other", lines, took)
	}
	if spread := arrived[lines-1].Sub(arrived[0]); spread < (lines-1)*pause/2 {
		t.Errorf("the lines arrive within %v, were sent within %v: they lost their distance", spread, sent[lines-1].Sub(sent[0]))
	}
}

func TestJitter(t *testing.T) {
	p := faultnet.New(t, newEcho(t).addr)
	p.Set(faultnet.Faults{Jitter: 40 * time.Millisecond})
	c := dial(t, p.Addr())
	var took []time.Duration
	for i := range 20 {
		begin := time.Now()
		c.echoes(t, fmt.Sprint("line ", i))
		took = append(took, time.Since(begin))
	}
	if slices.Max(took)-slices.Min(took) < 10*time.Millisecond {
		t.Errorf("all took about the same: %v", took)
	}
	for i := range 100 {
		c.send(t, fmt.Sprintln(i))
	}
	for i := range 100 {
		c.reads(t, fmt.Sprint(i)) // in order
	}
}

func TestBandwidth(t *testing.T) {
	const rate, size = 100_000, 30_000
	p := faultnet.New(t, faultnet.Script(t, faultnet.FIN, faultnet.Step{Read: "\n", Write: strings.Repeat("x", size)}))
	p.Set(faultnet.Faults{Bandwidth: rate})
	c := dial(t, p.Addr())
	begin := time.Now()
	c.send(t, "\n")
	if _, err := c.br.Peek(1); err != nil {
		t.Fatal(err)
	}
	first := time.Now()
	c.ends(t, faultnet.FIN, strings.Repeat("x", size))
	if took := time.Since(begin); took < size*time.Second/rate {
		t.Errorf("%d bytes took %v at %d a second", size, took, rate)
	}
	if took := time.Since(first); took < 100*time.Millisecond {
		t.Errorf("all came within %v: the first waited for the last", took)
	}
}

func TestCut(t *testing.T) {
	for name, how := range ways {
		t.Run("to client/"+name, func(t *testing.T) {
			e := newEcho(t)
			p := faultnet.New(t, e.addr)
			open := dial(t, p.Addr())
			open.echoes(t, "more than ten bytes")
			p.Set(faultnet.Faults{CutToClient: 10, End: how})
			for _, c := range []*client{open, dial(t, p.Addr())} {
				c.echoes(t, "12345")
				c.send(t, "67890\n")
				c.ends(t, how, "6789")
			}
			eventually(t, "the server has read all 5 lines", func() bool { return e.lines.Load() == 5 })
			if how != faultnet.Hang {
				eventually(t, "the server's connections end too", func() bool { return e.conns.Load() == 0 })
			}
		})
		t.Run("to server/"+name, func(t *testing.T) {
			e := newEcho(t)
			p := faultnet.New(t, e.addr)
			p.Set(faultnet.Faults{CutToServer: 10, End: how})
			c := dial(t, p.Addr())
			c.echoes(t, "12345")
			c.send(t, "67890\n")
			c.ends(t, how, "")
			if got, bytes := e.lines.Load(), p.Stats().ToServer; got != 1 || bytes != 10 {
				t.Errorf("the server read %d lines and %d bytes, want 1 and 10", got, bytes)
			}
		})
	}
}

// A lost reply is one to a request that was served.
func TestLoseReply(t *testing.T) {
	for name, how := range ways {
		t.Run(name, func(t *testing.T) {
			e := newEcho(t)
			p := faultnet.New(t, e.addr)
			c := dial(t, p.Addr())
			c.echoes(t, "warm up")
			p.Set(faultnet.Faults{LoseReply: faultnet.Nth(3), End: how})
			c.echoes(t, "first")
			other := dial(t, p.Addr())
			other.echoes(t, "second")
			c.send(t, "third\n")
			c.ends(t, how, "")
			eventually(t, "the server has read 4 lines", func() bool { return e.lines.Load() == 4 })
			other.echoes(t, "fourth")
		})
	}
	t.Run("for ever, even if the server ends", func(t *testing.T) {
		p := faultnet.New(t, faultnet.Script(t, faultnet.RST, faultnet.Step{Read: "\n", Write: "hello\n"}))
		p.Set(faultnet.Faults{LoseReply: faultnet.Nth(1), End: faultnet.Hang})
		c := dial(t, p.Addr())
		c.send(t, "hi\n")
		c.ends(t, faultnet.Hang, "")
	})
	t.Run("by what is sent", func(t *testing.T) {
		p := faultnet.New(t, newEcho(t).addr)
		p.Set(faultnet.Faults{LoseReply: func(sent []byte) bool { return bytes.HasPrefix(sent, []byte("SET")) }})
		c := dial(t, p.Addr())
		c.echoes(t, "GET")
		c.echoes(t, "GET")
		c.send(t, "SET\n")
		c.ends(t, faultnet.FIN, "")
	})
}

func TestBlackHole(t *testing.T) {
	e := newEcho(t)
	p := faultnet.New(t, e.addr)
	before, idle := dial(t, p.Addr()), dial(t, p.Addr())
	before.echoes(t, "before")
	idle.echoes(t, "before")
	p.Set(faultnet.Faults{BlackHole: true})
	during := dial(t, p.Addr())
	for _, c := range []*client{before, during} {
		c.send(t, "lost\n")
		c.ends(t, faultnet.Hang, "")
	}
	if lines, conns := e.lines.Load(), e.conns.Load(); lines != 2 || conns != 2 {
		t.Errorf("the server has %d connections and read %d lines, want the 2 from before", conns, lines)
	}

	p.Set(faultnet.Faults{})
	dial(t, p.Addr()).echoes(t, "after")
	idle.echoes(t, "nothing of it was lost")
	for _, c := range []*client{before, during} {
		c.send(t, "too late\n")
		c.ends(t, faultnet.Hang, "")
	}
}

func TestRefuse(t *testing.T) {
	p := faultnet.New(t, newEcho(t).addr)
	open := dial(t, p.Addr())
	open.echoes(t, "open")
	for range 3 {
		p.Set(faultnet.Faults{Refuse: true})
		if c, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dialing: %v, %v, want a refusal", c, err)
		}
		open.echoes(t, "still open")
		p.Set(faultnet.Faults{})
		dial(t, p.Addr()).echoes(t, "new")
	}
}

func TestReset(t *testing.T) {
	e := newEcho(t)
	p := faultnet.New(t, e.addr)
	a, b := dial(t, p.Addr()), dial(t, p.Addr())
	a.echoes(t, "a")
	b.echoes(t, "b")
	p.Reset()
	a.ends(t, faultnet.RST, "")
	b.ends(t, faultnet.RST, "")
	eventually(t, "the server's connections end too", func() bool { return e.conns.Load() == 0 })
	dial(t, p.Addr()).echoes(t, "new")
}

func TestRoundTrips(t *testing.T) {
	p := faultnet.New(t, newEcho(t).addr)
	c := dial(t, p.Addr())
	for i := range 5 {
		c.echoes(t, fmt.Sprint(i))
	}
	if got := p.Stats().RoundTrips; got != 5 {
		t.Errorf("%d round trips, want 5", got)
	}
	c.send(t, "a\nb\nc\n")
	for _, line := range []string{"a", "b", "c"} {
		c.reads(t, line)
	}
	if got := p.Stats().RoundTrips; got != 6 {
		t.Errorf("%d round trips, want 6: three requests at once are one more", got)
	}
	dial(t, p.Addr()).echoes(t, "other")
	if s := p.Stats(); s.RoundTrips != 7 || s.Connections != 2 {
		t.Errorf("%+v, want 7 round trips on 2 connections", s)
	}
}

// Faults may change while connections are made, used and ended.
func TestConcurrently(t *testing.T) {
	p := faultnet.New(t, newEcho(t).addr)
	stop := time.Now().Add(300 * time.Millisecond)
	var wg sync.WaitGroup
	var answers atomic.Int64
	for range 8 {
		wg.Go(func() {
			for time.Now().Before(stop) {
				c, err := net.DialTimeout("tcp", p.Addr(), time.Second)
				if err != nil {
					continue
				}
				c.SetDeadline(time.Now().Add(20 * time.Millisecond))
				for br := bufio.NewReader(c); ; answers.Add(1) {
					if _, err := io.WriteString(c, "hello\n"); err != nil {
						break
					}
					if line, err := br.ReadString('\n'); err != nil {
						break
					} else if line != "hello\n" {
						t.Errorf("read %q", line)
					}
				}
				c.Close()
			}
		})
	}
	for _, f := range []faultnet.Faults{
		{},
		{Latency: time.Millisecond, Jitter: time.Millisecond},
		{CutToClient: 20, End: faultnet.RST},
		{Refuse: true},
		{LoseReply: faultnet.Nth(7)},
		{BlackHole: true},
	} {
		wg.Go(func() {
			for time.Now().Before(stop) {
				p.Set(f)
				p.Stats()
				time.Sleep(time.Millisecond)
				p.Reset()
				p.Set(faultnet.Faults{})
				time.Sleep(time.Millisecond)
			}
		})
	}
	wg.Wait()
	if answers.Load() == 0 {
		t.Error("nothing was answered at all")
	}
	p.Set(faultnet.Faults{})
	dial(t, p.Addr()).echoes(t, "in the end")
}

// Whatever state connections are in, nothing is left when the test has ended.
func TestLeavesNothing(t *testing.T) {
	e := newEcho(t)
	for name, f := range map[string]faultnet.Faults{
		"open":       {},
		"slow":       {Latency: time.Hour},
		"trickle":    {Bandwidth: 1},
		"hung":       {CutToServer: 1, End: faultnet.Hang},
		"black hole": {BlackHole: true},
		"cut":        {CutToServer: 1, End: faultnet.RST},
		"refused":    {Refuse: true},
	} {
		t.Run(name, func(t *testing.T) {
			goroutines, fds := runtime.NumGoroutine(), descriptors()
			var ended []net.Conn
			t.Run("", func(t *testing.T) {
				p := faultnet.New(t, e.addr)
				p.Set(f)
				for range 3 {
					c, err := net.Dial("tcp", p.Addr())
					if err != nil && !f.Refuse {
						t.Fatal(err)
					}
					if err == nil {
						io.WriteString(c, "hello\nhello\n")
						ended = append(ended, c) // still open when the proxy is closed
					}
				}
				time.Sleep(10 * time.Millisecond)
			})
			for _, c := range ended {
				c.Close()
			}
			eventually(t, "goroutines and descriptors are those from before", func() bool {
				return runtime.NumGoroutine() <= goroutines && descriptors() <= fds
			})
		})
	}
}

// descriptors returns how many the process has open, or 0 where that cannot be
// seen.
func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// Most of what the proxy costs is system calls.
func BenchmarkLatency1ms(b *testing.B) {
	p := faultnet.New(b, newEcho(b).addr)
	p.Set(faultnet.Faults{Latency: time.Millisecond})
	var (
		begin = time.Now()
		wg    sync.WaitGroup
		left  atomic.Int64
	)
	left.Store(int64(b.N))
	for range 100 {
		c := dial(b, p.Addr())
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				c.echoes(b, "hello")
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(2*b.N)/time.Since(begin).Seconds(), "packets/s")
}
