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

// slots returns a limit on requests in flight, nil if there is none, and what
// says what a request asks of it.
func (b *builder) slots(f *config.InFlight, field string) (limiter.Acquirer, func(*http.Request) (limiter.Slot, error), error) {
	if !f.Set() {
		return nil, nil, nil
	}
	var check func() bool
	if f.Load {
		var err error
		if check, err = overloaded(); err != nil {
			return nil, nil, err
		}
	}
	a, err := b.acquirer(f, check)
	if err != nil {
		return nil, nil, b.At(f.Pos, field, err)
	}
	b.chain.inFlight = append(b.chain.inFlight, a)
	if f.PerKey == 0 {
		return a, nil, nil
	}
	key := f.Key.Func(b.apiKey)
	return a, func(r *http.Request) (limiter.Slot, error) {
		k, err := key(r)
		return limiter.Slot{Key: k}, err
	}, nil
}

func (b *builder) acquirer(f *config.InFlight, check func() bool) (limiter.Acquirer, error) {
	name := "in-flight:" + f.Name
	if f.Shared {
		o := f.SharedOptions(b.Redis)
		o.Overloaded = check
		// The slots are on the server, so one that is made anew knows them, too.
		id := "shared " + config.Identity(*f) + config.Identity(b.Redis)
		a, _, err := reuse(b, name, id, func() (*redislimiter.InFlight, func(), error) {
			a, err := redislimiter.NewInFlight(b.chain.store.backend, o)
			return a, nil, err
		})
		return a, err
	}
	o := f.Options()
	o.Overloaded = check
	a, kept, err := reuse(b, name, fmt.Sprint("adaptive ", o.Adaptive != nil), func() (*limiter.InFlight, func(), error) {
		a, err := limiter.NewInFlight(o)
		return a, nil, err
	})
	if kept {
		b.commit = append(b.commit, func() error { return a.Set(o) })
	}
	return a, err
}
