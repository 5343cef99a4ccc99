package redislimiter_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
	"github.com/goweir/weir/limiter/redislimiter"
)

// Two processes share the quotas that a server holds.
func Example() {
	server, err := miniredis.Run() // in earnest: a Redis server
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	ctx := context.Background()
	process := func() (*redislimiter.Limiter, redis.UniversalClient) {
		client, err := redislimiter.Dial(ctx, "redis://"+server.Addr()+"/0")
		if err != nil {
			log.Fatal(err)
		}
		l, err := redislimiter.New(client, nil)
		if err != nil {
			log.Fatal(err)
		}
		return l, client
	}
	one, client1 := process()
	defer client1.Close()
	two, client2 := process()
	defer client2.Close()

	c := limiter.Charge{Policy: limiter.PerHour("requests", 3), Key: "alice", Cost: 2}
	for _, l := range []limiter.Limiter{one, two} {
		r, err := l.Take(ctx, c)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(r.Allowed, r.Remaining, r.RetryAfter.Round(time.Minute))
	}
	// Output:
	// true 1 0s
	// false 1 20m0s
}

// A client with the settings of go-redis would retry what may have been counted
// already, and wait for seconds when the server hangs. New says so.
func ExampleNew_incorrect() {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379"})
	defer client.Close()
	_, err := redislimiter.New(client, nil)
	fmt.Println(err)
	// Output:
	// redislimiter: New: the client has MaxRetries 3; allowed: -1 (a charge must not be taken twice), or DangerouslyAllowRetries
	// redislimiter: New: the client has no ContextTimeoutEnabled, so it would ignore deadlines; set it, or DangerouslyAllowRetries
}

// What happens when the server fails is for the caller to decide. Here requests
// that may have been counted, or could not be, pass.
func ExampleLimiter_Take() {
	allow := func(ctx context.Context, l limiter.Limiter, r *http.Request) (bool, error) {
		c := limiter.Charge{Policy: limiter.PerMinute("requests", 100), Key: r.Header.Get("X-Account"), Cost: 1}
		res, err := l.Take(ctx, c)
		switch {
		case err == nil:
			return res.Allowed, nil
		case errors.Is(err, limiter.ErrPolicy):
			return false, err // a mistake in the program
		case errors.Is(err, redislimiter.ErrUnknown):
			return true, nil // it may have been counted: never ask again
		default:
			return true, err // for the log: nothing was counted
		}
	}
	_ = allow
}

// At most ten downloads of each file, whatever the number of gateways.
func ExampleNewInFlight() {
	server, err := miniredis.Run() // in earnest: a Redis server
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client, err := redislimiter.Dial(context.Background(), "redis://"+server.Addr()+"/0")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	l, err := redislimiter.New(client, nil)
	if err != nil {
		log.Fatal(err)
	}

	downloads, err := redislimiter.NewInFlight(l, redislimiter.InFlightOptions{
		InFlightOptions: limiter.InFlightOptions{Name: "downloads", MaxPerKey: 10, Queue: 50, MaxWait: 2 * time.Second},
		WhenDown:        failover.Local,
		Failover:        failover.Options{Instances: 4},
	})
	if err != nil {
		log.Fatal(err)
	}
	guard := limiter.InFlightMiddleware(downloads, func(r *http.Request) (limiter.Slot, error) {
		return limiter.Slot{Key: r.URL.Path}, nil
	}, nil)
	files := guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(downloads.Snapshot().InUse, "under way")
		http.ServeContent(w, r, "report.txt", time.Time{}, strings.NewReader("a large file"))
	}))

	w := httptest.NewRecorder()
	files.ServeHTTP(w, httptest.NewRequest("GET", "/files/report.txt", nil))
	fmt.Println(w.Code, downloads.Snapshot().InUse, "under way")
	// Output:
	// 1 under way
	// 200 0 under way
}
