package limiter_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

// net/http takes a client that closes its own side for one that has left. If it
// waits then, for a slot or for its turn, it is not served; and since it may still
// read, it must not get the empty 200 of a handler that writes nothing.
func TestWhoClosesItsSideWhileItWaitsGetsNo200(t *testing.T) {
	slots := full(t, limiter.InFlightOptions{Max: 1, Queue: 1, MaxWait: time.Hour})
	shaped := limiter.Rules{{
		Policy: limiter.Policy{Name: "turns", Algorithm: limiter.LeakyBucket, Limit: 1, Window: time.Hour, Burst: 5},
		Key:    limiter.KeyGlobal,
	}}
	m := limiter.NewMemory(nil)
	take(t, m, limiter.Charge{Policy: shaped[0].Policy, Key: "*", Cost: 1})
	for name, mw := range map[string]func(http.Handler) http.Handler{
		"slot": slots.Middleware(nil, nil),
		"turn": limiter.Middleware(m, shaped, nil),
	} {
		var served atomic.Bool
		srv := httptest.NewServer(mw(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Store(true) })))
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 499 ") || served.Load() {
			t.Errorf("%s: served: %t; answered %q, %v", name, served.Load(), answer, err)
		}
		conn.Close()
		srv.Close()
	}
}
