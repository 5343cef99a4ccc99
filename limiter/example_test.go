package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"time"

	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/limiter"
)

// Every client may make two requests at once and one more a minute; all of them
// together 1000 a second. A client that is refused has used up nothing of what
// belongs to all.
func ExampleMiddleware() {
	limit := limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{
		{Policy: limiter.PerSecond("everyone", 1000), Key: limiter.KeyGlobal},
		{
			Policy: limiter.Policy{Name: "client", Limit: 1, Window: time.Minute, Burst: 2},
			Key:    limiter.KeyByClientIP,
			Match:  func(r *http.Request) bool { return r.URL.Path != "/health" },
		},
	}, nil)

	// Behind a proxy in 10.0.0.0/8, which says who the client is. Without
	// clientip, the proxy would be the only client.
	resolver, err := clientip.New([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, nil)
	if err != nil {
		log.Fatal(err)
	}
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") })
	handler := resolver.Middleware(limit(hello))

	for range 3 {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "10.0.0.1:4711"
		r.Header.Set("X-Forwarded-For", "203.0.113.7")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		retry := w.Header().Get("Retry-After") != "" // here: 60 seconds
		fmt.Println(w.Code, retry, w.Header().Get("RateLimit-Policy"))
	}
	// Output:
	// 200 false "everyone";q=1000;w=1, "client";q=1;w=60;weir-burst=2
	// 200 false "everyone";q=1000;w=1, "client";q=1;w=60;weir-burst=2
	// 429 true "everyone";q=1000;w=1, "client";q=1;w=60;weir-burst=2
}

// Only failed logins count: five an hour for each account and address.
func ExampleMiddleware_refundIf() {
	account := limiter.KeyByHeader("X-Account") // in earnest: a field of the form
	limit := limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{{
		Policy:   limiter.PerHour("failed logins", 5),
		Key:      limiter.JoinKeys(account, limiter.KeyByClientIP),
		RefundIf: func(status int) bool { return status != http.StatusUnauthorized },
	}}, nil)
	login := limit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Password") != "correct" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))

	attempt := func(password string) int {
		r := httptest.NewRequest("POST", "/login", nil)
		r.Header.Set("X-Account", "ann")
		r.Header.Set("X-Password", password)
		w := httptest.NewRecorder()
		login.ServeHTTP(w, r)
		return w.Code
	}
	for range 100 {
		attempt("correct")
	}
	for range 5 {
		attempt("guess")
	}
	fmt.Println(attempt("guess"), attempt("correct"))
	// Output: 429 429
}

// Check is the decision without the plumbing, for what is no http.Handler.
func ExampleCheck() {
	memory := limiter.NewMemory(nil)
	rules := limiter.Rules{{Policy: limiter.PerMinute("uploads", 1), Key: limiter.KeyByHeader("X-Api-Key")}}
	if err := rules.Validate(); err != nil {
		log.Fatal(err)
	}
	r := httptest.NewRequest("POST", "/upload", nil)
	r.Header.Set("X-Api-Key", "k-1")

	for range 2 {
		d, err := limiter.Check(context.Background(), memory, rules, r)
		if err != nil {
			log.Fatal(err) // nobody decided; the caller chooses what that means
		}
		fmt.Println(d.Allowed, d.Results[0].Remaining, d.Rule)
	}
	_, err := limiter.Check(context.Background(), memory, rules, httptest.NewRequest("POST", "/upload", nil))
	fmt.Println(errors.Is(err, limiter.ErrNoKey))
	// Output:
	// true 0 -1
	// false 0 0
	// true
}

// A worker that must not call a partner more than 1000 times a second.
func ExampleWait() {
	memory := limiter.NewMemory(nil)
	partner := limiter.Charge{
		Policy: limiter.Policy{Name: "partner", Limit: 1000, Window: time.Second, Burst: 1},
		Key:    "api.example.com",
		Cost:   1,
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	start := time.Now()
	for range 3 {
		if err := limiter.Wait(ctx, memory, partner); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(time.Since(start) >= 2*time.Millisecond)

	partner.Cost = 2
	fmt.Println(limiter.Wait(ctx, memory, partner))
	// Output:
	// true
	// limiter: the charge can never fit: cost 2 of policy "partner" (1000/s burst 1)
}

// A Limiter can be used without HTTP. TakeAll charges all quotas or none.
func ExampleMemory_TakeAll() {
	memory := limiter.NewMemory(nil)
	ctx := context.Background()
	team := limiter.Charge{Policy: limiter.PerDay("team", 100), Key: "red", Cost: 10}
	user := limiter.Charge{Policy: limiter.PerDay("user", 15), Key: "ann", Cost: 10}
	for range 2 {
		results, err := memory.TakeAll(ctx, []limiter.Charge{team, user})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(results[0].Allowed, results[0].Remaining, results[1].Allowed, results[1].Remaining)
	}
	// Output:
	// true 90 true 5
	// true 90 false 5
}

func ExampleParseRate() {
	for _, s := range []string{"10/s", "100/5m", "10 per second"} {
		limit, window, err := limiter.ParseRate(s)
		fmt.Println(limit, window, err)
	}
	// Output:
	// 10 1s <nil>
	// 100 5m0s <nil>
	// 0 0s limiter: rate "10 per second": no "/"; want a form such as "10/s", "100/5m" or "10/500ms"
}

// Five attempts in any hour, and not nine around the edge of one.
func ExamplePolicy_slidingLog() {
	attempts := limiter.Policy{Name: "login", Algorithm: limiter.SlidingLog, Limit: 5, Window: time.Hour}
	m := limiter.NewMemory(nil)
	for range 6 {
		r, err := m.Take(context.Background(), limiter.Charge{Policy: attempts, Key: "ann", Cost: 1})
		if err != nil {
			panic(err)
		}
		fmt.Println(r.Allowed, r.Remaining)
	}
	// Output:
	// true 4
	// true 3
	// true 2
	// true 1
	// true 0
	// false 0
}

// A backend that bears twenty a second, evenly: what comes at once is told how
// long to wait and not refused, up to two seconds' worth. [limiter.Middleware]
// holds requests that long by itself.
func ExamplePolicy_leakyBucket() {
	paced := limiter.Policy{Name: "jobs", Algorithm: limiter.LeakyBucket, Limit: 20, Window: time.Second, Burst: 40}
	job := limiter.Charge{Policy: paced, Key: "backend", Cost: 1}
	rs, err := limiter.NewMemory(nil).TakeAll(context.Background(), []limiter.Charge{job, job, job})
	if err != nil {
		panic(err)
	}
	for _, r := range rs {
		fmt.Println(r.Allowed, r.Delay)
	}
	// Output:
	// true 0s
	// true 50ms
	// true 100ms
}
