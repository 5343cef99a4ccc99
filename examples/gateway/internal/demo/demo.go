// Package demo is an upstream to try the gateway against: it answers with JSON,
// large downloads, event streams and WebSockets, and it can be slow or fail.
package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// MaxDownload and MaxDelay bound what one request can ask for.
const (
	MaxDownload = 16 << 30
	MaxDelay    = time.Minute
)

// Handler returns the demo upstream.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("GET /download", download)
	mux.HandleFunc("GET /clock", clock)
	mux.HandleFunc("GET /ws", webSocket)
	mux.HandleFunc("GET /slow", slow)
	mux.HandleFunc("GET /fail", fail)
	mux.HandleFunc("GET /broken", broken)
	return mux
}

// echo answers with what it received; a JSON body comes back as it was sent. It
// leaves out the header, which holds secrets: they would stand in the answer
// and so in whatever records it.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, "body cut short or above 1 MiB", http.StatusRequestEntityTooLarge)
		return
	}
	var sent any = string(body)
	if json.Valid(body) {
		sent = json.RawMessage(body)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"method": r.Method, "path": r.URL.Path, "host": r.Host,
		"forwarded_for": r.Header.Get("X-Forwarded-For"), "body": sent,
	})
}

// download sends size bytes as a file, 1 MiB unless the query says otherwise.
func download(w http.ResponseWriter, r *http.Request) {
	size, err := parseSize(r.FormValue("size"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", `attachment; filename="weir.bin"`)
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	_, _ = io.Copy(w, NewBytes(size))
}

// clock sends the time as server-sent events, one a second, until the client
// leaves.
func clock(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	flusher := http.NewResponseController(w)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for now := time.Now(); ; {
		fmt.Fprintf(w, "event: tick\ndata: %s\n\n", now.UTC().Format(time.RFC3339Nano))
		if flusher.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case now = <-ticker.C:
		}
	}
}

// webSocket sends every message back.
func webSocket(w http.ResponseWriter, r *http.Request) {
	// Any origin may come: there is nothing here that a foreign page could steal.
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return // Accept has answered
	}
	defer c.CloseNow()
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if err := c.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}

// slow answers after a delay, 2 s unless the query says otherwise.
func slow(w http.ResponseWriter, r *http.Request) {
	delay := 2 * time.Second
	if s := r.FormValue("delay"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 || d > MaxDelay {
			http.Error(w, fmt.Sprintf("delay: want a duration up to %v, such as 500ms", MaxDelay), http.StatusBadRequest)
			return
		}
		delay = d
	}
	select {
	case <-r.Context().Done():
	case <-time.After(delay):
		fmt.Fprintf(w, "late by %v\n", delay)
	}
}

func fail(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "the demo upstream fails on request", http.StatusInternalServerError)
}

// broken promises more than it sends, as a server does that dies while it
// answers: with ?chunked=1 in chunks, otherwise with a length.
func broken(w http.ResponseWriter, r *http.Request) {
	const half = "this is the first half of"
	w.Header().Set("Content-Type", "text/plain")
	if r.FormValue("chunked") == "" {
		w.Header().Set("Content-Length", strconv.Itoa(2*len(half)))
	}
	_, _ = io.WriteString(w, half)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler) // cuts the connection
}

func parseSize(s string) (int64, error) {
	if s == "" {
		return 1 << 20, nil
	}
	number, shift := s, 0
	for unit, bits := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			number, shift = n, bits
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > MaxDownload>>shift {
		return 0, fmt.Errorf("size: want a number of bytes, KiB, MiB or GiB up to %d GiB, such as 64MiB", MaxDownload>>30)
	}
	return n << shift, nil
}
