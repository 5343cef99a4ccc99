package peer

import (
	"net/http"
	"time"

	"github.com/didip/tollbooth/v7"
	tollboothlimiter "github.com/didip/tollbooth/v7/limiter"
	"github.com/go-chi/httprate"
	"github.com/sethvargo/go-limiter/httplimit"
	"github.com/sethvargo/go-limiter/memorystore"
	"github.com/throttled/throttled/v2"
	"github.com/ulule/limiter/v3/drivers/middleware/stdlib"
)

// A Middleware is a peer's own, with its own header fields and refusals, keyed
// by the field of that name; tollbooth by address and path, as it does without
// being told.
type Middleware struct {
	Name string
	New  func(q Quota, field string) func(http.Handler) http.Handler
}

// Middlewares are those of the peers that have one for net/http.
var Middlewares = []Middleware{
	{"sethvargo/go-limiter httplimit", func(q Quota, field string) func(http.Handler) http.Handler {
		s := must(memorystore.New(&memorystore.Config{Tokens: uint64(q.perDay()), Interval: 24 * time.Hour}))
		m := must(httplimit.NewMiddleware(s, func(r *http.Request) (string, error) { return r.Header.Get(field), nil }))
		return m.Handle
	}},
	{"ulule/limiter v3 stdlib", func(q Quota, field string) func(http.Handler) http.Handler {
		key := func(r *http.Request) string { return r.Header.Get(field) }
		return stdlib.NewMiddleware(q.ulule(), stdlib.WithKeyGetter(key)).Handler
	}},
	{"throttled v2", func(q Quota, field string) func(http.Handler) http.Handler {
		m := &throttled.HTTPRateLimiterCtx{RateLimiter: q.throttled(), VaryBy: &throttled.VaryBy{Headers: []string{field}}}
		return m.RateLimit
	}},
	{"go-chi/httprate", func(q Quota, field string) func(http.Handler) http.Handler {
		key := func(r *http.Request) (string, error) { return r.Header.Get(field), nil }
		return httprate.LimitBy(q.perDay(), 24*time.Hour, key)
	}},
	{"didip/tollbooth v7", func(q Quota, _ string) func(http.Handler) http.Handler {
		l := q.tollbooth()
		return func(next http.Handler) http.Handler { return tollbooth.LimitHandler(l, next) }
	}},
}

func (q Quota) tollbooth() *tollboothlimiter.Limiter {
	limit, burst := q.rate()
	// What it forgets by itself is no matter here.
	return tollbooth.NewLimiter(float64(limit), &tollboothlimiter.ExpirableOptions{DefaultExpirationTTL: time.Hour}).SetBurst(burst)
}
