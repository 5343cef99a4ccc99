package limiter_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/goweir/weir/limiter"
)

// Do not do this. Clients write X-Forwarded-For themselves: who changes it with
// every request has a fresh quota for every request, and who writes somebody
// else's address uses up theirs. Key by [limiter.KeyByClientIP] and tell
// package clientip which proxies to believe.
func ExampleKeyByHeader_incorrect() {
	limit := limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{
		{Policy: limiter.PerHour("client", 1), Key: limiter.KeyByHeader("X-Forwarded-For")},
	}, nil)
	handler := limit(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))

	passed := 0
	for i := range 1000 {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-Forwarded-For", fmt.Sprintf("198.51.%d.%d", i/256, i%256))
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code == http.StatusOK {
			passed++
		}
	}
	fmt.Println(passed, "requests of one client passed a limit of 1 an hour")
	// Output: 1000 requests of one client passed a limit of 1 an hour
}
