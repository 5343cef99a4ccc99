package capture_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/goweir/weir/capture"
)

// Each exchange becomes a line in a file. The queue keeps a slow disk away from
// the responses; closing it after the server has shut down delivers the rest.
func ExampleMiddleware() {
	file, err := os.CreateTemp("", "audit-*.jsonl")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(file.Name())

	queue := capture.Async(capture.JSONL(file), &capture.AsyncOptions{
		OnError: func(err error) { log.Print(err) },
	})
	record := capture.Middleware(queue, nil)

	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		capture.From(r.Context()).Set("user", "42")
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"paid":true}`)
	})
	server := httptest.NewServer(record(api))
	resp, err := http.Post(server.URL+"/orders?token=s3cret", "application/json", strings.NewReader(`{"id":7}`))
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	server.Close()
	if err := queue.Close(context.Background()); err != nil {
		log.Fatal(err)
	}

	line, _ := os.ReadFile(file.Name())
	var x struct {
		Method, Path, Query string
		Status              int
		Attributes          map[string]string
		Response            struct {
			Size int64
			Body string
		}
	}
	if err := json.Unmarshal(line, &x); err != nil {
		log.Fatal(err)
	}
	fmt.Println(x.Method, x.Path, x.Query, x.Status, x.Attributes)
	fmt.Println(x.Response.Size, x.Response.Body)
	// Output:
	// POST /orders token=REDACTED 200 map[user:42]
	// 13 {"paid":true}
}

// Only what went wrong or took long, and no more than 4 KiB of a body.
func ExampleOptions() {
	sink := capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		fmt.Printf("%s %s: %d, %s\n", x.Method, x.Path, x.Status, x.Response.Body.Bytes())
		return nil
	})
	record := capture.Middleware(sink, &capture.Options{
		ResponseCap: 4 << 10,
		Match:       func(r *http.Request) bool { return r.URL.Path != "/healthz" },
		Keep:        func(x *capture.Exchange) bool { return x.Status >= 500 || x.Duration.Seconds() > 1 },
	})
	h := record(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/broken" {
			http.Error(w, "out of order", http.StatusInternalServerError)
		}
	}))
	for _, path := range []string{"/healthz", "/fine", "/broken"} {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
	}
	// Output: GET /broken: 500, out of order
}

// The classic mistake: a writer that copies the whole body for the log. It holds
// every download in memory, misses io.WriteString where the framework has one of
// its own, hides Flush, Hijack and sendfile, and takes a 1xx for the status.
func ExampleMiddleware_incorrect() {
	download := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		io.Copy(w, io.LimitReader(zeros{}, 32<<20))
	})

	logged := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			tee := &bodyLogWriter{ResponseWriter: w}
			next.ServeHTTP(tee, r)
			fmt.Println("tee:", tee.body.Len()>>20, "MiB held for one download")
		})
	}
	logged(download).ServeHTTP(new(sinkhole), httptest.NewRequest("GET", "/", nil))

	budget := capture.NewBudget(64 << 20)
	sink := capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		b := x.Response.Body
		fmt.Println("capture:", budget.InUse(), "bytes held,", b.Size>>20, "MiB counted, skipped:", b.Skipped)
		return nil
	})
	record := capture.Middleware(sink, &capture.Options{Budget: budget})
	record(download).ServeHTTP(new(sinkhole), httptest.NewRequest("GET", "/", nil))
	// Output:
	// tee: 32 MiB held for one download
	// capture: 0 bytes held, 32 MiB counted, skipped: content_type
}

type bodyLogWriter struct {
	http.ResponseWriter
	body bytes.Buffer
}

func (w *bodyLogWriter) Write(p []byte) (int, error) {
	w.body.Write(p)
	return w.ResponseWriter.Write(p)
}

// Secrets in bodies are masked by name, at any depth; Redact and RedactPaths add
// what this application calls its own.
func ExampleOptions_redaction() {
	sink := capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		fmt.Printf("%s\n%s %s\n", x.Request.Body.Bytes(), x.Response.Body.Bytes(), x.Response.Body.Skipped)
		return nil
	})
	record := capture.Middleware(sink, &capture.Options{
		Redact:      []string{"tax_id"},
		RedactPaths: []string{"$.cards[*].number"},
	})
	h := record(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"session":"s3cret",`) // which is no JSON
	}))
	r := httptest.NewRequest("POST", "/", strings.NewReader(
		`{"user":"ada","password":"s3cret","taxId":17,"cards":[{"number":4242,"exp":"01/30"}],"access_token":{"a":["s3cret"]}}`))
	r.Header.Set("Content-Type", "application/json")
	h.ServeHTTP(httptest.NewRecorder(), r)
	// Output:
	// {"user":"ada","password":"REDACTED","taxId":"REDACTED","cards":[{"number":"REDACTED","exp":"01/30"}],"access_token":"REDACTED"}
	//  redaction_failed
}

// Compression stays on. The record shows what was compressed, wherever in the
// chain capture stands.
func ExampleMiddleware_compressed() {
	sink := capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		b := x.Response.Body
		fmt.Printf("%s, %t: %s\n", b.Encoding, b.Size < int64(b.Len()), b.Bytes()[:20])
		return nil
	})
	h := capture.Middleware(sink, nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Encoding", "gzip")
		zw := gzip.NewWriter(w)
		defer zw.Close()
		io.WriteString(zw, strings.Repeat("It was a long story. ", 40))
	}))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	// Output: gzip, true: It was a long story.
}
