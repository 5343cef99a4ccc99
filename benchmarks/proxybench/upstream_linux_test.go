package proxybench

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// upstreamHandler is the upstream of all proxies.
func upstreamHandler() http.Handler {
	small := bytes.Repeat([]byte("x"), 1024)
	mux := http.NewServeMux()
	mux.HandleFunc("/small", func(w http.ResponseWriter, _ *http.Request) { w.Write(small) })
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.FormValue("size"), 10, 64)
		chunk, _ := strconv.Atoi(r.FormValue("chunk"))
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		writeBytes(conn, n, chunk)
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: hello\n\n")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/socket", func(w http.ResponseWriter, r *http.Request) {
		conn, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		for in := make([]byte, len(message)); ; {
			if _, err := io.ReadFull(brw, in); err != nil {
				return
			}
			if _, err := conn.Write(reply); err != nil {
				return
			}
		}
	})
	return mux
}

// writeBytes answers with n bytes, in chunks of a size that divides a MiB or with
// a Content-Length, and takes as little time for it as it can.
func writeBytes(w io.Writer, n int64, chunk int) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n"
	block := make([]byte, 1<<20)
	if chunk == 0 {
		fmt.Fprintf(w, head+"Content-Length: %d\r\n\r\n", n)
	} else {
		io.WriteString(w, head+"Transfer-Encoding: chunked\r\n\r\n")
		part := fmt.Sprintf("%x\r\n%s\r\n", chunk, block[:chunk])
		block = []byte(strings.Repeat(part, len(block)/chunk))
	}
	for ; n > 0; n -= 1 << 20 {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
	if chunk > 0 {
		io.WriteString(w, "0\r\n\r\n")
	}
}

// message and reply are binary WebSocket frames of 128 bytes; clients mask
// theirs, here with zeros.
var (
	message = append([]byte{0x82, 0x80 | 126, 0, 128, 0, 0, 0, 0}, make([]byte, 128)...)
	reply   = append([]byte{0x82, 126, 0, 128}, make([]byte, 128)...)
)

// openSocket opens a WebSocket and sends a first message through it.
func openSocket(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Minute))
	io.WriteString(c, "GET /socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	head := make([]byte, 0, 512)
	for one := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, one...) {
		if _, err := io.ReadFull(c, one); err != nil {
			t.Fatalf("opening a socket: %v after %q", err, head)
		}
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		t.Fatalf("opening a socket: %q", head)
	}
	if err := ping(c, make([]byte, len(reply))); err != nil {
		t.Fatal(err)
	}
	return c
}

func ping(c net.Conn, in []byte) error {
	if _, err := c.Write(message); err != nil {
		return err
	}
	_, err := io.ReadFull(c, in)
	return err
}
