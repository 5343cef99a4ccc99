package fifo_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/goweir/weir/internal/fifo"
)

func BenchmarkAcquireRelease(b *testing.B) {
	for _, key := range []string{"", "k"} {
		b.Run("key="+key, func(b *testing.B) {
			l := fifo.New(fifo.Size{Slots: 64, Length: 64, PerKey: 8}, 1)
			r := fifo.Request{Key: key, N: 1}
			b.ReportAllocs()
			for b.Loop() {
				h, err := l.Acquire(b.Context(), r)
				if err != nil {
					b.Fatal(err)
				}
				l.Release(h)
			}
		})
	}
}

// BenchmarkGrant gives a slot back to the first of a long line, who waits again
// at its end.
func BenchmarkGrant(b *testing.B) {
	for _, waiters := range []int{100, 10_000} {
		b.Run(fmt.Sprint(waiters), func(b *testing.B) {
			l := fifo.New(fifo.Size{Slots: 1, Length: waiters}, 1)
			served := make(chan fifo.Held)
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			held, _ := l.TryAcquire(fifo.Request{N: 1})
			for range waiters {
				go func() {
					for {
						h, err := l.Acquire(ctx, fifo.Request{N: 1})
						if err != nil {
							return
						}
						served <- h
					}
				}()
			}
			for l.Stats().Waiting < waiters {
			}
			for b.Loop() {
				l.Release(held)
				held = <-served
			}
		})
	}
}
