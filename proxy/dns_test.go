package proxy_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/proxy"
)

const dnsName = "app.test"

// A nameServer answers questions for the address of dnsName, over UDP, RFC 1035
// section 4.1.
type nameServer struct {
	addr  atomic.Pointer[netip.Addr]
	asked atomic.Int64 // for an address, of version 4
}

func (s *nameServer) serve(c net.PacketConn) {
	for b := make([]byte, 512); ; {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		if answer := s.answer(b[:n]); answer != nil {
			c.WriteTo(answer, from)
		}
	}
}

func (s *nameServer) answer(question []byte) []byte {
	const header = 12
	var labels []string
	at := header
	for at < len(question) && question[at] != 0 {
		end := at + 1 + int(question[at])
		if end >= len(question) {
			return nil
		}
		labels = append(labels, string(question[at+1:end]))
		at = end
	}
	if at += 1 + 4; at > len(question) {
		return nil
	}
	kind := binary.BigEndian.Uint16(question[at-4:])
	answer := append([]byte(nil), question[:at]...)
	flags := uint16(0x8180) // an answer; recursion was asked for, and is had
	answers := uint16(0)
	switch {
	case !strings.EqualFold(strings.Join(labels, "."), dnsName):
		flags |= 3 // no such name
	case kind == 1:
		s.asked.Add(1)
		answers = 1
		// The name above, class IN, for no longer than now.
		answer = append(answer, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		answer = append(answer, s.addr.Load().AsSlice()...)
	}
	binary.BigEndian.PutUint16(answer[2:], flags)
	copy(answer[4:], []byte{0, 1, byte(answers >> 8), byte(answers), 0, 0, 0, 0})
	return answer
}

// newNameServer makes the process ask a server of its own for names, until the
// test ends.
func newNameServer(t *testing.T, addr netip.Addr) *nameServer {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{}
	s.addr.Store(&addr)
	done := make(chan bool)
	go func() { s.serve(c); close(done) }()
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", c.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = before
		c.Close()
		<-done
	})
	return s
}

// twoHosts returns two servers with one port and addresses of their own, each of
// which answers with its name.
func twoHosts(t *testing.T) (a, b *httptest.Server, addrs [2]netip.Addr, port int) {
	t.Helper()
	addrs = [2]netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}
	var servers [2]*httptest.Server
	for i, addr := range addrs {
		l, err := net.Listen("tcp", netip.AddrPortFrom(addr, uint16(port)).String())
		if i == 1 && err != nil && os.Getenv("CI") == "" {
			t.Skip("this host has no second address on its loopback: ", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		port = l.Addr().(*net.TCPAddr).Port
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, addr) }))
		s.Listener.Close()
		s.Listener = l
		s.Start()
		t.Cleanup(s.Close)
		t.Cleanup(s.CloseClientConnections)
		servers[i] = s
	}
	return servers[0], servers[1], addrs, port
}

// When a name moves from one host to another and both live, what begins ConnAge
// later or more goes to the new one, though the connections to the old one were
// always busy; and nothing fails.
func TestNameMoves(t *testing.T) {
	noLeaks(t)
	const age = 300 * time.Millisecond
	_, _, addrs, port := twoHosts(t)
	names := newNameServer(t, addrs[0])
	p := newProxy(t, func(cfg *proxy.Config) { cfg.Timeouts.ConnAge = age }, fmt.Sprintf("http://%s:%d", dnsName, port))
	s := serve(t, p)
	var moved atomic.Pointer[time.Time]
	var before, between, after atomic.Int64
	stop := make(chan bool)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			c := dial(t, s.URL)
			defer c.Close()
			for {
				select {
				case <-stop:
					return
				default:
				}
				start, move := time.Now(), moved.Load()
				res := c.send(t, "GET", getRoot)
				body, err := io.ReadAll(res.Body)
				host := string(body)
				switch {
				case res.StatusCode != 200 || err != nil:
					t.Errorf("%d %q, %v", res.StatusCode, body, err)
					return
				case move == nil:
					if host == addrs[0].String() {
						before.Add(1)
					}
				case start.Sub(*move) < age:
					between.Add(1)
				case host != addrs[1].String():
					t.Errorf("a request that began %s after the name had moved reached %s", start.Sub(*move), host)
				default:
					after.Add(1)
				}
			}
		})
	}
	eventually(t, "requests to the old host", func() bool { return before.Load() > 100 || t.Failed() })
	asked := names.asked.Load()
	names.addr.Store(&addrs[1])
	now := time.Now()
	moved.Store(&now)
	eventually(t, "requests to the new host", func() bool { return after.Load() > 100 || t.Failed() })
	close(stop)
	wg.Wait()
	t.Logf("%d requests before, %d within %s of the move, %d after that; the name was asked for %d times and then %d times",
		before.Load(), between.Load(), age, after.Load(), asked, names.asked.Load()-asked)
}

// When the old host is dead the next request goes to the new one, whatever
// ConnAge is.
func TestNameMovesFromTheDead(t *testing.T) {
	noLeaks(t)
	a, _, addrs, port := twoHosts(t)
	names := newNameServer(t, addrs[0])
	s := serve(t, newProxy(t, nil, fmt.Sprintf("http://%s:%d", dnsName, port)))
	c := dial(t, s.URL)
	ask := func(want netip.Addr) {
		t.Helper()
		res := c.send(t, "GET", getRoot)
		if body, err := io.ReadAll(res.Body); res.StatusCode != 200 || string(body) != want.String() || err != nil {
			t.Errorf("%d %q, %v; want %s", res.StatusCode, body, err, want)
		}
	}
	for range 3 {
		ask(addrs[0])
	}
	names.addr.Store(&addrs[1])
	a.CloseClientConnections()
	a.Close()
	for range 20 {
		ask(addrs[1])
	}
}
