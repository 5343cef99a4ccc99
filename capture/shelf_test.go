package capture_test

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/capture"
)

// shelf is a sink that keeps clones of what it is given.
type shelf chan *capture.Exchange

func newShelf() shelf { return make(shelf, 1000) }

func (s shelf) Record(_ context.Context, x *capture.Exchange) error {
	s <- x.Clone()
	return nil
}

// next returns the next record. A client may have its answer before the record
// is made, so it waits.
func (s shelf) next(t testing.TB) *capture.Exchange {
	t.Helper()
	select {
	case x := <-s:
		return x
	case <-time.After(time.Minute):
		t.Fatal("no record")
		return nil
	}
}

// record serves one request with h in memory and returns the record and the
// response. A panic of h is swallowed.
func record(t testing.TB, opts *capture.Options, r *http.Request, h http.HandlerFunc) (*capture.Exchange, *httptest.ResponseRecorder) {
	t.Helper()
	w := httptest.NewRecorder()
	return recordOn(t, w, opts, r, h), w
}

func recordOn(t testing.TB, w http.ResponseWriter, opts *capture.Options, r *http.Request, h http.HandlerFunc) *capture.Exchange {
	t.Helper()
	s := newShelf()
	func() {
		defer func() { recover() }()
		capture.Middleware(s, opts)(h).ServeHTTP(w, r)
	}()
	if len(s) != 1 {
		t.Fatalf("%d records, want 1", len(s))
	}
	return s.next(t)
}

// server serves h behind capture on a loopback socket.
func server(t testing.TB, opts *capture.Options, h http.HandlerFunc) (shelf, *httptest.Server) {
	t.Helper()
	s := newShelf()
	srv := httptest.NewServer(capture.Middleware(s, opts)(h))
	t.Cleanup(srv.Close)
	return s, srv
}

func get(target string) *http.Request { return httptest.NewRequest("GET", target, nil) }

func post(contentType, body string) *http.Request {
	r := httptest.NewRequest("POST", "/", strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	return r
}

func captured(b capture.Body) string { return string(b.Bytes()) }

func dial(url string) (net.Conn, error) {
	return net.Dial("tcp", strings.TrimPrefix(url, "http://"))
}

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }
