package limiter

import (
	"net/http"
	"slices"
	"time"

	"github.com/goweir/weir/internal/problem"
)

// Options are the options of [Middleware] and of [InFlightMiddleware]. The zero
// value refuses whatever is in doubt. Hooks are called by many goroutines at once, with no lock held.
type Options struct {
	// Headers is the form of the header fields about quotas; the zero value is
	// Draft10.
	Headers HeaderForm

	// Unkeyed says what becomes of a request that a rule cannot tell the key
	// of. The zero value refuses it.
	Unkeyed Unkeyed

	// OnDecision is told every decision, before anything is written and before
	// the handler is called: for logs and metrics, and to mark the request. It
	// may keep d, but not r.
	OnDecision func(r *http.Request, d Decision)

	// Observer is told every decision, like OnDecision but without the request,
	// and every end of a wait. nil: nobody.
	Observer Observer

	// OnLimit answers refused requests in place of the default. The header
	// fields about quotas are added to whatever it writes, and Retry-After
	// unless it sets that itself. It does not answer for requests that were
	// refused for another reason: without a key, or because the Limiter
	// failed.
	OnLimit func(w http.ResponseWriter, r *http.Request, d Decision)

	// OnError is asked when the Limiter could not decide. It reports whether
	// the request may pass, uncounted. nil: it may not. The client learns
	// nothing of err.
	//
	// Most callers should leave it nil. A Memory never fails, and nor does an
	// InFlight.
	OnError func(r *http.Request, err error) (admit bool)

	// InFlightStatus is the status with which InFlightMiddleware refuses: 503,
	// or 429 or 504 if an older contract says so. 0 means 503. It means nothing
	// to Middleware.
	InFlightStatus int
}

// Unkeyed says what becomes of a request for which a rule's Key returns an
// error or "". There is no choice of one quota for all of them: that would let
// one client lock out every other that has no key.
type Unkeyed uint8

const (
	// RefuseUnkeyed answers 400 if the key is empty, because the request lacks
	// something, and 500 if the Key function failed.
	RefuseUnkeyed Unkeyed = iota

	// SkipUnkeyed leaves the rule out for that request; the other rules apply.
	SkipUnkeyed
)

// Middleware returns a middleware that charges every request to the rules that
// apply to it and refuses those that do not fit. It panics with the error of
// rules.Validate, if l is nil, or if opts has an unknown value; nil opts means
// the zero Options.
//
// A refusal is 429 (RFC 6585 section 4) with Retry-After, the fields of
// [Options.Headers] and a body of type application/problem+json (RFC 9457) that
// names the policies. Nothing is charged for it. If l fails, the answer is 503.
//
// A request that a [LeakyBucket] admits is held until its turn comes, with no
// lock held; with several of them, until the last. If the client leaves
// meanwhile, what was charged is given back, the handler is not called, and the
// answer, for the records, is 499; if the request's deadline passes, it is 503.
// (net/http notices that a client leaves when the request has no body, or the
// body was read.)
//
// The header fields are added when the final response header is written, so
// that 1xx responses passing through do not lose them; an upgrade gets them
// with its 101.
//
// The returned function may be called often; what it returns shares all state.
func Middleware(l Limiter, rules Rules, opts *Options) func(http.Handler) http.Handler {
	if l == nil {
		panic("limiter: Middleware: the Limiter is nil")
	}
	if err := rules.Validate(); err != nil {
		panic(err)
	}
	m := &middleware{limiter: l, rules: slices.Clone(rules)}
	if opts != nil {
		m.opts = *opts
	}
	m.memory, _ = l.(*Memory)
	if m.opts.Headers > NoHeaders || m.opts.Unkeyed > SkipUnkeyed {
		panic("limiter: Middleware: unknown Headers or Unkeyed")
	}
	if m.memory != nil && len(m.rules) == 1 {
		if rule := &m.rules[0]; rule.PolicyFor == nil && rule.Policy.Algorithm == TokenBucket && rule.Policy.Limit > 0 {
			pl := m.memory.planOf(&rule.Policy)
			m.plan = &pl
		}
	}
	for i := range m.rules {
		m.refunds = m.refunds || m.rules[i].RefundIf != nil
		m.refusals = append(m.refusals, problem.Prepare(quotaExceeded(m.rules[i].Policy.Name)))
	}
	if len(m.rules) > 0 {
		p := &m.rules[0].Policy
		m.quota = string(append(appendString(nil, p.Name), ";r="...))
		m.policy = string(appendPolicy(nil, p))
	}
	m.terse = m.opts.OnDecision == nil && m.opts.Observer == nil && m.opts.OnLimit == nil && !m.refunds
	m.silent = m.opts.Headers == NoHeaders && m.opts.OnDecision == nil && m.opts.Observer == nil && !m.refunds
	return func(next http.Handler) http.Handler { return &handler{m, next} }
}

// middleware is what all handlers of one call of Middleware share.
type middleware struct {
	limiter  Limiter
	memory   *Memory // the same, if it is one
	trial    trial
	plan     *plan // of the only rule, if its policy is always the same TokenBucket
	rules    Rules
	opts     Options
	refunds  bool              // a rule has RefundIf
	silent   bool              // an admitted request needs nothing more
	terse    bool              // nobody is to be told of decisions
	refusals []*problem.Answer // for a refusal by rule i alone

	// What Draft10 says of rule 0 in every response: the member of RateLimit up
	// to the number, and that of RateLimit-Policy.
	quota, policy string
}

type handler struct {
	*middleware
	next http.Handler
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var start time.Time
	if h.opts.Observer != nil {
		start = time.Now()
	}
	trial := h.trial.open()
	if len(h.rules) != 1 || h.rules[0].Shadow {
		x := &exchange{m: h.middleware, r: r, start: start, trial: trial}
		x.d = Decision{limiter: h.limiter, rules: h.rules, form: h.opts.Headers}
		if x.d.collect(r, h.opts.Unkeyed == SkipUnkeyed) {
			x.d.take(r.Context())
		}
		x.serve(w, h.next)
		return
	}
	// One rule is the common case, and the only one that can do without an
	// allocation.
	var c [1]Charge
	var res [1]Result
	applies, err := h.rules.charge(0, r, &c[0])
	if !applies {
		h.next.ServeHTTP(w, r)
		return
	}
	if err == nil {
		if h.plan != nil {
			err = h.memory.takePlanned(r.Context(), h.plan, &c[0], &res[0])
		} else if h.memory != nil {
			err = h.memory.take(r.Context(), &c[0], &res[0])
		} else {
			res[0], err = h.limiter.Take(r.Context(), c[0])
		}
		if err == nil {
			now := res[0].Delay == 0 && !trial
			if now && res[0].Allowed && h.silent {
				defer h.giveBack(w.Header(), r, &c, &res)
				h.next.ServeHTTP(w, r)
				return
			}
			if now && h.terse && h.rules[0].PolicyFor == nil {
				h.brief(w, r, h.next, &c, &res)
				return
			}
		}
	}
	x := newExchange(h.middleware, r, c[0], res[0], err)
	x.start, x.trial = start, trial
	x.serve(w, h.next)
}

// giveBack refunds the only charge of a request that was refused further in.
func (m *middleware) giveBack(header http.Header, r *http.Request, c *[1]Charge, res *[1]Result) {
	if turnedAway(header) {
		m.refund(r, c[0], res[0])
	}
}

// refund is not inlined, because what it does moves its arguments to the heap.
//
//go:noinline
func (m *middleware) refund(r *http.Request, c Charge, res Result) {
	d := Decision{limiter: m.limiter, rules: m.rules, Charges: []Charge{c}, Results: []Result{res}, which: make([]int, 1)}
	// That units were lost would not change what the client gets.
	_ = d.Refund(r.Context())
}
