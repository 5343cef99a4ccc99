package main_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/limiter"
)

func newInFlight(t *testing.T, opts limiter.InFlightOptions) *limiter.InFlight {
	t.Helper()
	f, err := limiter.NewInFlight(opts)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// taking takes a slot and gives it back.
func taking(t *testing.T, f *limiter.InFlight, s limiter.Slot) func(int) {
	ctx := context.Background()
	return func(n int) {
		for range n {
			release, err := f.Acquire(ctx, s)
			if err != nil {
				t.Error(err)
				return
			}
			release()
		}
	}
}

// TestInFlight compares a slot taken and given back, with nobody else there, with
// a send and a receive on a buffered channel: the semaphore that most people
// write.
func TestInFlight(t *testing.T) {
	channel := make(chan struct{}, 64)
	global := newInFlight(t, limiter.InFlightOptions{Max: 64, Queue: 64})
	keyed := newInFlight(t, limiter.InFlightOptions{Max: 64, MaxPerKey: 8, Queue: 64})
	adaptive := newInFlight(t, limiter.InFlightOptions{Max: 64, Queue: 64, Adaptive: &limiter.AdaptiveOptions{}})
	compare(t, "a slot taken and given back", options(false),
		pace.Case{Name: "channel", Run: func(n int) {
			for range n {
				channel <- struct{}{}
				<-channel
			}
		}},
		pace.Case{Name: "InFlight", Run: taking(t, global, limiter.Slot{})},
		pace.Case{Name: "InFlight, with a key", Run: taking(t, keyed, limiter.Slot{Key: "ann"})},
		pace.Case{Name: "InFlight, adaptive", Run: taking(t, adaptive, limiter.Slot{})},
	)
	compareLinks(t, "in flight",
		link{"weir", global.Middleware(nil, nil)},
		link{"weir, adaptive", adaptive.Middleware(nil, nil)})
}

// TestInFlightGrant compares what it costs to hand a slot on to the first of a
// short and of a long line, who waits again at its end.
func TestInFlightGrant(t *testing.T) {
	var cases []pace.Case
	for _, waiters := range []int{100, size(10_000)} {
		for _, keys := range []int{0, waiters} {
			opts := limiter.InFlightOptions{Max: 1, Queue: waiters, MaxWait: time.Hour}
			if keys > 0 {
				opts.MaxPerKey = 1
			}
			cases = append(cases, pace.Case{
				Name: fmt.Sprintf("%d waiting, %d keys", waiters, keys),
				Run:  handingOn(t, newInFlight(t, opts), waiters, keys),
			})
		}
	}
	compare(t, "a slot handed on", options(true), cases...)
}

func handingOn(t *testing.T, f *limiter.InFlight, waiters, keys int) func(int) {
	ctx, cancel := context.WithCancel(context.Background())
	first, err := f.Acquire(ctx, limiter.Slot{})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan func())
	var wg sync.WaitGroup
	for i := range waiters {
		var s limiter.Slot
		if keys > 0 {
			s.Key = fmt.Sprint(i % keys)
		}
		wg.Go(func() {
			for {
				release, err := f.Acquire(ctx, s)
				if err != nil {
					return
				}
				served <- release
			}
		})
	}
	for f.Snapshot().Waiting < waiters {
		time.Sleep(time.Millisecond)
	}
	t.Cleanup(func() { cancel(); first(); wg.Wait() })
	return func(n int) {
		for range n {
			first()
			first = <-served
		}
	}
}
