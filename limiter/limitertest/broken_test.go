package limitertest_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/goweir/weir/limiter"
)

// A flawed Limiter is one with a way to go wrong. Each func is nil for what it
// leaves alone.
type flawed struct {
	limiter.Limiter

	charge func(limiter.Charge) limiter.Charge                 // what is charged instead
	result func(limiter.Charge, limiter.Result) limiter.Result // what is answered instead

	take    func(context.Context, limiter.Limiter, limiter.Charge) (limiter.Result, error)
	takeAll func(context.Context, limiter.Limiter, []limiter.Charge) ([]limiter.Result, error)
	refund  func(context.Context, limiter.Limiter, limiter.Charge, *limiter.Result) error
	reset   func(context.Context, limiter.Limiter, limiter.Charge) error
}

func (f flawed) charged(c limiter.Charge) limiter.Charge {
	if f.charge != nil {
		c = f.charge(c)
	}
	return c
}

func (f flawed) answer(c limiter.Charge, r limiter.Result) limiter.Result {
	if f.result != nil {
		r = f.result(c, r)
	}
	return r
}

func (f flawed) Take(ctx context.Context, c limiter.Charge) (r limiter.Result, err error) {
	if f.take != nil {
		r, err = f.take(ctx, f.Limiter, f.charged(c))
	} else {
		r, err = f.Limiter.Take(ctx, f.charged(c))
	}
	if err == nil {
		r = f.answer(c, r)
	}
	return r, err
}

func (f flawed) TakeAll(ctx context.Context, cs []limiter.Charge) (rs []limiter.Result, err error) {
	charged := slices.Clone(cs)
	for i := range charged {
		charged[i] = f.charged(charged[i])
	}
	if f.takeAll != nil {
		rs, err = f.takeAll(ctx, f.Limiter, charged)
	} else {
		rs, err = f.Limiter.TakeAll(ctx, charged)
	}
	for i := range rs {
		rs[i] = f.answer(cs[i], rs[i])
	}
	return rs, err
}

func (f flawed) Refund(ctx context.Context, c limiter.Charge, r *limiter.Result) error {
	if f.refund != nil {
		return f.refund(ctx, f.Limiter, f.charged(c), r)
	}
	return f.Limiter.Refund(ctx, f.charged(c), r)
}

func (f flawed) Reset(ctx context.Context, c limiter.Charge) error {
	if f.reset != nil {
		return f.reset(ctx, f.Limiter, f.charged(c))
	}
	return f.Limiter.Reset(ctx, f.charged(c))
}

// A flaw is a Limiter that breaks its contract, and the checks that must say
// so.
type flaw struct {
	name  string
	open  func() limiter.Limiter
	fails []string
}

func memory() limiter.Limiter { return limiter.NewMemory(nil) }

// charging makes a Memory that charges something else.
func charging(f func(limiter.Charge) limiter.Charge) func() limiter.Limiter {
	return func() limiter.Limiter { return flawed{Limiter: memory(), charge: f} }
}

// answering makes a Memory that answers something else.
func answering(f func(limiter.Charge, limiter.Result) limiter.Result) func() limiter.Limiter {
	return func() limiter.Limiter { return flawed{Limiter: memory(), result: f} }
}

// answeringDenials makes a Memory that answers something else where it denies.
func answeringDenials(f func(*limiter.Result)) func() limiter.Limiter {
	return answering(func(_ limiter.Charge, r limiter.Result) limiter.Result {
		if !r.Allowed {
			f(&r)
		}
		return r
	})
}

func keyed(f func(string) string) func() limiter.Limiter {
	return charging(func(c limiter.Charge) limiter.Charge {
		c.Key = f(c.Key)
		return c
	})
}

func burst(p limiter.Policy) int { return cmp.Or(p.Burst, p.Limit) }

var flaws = []flaw{
	// Admission.
	{"admits one more", charging(func(c limiter.Charge) limiter.Charge {
		c.Policy.Burst = burst(c.Policy) + 1
		return c
	}), []string{"capacity", "countdown", "bound", "crowd", "simultaneous", "contended all", "long run", "gcra", "allow"}},
	{"admits one less", charging(func(c limiter.Charge) limiter.Charge {
		c.Policy.Burst = max(1, burst(c.Policy)-1)
		return c
	}), []string{"capacity", "countdown", "crowd", "whole again", "gcra", "allow"}},
	{"ignores Burst", charging(func(c limiter.Charge) limiter.Charge {
		c.Policy.Burst = 0
		return c
	}), []string{"capacity", "pace", "flood", "whole again", "smooth", "wait in order"}},
	{"ignores Cost", charging(func(c limiter.Charge) limiter.Charge {
		c.Cost = min(c.Cost, 1)
		return c
	}), []string{"capacity", "bound", "denial", "never", "look agrees", "crowd"}},
	{"gives back too fast", charging(func(c limiter.Charge) limiter.Charge {
		c.Policy.Window -= c.Policy.Window / 100
		return c
	}), []string{"bound", "refund schedules", "long run", "slow and fast", "trace", "gcra"}},
	{"gives back too slowly", charging(func(c limiter.Charge) limiter.Charge {
		c.Policy.Window += c.Policy.Window / 100
		return c
	}), []string{"pace", "retry within a unit", "long run", "slow and fast", "trace", "gcra"}},
	{"whole seconds", charging(func(c limiter.Charge) limiter.Charge {
		if c.Policy.Window > 0 {
			c.Policy.Window = max(time.Second, c.Policy.Window.Truncate(time.Second))
		}
		return c
	}), []string{"bound", "pace", "retry within a unit", "slow and fast", "trace"}},
	{"forgets early", func() limiter.Limiter {
		born := time.Now()
		var mu sync.Mutex
		return flawed{Limiter: memory(), charge: func(c limiter.Charge) limiter.Charge {
			mu.Lock()
			defer mu.Unlock()
			if c.Policy.Window > 0 && time.Since(born) > c.Policy.Window/2 {
				c.Key += fmt.Sprint(time.Since(born) / (c.Policy.Window / 2))
			}
			return c
		}}
	}, []string{"bound", "hammering", "retry not late", "refund schedules", "trace"}},
	{"takes when it denies", func() limiter.Limiter {
		return flawed{Limiter: memory(), take: func(ctx context.Context, l limiter.Limiter, c limiter.Charge) (limiter.Result, error) {
			r, err := l.Take(ctx, c)
			if err == nil && !r.Allowed && r.Remaining > 0 {
				c.Cost = r.Remaining
				_, err = l.Take(ctx, c)
			}
			return r, err
		}}
	}, []string{"denial", "hammering", "retry", "look agrees", "trace"}},
	{"puts off who asks too often", func() limiter.Limiter {
		return flawed{Limiter: memory(), take: func(ctx context.Context, l limiter.Limiter, c limiter.Charge) (limiter.Result, error) {
			r, err := l.Take(ctx, c)
			if err == nil && !r.Allowed && c.Cost > 0 && c.Policy.Limit > 0 {
				c.Cost, c.MaxDelay = 1, math.MaxInt64
				_, err = l.Take(ctx, c)
			}
			return r, err
		}}
	}, []string{"denial", "hammering", "retry", "long run", "look"}},
	{"looks and takes in two steps", func() limiter.Limiter {
		return flawed{Limiter: memory(), take: func(ctx context.Context, l limiter.Limiter, c limiter.Charge) (limiter.Result, error) {
			look := c
			look.Cost = 0
			seen, err := l.Take(ctx, look)
			if err != nil || c.Cost > seen.Remaining || c.Cost <= 0 || c.MaxDelay > 0 {
				return l.Take(ctx, c)
			}
			time.Sleep(20 * time.Millisecond) // all look before one takes, on a busy machine too
			r, err := l.Take(ctx, c)
			if err == nil && !r.Allowed {
				r = limiter.Result{Allowed: true, Limit: r.Limit, ResetAfter: r.ResetAfter, Source: r.Source}
			}
			return r, err
		}}
	}, []string{"crowd", "simultaneous", "crowd with refunds"}},
	{"gives one turn to two", func() limiter.Limiter {
		return flawed{Limiter: memory(), take: func(ctx context.Context, l limiter.Limiter, c limiter.Charge) (limiter.Result, error) {
			r, err := l.Take(ctx, c)
			if unit := c.Policy.Window / time.Duration(max(1, c.Policy.Limit)); r.Delay > 0 {
				r.Delay = r.Delay.Truncate(2 * max(1, unit))
			}
			return r, err
		}}
	}, []string{"crowd with turns", "turns", "turns given up", "patience", "smooth", "refund schedules", "trace"}},
	{"never lets wait", charging(func(c limiter.Charge) limiter.Charge {
		c.MaxDelay = min(c.MaxDelay, 0)
		return c
	}), []string{"turns", "turns given up", "patience", "smooth", "wait in order", "wait, late"}},
	{"lets wait without turns", charging(func(c limiter.Charge) limiter.Charge {
		if c.MaxDelay == math.MaxInt64 {
			c.MaxDelay = 0
		}
		return c
	}), []string{"wait in order", "patience"}},
	{"lets the last go first", answering(func(c limiter.Charge, r limiter.Result) limiter.Result {
		if c.MaxDelay == math.MaxInt64 && r.Delay > 0 {
			r.Delay = time.Hour - r.Delay
		}
		return r
	}), []string{"wait in order", "patience"}},
	{"lets wait for ever", charging(func(c limiter.Charge) limiter.Charge {
		if c.MaxDelay > 0 {
			c.MaxDelay = math.MaxInt64
		}
		return c
	}), []string{"patience", "retry", "hammering", "refund schedules", "trace", "wait, late"}},

	{"does not shape", answering(func(_ limiter.Charge, r limiter.Result) limiter.Result {
		r.Delay = 0
		return r
	}), []string{"leaky bucket/shape", "leaky bucket/smooth", "leaky bucket/bound", "leaky bucket/trace", "turns"}},

	{"windows are not aligned", charging(func(c limiter.Charge) limiter.Charge {
		if c.Policy.Algorithm == limiter.FixedWindow && c.Policy.Window == time.Minute {
			c.Policy.Window += time.Microsecond
		}
		return c
	}), []string{"fixed window/edges"}},
	{"Window is not part of the identity", charging(func(c limiter.Charge) limiter.Charge {
		if c.Policy.Window > 999*time.Hour {
			c.Policy.Window = 1000 * time.Hour
		}
		return c
	}), []string{"fixed window/identity"}},
	{"algorithms share their state", charging(func(c limiter.Charge) limiter.Charge {
		if c.Policy.Algorithm == limiter.SlidingLog {
			c.Policy.Algorithm = limiter.FixedWindow
		}
		return c
	}), []string{"sliding log/identity", "sliding log/bound", "sliding log/trace"}},
	{"a sliding window forgets what was before", charging(func(c limiter.Charge) limiter.Charge {
		if c.Policy.Algorithm == limiter.SlidingWindow {
			c.Policy.Algorithm = limiter.FixedWindow
		}
		return c
	}), []string{"sliding window/bound", "sliding window/trace"}},
	{"lets wait for windows", charging(func(c limiter.Charge) limiter.Charge {
		if c.Policy.Window > time.Hour && c.MaxDelay > 0 {
			c.Policy.Window = c.MaxDelay
		}
		return c
	}), []string{"fixed window/no turns"}},
	{"MoreAfter too short", answering(func(_ limiter.Charge, r limiter.Result) limiter.Result {
		r.MoreAfter -= r.MoreAfter / 50
		return r
	}), []string{"fixed window/more", "sliding window/more", "sliding log/more"}},

	// Results.
	{"a look takes", charging(func(c limiter.Charge) limiter.Charge {
		if c.Cost == 0 {
			c.Cost = 1
		}
		return c
	}), []string{"look", "countdown", "capacity", "cancelled", "gcra"}},
	{"a denial is an error", func() limiter.Limiter {
		return flawed{Limiter: memory(), take: func(ctx context.Context, l limiter.Limiter, c limiter.Charge) (limiter.Result, error) {
			r, err := l.Take(ctx, c)
			if err == nil && !r.Allowed {
				err = errors.New("limit exceeded")
			}
			return r, err
		}}
	}, []string{"denial", "look", "keys", "names", "many keys", "flood"}},
	{"RetryAfter too short", answeringDenials(func(r *limiter.Result) {
		if r.RetryAfter != limiter.Never {
			r.RetryAfter -= r.RetryAfter / 50
		}
	}), []string{"retry", "all after retry", "hammering", "wait", "gcra"}},
	{"RetryAfter too long", answeringDenials(func(r *limiter.Result) {
		if r.RetryAfter != limiter.Never {
			r.RetryAfter += r.RetryAfter / 50
		}
	}), []string{"retry not late", "retry within a unit", "hammering", "trace", "gcra"}},
	{"RetryAfter in whole seconds", answeringDenials(func(r *limiter.Result) {
		if r.RetryAfter != limiter.Never {
			r.RetryAfter = r.RetryAfter.Truncate(time.Second)
		}
	}), []string{"retry", "flood", "trace"}},
	{"RetryAfter of what can never fit", answeringDenials(func(r *limiter.Result) {
		if r.RetryAfter == limiter.Never {
			r.RetryAfter = 99 * time.Second
		}
	}), []string{"never", "closed", "wait", "extremes", "gcra"}},
	{"ResetAfter too short", answering(func(_ limiter.Charge, r limiter.Result) limiter.Result {
		r.ResetAfter -= r.ResetAfter / 50
		return r
	}), []string{"whole again", "stale refund in part", "trace"}},
	{"Remaining before the charge", answering(func(c limiter.Charge, r limiter.Result) limiter.Result {
		if r.Allowed {
			r.Remaining = min(r.Remaining+c.Cost, burst(c.Policy))
		}
		return r
	}), []string{"capacity", "countdown", "look agrees", "all or nothing", "gcra"}},
	{"no Source", answering(func(_ limiter.Charge, r limiter.Result) limiter.Result {
		r.Source = 0
		return r
	}), []string{"capacity", "all or nothing"}},
	{"no Limit", answering(func(_ limiter.Charge, r limiter.Result) limiter.Result {
		r.Limit = 0
		return r
	}), []string{"capacity", "all or nothing"}},

	// Faults and extremes.
	{"Limit 0 is no limit", func() limiter.Limiter {
		return flawed{Limiter: memory(), charge: func(c limiter.Charge) limiter.Charge {
			if c.Policy.Limit == 0 {
				c.Policy.Limit = 1 << 30
			}
			return c
		}}
	}, []string{"closed"}},
	{"believes in negative costs", charging(func(c limiter.Charge) limiter.Charge {
		c.Cost = max(c.Cost, 0)
		return c
	}), []string{"faults"}},
	{"overflows", func() limiter.Limiter { return &naive{} }, []string{"extremes", "slow and fast"}},
	{"steps back with the clock", func() limiter.Limiter { return &naive{wide: true, skew: time.Second / 20} }, []string{"bound", "capacity", "retry", "hammering", "refund schedules"}},
	{"ignores the end of the context", func() limiter.Limiter {
		return flawed{Limiter: memory(), take: func(ctx context.Context, l limiter.Limiter, c limiter.Charge) (limiter.Result, error) {
			if ctx.Err() != nil {
				time.Sleep(2 * time.Second)
			}
			return l.Take(ctx, c)
		}}
	}, []string{"cancelled"}},
	{"takes and then sees the end of the context", func() limiter.Limiter {
		return flawed{Limiter: memory(), take: func(ctx context.Context, l limiter.Limiter, c limiter.Charge) (limiter.Result, error) {
			r, err := l.Take(ctx, c)
			if err == nil {
				err = ctx.Err()
			}
			return r, err
		}}
	}, []string{"cancelled"}},

	// Keys and names.
	{"one key for all", keyed(func(string) string { return "" }), []string{"keys", "many keys", "names", "many charges"}},
	{"keys end at NUL", keyed(func(k string) string { k, _, _ = strings.Cut(k, "\x00"); return k }), []string{"keys"}},
	{"keys are cut", keyed(func(k string) string { return k[:min(len(k), 1000)] }), []string{"keys"}},
	{"keys are folded", keyed(strings.ToLower), []string{"keys"}},
	{"keys are repaired", keyed(func(k string) string { return strings.ToValidUTF8(k, "\ufffd") }), []string{"keys"}},
	{"keys have hash tags", keyed(func(k string) string {
		if _, tag, ok := strings.Cut(k, "{"); ok {
			if tag, _, ok = strings.Cut(tag, "}"); ok && tag != "" {
				return tag
			}
		}
		return k
	}), []string{"keys", "names"}},
	{"names and keys are joined", charging(func(c limiter.Charge) limiter.Charge {
		if c.Policy.Name != "" {
			c.Key, c.Policy.Name = c.Policy.Name+":"+c.Key, "joined"
		}
		return c
	}), []string{"names"}},
	{"names do not matter", charging(func(c limiter.Charge) limiter.Charge {
		if c.Policy.Name != "" {
			c.Policy.Name = "same"
		}
		return c
	}), []string{"names", "all or nothing", "reset"}},
	{"few slots", func() limiter.Limiter {
		return limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 64 << 10})
	}, []string{"many keys"}},
	{"Limit is part of the identity", charging(func(c limiter.Charge) limiter.Charge {
		c.Key += fmt.Sprint(" ", c.Policy.Limit)
		return c
	}), []string{"changed limit", "trace"}},

	// TakeAll.
	{"keeps what it took before a refusal", func() limiter.Limiter {
		return flawed{Limiter: memory(), takeAll: func(ctx context.Context, l limiter.Limiter, cs []limiter.Charge) ([]limiter.Result, error) {
			rs := make([]limiter.Result, len(cs))
			for i, c := range cs {
				var err error
				if rs[i], err = l.Take(ctx, c); err != nil {
					return nil, err
				}
			}
			if slices.ContainsFunc(rs, func(r limiter.Result) bool { return !r.Allowed }) {
				for i := range rs {
					rs[i].Receipt = limiter.Receipt{}
				}
			}
			return rs, nil
		}}
	}, []string{"all or nothing", "all agrees", "contended all", "crossed all", "closed", "faults"}},
	{"the same quota twice counts once", func() limiter.Limiter {
		return flawed{Limiter: memory(), takeAll: func(ctx context.Context, l limiter.Limiter, cs []limiter.Charge) ([]limiter.Result, error) {
			once := slices.Clone(cs)
			for i := range once {
				if slices.ContainsFunc(cs[:i], func(c limiter.Charge) bool { return c.Key == cs[i].Key && c.Policy == cs[i].Policy }) {
					once[i].Cost = min(0, once[i].Cost)
				}
			}
			return l.TakeAll(ctx, once)
		}}
	}, []string{"all or nothing", "all agrees", "many charges", "crossed all"}},
	{"asks for at least one charge", func() limiter.Limiter {
		return flawed{Limiter: memory(), takeAll: func(ctx context.Context, l limiter.Limiter, cs []limiter.Charge) ([]limiter.Result, error) {
			if len(cs) == 0 {
				return nil, errors.New("no charges")
			}
			return l.TakeAll(ctx, cs)
		}}
	}, []string{"all or nothing"}},
	{"locks in the order of the charges", func() limiter.Limiter {
		var locks sync.Map
		return flawed{Limiter: memory(), takeAll: func(ctx context.Context, l limiter.Limiter, cs []limiter.Charge) ([]limiter.Result, error) {
			locked := make(map[string]bool)
			for _, c := range cs {
				if locked[c.Policy.Name] {
					continue
				}
				locked[c.Policy.Name] = true
				mu, _ := locks.LoadOrStore(c.Policy.Name, new(sync.Mutex))
				mu.(*sync.Mutex).Lock()
				defer mu.(*sync.Mutex).Unlock()
				time.Sleep(100 * time.Microsecond)
			}
			return l.TakeAll(ctx, cs)
		}}
	}, []string{"crossed all"}},
	{"sorts the charges in place", func() limiter.Limiter {
		return sorting{memory()}
	}, []string{"many charges"}},

	// Refund and Reset.
	{"refunds nothing", func() limiter.Limiter {
		return flawed{Limiter: memory(), refund: func(_ context.Context, _ limiter.Limiter, _ limiter.Charge, r *limiter.Result) error {
			r.Receipt = limiter.Receipt{}
			return nil
		}}
	}, []string{"refund", "cancelled", "turns given up", "wait, cancelled", "stale refund in part"}},
	{"refunds twice", func() limiter.Limiter {
		return flawed{Limiter: memory(), refund: func(ctx context.Context, l limiter.Limiter, c limiter.Charge, r *limiter.Result) error {
			same := *r
			return l.Refund(ctx, c, &same)
		}}
	}, []string{"refund", "refund schedules", "stale refund"}},
	{"refunds everything", func() limiter.Limiter {
		return flawed{Limiter: memory(), refund: func(ctx context.Context, l limiter.Limiter, c limiter.Charge, r *limiter.Result) error {
			if r.Receipt != (limiter.Receipt{}) {
				r.Receipt = limiter.Receipt{}
				return l.Reset(ctx, c)
			}
			return nil
		}}
	}, []string{"refund", "refund schedules", "crowd with refunds", "stale refund"}},
	{"refunds what time gave back", func() limiter.Limiter { return &naive{wide: true} }, []string{"refund schedules", "turns given up"}},
	{"refunds to another key", func() limiter.Limiter {
		return flawed{Limiter: memory(), refund: func(ctx context.Context, l limiter.Limiter, c limiter.Charge, r *limiter.Result) error {
			if c.Policy.Name == "mine" {
				c.Policy.Name = "other"
			}
			return l.Refund(ctx, c, r)
		}}
	}, []string{"refund"}},
	{"does not reset", func() limiter.Limiter {
		return flawed{Limiter: memory(), reset: func(context.Context, limiter.Limiter, limiter.Charge) error { return nil }}
	}, []string{"reset", "countdown", "changed limit"}},
	{"resets all", func() limiter.Limiter {
		epoch := 0
		return flawed{Limiter: memory(), charge: func(c limiter.Charge) limiter.Charge {
			if epoch > 0 {
				c.Key += fmt.Sprint("\x00", epoch)
			}
			return c
		}, reset: func(context.Context, limiter.Limiter, limiter.Charge) error { epoch++; return nil }}
	}, []string{"reset", "keys"}},
}

// sorting orders the charges that it is given, where they are.
type sorting struct{ limiter.Limiter }

func (s sorting) TakeAll(ctx context.Context, cs []limiter.Charge) ([]limiter.Result, error) {
	slices.SortStableFunc(cs, func(a, b limiter.Charge) int { return strings.Compare(a.Key, b.Key) })
	return s.Limiter.TakeAll(ctx, cs)
}
