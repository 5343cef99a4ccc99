package limiter

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// The short way of deciding about several charges has the results of the general
// one, to the receipt.
func TestTakeAllKnownAgainstAny(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		policies := []Policy{
			{Name: "a", Limit: 10, Window: time.Second},
			{Name: "b", Limit: 3, Window: time.Second, Burst: 20},
			{Name: "c", Limit: 300_000_000, Window: time.Second, Burst: 7},
			{Name: "d", Limit: 5, Window: time.Minute, Algorithm: LeakyBucket},
		}
		rnd := rand.New(rand.NewPCG(1, 24))
		short, general := NewMemory(nil), NewMemory(nil)
		for i := range policies {
			short.remember(short.planOf(&policies[i]))
		}
		known, refused := 0, 0
		for step := range 20_000 {
			var cs []Charge
			for range 1 + rnd.IntN(5) {
				p := rnd.IntN(len(policies) - 1)
				if rnd.IntN(20) == 0 {
					p++
				}
				cs = append(cs, Charge{Policy: policies[p], Key: string('a' + rune(rnd.IntN(8))), Cost: 1 + rnd.IntN(3)})
				if rnd.IntN(40) == 0 {
					cs[0].Cost = rnd.IntN(2) * 30
				}
			}
			want := general.takeAllAny(ctx, cs)
			got := short.takeAllKnown(cs)
			if got == nil {
				got = short.takeAllAny(ctx, cs)
			} else {
				known++
			}
			back := rnd.IntN(8) == 0
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("step %d, charge %d of %+v:\n got %+v\nwant %+v", step, i, cs, got[i], want[i])
				}
				if !got[i].Allowed {
					refused++
				}
				if back {
					short.Refund(ctx, cs[i], &got[i])
					general.Refund(ctx, cs[i], &want[i])
				}
			}
			if rnd.IntN(3) == 0 {
				time.Sleep(time.Duration(rnd.Int64N(int64(time.Second / 4))))
			}
		}
		if known < 5_000 || refused < 1_000 {
			t.Errorf("%d decisions of the short way, %d refusals: too few to tell", known, refused)
		}
	})
}
