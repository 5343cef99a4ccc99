package crosstest

import (
	"context"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/goweir/weir/limiter"
)

// A tank is the token bucket or the leaky bucket of one quota, written from their
// description: a unit is worth Window/Limit rounded up, and the state is when the
// quota is whole again. What is simpler than the real one: all that was ever given back is
// summed up for good, a Reset starts an epoch whose older receipts are void, and
// nothing saturates.
type tank struct {
	whole time.Time     // when it is whole again
	given time.Duration // given back, ever
	turns bool          // somebody may be waiting for a turn before whole
	epoch int
}

// A note is what a model wrote down about a charge.
type note struct {
	booking *booking // of a ledger; the rest is of a tank

	paid  time.Duration
	until time.Time
	given time.Duration
	epoch int
}

func worth(p limiter.Policy, units int) time.Duration {
	unit := (p.Window + time.Duration(p.Limit) - 1) / time.Duration(p.Limit)
	return time.Duration(units) * unit
}

func burst(p limiter.Policy) int {
	if p.Burst == 0 {
		return p.Limit
	}
	return p.Burst
}

// until returns how long it takes until cost units fit, after others of this
// decision; never if they cannot.
func (k *tank) until(p limiter.Policy, cost int, others time.Duration) (_ time.Duration, never bool) {
	price, room := worth(p, cost), worth(p, burst(p))
	if cost > burst(p) || others > 0 && others+price > room {
		return 0, true
	}
	return k.owed() + others + price - room, false
}

func (k *tank) owed() time.Duration { return max(0, time.Until(k.whole)) }

func (k *tank) charge(c limiter.Charge) note {
	if k.owed() == 0 {
		k.whole, k.turns = time.Now(), false
	}
	k.whole = k.whole.Add(worth(c.Policy, c.Cost))
	k.turns = k.turns || c.MaxDelay > 0 || c.Policy.Algorithm == limiter.LeakyBucket
	return note{nil, worth(c.Policy, c.Cost), k.whole, k.given, k.epoch}
}

func (k *tank) refund(n note) {
	switch {
	case n.epoch != k.epoch:
	case k.turns && k.owed() > 0:
		if k.whole.Equal(n.until) && k.given == n.given { // nobody stands behind
			k.whole = k.whole.Add(-min(n.paid, k.owed()))
		}
	default:
		back := min(n.paid, time.Until(n.until)-(k.given-n.given))
		if back > 0 {
			k.whole = k.whole.Add(-back)
			k.given += back
		}
	}
}

func (k *tank) reset() {
	k.whole, k.turns = time.Now(), false
	k.epoch++
}

// A dam is the model of a whole limiter.
type dam struct {
	tanks   map[string]*tank
	ledgers map[string]*ledger
}

// name is what tells quotas apart.
func name(c limiter.Charge) string {
	s := c.Policy.Algorithm.String() + "/" + c.Policy.Name + "/" + c.Key
	if windowed(c.Policy.Algorithm) {
		s += "/" + c.Policy.Window.String()
	}
	return s
}

func (d dam) tank(c limiter.Charge) *tank {
	if d.tanks[name(c)] == nil {
		d.tanks[name(c)] = &tank{}
	}
	return d.tanks[name(c)]
}

func (d dam) ledger(c limiter.Charge) *ledger {
	if d.ledgers[name(c)] == nil {
		d.ledgers[name(c)] = &ledger{}
	}
	return d.ledgers[name(c)]
}

func (d dam) refund(c limiter.Charge, n note) {
	if n.booking != nil {
		n.booking.units = 0
	} else {
		d.tank(c).refund(n)
	}
}

func (d dam) reset(c limiter.Charge) {
	d.tank(c).reset()
	d.ledger(c).reset()
}

// takeAll returns the results, without receipts, and the notes of what was
// taken.
func (d dam) takeAll(cs []limiter.Charge) ([]limiter.Result, []note) {
	results, notes := make([]limiter.Result, len(cs)), make([]note, len(cs))
	all := true
	for i, c := range cs {
		r := &results[i]
		*r = limiter.Result{Limit: c.Policy.Limit, Source: limiter.SourceMemory}
		if c.Policy.Limit == 0 {
			r.RetryAfter, all = limiter.Never, false
			continue
		}
		if c.Cost == 0 {
			r.Allowed = true
			continue
		}
		var others time.Duration
		var units int
		for j, o := range cs[:i] {
			if name(o) == name(c) && results[j].Allowed {
				others += worth(o.Policy, o.Cost)
				units += o.Cost
			}
		}
		if windowed(c.Policy.Algorithm) {
			judged := d.ledger(c).judge(c, units)
			r.Allowed, r.RetryAfter = judged.Allowed, judged.RetryAfter
			all = all && r.Allowed
			continue
		}
		wait, never := d.tank(c).until(c.Policy, c.Cost, others)
		// late is how much later the turn would come than the caller waits. A
		// token bucket lets pass what fits, and the rest when it fits; a leaky
		// one lets nothing wait that does not fit, and everything until what
		// came before has passed.
		late, delay := wait-c.MaxDelay, max(0, wait)
		if c.Policy.Algorithm == limiter.LeakyBucket {
			late, delay = wait, d.tank(c).owed()+others
			if c.MaxDelay > 0 {
				late = max(late, delay-c.MaxDelay)
			}
		}
		switch {
		case never:
			r.RetryAfter = limiter.Never
		case late > 0:
			r.RetryAfter = late
		default:
			r.Allowed, r.Delay = true, delay
		}
		all = all && r.Allowed
	}
	for i, c := range cs {
		switch {
		case !all || c.Cost == 0:
		case windowed(c.Policy.Algorithm):
			notes[i] = note{booking: d.ledger(c).charge(c.Cost)}
		default:
			notes[i] = d.tank(c).charge(c)
		}
	}
	// What remains is told as it is in the end.
	for i, c := range cs {
		if c.Policy.Limit == 0 {
			continue
		}
		if windowed(c.Policy.Algorithm) {
			d.ledger(c).tell(c, &results[i])
			continue
		}
		k, r := d.tank(c), &results[i]
		r.ResetAfter = k.owed()
		for r.Remaining < burst(c.Policy) {
			if wait, _ := k.until(c.Policy, r.Remaining+1, 0); wait > 0 && k.owed() > 0 {
				break
			}
			r.Remaining++
		}
		if c.Cost == 0 {
			one, _ := k.until(c.Policy, 1, 0)
			r.RetryAfter = max(0, one)
		}
	}
	return results, notes
}

// A machine drives a limiter and its model through the same operations.
type machine struct {
	limiter  limiter.Limiter
	model    dam
	policies []limiter.Policy
	held     []*held
	last     limiter.Charge
}

type held struct {
	charge limiter.Charge
	result limiter.Result
	note   note
}

func drawPolicy(t *rapid.T, name string) limiter.Policy {
	p := limiter.Policy{
		Name:      name,
		Algorithm: rapid.SampledFrom(algorithms()).Draw(t, "algorithm"),
		Limit:     rapid.OneOf(rapid.IntRange(1, 5), rapid.IntRange(0, 30)).Draw(t, "limit"),
		Window:    rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, 7 * time.Second, time.Minute}).Draw(t, "window"),
		Burst:     rapid.OneOf(rapid.Just(0), rapid.IntRange(1, 40)).Draw(t, "burst"),
	}
	if windowed(p.Algorithm) {
		p.Burst = 0
	}
	return p
}

func (m *machine) drawCharge(t *rapid.T) limiter.Charge {
	// What is interesting happens between charges to the same quota, above all
	// between equal ones.
	if m.last.Cost > 0 && rapid.Bool().Draw(t, "again") {
		return m.last
	}
	p := rapid.SampledFrom(m.policies).Draw(t, "policy")
	c := limiter.Charge{
		Policy: p,
		Key:    rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "key"),
		Cost:   rapid.OneOf(rapid.IntRange(0, 3), rapid.IntRange(0, burst(p)+1)).Draw(t, "cost"),
	}
	if p.Limit > 0 && rapid.IntRange(0, 3).Draw(t, "waits") == 0 {
		c.MaxDelay = time.Duration(rapid.Int64Range(1, int64(worth(p, 4))).Draw(t, "maxDelay"))
	}
	m.last = c
	return c
}

func (m *machine) compare(t *rapid.T, cs []limiter.Charge, got []limiter.Result) {
	t.Helper()
	want, notes := m.model.takeAll(cs)
	for i := range cs {
		g := got[i]
		g.Receipt = limiter.Receipt{}
		if g != want[i] {
			t.Errorf("charge %d of %d, %+v:\n got %+v\nwant %+v", i, len(cs), cs[i], g, want[i])
		}
		if (got[i].Receipt != limiter.Receipt{}) != (notes[i] != note{}) {
			t.Errorf("charge %d of %d, %+v: receipt %+v, in the model %+v", i, len(cs), cs[i], got[i].Receipt, notes[i])
		}
		if got[i].Receipt != (limiter.Receipt{}) {
			m.held = append(m.held, &held{cs[i], got[i], notes[i]})
		}
	}
}

// Take also looks: a Cost of 0 is drawn often.
func (m *machine) Take(t *rapid.T) {
	c := m.drawCharge(t)
	r, err := m.limiter.Take(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	m.compare(t, []limiter.Charge{c}, []limiter.Result{r})
}

// TakeAll has the same quota twice more often than not.
func (m *machine) TakeAll(t *rapid.T) {
	var cs []limiter.Charge
	for range rapid.IntRange(1, 6).Draw(t, "charges") {
		cs = append(cs, m.drawCharge(t))
	}
	rs, err := m.limiter.TakeAll(context.Background(), cs)
	if err != nil || len(rs) != len(cs) {
		t.Fatalf("%d results, %v", len(rs), err)
	}
	m.compare(t, cs, rs)
}

// Refund gives back one of the latest charges, so the same one often twice: the
// second time, nothing may happen.
func (m *machine) Refund(t *rapid.T) {
	if len(m.held) == 0 {
		return // nothing was charged yet
	}
	h := m.held[max(0, len(m.held)-1-rapid.IntRange(0, 5).Draw(t, "age"))]
	first := h.result.Receipt != limiter.Receipt{}
	if err := m.limiter.Refund(context.Background(), h.charge, &h.result); err != nil {
		t.Fatal(err)
	}
	if h.result.Receipt != (limiter.Receipt{}) {
		t.Errorf("after a refund the receipt is %+v", h.result.Receipt)
	}
	if first {
		m.model.refund(h.charge, h.note)
	}
}

func (m *machine) Reset(t *rapid.T) {
	c := m.drawCharge(t)
	if err := m.limiter.Reset(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	m.model.reset(c)
}

// Change gives a policy another Limit, Window and Burst, and what is stored stays,
// or another Algorithm, which has a state of its own; with
// windows, so has another Window.
func (m *machine) Change(t *rapid.T) {
	i := rapid.IntRange(0, len(m.policies)-1).Draw(t, "which")
	m.policies[i] = drawPolicy(t, m.policies[i].Name)
	m.last = limiter.Charge{}
}

func (m *machine) Advance(t *rapid.T) {
	p := rapid.SampledFrom(m.policies).Draw(t, "policy")
	p.Limit = max(p.Limit, 1)
	time.Sleep(rapid.OneOf(
		rapid.Map(rapid.IntRange(0, 5), func(n int) time.Duration { return worth(p, n) }), // to the edges
		rapid.Map(rapid.Int64Range(0, int64(worth(p, burst(p)+1))), func(n int64) time.Duration { return time.Duration(n) }),
		rapid.Map(rapid.Int64Range(-1, 1), func(n int64) time.Duration { // to the edge of a window
			return p.Window - time.Duration(time.Now().UnixNano()%int64(p.Window)+n)
		}),
		rapid.Just(p.Window),
		rapid.Just(time.Nanosecond),
	).Draw(t, "sleep"))
}

// Check looks at every quota through every policy that has its name.
func (m *machine) Check(t *rapid.T) {
	for _, p := range m.policies {
		for _, key := range []string{"", "a", "b"} {
			c := limiter.Charge{Policy: p, Key: key}
			r, err := m.limiter.Take(context.Background(), c)
			if err != nil {
				t.Fatal(err)
			}
			m.compare(t, []limiter.Charge{c}, []limiter.Result{r})
		}
	}
}

// modelled runs a random sequence of operations in a bubble of its own:
// rapid.SyncTest makes one for every sequence, and rapid itself, which measures
// how long it may go on shrinking, stays in real time.
func modelled(t *rapid.T) {
	rapid.SyncTest(t, func(t *rapid.T) {
		m := &machine{limiter: limiter.NewMemory(nil), model: dam{map[string]*tank{}, map[string]*ledger{}}}
		for _, name := range []string{"p", "q"} {
			m.policies = append(m.policies, drawPolicy(t, name))
		}
		t.Repeat(rapid.StateMachineActions(m))
	})
}

func TestLimiterIsTheModel(t *testing.T) { rapid.Check(t, modelled) }

func FuzzLimiterIsTheModel(f *testing.F) { f.Fuzz(rapid.MakeFuzz(modelled)) }

// Costs, and what they are worth, at the ends of their ranges: nothing that can
// be asked overflows into an admission.
func TestExtremes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		extreme := func(label string, least int) int {
			return rapid.OneOf(
				rapid.IntRange(least, least+3), rapid.IntRange(math.MaxInt-3, math.MaxInt), rapid.IntMin(least),
			).Draw(t, label)
		}
		p := limiter.Policy{
			Name: "p", Limit: extreme("limit", 1), Burst: extreme("burst", 0),
			Window: time.Duration(extreme("window", 1000)),
		}
		m := limiter.NewMemory(nil)
		cost, more := extreme("cost", 1), extreme("more", 1)
		for i, c := range []int{cost, more} {
			r, err := m.Take(context.Background(), limiter.Charge{Policy: p, Key: "k", Cost: c})
			if err != nil {
				t.Fatal(err)
			}
			if c > burst(p) && (r.Allowed || r.RetryAfter != limiter.Never) {
				t.Errorf("charge %d, of %d: %+v, want Never", i, c, r)
			}
			if r.Remaining < 0 || r.Remaining > burst(p) || r.ResetAfter < 0 || r.RetryAfter < 0 || r.Delay != 0 {
				t.Errorf("charge %d, of %d: %+v", i, c, r)
			}
			if i == 0 && c <= burst(p) && !r.Allowed {
				t.Errorf("a whole quota refused %d: %+v", c, r)
			}
		}
	})
}
