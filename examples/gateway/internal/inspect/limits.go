package inspect

import (
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/limiter"
)

// Limits are the rules of a route. Each can be turned to shadow, and back, while
// requests pass: the rules are a plain value and their state is the Limiter's,
// so another middleware takes over with every quota as it was.
type Limits struct {
	in      *Inspector
	route   string
	limiter limiter.Limiter
	opts    func(limiter.Rules) *limiter.Options
	counted []*counters // by rule
	by      []string    // by rule: what it is counted by, for people
	shadow  []bool      // by rule: as the configuration has it

	mu    sync.Mutex // held while the rules change
	rules atomic.Pointer[limits]
}

// limits are rules in force.
type limits struct {
	rules limiter.Rules
	wrap  func(http.Handler) http.Handler
}

type counters struct{ allowed, refused, shadow, spared, failed atomic.Int64 }

// A ruleID names a rule. The name of a quota stands once in a route.
type ruleID struct{ route, policy string }

// A switched is what somebody has made of a rule's Shadow, and what that was in
// the configuration.
type switched struct{ from, to bool }

// Limits returns the middleware for the rules of a route, which must be valid. by
// says for each what it is counted by; opts returns the options for rules that
// differ from these in Shadow. Rules of the same route and name go on with the
// numbers of those before them, when a configuration is loaded anew, and with
// what was made of their Shadow, unless the configuration has changed that too.
func (in *Inspector) Limits(route string, l limiter.Limiter, rules limiter.Rules, by []string, opts func(limiter.Rules) *limiter.Options) *Limits {
	s := &Limits{
		in: in, route: route, limiter: l, opts: opts, by: by,
		counted: make([]*counters, len(rules)), shadow: make([]bool, len(rules)),
	}
	rules = slices.Clone(rules)
	in.mu.Lock()
	for i := range rules {
		r := &rules[i]
		id := ruleID{route, r.Policy.Name}
		if in.counted[id] == nil {
			in.counted[id] = new(counters)
		}
		s.counted[i], s.shadow[i] = in.counted[id], r.Shadow
		if hand, ok := in.switched[id]; ok && hand.from == r.Shadow {
			r.Shadow = hand.to
		}
	}
	in.mu.Unlock()
	s.use(rules)
	return s
}

func (s *Limits) use(rules limiter.Rules) {
	var opts limiter.Options
	if s.opts != nil {
		opts = *s.opts(rules)
	}
	then := opts.OnDecision
	opts.OnDecision = func(r *http.Request, d limiter.Decision) {
		s.decided(r, rules, d)
		if then != nil {
			then(r, d)
		}
	}
	s.rules.Store(&limits{rules, limiter.Middleware(s.limiter, rules, &opts)})
}

// setShadow reports whether there is such a rule.
func (s *Limits) setShadow(name string, on bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	rules := slices.Clone(s.rules.Load().rules)
	i := slices.IndexFunc(rules, func(r limiter.Rule) bool { return r.Policy.Name == name })
	if i < 0 {
		return false
	}
	if rules[i].Shadow != on {
		rules[i].Shadow = on
		s.use(rules)
	}
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	s.in.switched[ruleID{s.route, name}] = switched{from: s.shadow[i], to: on}
	return true
}

// Middleware enforces the rules.
func (s *Limits) Middleware(next http.Handler) http.Handler {
	type wrapped struct {
		limits *limits
		http.Handler
	}
	var last atomic.Pointer[wrapped]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now, h := s.rules.Load(), last.Load()
		if h == nil || h.limits != now {
			h = &wrapped{now, now.wrap(next)}
			last.Store(h)
		}
		h.ServeHTTP(w, r)
	})
}

// decided notes a decision about the rules of a route.
func (s *Limits) decided(r *http.Request, rules limiter.Rules, d limiter.Decision) {
	t, now := traceFrom(r.Context()), time.Now()
	if len(d.Results) == 0 { // there is no key, or the Limiter failed
		if d.Rule >= 0 {
			s.counted[d.Rule].failed.Add(1)
			t.add(decision{Policy: rules[d.Rule].Policy.Name, Verdict: "failed", Reason: "the request has no key", At: now})
		} else if d.Err != nil {
			t.add(decision{Policy: "limiter", Verdict: "failed", Reason: "the limiter could not decide", At: now})
		}
		return
	}
	i := -1
	for j, c := range d.Charges {
		// Charges are in the order of rules, some of which may not apply. A quota
		// of the caller's own has the name of the rule's.
		for i++; i < len(rules)-1 && rules[i].Policy.Name != c.Policy.Name; i++ {
		}
		res := d.Results[j]
		verdict, count := "allowed", &s.counted[i].allowed
		switch {
		case res.Source == 0 || !d.Allowed && res.Allowed && !rules[i].Shadow:
			verdict, count = "spared", &s.counted[i].spared
		case !res.Allowed && rules[i].Shadow:
			verdict, count = "shadow", &s.counted[i].shadow
		case !res.Allowed:
			verdict, count = "refused", &s.counted[i].refused
		}
		count.Add(1)
		level := levelOf(c.Policy, res)
		key, fading := s.in.keys.note(s.limiter, c, res, verdict, level, now)
		t.add(decision{
			Policy: c.Policy.Name, Algorithm: c.Policy.Algorithm.String(),
			Limit: c.Policy.Limit, Window: c.Policy.Window, Capacity: capacityOf(c.Policy),
			Key: key, Cost: c.Cost, Verdict: verdict, Remaining: res.Remaining, Level: level, Fading: fading,
			Retry: res.RetryAfter, Reset: res.ResetAfter, Delay: res.Delay, Source: res.Source.String(), At: now,
		})
	}
}

// Decided notes a decision of a limit on requests in flight: it is an OnDecision
// for its Options.
func (in *Inspector) Decided(r *http.Request, d limiter.Decision) {
	if !d.Allowed && d.Err != nil {
		t := traceFrom(r.Context())
		name := "in-flight"
		if o, ok := d.Err.(*limiter.OverloadError); ok {
			name = o.Name
		}
		t.add(decision{Policy: name, Verdict: "refused", Reason: d.Err.Error(), At: time.Now()})
	}
}

func (t *trace) add(d decision) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.Decisions) < maxDecisions {
		t.Decisions = append(t.Decisions, d)
	}
}

func isBucket(a limiter.Algorithm) bool { return a == limiter.TokenBucket || a == limiter.LeakyBucket }

func capacityOf(p limiter.Policy) int {
	if isBucket(p.Algorithm) && p.Burst > 0 {
		return p.Burst
	}
	return p.Limit
}

// levelOf returns how many units are left. Of a bucket that is told exactly by
// the time until it is whole.
func levelOf(p limiter.Policy, res limiter.Result) float64 {
	if !isBucket(p.Algorithm) || res.ResetAfter <= 0 && res.Remaining <= 0 || p.Window <= 0 {
		return float64(max(0, res.Remaining))
	}
	missing := float64(res.ResetAfter) / float64(p.Window) * float64(p.Limit)
	return max(0, float64(capacityOf(p))-missing)
}
