package limiter_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/goweir/weir/limiter"
)

// Do not do this. What stands behind the handler is not run when the handler
// panics, and net/http recovers that: each panic takes one slot for ever. With
// [limiter.InFlight.Acquire] it is the same, so say defer release();
// [limiter.InFlight.Middleware] does.
func ExampleInFlight_Acquire_incorrect() {
	slots := make(chan struct{}, 3)
	limit := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case slots <- struct{}{}:
			default:
				http.Error(w, "busy", http.StatusServiceUnavailable)
				return
			}
			next.ServeHTTP(w, r)
			<-slots // wants a defer
		})
	}
	handler := limit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			panic(http.ErrAbortHandler)
		}
	}))
	get := func(path string) int {
		defer func() { recover() }() // as net/http does
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code
	}
	for range 3 {
		get("/bad")
	}
	fmt.Println("nothing is under way, and the answer is", get("/good"))
	// Output: nothing is under way, and the answer is 503
}

// Do not do this. A refusal that says 200 is an answer like any other: caches keep
// it, clients save it as the download they asked for, and no monitor counts it.
// The default of [limiter.InFlight.Middleware] is 503 with Retry-After, which is
// never stored.
func ExampleInFlight_Middleware_incorrect() {
	slots := make(chan struct{}) // of which there are none
	limited := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			http.ServeFile(w, r, "movie.mp4")
		default:
			io.WriteString(w, "error: too many downloads") // wants a status
		}
	})
	w := httptest.NewRecorder()
	limited.ServeHTTP(w, httptest.NewRequest("GET", "/movie.mp4", nil))
	fmt.Printf("movie.mp4 was saved: %d, %q\n", w.Code, w.Body)
	// Output: movie.mp4 was saved: 200, "error: too many downloads"
}

// Do not do this. Who waits without an end and in an unbounded number keeps a
// goroutine, a connection and memory each, is served long after its client has
// gone, and so makes the next ones wait as well. A line wants a length, a longest
// wait, and the request's context: Queue and MaxWait, and a client that leaves
// does so at once.
func ExampleNewInFlight_incorrect() {
	slots := make(chan struct{}, 1)
	served := make(chan error)
	handler := func(ctx context.Context) {
		slots <- struct{}{} // wants a select with ctx.Done, and a timer
		defer func() { <-slots }()
		served <- ctx.Err()
	}
	slots <- struct{}{} // one request that takes its time
	for range 1000 {
		ctx, cancel := context.WithCancel(context.Background())
		go handler(ctx)
		cancel() // the client does not wait
	}
	<-slots
	late := 0
	for range 1000 {
		if <-served != nil {
			late++
		}
	}
	fmt.Println(late, "requests were served for clients that had gone")

	inFlight, err := limiter.NewInFlight(limiter.InFlightOptions{Max: 1, Queue: 10})
	if err != nil {
		panic(err)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = inFlight.Acquire(gone, limiter.Slot{})
	fmt.Println(err)
	// Output:
	// 1000 requests were served for clients that had gone
	// context canceled
}
