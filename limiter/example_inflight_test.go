package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/goweir/weir/limiter"
)

// At most 100 requests at once, 4 of them from each client; 50 more wait for up to
// two seconds. The rules stand outside: what gets no slot has used up nothing of
// their quotas.
func ExampleInFlight_Middleware() {
	inFlight, err := limiter.NewInFlight(limiter.InFlightOptions{
		Name: "downloads", Max: 100, MaxPerKey: 4, Queue: 50, MaxWait: 2 * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	memory := limiter.NewMemory(nil)
	perMinute := limiter.PerMinute("client", 60)
	rules := limiter.Middleware(memory, limiter.Rules{{Policy: perMinute, Key: limiter.KeyByClientIP}}, nil)
	slots := inFlight.Middleware(func(r *http.Request) (limiter.Slot, error) {
		key, err := limiter.KeyByClientIP(r)
		return limiter.Slot{Key: key}, err
	}, nil)
	handler := rules(slots(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello")
	})))

	get := func(ctx context.Context) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w
	}
	fmt.Println(get(context.Background()).Code)

	// Four downloads of this client are under way, and it does not want to wait.
	for range 4 {
		release, err := inFlight.Acquire(context.Background(), limiter.Slot{Key: "192.0.2.1"})
		if err != nil {
			log.Fatal(err)
		}
		defer release()
	}
	hasty, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	w := get(hasty)
	fmt.Println(w.Code, w.Header().Get("Retry-After"), w.Body)
	left, err := memory.Take(context.Background(), limiter.Charge{Policy: perMinute, Key: "192.0.2.1"})
	fmt.Println(left.Limit-left.Remaining, err) // the first one
	// Output:
	// 200
	// 503 1 {"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity","title":"Request cannot be satisfied due to temporary server capacity constraints","status":503,"violated-policies":["downloads"]}
	// 1 <nil>
}

// Without HTTP: a report takes three of four slots, and what is interactive goes
// first.
func ExampleInFlight_Acquire() {
	const interactive, batch = 0, 1
	db, err := limiter.NewInFlight(limiter.InFlightOptions{Max: 4, Queue: 10, Classes: 2})
	if err != nil {
		log.Fatal(err)
	}
	report := func(ctx context.Context) error {
		release, err := db.Acquire(ctx, limiter.Slot{Weight: 3, Class: batch})
		if err != nil {
			return err
		}
		defer release()
		fmt.Println(db.Snapshot().InUse, "of", db.Snapshot().Max, "in use")
		return nil
	}
	fmt.Println(report(context.Background()))

	release, err := db.Acquire(context.Background(), limiter.Slot{Class: interactive, Weight: 2})
	if err != nil {
		log.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	fmt.Println(report(ctx))
	// Output:
	// 3 of 4 in use
	// <nil>
	// context deadline exceeded
}

// The cap follows the latency, between 5 and 200, and nothing is let in that
// would take the last of the memory or of the processors.
func ExampleNewInFlight_adaptive() {
	overloaded, err := limiter.NewLoadCheck(limiter.LoadOptions{})
	if err != nil {
		log.Fatal(err)
	}
	search, err := limiter.NewInFlight(limiter.InFlightOptions{
		Name:       "search",
		Max:        200,
		Adaptive:   &limiter.AdaptiveOptions{Min: 5},
		Overloaded: overloaded,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(search.Snapshot().Limit, search.Snapshot().Max)
	// Output: 5 200
}

// NewInFlight says everything that is wrong at once.
func ExampleNewInFlight() {
	_, err := limiter.NewInFlight(limiter.InFlightOptions{Max: -1, Queue: -5})
	fmt.Println(err)
	fmt.Println(errors.Is(err, limiter.ErrPolicy))
	// Output:
	// limiter: policy "in-flight": Max is -1; allowed: 0 (no cap over all) or more
	// limiter: policy "in-flight": Queue is -5; allowed: 0 (nobody waits) or more
	// true
}
