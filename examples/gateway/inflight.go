package main

import (
	"fmt"
	"net/http"
	"sync"

	"github.com/goweir/weir/examples/gateway/internal/config"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/redislimiter"
)

// overloaded is asked by every limit that wants it; it looks ten times a second
// whoever asks.
var overloaded = sync.OnceValues(func() (func() bool, error) { return limiter.NewLoadCheck(limiter.LoadOptions{}) })

// slots returns a limit on requests in flight, nil if there is none.
func (b *builder) slots(f *config.InFlight, field string) (limiter.Acquirer, error) {
	if !f.Set() {
		return nil, nil
	}
	var check func() bool
	if f.Load {
		var err error
		if check, err = overloaded(); err != nil {
			return nil, err
		}
	}
	a, err := b.acquirer(f, check)
	if err != nil {
		return nil, b.At(f.Pos, field, err)
	}
	b.chain.inFlight = append(b.chain.inFlight, a)
	return a, nil
}

// slot returns what says what a request of a route asks of a limit.
func (b *builder) slot(f *config.InFlight, r *config.Route) func(*http.Request) (limiter.Slot, error) {
	of := r.SlotOf(b.plan)
	if f.PerKey == 0 {
		return func(r *http.Request) (limiter.Slot, error) { return of(r), nil }
	}
	key := f.Key.Func(b.apiKey)
	return func(r *http.Request) (s limiter.Slot, err error) {
		s = of(r)
		s.Key, err = key(r)
		return s, err
	}
}

func (b *builder) acquirer(f *config.InFlight, check func() bool) (limiter.Acquirer, error) {
	name := "in-flight:" + f.Name
	if f.Shared {
		o := f.SharedOptions(b.Priorities(), b.Redis)
		o.Overloaded = check
		// The slots are on the server, so one that is made anew knows them, too.
		id := fmt.Sprint("shared ", config.Identity(*f), config.Identity(b.Redis), b.Priorities())
		a, _, err := reuse(b, name, id, func() (*redislimiter.InFlight, func(), error) {
			watch := b.chain.store.outages.watch("redis "+f.Name, b.observe)
			o.Failover.Observer = watch
			a, err := redislimiter.NewInFlight(b.chain.store.backend, o)
			return a, watch.end, err
		})
		return a, err
	}
	o := f.Options(b.Priorities())
	o.Overloaded = check
	a, kept, err := reuse(b, name, fmt.Sprint("adaptive ", o.Adaptive != nil, b.Priorities()), func() (*limiter.InFlight, func(), error) {
		a, err := limiter.NewInFlight(o)
		return a, nil, err
	})
	if kept {
		b.commit = append(b.commit, func() error { return a.Set(o) })
	}
	return a, err
}
