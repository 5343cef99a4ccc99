package limiter_test

import (
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

var windowed = []limiter.Algorithm{limiter.FixedWindow, limiter.SlidingWindow, limiter.SlidingLog}

// naive counts windows from a list of everything that was admitted: slow,
// simple, exact.
type naive struct{ events []*passed }

type passed struct{ at, units int64 }

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// used returns how many units weigh at an instant of Unix time.
func (n *naive) used(p limiter.Policy, now int64) int64 {
	w := int64(p.Window)
	var current, previous, inside int64
	for _, e := range n.events {
		switch floorDiv(now, w) - floorDiv(e.at, w) {
		case 0:
			current += e.units
		case 1:
			previous += e.units
		}
		if e.at > now-w {
			inside += e.units
		}
	}
	switch p.Algorithm {
	case limiter.FixedWindow:
		return current
	case limiter.SlidingWindow:
		left := (floorDiv(now, w)+1)*w - now
		return current + ceilDiv(new(big.Int).Mul(num(previous), num(left)), num(w)).Int64()
	}
	return inside
}

func (n *naive) remaining(p limiter.Policy, now int64) int64 {
	return max(0, int64(p.Limit)-n.used(p, now))
}

// check holds a result against the list. The charge was made at now, when there
// was room for cost or not; the list has it already.
func (n *naive) check(p limiter.Policy, now int64, cost int, fits bool, r limiter.Result) (fault string) {
	left := n.remaining(p, now)
	turns := func(d time.Duration, from, to bool, ok func(at int64) bool) bool {
		return ok(now+int64(d)-1) == from && ok(now+int64(d)) == to
	}
	switch {
	case r.Allowed != fits:
		return "Allowed"
	case r.Limit != p.Limit || r.Delay != 0 || r.Source != limiter.SourceMemory || (r.Receipt != limiter.Receipt{}) != (fits && cost > 0):
		return "Limit, Delay, Source or Receipt"
	case int64(r.Remaining) != left:
		return "Remaining"
	case fits && cost > 0 && r.RetryAfter != 0:
		return "RetryAfter of what is allowed"
	case cost > p.Limit:
		if r.RetryAfter != limiter.Never {
			return "RetryAfter, want never"
		}
	case !fits || cost == 0 && left == 0:
		if !turns(r.RetryAfter, false, true, func(at int64) bool { return n.remaining(p, at) >= int64(max(cost, 1)) }) {
			return "RetryAfter"
		}
	}
	used := n.used(p, now) > 0
	if used != (r.ResetAfter > 0) || used && !turns(r.ResetAfter, false, true, func(at int64) bool { return n.used(p, at) == 0 }) {
		return "ResetAfter"
	}
	more := left < int64(p.Limit)
	if more != (r.MoreAfter > 0) || more && !turns(r.MoreAfter, false, true, func(at int64) bool { return n.remaining(p, at) > left }) {
		return "MoreAfter"
	}
	return ""
}

func randomWindow(rnd *rand.Rand, a limiter.Algorithm) limiter.Policy {
	windows := []time.Duration{time.Microsecond, 1001, 1500, time.Millisecond, time.Second, 7 * time.Second, time.Minute, time.Hour, 24 * time.Hour}
	limits := []int{1, 2, 3, 7, 10, 60, 100, 999, 999_983, 1<<37 - 1}
	p := per(windows[rnd.IntN(len(windows))], limits[rnd.IntN(len(limits))], 0)
	p.Algorithm = a
	return p
}

func windowTrace(t *testing.T, seed uint64, steps int) {
	inTime(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, 11))
		p := randomWindow(rnd, windowed[rnd.IntN(len(windowed))])
		time.Sleep(time.Duration(rnd.Int64N(int64(p.Window)))) // so that windows do not begin with the Memory
		m, n := limiter.NewMemory(nil), &naive{}
		type held struct {
			c limiter.Charge
			r limiter.Result
			e *passed
		}
		var open []held
		var last limiter.Result
		for i := range steps {
			now := time.Now().UnixNano()
			switch k := rnd.IntN(22); {
			case k >= 20: // to where something changes
				if d := []time.Duration{last.RetryAfter, last.MoreAfter, last.ResetAfter}[rnd.IntN(3)]; d < 2*p.Window {
					time.Sleep(d)
				}
			case k < 4:
				time.Sleep(time.Duration(rnd.Int64N(int64(p.Window)/4 + 2)))
			case k == 4:
				time.Sleep(time.Duration(rnd.Int64N(2*int64(p.Window) + 1)))
			case k == 5 && rnd.IntN(4) == 0:
				p.Limit = randomWindow(rnd, p.Algorithm).Limit
			case k == 6 && rnd.IntN(8) == 0:
				if err := m.Reset(t.Context(), of(p, 0)); err != nil {
					t.Fatal(err)
				}
				n.events = nil
			case k < 10 && len(open) > 0:
				j := rnd.IntN(len(open))
				h := open[j]
				open = append(open[:j], open[j+1:]...)
				refund(t, m, h.c, &h.r)
				h.e.units = 0
			case k == 10: // all or nothing, with another and with itself
				a, b := 1+rnd.IntN(max(1, p.Limit/3)), 1+rnd.IntN(max(1, p.Limit/3))
				fits := n.remaining(p, now) >= int64(a+b)
				rs := takeAll(t, m, of(p, a), of(limiter.PerDay("other", 1<<30), 1), of(p, b))
				if got := rs[0].Allowed && rs[2].Allowed; got != fits || !rs[1].Allowed {
					t.Fatalf("seed %d, step %d: TakeAll of %d and %d = %+v, want %v", seed, i, a, b, rs, fits)
				}
				if fits {
					e := &passed{now, int64(a + b)}
					n.events = append(n.events, e)
					if rnd.IntN(2) == 0 {
						c := of(p, a)
						refund(t, m, c, &rs[0])
						e.units = int64(b)
					}
				}
			default:
				cost := rnd.IntN(4)
				if rnd.IntN(4) == 0 {
					cost = rnd.IntN(p.Limit + 2)
				}
				c := of(p, cost)
				if rnd.IntN(4) == 0 {
					c.MaxDelay = time.Duration(rnd.Int64()) // there are no turns
				}
				fits := cost <= p.Limit && (cost == 0 || n.remaining(p, now) >= int64(cost))
				r := take(t, m, c)
				if fits && cost > 0 {
					e := &passed{now, int64(cost)}
					n.events = append(n.events, e)
					open = append(open, held{c, r, e})
				}
				last = r
				if fault := n.check(p, now, cost, fits, r); fault != "" {
					t.Fatalf("seed %d, step %d: %v: Take(%+v) = %+v: wrong %s", seed, i, p.Algorithm, c, r, fault)
				}
			}
		}
	})
}

// Windows decide as a list of everything would, and say as much about it.
func TestWindowsAgainstList(t *testing.T) {
	traces := uint64(2000)
	if testing.Short() {
		traces = 200
	}
	for seed := range traces {
		windowTrace(t, seed, 200)
	}
}

func FuzzWindowsAgainstList(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) { windowTrace(t, seed, 300) })
}
