//go:build unix

package proxy

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// aheadPair returns an upstream's end of a connection, and the proxy's with the
// buffers that it reads ahead with.
func aheadPair(t *testing.T) (server *net.TCPConn, client net.Conn, b *buffers) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b = new(buffers)
	b.init()
	client = b.readAhead(c)
	t.Cleanup(func() { s.Close(); client.Close() })
	return s.(*net.TCPConn), client, b
}

func TestReadAheadChangesNothing(t *testing.T) {
	const seed = 7
	for round := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, round))
		server, client, b := aheadPair(t)
		want := make([]byte, 1<<20)
		for i := range want {
			want[i] = byte(rnd.Uint32())
		}
		writes := rand.New(rand.NewPCG(seed, 100+round))
		go func() {
			for p := want; len(p) > 0; {
				n := min(len(p), 1+writes.IntN(200<<10))
				server.Write(p[:n])
				p = p[n:]
			}
			server.CloseWrite()
		}()
		var got []byte
		ahead := false
		for p := make([]byte, mediumBuffer); ; {
			n, err := client.Read(p[:[]int{1, 100, smallBuffer, smallBuffer, 28 << 10, mediumBuffer}[rnd.IntN(6)]])
			got = append(got, p[:n]...)
			ahead = ahead || b.aheadInUse.Load() > 0
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("seed %d, round %d: what was read is not what was sent", seed, round)
		}
		if !ahead {
			t.Errorf("round %d: nothing was read ahead", round)
		}
		if n := b.aheadInUse.Load(); n != 0 {
			t.Errorf("round %d: %d buffers held at the end", round, n)
		}
	}
}

// readSome reads until something is there that was read ahead.
func readSome(t *testing.T, server *net.TCPConn, client net.Conn, b *buffers) {
	t.Helper()
	go server.Write(make([]byte, 32<<10))
	for deadline := time.Now().Add(time.Minute); b.aheadInUse.Load() == 0; {
		if _, err := io.ReadFull(client, make([]byte, smallBuffer)); err != nil || time.Now().After(deadline) {
			t.Fatalf("nothing was read ahead: %v", err)
		}
		go server.Write(make([]byte, 32<<10))
	}
}

func TestReadAheadGivesBack(t *testing.T) {
	server, client, b := aheadPair(t)
	readSome(t, server, client, b)
	client.Close()
	if n := b.aheadInUse.Load(); n != 0 {
		t.Errorf("%d buffers held by a closed connection", n)
	}
	if n, err := client.Read(make([]byte, smallBuffer)); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %d, %v", n, err)
	}

	server, client, b = aheadPair(t)
	b.aheadInUse.Store(maxAhead)
	server.Write(make([]byte, 3*smallBuffer))
	if _, err := io.ReadFull(client, make([]byte, 3*smallBuffer)); err != nil {
		t.Errorf("without a buffer to read ahead with: %v", err)
	}
}

// What waits holds none, whatever came before.
func TestReadAheadHoldsNothingIdle(t *testing.T) {
	server, client, b := aheadPair(t)
	for _, n := range []int{smallBuffer, smallBuffer + aheadBuffer, 5 * aheadBuffer} {
		server.Write(make([]byte, n))
		if _, err := io.ReadFull(client, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		idle := make(chan error, 1)
		go func() {
			_, err := client.Read(make([]byte, smallBuffer))
			idle <- err
		}()
		time.Sleep(10 * time.Millisecond)
		for deadline := time.Now().Add(time.Minute); b.aheadInUse.Load() != 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d buffers held while nothing comes", b.aheadInUse.Load())
			}
		}
		client.SetReadDeadline(time.Unix(1, 0))
		if err := <-idle; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a read of nothing: %v", err)
		}
		client.SetReadDeadline(time.Time{})
	}
}

// A reset must never look like an end: some answers end where the connection
// does.
func TestReadAheadKeepsErrors(t *testing.T) {
	for range 50 {
		server, client, _ := aheadPair(t)
		go func() {
			server.Write(make([]byte, smallBuffer))
			server.SetLinger(0)
			server.Close()
		}()
		time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond)
		var err error
		for p := make([]byte, smallBuffer); err == nil; {
			_, err = client.Read(p)
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("after a reset: %v", err)
		}
	}
}
