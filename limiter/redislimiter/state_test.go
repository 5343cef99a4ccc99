package redislimiter_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/redislimiter"
)

// bench is a server with a Limiter whose keys are looked at.
type bench struct {
	*redislimiter.Limiter
	s      *redistest.Server
	prefix string
}

func newBench(t testing.TB, s *redistest.Server, o redislimiter.Options) *bench {
	t.Helper()
	opts := fresh(o)
	l, err := redislimiter.New(client(t, s.Addr()), opts)
	if err != nil {
		t.Fatal(err)
	}
	return &bench{l, s, opts.Prefix}
}

// ttl returns the time to live of a key in milliseconds: -1 for ever, -2 no key.
func (b *bench) ttl(t testing.TB, key string) int {
	t.Helper()
	ms, err := strconv.Atoi(b.s.Do("PTTL", key))
	if err != nil {
		t.Fatal(err)
	}
	return ms
}

func (b *bench) key(t testing.TB) string { t.Helper(); return onlyKey(t, b.s, b.prefix) }

func with(a limiter.Algorithm, limit int, window time.Duration) limiter.Policy {
	return limiter.Policy{Name: a.String(), Algorithm: a, Limit: limit, Window: window}
}

// A key lives until its quota is whole, and not a moment less: its time to live
// is rounded up.
func TestTrapLimiter02_LivesUntilWhole(t *testing.T) {
	s := redistest.Start(t)
	for _, a := range algorithms {
		for _, p := range []limiter.Policy{with(a, 3, time.Minute), with(a, 40, time.Hour), with(a, 1, 36*time.Second), with(a, 7, 10001*time.Millisecond)} {
			b := newBench(t, s, redislimiter.Options{})
			for range 2 {
				begin := time.Now()
				r := take(t, b, charge(p, "k", 1))
				lives := time.Duration(b.ttl(t, b.key(t))) * time.Millisecond
				// Some time has passed since it was decided, by a clock that may have
				// been set by a little.
				const set = 20 * time.Millisecond
				if passed := time.Since(begin); lives > r.ResetAfter+time.Millisecond+set || lives < r.ResetAfter-passed-set {
					t.Errorf("%+v: whole in %v, key lives for %v, %v later at most", p, r.ResetAfter, lives, passed)
				}
			}
		}
	}
	// 40 a minute without a burst, hammered: elsewhere 12 in 12 s. Here 4 a
	// second, for 2 s.
	b := newBench(t, s, redislimiter.Options{})
	p := limiter.Policy{Name: "p", Limit: 240, Window: time.Minute, Burst: 1}
	begin, n := time.Now(), 0
	for time.Since(begin) < 2*time.Second {
		if take(t, b, charge(p, "k", 1)).Allowed {
			n++
		}
		time.Sleep(time.Millisecond)
	}
	if most := 1 + int(time.Since(begin)/(250*time.Millisecond)); n > most {
		t.Errorf("%d admitted in %v, at most %d are allowed", n, time.Since(begin), most)
	}
}

// A quota that is whole in less than a millisecond is stored nevertheless.
func TestTrapLimiter04_NeverATTLOf0(t *testing.T) {
	s := redistest.Start(t)
	for _, a := range algorithms {
		b := newBench(t, s, redislimiter.Options{})
		p := with(a, 1000, time.Microsecond)
		if a <= limiter.LeakyBucket {
			p.Burst = 1
		}
		for range 20 {
			take(t, b, charge(p, "k", 1)) // an error would be the trap
		}
	}
}

// The server's numbers are not compared with strings: every write sets a time to
// live.
func TestTrapLimiter22_EveryWriteHasATTL(t *testing.T) {
	s := redistest.Start(t)
	for _, a := range algorithms {
		b := newBench(t, s, redislimiter.Options{})
		c := charge(with(a, 10, time.Hour), "k", 3)
		alive := func(what string) {
			t.Helper()
			if keys := strings.Fields(s.Do("KEYS", b.prefix+":*")); len(keys) > 0 && b.ttl(t, keys[0]) <= 0 {
				t.Errorf("%v: after %s the time to live is %d", a, what, b.ttl(t, keys[0]))
			}
		}
		r := take(t, b, c)
		alive("a charge")
		take(t, b, c)
		alive("a second one")
		take(t, b, charge(c.Policy, "k", 9))
		alive("a refusal")
		if err := b.Refund(t.Context(), c, &r); err != nil {
			t.Error(err)
		}
		alive("a refund")
		if err := b.Reset(t.Context(), c); err != nil {
			t.Error(err)
		}
		alive("a reset")
		take(t, b, c)
		alive("a charge after it")
	}
}

// A key that lost its time to live gets it back, from a charge that is granted
// and from one that is refused, alone and with others.
func TestTrapLimiter23_ALostTTLIsRepaired(t *testing.T) {
	s := redistest.Start(t)
	for _, a := range algorithms {
		for _, cost := range []int{1, 9, 11} {
			for _, others := range []int{0, 2} {
				b := newBench(t, s, redislimiter.Options{})
				c := charge(with(a, 10, time.Hour), "k", 5)
				before := take(t, b, c)
				key := b.key(t)
				s.Do("PERSIST", key)
				c.Cost = cost
				cs := []limiter.Charge{c}
				for i := range others {
					cs = append(cs, charge(still("other", 5), fmt.Sprint(i), 1))
				}
				rs, err := b.TakeAll(t.Context(), cs)
				if err != nil || rs[0].Allowed != (cost == 1) {
					t.Fatalf("%v: %+v, %v", a, rs, err)
				}
				whole := rs[0].ResetAfter.Milliseconds()
				if ms := b.ttl(t, key); ms <= 0 || int64(ms) > whole+1 {
					t.Errorf("%v: a charge of %d left a time to live of %d ms, want up to %d", a, cost, ms, whole)
				}
				if rs[0].ResetAfter < before.ResetAfter-time.Minute {
					t.Errorf("%v: %+v after %+v", a, rs[0], before)
				}
			}
		}
	}
}

// A look changes nothing, so that it can be asked of a replica.
func TestLookWritesNothing(t *testing.T) {
	s := redistest.Start(t)
	for _, a := range algorithms {
		b := newBench(t, s, redislimiter.Options{})
		c := charge(with(a, 10, time.Hour), "k", 5)
		take(t, b, c)
		key := b.key(t)
		s.Do("PERSIST", key)
		s.ResetStats()
		remaining(t, b, c, 5)
		for command := range s.CommandStats() {
			switch command {
			case "evalsha", "eval", "auth", "time", "get", "zscore", "zrange", "zrangebyscore", "config|resetstat", "info", "config":
			default:
				t.Errorf("%v: a look runs %q", a, command)
			}
		}
		if ms := b.ttl(t, key); ms != -1 {
			t.Errorf("%v: a look set a time to live of %d ms", a, ms)
		}
	}
}

// State and time to live are written by one command, or at least by one script:
// there is no moment between them.
func TestTrapLimiter24_NoKeyWithoutTTL(t *testing.T) {
	s := redistest.Start(t)
	b := newBench(t, s, redislimiter.Options{})
	take(t, b, charge(still("p", 5), "k", 1))
	s.ResetStats()
	const n = 10
	for i := range n {
		for _, a := range algorithms {
			take(t, b, charge(with(a, 100, time.Hour), fmt.Sprint(i), 1))
		}
	}
	for command, calls := range s.CommandStats() {
		switch command {
		case "evalsha":
			if calls != n*int64(len(algorithms)) {
				t.Errorf("%d decisions were %d calls of %s", n*len(algorithms), calls, command)
			}
		case "expire", "pexpire", "setex", "setnx":
			if command != "pexpire" || calls != n { // of the logs, inside the script
				t.Errorf("%d calls of %s", calls, command)
			}
		}
	}
}

// Time is told inside the script, by the server that has the state, once.
func TestTrapLimiter26_OneClock(t *testing.T) {
	s := redistest.Start(t)
	b := newBench(t, s, redislimiter.Options{})
	take(t, b, charge(still("p", 5), "k", 1))
	s.ResetStats()
	cs := make([]limiter.Charge, 7)
	for i := range cs {
		cs[i] = charge(with(algorithms[i%len(algorithms)], 100, time.Hour), fmt.Sprint(i), 1)
	}
	if _, err := b.TakeAll(t.Context(), cs); err != nil {
		t.Fatal(err)
	}
	if n := s.CommandStats()["time"]; n != 1 {
		t.Errorf("one decision asked for the time %d times", n)
	}
	// Nor does the time of this process matter, unless it is told to.
	s.ResetStats()
	by := newBench(t, s, redislimiter.Options{ClientClock: true})
	take(t, by, cs[0])
	if n := s.CommandStats()["time"]; n != 0 {
		t.Errorf("with the client's clock the server was asked for the time %d times", n)
	}
}

// What is stored has all its digits: an arrival is exact to the microsecond.
func TestTrapLimiter32_AllDigits(t *testing.T) {
	s := redistest.Start(t)
	b := newBench(t, s, redislimiter.Options{})
	// Multiples of 7 µs that end in every digit.
	p := limiter.Policy{Name: "p", Limit: 1_000_000, Window: 7 * time.Second}
	seen := map[byte]bool{}
	for i := range 200 {
		key := fmt.Sprint(i)
		c := charge(p, key, 1+i)
		r := take(t, b, c)
		all := take(t, b, c)
		if all.Receipt.Until-r.Receipt.Until != int64(7*(1+i)) {
			now := all.Receipt.Until - all.ResetAfter.Microseconds()
			if r.Receipt.Until > now {
				t.Fatalf("a charge of %d moved the arrival from %d to %d", 1+i, r.Receipt.Until, all.Receipt.Until)
			}
		}
		last := strconv.FormatInt(r.Receipt.Until, 10)
		if len(last) != 16 {
			t.Fatalf("arrival %s is not in microseconds", last)
		}
		seen[last[15]] = true
	}
	if len(seen) < 5 {
		t.Errorf("200 arrivals end in %d different digits", len(seen))
	}
	value := regexp.MustCompile(`^\d{19}$`)
	for key := range strings.FieldsSeq(s.Do("KEYS", b.prefix+":*")) {
		if v := s.Do("GET", key); v != "" && !value.MatchString(v) {
			t.Errorf("%s is %q, want 19 digits", key, v)
		}
	}
}

// The bytes of a caller are not in the key: they cannot choose its slot, nor
// anything else of it.
func TestTrapLimiter33_NoCallersBytes(t *testing.T) {
	s := redistest.Start(t)
	for _, o := range []redislimiter.Options{{}, {Secret: []byte("s")}, {Slot: "rules"}} {
		b := newBench(t, s, o)
		shape := regexp.MustCompile(`^` + b.prefix + `:\{[A-Za-z0-9_-]{22}\}$`)
		if o.Slot != "" {
			shape = regexp.MustCompile(`^` + b.prefix + `:\{rules\}[A-Za-z0-9_-]{22}$`)
		}
		keys := []string{"", "k", "{}", "{a}", "}{", "\r\nDEL x\r\n", "\x00", strings.Repeat("x", 1<<16), "\xff", "*"}
		for _, key := range keys {
			for _, a := range algorithms {
				take(t, b, charge(with(a, 10, time.Hour), key, 1))
			}
		}
		stored := strings.Fields(s.Do("KEYS", b.prefix+":*"))
		if len(stored) != len(keys)*len(algorithms) {
			t.Errorf("%+v: %d keys for %d quotas", o, len(stored), len(keys)*len(algorithms))
		}
		for _, key := range stored {
			if !shape.MatchString(key) {
				t.Errorf("%+v: key %q", o, key)
			}
		}
	}
}

// Secrets make names: another secret, another quota.
func TestSecret(t *testing.T) {
	s := redistest.Start(t)
	o := fresh(redislimiter.Options{})
	c := charge(still("p", 5), "k", 2)
	for i, secret := range []string{"", "a", "b", "a"} {
		o.Secret = []byte(secret)
		l, err := redislimiter.New(client(t, s.Addr()), o)
		if err != nil {
			t.Fatal(err)
		}
		want := 3
		if i == 3 {
			want = 1
		}
		if r := take(t, l, c); r.Remaining != want {
			t.Errorf("secret %d: %+v, want %d remaining", i, r, want)
		}
	}
}

// moveTime moves a stored time, as if the server's clock had been set back by d
// since it was written.
func (b *bench) moveTime(t testing.TB, a limiter.Algorithm, key string, d time.Duration) {
	t.Helper()
	us := d.Microseconds()
	switch a {
	case limiter.SlidingLog:
		for event := range strings.FieldsSeq(b.s.Do("ZRANGEBYSCORE", key, "0", "+inf")) {
			b.s.Do("ZINCRBY", key, strconv.FormatInt(us, 10), event)
		}
	default:
		v := b.s.Do("GET", key)
		n := 16
		at, err := strconv.ParseInt(v[:n], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		b.s.Do("SET", key, strconv.FormatInt(at+us, 10)+v[n:], "KEEPTTL")
	}
}

// After the clock was set back nobody is locked out for longer than a whole
// quota takes to come back, and nothing more than that is admitted at once.
func TestClockSetBack(t *testing.T) {
	s := redistest.Start(t)
	for _, a := range algorithms {
		for _, back := range []time.Duration{time.Hour, 24 * time.Hour, 1000 * time.Hour} {
			b := newBench(t, s, redislimiter.Options{})
			p := with(a, 10, 20*time.Second)
			c := charge(p, "k", 1)
			take(t, b, charge(p, "k", 10))
			key := b.key(t)
			b.moveTime(t, a, key, back)
			r := take(t, b, c)
			span := p.Window
			if a == limiter.SlidingWindow {
				span *= 2
			}
			if r.ResetAfter > span+span/20 || r.RetryAfter > span+span/20 {
				t.Errorf("%v: after the clock was set back by %v: %+v, want it whole within %v", a, back, r, span)
			}
			if ms := b.ttl(t, key); ms <= 0 || time.Duration(ms)*time.Millisecond > span+span/20+time.Second {
				t.Errorf("%v: the key lives for %d ms", a, ms)
			}
			n := 0
			for take(t, b, c).Allowed {
				n++
			}
			if n > 11 {
				t.Errorf("%v: after the clock was set back %d of 10 were admitted", a, n)
			}
			// The refusals have made it so: it does come back.
			again := take(t, b, c)
			if again.RetryAfter > r.ResetAfter && r.RetryAfter > 0 {
				t.Errorf("%v: RetryAfter grows from %v to %v", a, r.RetryAfter, again.RetryAfter)
			}
		}
	}
}

// A clock that is set back by a few milliseconds gives nothing back, not even
// across the edge of a window.
func TestClockSetBackALittle(t *testing.T) {
	s := redistest.Start(t)
	for _, a := range algorithms {
		b := newBench(t, s, redislimiter.Options{ClientClock: true})
		edge := time.Now().Truncate(time.Hour).Add(time.Hour)
		now := edge.Add(time.Millisecond)
		b.SetNow(func() time.Time { return now })
		c := charge(with(a, 10, time.Hour), "k", 10)
		take(t, b, c)
		for range 3 {
			now = now.Add(-5 * time.Millisecond)
			c.Cost = 1
			if r := take(t, b, c); r.Allowed || r.Remaining != 0 || r.RetryAfter > 2*time.Hour+time.Second {
				t.Errorf("%v: at %v from the edge: %+v", a, now.Sub(edge), r)
			}
		}
		// When it goes on, so does the quota.
		now = edge.Add(2*time.Hour + time.Second)
		if r := take(t, b, c); !r.Allowed {
			t.Errorf("%v: two hours later: %+v", a, r)
		}
	}
}

// promptly calls f, again if it took so long that the server may have forgotten
// what a call by the client's clock is late for: that is a second.
func promptly(t *testing.T, f func() error) {
	t.Helper()
	for try := 1; ; try++ {
		begin := time.Now()
		err := f()
		if err != nil && time.Since(begin) > 800*time.Millisecond && try < 20 {
			continue
		}
		if err != nil {
			t.Error(err)
		}
		return
	}
}

// A call that was held up on its way finds what was taken before it came, if the
// time is the client's: the server's clock has gone on meanwhile, and by it the
// quota is whole.
func TestLateCallByClientClock(t *testing.T) {
	s := redistest.Start(t)
	const window, late = 50 * time.Millisecond, 150 * time.Millisecond
	for _, a := range algorithms {
		promptly(t, func() error {
			b := newBench(t, s, redislimiter.Options{ClientClock: true})
			now := time.Now().Truncate(time.Hour)
			b.SetNow(func() time.Time { return now })
			take(t, b, charge(with(a, 10, window), "k", 10))
			time.Sleep(late)
			now = now.Add(window / 10)
			if r := take(t, b, charge(with(a, 10, window), "k", 2)); r.Allowed {
				return fmt.Errorf("%v: a call that came %v late: %+v", a, late, r)
			}
			return nil
		})
	}
}

// Nor does a call that was overtaken give anything back to those who overtook it,
// by however many windows.
func TestOvertakenCallByClientClock(t *testing.T) {
	s := redistest.Start(t)
	const window = 50 * time.Millisecond
	for _, a := range algorithms {
		for _, back := range []time.Duration{window / 5, 4 * window} {
			promptly(t, func() error {
				b := newBench(t, s, redislimiter.Options{ClientClock: true})
				now := time.Now().Truncate(time.Hour)
				b.SetNow(func() time.Time { return now })
				c := charge(with(a, 10, window), "k", 10)
				take(t, b, c)
				now = now.Add(10 * window)
				if r := take(t, b, c); !r.Allowed {
					return fmt.Errorf("%v: Take = %+v", a, r)
				}
				c.Cost = 1
				now = now.Add(-back)
				if r := take(t, b, c); r.Allowed {
					return fmt.Errorf("%v: a call that was overtaken by %v: %+v", a, back, r)
				}
				now = now.Add(back)
				if r := take(t, b, c); r.Allowed || r.RetryAfter < window/10 {
					return fmt.Errorf("%v: after a call that was overtaken by %v: %+v", a, back, r)
				}
				return nil
			})
		}
	}
}

// Two configurations of the same quota at once, as while a new one is deployed:
// each is kept, and the larger is the bound of both together.
func TestTwoConfigurations(t *testing.T) {
	s := redistest.Start(t)
	for _, a := range algorithms {
		b := newBench(t, s, redislimiter.Options{})
		old, young := still("p", 100), still("p", 10)
		old.Algorithm, young.Algorithm = a, a
		if a <= limiter.LeakyBucket {
			old.Burst, young.Limit, young.Burst = 100, 100, 10 // the same rate
		}
		admitted := 0
		for range 400 {
			if take(t, b, charge(young, "k", 1)).Allowed {
				admitted++
				if admitted > 10 {
					t.Fatalf("%v: the smaller configuration admits when %d are taken", a, admitted)
				}
			}
			if take(t, b, charge(old, "k", 1)).Allowed {
				admitted++
			}
		}
		if admitted != 100 {
			t.Errorf("%v: %d admitted, want 100", a, admitted)
		}
	}
}

// What is in a key without being ours counts as nothing, or as a whole quota that
// is used up: no error, and nobody is locked out.
func TestForeignValues(t *testing.T) {
	s := redistest.Start(t)
	future := strconv.FormatInt(time.Now().Add(1000*time.Hour).UnixMicro(), 10)
	for _, a := range algorithms[:4] {
		for _, v := range []string{
			"", "x", "nan", "-nan", "inf", "-inf", "-5", "0x1p60", "1e300", strings.Repeat("9", 40), "9007199254740993",
			future, future + "000", future + "xyz", future + "000t", future + "000t-1", future + "000t1e300",
			future + "000g@inf", future + " 5 5", future + " 5 5 5", "1 2 3", "1 2 3 4", "a b c d",
		} {
			b := newBench(t, s, redislimiter.Options{})
			c := charge(with(a, 10, 20*time.Second), "k", 1)
			s.Do("SET", b.KeyOf(c), v)
			for _, cost := range []int{0, 11, 1, 1} {
				c.Cost = cost
				r := take(t, b, c)
				if r.ResetAfter > 41*time.Second || cost <= 10 && r.RetryAfter > 41*time.Second {
					t.Errorf("%v: with %q a charge of %d: %+v", a, v, cost, r)
				}
			}
			if ms := b.ttl(t, b.KeyOf(c)); ms <= 0 || ms > 41_000 {
				t.Errorf("%v: with %q the key lives for %d ms", a, v, ms)
			}
		}
	}
}

// Where a unit is no whole number of microseconds a charge costs up to one more,
// or up to 0.1 % where that is more, and never less.
func TestRounding(t *testing.T) {
	s := redistest.Start(t)
	b := newBench(t, s, redislimiter.Options{ClientClock: true})
	now := time.Now()
	b.SetNow(func() time.Time { return now })
	rnd := rand.New(rand.NewPCG(1, 21))
	for i := range 500 {
		p := limiter.Policy{Name: "p", Limit: 1 + rnd.IntN(1<<(1+rnd.IntN(24))), Window: time.Microsecond + time.Duration(rnd.Int64N(1<<(11+rnd.IntN(36))))}
		c := charge(p, fmt.Sprint(i), 1+rnd.IntN(p.Limit))
		r := take(t, b, c)
		exact := float64(c.Cost) * float64(p.Window) / float64(p.Limit)
		over := float64(r.ResetAfter) - exact
		if !r.Allowed || over < -0.001*exact/1e9 || over > max(1000, exact/1000) {
			t.Errorf("Take(%+v) = %+v, want it whole after %v ns and no more than 1 µs or 0.1 %%", c, r, exact)
		}
	}
}

// Who waits for a turn keeps it, whatever others ask who do not wait, or have a
// smaller quota; and when the clock is set back, turns end as quotas do.
func TestTurnsAndOtherConfigurations(t *testing.T) {
	s := redistest.Start(t)
	for _, a := range algorithms[:2] {
		b := newBench(t, s, redislimiter.Options{})
		p := limiter.Policy{Name: "p", Algorithm: a, Limit: 10, Window: 100 * time.Second, Burst: 30}
		if a == limiter.TokenBucket {
			p.Burst = 1
		}
		waiting := charge(p, "k", 1)
		waiting.MaxDelay = 1000 * time.Hour
		near := func(got, want time.Duration) bool { return got <= want && got > want-5*time.Second }
		for i := range 20 {
			if r := take(t, b, waiting); !r.Allowed || !near(r.Delay, time.Duration(i)*10*time.Second) {
				t.Fatalf("%v: turn %d is %+v", a, i, r)
			}
			small := p
			small.Burst = 1
			if r := take(t, b, charge(small, "k", 1)); r.Allowed {
				t.Fatalf("%v: a charge that does not wait: %+v", a, r)
			}
		}
		key := b.key(t)
		b.moveTime(t, a, key, 24*time.Hour)
		if r := take(t, b, charge(p, "k", 1)); r.ResetAfter > 320*time.Second {
			t.Errorf("%v: after the clock was set back: %+v", a, r)
		}
		if r := take(t, b, waiting); r.Delay > 320*time.Second {
			t.Errorf("%v: after the clock was set back, a turn is %+v", a, r)
		}
	}
}
