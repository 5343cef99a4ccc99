package capture_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/goweir/weir/capture"
)

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
