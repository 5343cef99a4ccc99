package limiter_test

import (
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

// model is a token or leaky bucket in arbitrary precision, written from the description
// of the state and not from the code: no saturation, no clever division.
type model struct {
	arrival, given *big.Int
	turns          bool
}

func newModel() *model { return &model{arrival: new(big.Int), given: new(big.Int)} }

func num(n int64) *big.Int { return big.NewInt(n) }

func ceilDiv(a, b *big.Int) *big.Int {
	q, r := new(big.Int).DivMod(a, b, new(big.Int))
	if r.Sign() > 0 {
		q.Add(q, num(1))
	}
	return q
}

func greater(a, b *big.Int) *big.Int {
	if a.Cmp(b) > 0 {
		return new(big.Int).Set(a)
	}
	return new(big.Int).Set(b)
}

func burstOf(p limiter.Policy) int {
	if p.Burst == 0 {
		return p.Limit
	}
	return p.Burst
}

// price and capacity in nanoseconds.
func price(p limiter.Policy, cost int) *big.Int {
	if int64(p.Window)/int64(p.Limit) >= 1000 {
		return new(big.Int).Mul(num(int64(cost)), ceilDiv(num(int64(p.Window)), num(int64(p.Limit))))
	}
	return ceilDiv(new(big.Int).Mul(num(int64(cost)), num(int64(p.Window))), num(int64(p.Limit)))
}

func capacity(p limiter.Policy) *big.Int {
	if int64(p.Window)/int64(p.Limit) >= 1000 {
		return price(p, burstOf(p))
	}
	c := new(big.Int).Mul(num(int64(burstOf(p))), num(int64(p.Window)))
	return c.Div(c, num(int64(p.Limit)))
}

type receipt struct{ paid, until, given *big.Int }

func (m *model) take(p limiter.Policy, now int64, cost int, maxDelay time.Duration) (limiter.Result, *receipt) {
	r := limiter.Result{Limit: p.Limit, Source: limiter.SourceMemory}
	n := num(now)
	var got *receipt
	switch {
	case cost > burstOf(p):
		r.RetryAfter = limiter.Never
	default:
		asked := max(cost, 1)
		start := greater(m.arrival, n)
		slack := greater(new(big.Int).Sub(capacity(p), price(p, asked)), num(0))
		wait := new(big.Int).Sub(start, slack)
		wait.Sub(wait, n)
		if cost == 0 {
			r.Allowed = true
			r.RetryAfter = time.Duration(greater(wait, num(0)).Int64())
			break
		}
		leaky := p.Algorithm == limiter.LeakyBucket
		turn := greater(wait, num(0))
		lack := new(big.Int).Sub(wait, num(int64(maxDelay)))
		if leaky {
			turn = new(big.Int).Sub(start, n)
			lack = wait
			if maxDelay > 0 {
				lack = greater(wait, new(big.Int).Sub(turn, num(int64(maxDelay))))
			}
		}
		if lack.Sign() > 0 {
			r.RetryAfter = time.Duration(lack.Int64())
			break
		}
		r.Allowed = true
		r.Delay = time.Duration(turn.Int64())
		if new(big.Int).Add(m.arrival, m.given).Cmp(n) <= 0 {
			m.given = new(big.Int)
		}
		if m.arrival.Cmp(n) <= 0 {
			m.turns = false
		}
		m.turns = m.turns || leaky || maxDelay > 0
		m.arrival = start.Add(start, price(p, cost))
		got = &receipt{price(p, cost), new(big.Int).Set(m.arrival), new(big.Int).Set(m.given)}
	}
	ahead := new(big.Int).Sub(m.arrival, n)
	r.ResetAfter = time.Duration(greater(ahead, num(0)).Int64())
	// The largest charge that would fit at once, by bisection.
	lo, hi := 0, burstOf(p)
	for lo < hi {
		mid := lo + (hi-lo+1)/2
		if ahead.Sign() <= 0 || new(big.Int).Add(ahead, price(p, mid)).Cmp(capacity(p)) <= 0 {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	r.Remaining = lo
	return r, got
}

func (m *model) refund(now int64, r *receipt) {
	n := num(now)
	if m.turns && m.arrival.Cmp(n) > 0 {
		if m.arrival.Cmp(r.until) == 0 && m.given.Cmp(r.given) == 0 {
			m.arrival = greater(new(big.Int).Sub(m.arrival, r.paid), n)
		}
		return
	}
	left := new(big.Int).Sub(r.until, new(big.Int).Sub(m.given, r.given))
	left.Sub(left, n)
	if left.Cmp(r.paid) > 0 {
		left = r.paid
	}
	if left.Sign() > 0 {
		m.arrival = new(big.Int).Sub(m.arrival, left)
		m.given = new(big.Int).Add(m.given, left)
	}
}

// policies for random traces: whole and broken units, fine and coarse, capacity
// above and below Limit.
func randomPolicy(rnd *rand.Rand) limiter.Policy {
	windows := []time.Duration{time.Microsecond, 1500, time.Millisecond, time.Second, 7 * time.Second, time.Minute, time.Hour, 24 * time.Hour}
	limits := []int{1, 2, 3, 7, 10, 60, 100, 999, 1000, 999_983, 1_000_000, 300_000_000, 4_000_000_001}
	p := per(windows[rnd.IntN(len(windows))], limits[rnd.IntN(len(limits))], 0)
	if rnd.IntN(2) == 0 {
		p.Burst = 1 + rnd.IntN(2*min(p.Limit, 1000))
	}
	if rnd.IntN(4) == 0 {
		p.Algorithm = limiter.LeakyBucket
	}
	return p
}

// A trace is a random walk over one key. It is driven by one number, so that a
// failure can be repeated.
func trace(t *testing.T, seed uint64, steps int) {
	inTime(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		mem, mod := limiter.NewMemory(nil), newModel()
		start := time.Now()
		p := randomPolicy(rnd)
		unit := time.Duration(max(1, int64(p.Window)/int64(p.Limit)))
		type held struct {
			c limiter.Charge
			r limiter.Result
			m *receipt
		}
		var open []held
		for i := range steps {
			switch n := rnd.IntN(20); {
			case n < 5:
				time.Sleep(time.Duration(rnd.Int64N(int64(2*unit) + 1)))
			case n == 5:
				time.Sleep(time.Duration(rnd.Int64N(int64(p.Window) + 1)))
			case n == 6 && rnd.IntN(5) == 0:
				q := randomPolicy(rnd)
				p.Limit, p.Window, p.Burst = q.Limit, q.Window, q.Burst
			case n < 11 && len(open) > 0:
				k := rnd.IntN(len(open))
				h := open[k]
				open = append(open[:k], open[k+1:]...)
				refund(t, mem, h.c, &h.r)
				mod.refund(int64(time.Since(start)), h.m)
			default:
				cost := rnd.IntN(4)
				if rnd.IntN(4) == 0 {
					cost = rnd.IntN(burstOf(p) + 2)
				}
				c := of(p, cost)
				if rnd.IntN(4) == 0 {
					c.MaxDelay = time.Duration(rnd.Int64N(int64(3*unit) + 1))
				}
				got := take(t, mem, c)
				want, m := mod.take(p, int64(time.Since(start)), c.Cost, c.MaxDelay)
				want.Receipt = got.Receipt
				if got != want {
					t.Fatalf("seed %d, step %d: Take(%+v)\n got %+v\nwant %+v", seed, i, c, got, want)
				}
				if m != nil {
					open = append(open, held{c, got, m})
				}
			}
		}
	})
}

func TestAgainstModel(t *testing.T) {
	traces := uint64(2000)
	if testing.Short() {
		traces = 200
	}
	for seed := range traces {
		trace(t, seed, 200)
	}
}

func FuzzAgainstModel(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) { trace(t, seed, 300) })
}

// ideal is a token bucket that never rounds, fed with what really passed.
type ideal struct {
	burst, unit *big.Rat // units; nanoseconds a unit
	arrival     *big.Rat
}

func newIdeal(p limiter.Policy) *ideal {
	return &ideal{
		burst:   new(big.Rat).SetInt64(int64(burstOf(p))),
		unit:    big.NewRat(int64(p.Window), int64(p.Limit)),
		arrival: new(big.Rat),
	}
}

// overflows reports whether cost units at now are too many.
func (b *ideal) overflows(now int64, cost int) bool {
	n := new(big.Rat).SetInt64(now)
	if b.arrival.Cmp(n) < 0 {
		b.arrival.Set(n)
	}
	b.arrival.Add(b.arrival, new(big.Rat).Mul(b.unit, new(big.Rat).SetInt64(int64(cost))))
	ahead := new(big.Rat).Sub(b.arrival, n)
	return ahead.Cmp(new(big.Rat).Mul(b.unit, b.burst)) > 0
}

// Whatever is given back, and whenever: what was admitted and kept never
// exceeds what the policy allows in any interval.
func TestRefundsNeverOverAdmit(t *testing.T) {
	schedules := uint64(5000)
	if testing.Short() {
		schedules = 500
	}
	for seed := range schedules {
		refundSchedule(t, seed)
	}
}

func FuzzRefundSchedule(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed)
	}
	f.Fuzz(refundSchedule)
}

func refundSchedule(t *testing.T, seed uint64) {
	inTime(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		p := randomPolicy(rnd)
		p.Limit = min(p.Limit, 1_000_000)
		if p.Burst == 0 || rnd.IntN(2) == 0 {
			p.Burst = 1 + rnd.IntN(min(12, p.Limit))
		}
		// Round numbers make different charges end at the same instant.
		unit := max(1, int64(p.Window)/int64(p.Limit))
		mode := rnd.IntN(3) // no turns, only turns, both
		m, start := limiter.NewMemory(nil), time.Now()
		type event struct {
			c      limiter.Charge
			r      limiter.Result
			passes int64
			kept   bool
		}
		var events []*event
		for range 60 {
			switch rnd.IntN(6) {
			case 0, 1:
				time.Sleep(time.Duration(unit * rnd.Int64N(4) / (1 + rnd.Int64N(2))))
			case 2:
				if len(events) > 0 {
					e := events[rnd.IntN(len(events))]
					refund(t, m, e.c, &e.r)
					e.kept = false
				}
			case 3:
				if rnd.IntN(8) == 0 {
					// Resets are an admission on purpose: begin anew.
					for _, e := range events {
						e.kept = false
					}
					if err := m.Reset(t.Context(), of(p, 0)); err != nil {
						t.Fatal(err)
					}
				}
			default:
				c := of(p, 1+rnd.IntN(p.Burst))
				if mode == 1 || mode == 2 && rnd.IntN(2) == 0 {
					c.MaxDelay = time.Duration(unit * (1 + rnd.Int64N(2*int64(p.Burst))))
				}
				if r := take(t, m, c); r.Allowed {
					events = append(events, &event{c, r, int64(time.Since(start) + r.Delay), true})
				}
			}
		}
		b := newIdeal(p)
		free := new(big.Int) // when the pace of a LeakyBucket lets the next one pass
		for i, e := range events {
			if e.kept && p.Algorithm == limiter.LeakyBucket {
				if num(e.passes).Cmp(free) < 0 {
					t.Fatalf("seed %d: %d/%v: event %d passes at %v, before its turn at %v", seed, p.Limit, p.Window, i, e.passes, free)
				}
				free.Add(num(e.passes), ceilDiv(new(big.Int).Mul(num(int64(e.c.Cost)), num(int64(p.Window))), num(int64(p.Limit))))
			}
			if e.kept && b.overflows(e.passes, e.c.Cost) {
				t.Fatalf("seed %d: %d/%v burst %d: too much at event %d, %v", seed, p.Limit, p.Window, p.Burst, i, time.Duration(e.passes))
			}
		}
	})
}
