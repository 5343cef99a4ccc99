package capture_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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

// A page that shows what passes: it begins with what the ring holds, goes on with
// what comes, and says what it was too slow for.
func ExampleRing_Next() {
	ring := capture.NewRing(&capture.RingOptions{Records: 2})
	h := capture.Middleware(ring, nil)(http.NotFoundHandler())
	for _, path := range []string{"/a", "/b", "/c"} {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for seen := int64(0); ; {
		x, number, err := ring.Next(ctx, seen)
		if err != nil {
			fmt.Println(err)
			return
		}
		if missed := number - seen - 1; missed > 0 {
			fmt.Println("too late for", missed)
		}
		fmt.Println(number, x.Path, x.Status)
		if seen = number; seen == ring.Last() {
			cancel() // the page was closed
		}
	}
	// Output:
	// too late for 1
	// 2 /b 404
	// 3 /c 404
	// context canceled
}

// Logrotate renames the file and then tells the process, which opens the name
// again. Nothing is lost, and no line is cut.
func ExampleFile_Reopen() {
	dir, err := os.MkdirTemp("", "audit")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "audit.jsonl")
	file, err := capture.OpenFile(name)
	if err != nil {
		log.Fatal(err)
	}
	h := capture.Middleware(capture.JSONL(file), nil)(http.NotFoundHandler())
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))

	if err := os.Rename(name, name+".1"); err != nil {
		log.Fatal(err)
	}
	if err := file.Reopen(); err != nil { // on SIGHUP, for example
		log.Print(err) // and writing goes on in the old file
	}
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if err := file.Close(); err != nil {
		log.Fatal(err)
	}
	for _, name := range []string{name + ".1", name} {
		text, _ := os.ReadFile(name)
		fmt.Println(filepath.Base(name), bytes.Count(text, []byte("\n")))
	}
	// Output:
	// audit.jsonl.1 1
	// audit.jsonl 2
}

// counters is an Observer.
type counters map[capture.EventKind]int

func (c counters) Observe(_ context.Context, e capture.Event) { c[e.Kind]++ }

// Whatever happens, the counts add up.
func ExampleObserver() {
	seen := counters{}
	sink := capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		if x.Path == "/b" {
			return errors.New("disk full")
		}
		return nil
	})
	h := capture.Middleware(sink, &capture.Options{
		Observer: seen,
		Keep:     func(x *capture.Exchange) bool { return x.Path != "/healthz" },
	})(http.NotFoundHandler())
	for _, path := range []string{"/a", "/b", "/healthz"} {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
	}
	for _, kind := range []capture.EventKind{
		capture.EventOffered, capture.EventSampledOut, capture.EventDelivered, capture.EventDropped,
	} {
		fmt.Println(kind, seen[kind])
	}
	// Output:
	// offered 2
	// sampled_out 1
	// delivered 1
	// dropped 1
}
