package crosstest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/goweir/weir/capture"
)

// downloadSize is more than all buffers on the way hold.
const downloadSize = 4 << 20

// upstream is a server with something of every kind; step says when an event is
// to be sent, and gone is told when a client has left.
func upstream(t *testing.T, step <-chan bool, gone chan<- bool) *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/download", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", fmt.Sprint(downloadSize))
		io.CopyN(w, pattern{}, downloadSize)
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		rc := http.NewResponseController(w)
		rc.Flush()
		for range step {
			io.WriteString(w, "data: x\n")
			rc.Flush()
		}
	})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		for {
			kind, message, err := conn.ReadMessage()
			if err != nil || conn.WriteMessage(kind, message) != nil {
				return
			}
		}
	})
	mux.HandleFunc("/trailers", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "text")
		w.Header().Set("X-Sum", "7")
		w.Header().Set(http.TrailerPrefix+"X-More", "8")
	})
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		w.WriteHeader(201)
		fmt.Fprintf(w, "%d %x %v", n, h.Sum(nil), err)
	})
	mux.HandleFunc("/hint", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a>")
		w.WriteHeader(103)
		w.WriteHeader(404)
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begun")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		gone <- true
	})
	mux.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// pattern is an endless source whose bytes are known.
type pattern struct{}

func (pattern) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// TestProxyThroughAdapters runs the whole of it, records, limits and the proxy,
// in every framework: what an upstream has to offer arrives as it is, is
// recorded as it is, and logged as it is.
func TestProxyThroughAdapters(t *testing.T) {
	everywhere(t, func(t *testing.T, name, proto string, build maker) {
		step, gone := make(chan bool), make(chan bool, 1)
		records, l := make(sink, 100), make(logbook, 100)
		app := build(l.told, ours(records, everyone(1000))...)
		p := newProxy(t, upstream(t, step, gone))
		for _, path := range []string{"/download", "/events", "/ws", "/trailers", "/hint", "/broken", "/endless"} {
			app.Mount("GET", path, p)
		}
		app.Mount("PUT", "/upload", p)
		s := served(t, proto, app)
		s.Client().Transport.(*http.Transport).ExpectContinueTimeout = 20 * time.Second

		// recorded compares the record and the log with what the client got.
		recorded := func(what string, status int, size int64) *capture.Exchange {
			t.Helper()
			x, outside := records.next(t), <-l
			if x.Status != status || size >= 0 && x.Response.Body.Size != size {
				t.Errorf("%s: recorded %s, %d with %d bytes, want %d with %d", what, x.Outcome, x.Status, x.Response.Body.Size, status, size)
			}
			if status != 101 && (outside.status != status || size >= 0 && outside.size != size) {
				t.Errorf("%s: a logger outside saw %v, want %d with %d bytes", what, outside, status, size)
			}
			return x
		}

		got := do(t, s, "GET", "/download", nil)
		if got.err != nil || len(got.body) != downloadSize || strings.Trim(got.body, "x") != "" || got.header.Get("Content-Length") != fmt.Sprint(downloadSize) || got.header.Get("Ratelimit") == "" {
			t.Errorf("download: %d with %d bytes, %v, %v", got.status, len(got.body), got.header, got.err)
		}
		if x := recorded("download", 200, downloadSize); x.Response.Body.Skipped == "" {
			t.Error("download: its body was captured")
		}

		res, err := s.Client().Get(s.URL + "/events")
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(res.Body)
		for range 3 {
			step <- true
			if line, err := lines.ReadString('\n'); line != "data: x\n" {
				t.Errorf("events: %q, %v", line, err)
			}
		}
		close(step)
		if rest, err := io.ReadAll(lines); len(rest) > 0 || err != nil {
			t.Errorf("events end with %q, %v", rest, err)
		}
		res.Body.Close()
		recorded("events", 200, int64(3*len("data: x\n")))

		got = do(t, s, "GET", "/trailers", nil)
		if got.body != "text" || got.trailer.Get("X-Sum") != "7" || got.trailer.Get("X-More") != "8" {
			t.Errorf("trailers: %q with %v, %v", got.body, got.trailer, got.err)
		}
		recorded("trailers", 200, 4)

		r, err := http.NewRequest("PUT", s.URL+"/upload", io.LimitReader(pattern{}, downloadSize))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Expect", "100-continue")
		h := sha256.New()
		io.CopyN(h, pattern{}, downloadSize)
		want := fmt.Sprintf("%d %x <nil>", downloadSize, h.Sum(nil))
		if res, err := s.Client().Do(r); err != nil {
			t.Errorf("upload: %v", err)
		} else {
			if body, err := io.ReadAll(res.Body); res.StatusCode != 201 || string(body) != want {
				t.Errorf("upload: %d %q, %v", res.StatusCode, body, err)
			}
			res.Body.Close()
		}
		if x := recorded("upload", 201, int64(len(want))); x.Request.Body.Size != downloadSize {
			t.Errorf("upload: %d bytes recorded", x.Request.Body.Size)
		}

		r, _ = http.NewRequest("GET", s.URL+"/hint", nil)
		if infos, link, status, _ := hinted(t, s.Client(), r); !slices.Equal(infos, []int{103}) || link != "</a>" || status != 404 {
			t.Errorf("hint: %v with Link %q, then %d", infos, link, status)
		}
		// The proxy goes around writers that could lose the final status, and
		// capture, which stands within them, hears of it all the same.
		if x := recorded("hint", 404, 0); !slices.Equal(x.Informational, []int{103}) {
			t.Errorf("hint: recorded %v, want the 103", x.Informational)
		}

		if got = do(t, s, "GET", "/broken", nil); got.err == nil {
			t.Errorf("broken: %d %q and a clean end", got.status, got.body)
		}
		if x := recorded("broken", 200, 4); x.Outcome != capture.OutcomeAbort {
			t.Errorf("broken: recorded %s", x.Outcome)
		}

		ctx, leave := context.WithCancel(t.Context())
		r, _ = http.NewRequestWithContext(ctx, "GET", s.URL+"/endless", nil)
		if res, err = s.Client().Do(r); err != nil {
			t.Fatal(err)
		}
		io.ReadFull(res.Body, make([]byte, 5))
		leave()
		res.Body.Close()
		select {
		case <-gone:
		case <-time.After(20 * time.Second):
			t.Error("endless: the upstream was not told that the client left")
		}
		if x := recorded("endless", 200, -1); x.Outcome != capture.OutcomeClientGone {
			t.Errorf("endless: recorded %s", x.Outcome)
		}

		if proto == "HTTP/2" {
			return
		}
		conn, res, err := (&websocket.Dialer{TLSClientConfig: &tls.Config{}}).DialContext(t.Context(), "ws"+strings.TrimPrefix(s.URL, "http")+"/ws", nil)
		if err != nil {
			t.Fatalf("WebSocket: %v, %v", res, err)
		}
		message := strings.Repeat("x", 100_000)
		for range 3 {
			if err := conn.WriteMessage(websocket.TextMessage, []byte(message)); err != nil {
				t.Error(err)
			}
			if _, back, err := conn.ReadMessage(); string(back) != message {
				t.Errorf("WebSocket: %d bytes came back, %v", len(back), err)
			}
		}
		conn.Close()
		if x := recorded("WebSocket", 101, -1); x.Outcome != capture.OutcomeHijacked {
			t.Errorf("WebSocket: recorded %s", x.Outcome)
		}
	})
}
