package failover_test

import (
	"context"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
)

var plenty = limiter.Policy{Name: "plenty", Limit: 86400, Window: 24 * time.Hour, Burst: 1 << 40}

// none is a backend that costs nothing.
type none struct{ limiter.Limiter }

func (none) Take(context.Context, limiter.Charge) (limiter.Result, error) {
	return limiter.Result{Allowed: true, Source: limiter.SourceMemory}, nil
}

// refusing is a backend that fails.
type refusing struct{ limiter.Limiter }

func (refusing) Take(context.Context, limiter.Charge) (limiter.Result, error) {
	return limiter.Result{}, errBroken
}

// What a failover costs over the bare backend, and a decision while the breaker
// is open.
func BenchmarkTake(b *testing.B) {
	local := &failover.Options{Instances: 4}
	for _, bb := range []struct {
		name string
		l    limiter.Limiter
	}{
		{"bare/none", none{}},
		{"bare/memory", limiter.NewMemory(nil)},
		{"healthy/none", failover.New(none{}, failover.Local, local)},
		{"healthy/memory", failover.New(limiter.NewMemory(nil), failover.Local, local)},
		{"open/closed", failover.New(refusing{}, failover.Closed, nil)},
		{"open/open", failover.New(refusing{}, failover.Open, nil)},
		{"open/local", failover.New(refusing{}, failover.Local, local)},
	} {
		c := of(plenty, 1)
		b.Run(bb.name+"/serial", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bb.l.Take(context.Background(), c)
			}
		})
		b.Run(bb.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					bb.l.Take(context.Background(), c)
				}
			})
		})
	}
}

// A decision while the breaker is open allocates little, as there may be floods
// of them.
func TestAllocations(t *testing.T) {
	for _, tt := range []struct {
		name string
		l    limiter.Limiter
		want float64
	}{
		{"open breaker", failover.New(refusing{}, failover.Local, nil), 1},
		{"healthy", failover.New(none{}, failover.Local, nil), 12},
	} {
		c := of(plenty, 1)
		for range failover.DefaultFailures {
			tt.l.Take(t.Context(), c)
		}
		if n := testing.AllocsPerRun(200, func() { tt.l.Take(context.Background(), c) }); n > tt.want {
			t.Errorf("%s: %v allocations for a decision, want %v", tt.name, n, tt.want)
		}
	}
}
