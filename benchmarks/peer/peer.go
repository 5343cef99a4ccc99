// Package peer puts the rate limiters that Go programs use today behind one
// function, each through its public API, to be measured in one run.
package peer

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/go-chi/httprate"
	"github.com/sethvargo/go-limiter/memorystore"
	"github.com/throttled/throttled/v2"
	throttledstore "github.com/throttled/throttled/v2/store/memstore"
	ulule "github.com/ulule/limiter/v3"
	ululestore "github.com/ulule/limiter/v3/drivers/store/memory"
	"golang.org/x/time/rate"
)

// A Quota is what every decider is made with: Plenty is never used up, Few is
// used up by the first request, Thousand is a thousand a day.
type Quota int

const (
	Plenty Quota = iota
	Few
	Thousand
)

// A Decider takes one unit of key's quota and reports whether there was one.
type Decider struct {
	Name    string
	Unkeyed bool // one quota for all keys
	New     func(Quota) (take func(key string) bool, closer func())
}

func nothing() {}

// Deciders are the peers' decisions without any HTTP, as far as they can be
// taken without it.
var Deciders = []Decider{
	{Name: "x/time/rate in a sync.Map", New: func(q Quota) (func(string) bool, func()) {
		var limiters sync.Map
		limit, burst := q.rate()
		return func(key string) bool {
			l, ok := limiters.Load(key)
			if !ok {
				l, _ = limiters.LoadOrStore(key, rate.NewLimiter(limit, burst))
			}
			return l.(*rate.Limiter).Allow()
		}, nothing
	}},
	{Name: "x/time/rate, one limiter", Unkeyed: true, New: func(q Quota) (func(string) bool, func()) {
		l := rate.NewLimiter(q.rate())
		return func(string) bool { return l.Allow() }, nothing
	}},
	{Name: "sethvargo/go-limiter", New: func(q Quota) (func(string) bool, func()) {
		s := must(memorystore.New(&memorystore.Config{Tokens: uint64(q.perDay()), Interval: 24 * time.Hour}))
		ctx := context.Background()
		return func(key string) bool {
			_, _, _, ok, err := s.Take(ctx, key)
			return check(ok, err)
		}, func() { s.Close(ctx) }
	}},
	{Name: "ulule/limiter v3", New: func(q Quota) (func(string) bool, func()) {
		l, ctx := q.ulule(), context.Background()
		return func(key string) bool {
			c, err := l.Get(ctx, key)
			return check(!c.Reached, err)
		}, nothing
	}},
	{Name: "throttled v2", New: func(q Quota) (func(string) bool, func()) {
		l, ctx := q.throttled(), context.Background()
		return func(key string) bool {
			// Under contention it may answer with an error; that is a decision
			// not taken, and it is timed like one.
			limited, _, err := l.RateLimitCtx(ctx, key, 1)
			return err == nil && !limited
		}, nothing
	}},
	{Name: "go-chi/httprate", New: func(q Quota) (func(string) bool, func()) {
		l := httprate.NewRateLimiter(q.perDay(), 24*time.Hour, httprate.WithResponseHeaders(httprate.ResponseHeaders{}))
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
		return func(key string) bool { return !l.OnLimit(w, r, key) }, nothing
	}},
	{Name: "didip/tollbooth v7", New: func(q Quota) (func(string) bool, func()) {
		l := q.tollbooth()
		return func(key string) bool { return !l.LimitReached(key) }, nothing
	}},
}

func (q Quota) perDay() int {
	switch q {
	case Few:
		return 1
	case Thousand:
		return 1000
	}
	return 1 << 40
}

// rate is for those that know a burst: one a second, and so many at once that
// they are never used up.
func (q Quota) rate() (rate.Limit, int) {
	switch q {
	case Few:
		return 1e-9, 1
	case Thousand:
		return 1000.0 / (24 * 60 * 60), 1000
	}
	return 1, 1 << 30
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func check(ok bool, err error) bool {
	if err != nil {
		panic(err)
	}
	return ok
}

func (q Quota) ulule() *ulule.Limiter {
	// The cleaner would wake up while others are measured.
	store := ululestore.NewStoreWithOptions(ulule.StoreOptions{Prefix: "limiter", CleanUpInterval: 24 * time.Hour})
	return ulule.New(store, ulule.Rate{Period: 24 * time.Hour, Limit: int64(q.perDay())})
}

func (q Quota) throttled() *throttled.GCRARateLimiterCtx {
	quota := throttled.RateQuota{MaxRate: throttled.PerSec(1), MaxBurst: 1 << 30}
	if q != Plenty {
		quota = throttled.RateQuota{MaxRate: throttled.PerDay(q.perDay()), MaxBurst: q.perDay() - 1}
	}
	return must(throttled.NewGCRARateLimiterCtx(must(throttledstore.NewCtx(0)), quota))
}
