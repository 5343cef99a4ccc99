package faultnet

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// A Step is what a scripted server does, in the order of the fields. An empty
// field does nothing.
type Step struct {
	Read  string        // reads until this has come
	Write string        // sends this, as it is
	Sleep time.Duration // pauses
}

// Script starts a server that follows steps for each connection, one after the
// other, and then ends it. It is at the address returned, on 127.0.0.1, until
// the test ends. A connection that its client ends earlier is of no interest.
func Script(t testing.TB, end End, steps ...Step) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		wg   sync.WaitGroup
		done = make(chan struct{})
	)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				ended := make(chan struct{})
				wg.Go(func() {
					select {
					case <-done:
						c.Close()
					case <-ended:
					}
				})
				defer close(ended)
				defer c.Close()
				if follow(c, steps, done) != nil {
					return
				}
				switch end {
				case RST:
					c.(*net.TCPConn).SetLinger(0)
				case Hang:
					io.Copy(io.Discard, c)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		close(done)
		wg.Wait()
	})
	return l.Addr().String()
}

func follow(c net.Conn, steps []Step, done <-chan struct{}) error {
	br := bufio.NewReader(c)
	for _, step := range steps {
		for read := []byte(nil); !bytes.HasSuffix(read, []byte(step.Read)); {
			b, err := br.ReadByte()
			if err != nil {
				return err
			}
			read = append(read[max(0, len(read)+1-len(step.Read)):], b)
		}
		if _, err := io.WriteString(c, step.Write); err != nil {
			return err
		}
		if step.Sleep > 0 {
			select {
			case <-time.After(step.Sleep):
			case <-done:
				return net.ErrClosed
			}
		}
	}
	return nil
}
