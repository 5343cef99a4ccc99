package redisbench

import (
	"context"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/redislimiter"
)

// Policy is the quota of weir that corresponds to q.
func Policy(q Quota) limiter.Policy {
	limit, window, burst := q.Bucket()
	return limiter.Policy{Name: "client", Limit: limit, Window: window, Burst: burst}
}

// open returns a limiter with a client of its own, as another process
// would have it.
func open(addr string, opts redislimiter.Options) (*redislimiter.Limiter, *redis.Client) {
	c := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, ContextTimeoutEnabled: true})
	l, err := redislimiter.New(c, &opts)
	if err != nil {
		panic(err)
	}
	return l, c
}

// WeirWith is weir with such options.
func WeirWith(name string, opts redislimiter.Options) Decider {
	return Decider{Name: name, New: func(addr string, q Quota) (func(string) (bool, error), func()) {
		l, c := open(addr, opts)
		ctx, p := context.Background(), Policy(q)
		return func(key string) (bool, error) {
			r, err := l.Take(ctx, limiter.Charge{Policy: p, Key: key, Cost: 1})
			return r.Allowed, err
		}, func() { c.Close() }
	}}
}

// Leases takes 100 units in advance.
var Leases = WeirWith("weir, leases of 100", redislimiter.Options{
	Prefix: "lease",
	Lease:  func(limiter.Policy) int { return 100 },
})

// Five charges five quotas in one decision.
var Five = Decider{Name: "weir, five limits", New: func(addr string, q Quota) (func(string) (bool, error), func()) {
	l, c := open(addr, redislimiter.Options{Prefix: "five"})
	ctx, p := context.Background(), Policy(q)
	return func(key string) (bool, error) {
		cs := make([]limiter.Charge, 5)
		for i, name := range []string{"client", "user", "route", "tenant", "everyone"} {
			cs[i] = limiter.Charge{Policy: p, Key: key, Cost: 1}
			cs[i].Policy.Name = name
		}
		rs, err := l.TakeAll(ctx, cs)
		refused := slices.ContainsFunc(rs, func(r limiter.Result) bool { return !r.Allowed })
		return err == nil && !refused, err
	}, func() { c.Close() }
}}

// Same asks the server by weir's own script, with the very arguments that
// weir sends for one decision about the key, one by one: what a limiter with that
// script would do if it did nothing else. It learns them when it is first asked
// about a key, and does not look at the answers.
var Same = Decider{Name: "the same script by plain EVALSHA", New: func(addr string, q Quota) (func(string) (bool, error), func()) {
	l, heard := open(addr, redislimiter.Options{Prefix: "same"})
	h := new(hearing)
	heard.AddHook(h)
	plain := redis.NewClient(&redis.Options{Addr: addr})

	var calls sync.Map
	var learning sync.Mutex
	ctx, p := context.Background(), Policy(q)
	return func(key string) (bool, error) {
		args, ok := calls.Load(key)
		if !ok {
			learning.Lock()
			defer learning.Unlock()
			h.evalsha = nil
			r, err := l.Take(ctx, limiter.Charge{Policy: p, Key: key, Cost: 1})
			if h.evalsha != nil {
				calls.Store(key, h.evalsha)
			}
			return r.Allowed, err
		}
		err := plain.Do(ctx, args.([]any)...).Err()
		return err == nil, err
	}, func() { heard.Close(); plain.Close() }
}}

// A hearing is a hook that keeps the arguments of the last EVALSHA.
type hearing struct{ evalsha []any }

func (h *hearing) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *hearing) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		h.hear(cmd)
		return next(ctx, cmd)
	}
}

func (h *hearing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			h.hear(cmd)
		}
		return next(ctx, cmds)
	}
}

func (h *hearing) hear(cmd redis.Cmder) {
	if args := cmd.Args(); args[0] == "evalsha" {
		h.evalsha = slices.Clone(args)
	}
}
