package suite

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"time"

	"github.com/goweir/weir/benchmarks/floor"
	"github.com/goweir/weir/benchmarks/internal/report"
	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/benchmarks/peer"
	"github.com/goweir/weir/benchmarks/redisbench"
	"github.com/goweir/weir/limiter"
)

const (
	weir     = "weir"
	theFloor = "(floor: the least code that decides)"
)

var costColumns = []string{"wall", "cpu_ns", "cpu_ratio", "wall_ratio", "allocs", "bytes"}

// quotas of weir that correspond to those of package peer.
var quotas = map[peer.Quota]limiter.Policy{
	peer.Plenty: {Name: "client", Limit: 1, Window: time.Second, Burst: 1 << 30},
	peer.Few:    limiter.PerDay("client", 1),

	peer.Thousand: limiter.PerDay("client", 1000),
}

// memoryPeers compares decisions in memory.
func (r *run) memoryPeers() section {
	s := section{Section: report.Section{
		ID: "memory-peers", Title: "Peers in memory", Columns: costColumns,
		Text: "One decision, through the public API of each, in turns in this process; the first row is the reference of ratios. The floor is written by hand and " +
			"skips what benchmarks/floor says; it is no product. x/time/rate has no keys: a sync.Map holds one limiter each.",
	}}
	rows := []string{weir, theFloor}
	for _, d := range peer.Deciders {
		if !d.Unkeyed {
			rows = append(rows, d.Name)
		}
	}
	for _, p := range patterns {
		quota := peer.Plenty
		if p.quota == redisbench.Few {
			quota = peer.Few
		}
		for _, goroutines := range []int{1, runtime.GOMAXPROCS(0)} {
			if goroutines > 1 && p.name != "10,000 keys" {
				continue
			}
			s.groups = append(s.groups, group{
				name: fmt.Sprintf("%s, goroutines: %d", p.name, goroutines), rows: rows, turns: r.cases().Rounds,
				measure: func(rows []string) ([]report.Row, error) {
					all := keys(r.id, manyKeys)
					draws := p.draws(all)
					var cases []pace.Case
					for _, name := range rows {
						take, closer := memoryDecider(name, quota)
						defer closer()
						for _, k := range all {
							take(k)
						}
						cases = append(cases, pace.Case{Name: name, Run: pace.Parallel(goroutines, func(worker, n int) {
							i := worker * 7919 % len(draws)
							for range n {
								take(draws[i])
								if i++; i == len(draws) {
									i = 0
								}
							}
						})})
					}
					return rowsOf(pace.Compare(r.cases(), cases...)), nil
				},
			})
		}
	}
	return s
}

func memoryDecider(name string, q peer.Quota) (take func(string) bool, closer func()) {
	p := quotas[q]
	switch name {
	case weir:
		m, ctx := limiter.NewMemory(nil), context.Background()
		return func(key string) bool {
			r, err := m.Take(ctx, limiter.Charge{Policy: p, Key: key, Cost: 1})
			return err == nil && r.Allowed
		}, func() {}
	case theFloor:
		t := floor.NewTable(manyKeys, p.Limit, p.Window, max(p.Burst, p.Limit))
		return func(key string) bool {
			_, ok := t.Take(key)
			return ok
		}, func() {}
	}
	for _, d := range peer.Deciders {
		if d.Name == name {
			return d.New(q)
		}
	}
	panic(failure{fmt.Errorf("no peer %q", name)})
}

// middlewares compares limits as net/http middleware.
func (r *run) middlewares() section {
	s := section{Section: report.Section{
		ID: "middleware", Title: "Peers as middleware", Columns: costColumns,
		Text: "A request through each limit as net/http middleware, header fields and all, to a handler that does nothing, without a network. The bare handler is part of every row.",
	}}
	rows := []string{weir, weir + ", no header fields"}
	for _, m := range peer.Middlewares {
		rows = append(rows, m.Name)
	}
	for quota, name := range map[peer.Quota]string{peer.Plenty: "allowed", peer.Few: "refused"} {
		s.groups = append(s.groups, group{
			name: name, rows: append(rows[:len(rows):len(rows)], bare), turns: r.cases().Rounds, check: true,
			measure: func(rows []string) ([]report.Row, error) {
				var cases []pace.Case
				for _, row := range rows {
					cases = append(cases, pace.Case{Name: row, Run: requests(limitBy(row, quota)(empty))})
				}
				return rowsOf(pace.Compare(r.cases(), cases...)), nil
			},
		})
	}
	if s.groups[0].name != "allowed" {
		s.groups[0], s.groups[1] = s.groups[1], s.groups[0]
	}
	return s
}

const field = "X-User"

func limitBy(name string, q peer.Quota) func(http.Handler) http.Handler {
	form := limiter.Draft10
	switch name {
	case bare:
		return func(h http.Handler) http.Handler { return h }
	case weir + ", no header fields":
		form = limiter.NoHeaders
		fallthrough
	case weir:
		rules := limiter.Rules{{Policy: quotas[q], Key: limiter.KeyByHeader(field)}}
		return limiter.Middleware(limiter.NewMemory(nil), rules, &limiter.Options{Headers: form})
	}
	for _, m := range peer.Middlewares {
		if m.Name == name {
			return m.New(q, field)
		}
	}
	panic(failure{fmt.Errorf("no peer %q", name)})
}

// redisPeers compares decisions that are taken in Redis.
func (r *run) redisPeers() section {
	s := section{Section: report.Section{
		ID: "redis-peers", Title: "Peers on Redis", Columns: loadColumns,
		Text: "Decisions on the same server in the same run, measured like the backends; the reference of ratios is redis_rate. Each peer has its own client at its defaults. " +
			"The peers count by different algorithms, so this compares what a decision costs, and not what it means. weir is as it comes, with its deny cache.",
	}}
	rows := []string{weir}
	for _, d := range redisbench.Peers {
		rows = append(rows, d.Name)
	}
	for _, c := range []struct {
		pattern int
		callers int
		check   bool
	}{{0, 64, true}, {0, 256, true}, {1, 1, false}, {1, 64, true}, {1, 256, true}, {3, 64, true}} {
		p := patterns[c.pattern]
		s.groups = append(s.groups, group{
			name: fmt.Sprintf("%s, goroutines: %d", p.name, c.callers), rows: rows, turns: 2 * r.Rounds, check: c.check,
			measure: func(rows []string) ([]report.Row, error) {
				if r.server.addr == "" {
					return nil, fmt.Errorf("peers need an address of the form redis://HOST:PORT")
				}
				all := keys(r.id, manyKeys)
				if c.pattern != 1 {
					all = all[:1]
				}
				var loads []pace.Load
				var failed []error
				for _, name := range rows {
					var take func(string) (bool, error)
					var closer func()
					if err := try(func() { take, closer = r.redisDecider(name, p.quota) }); err != nil {
						failed = append(failed, fmt.Errorf("%s: %w", name, err))
						continue
					}
					defer closer()
					// One alone loads the script. What fails here fails again when
					// it counts.
					take(all[0])
					each(all, func(key string) error {
						take(key)
						return r.ctx.Err()
					})
					if r.ctx.Err() != nil {
						return nil, nil
					}
					draws := p.draws(all)
					loads = append(loads, pace.Load{Name: name, Do: func(caller, i int) error {
						_, err := take(draws[(caller*7919+i)%len(draws)])
						return err
					}})
				}
				return r.rates(loads, make([]bool, len(loads)), c.callers, r.server.used()), errors.Join(failed...)
			},
		})
	}
	return s
}

func (r *run) redisDecider(name string, q redisbench.Quota) (take func(string) (bool, error), closer func()) {
	if name == weir {
		l, closer, err := r.place.open(denyCache)
		if err != nil {
			panic(failure{err})
		}
		ctx, p := context.Background(), redisbench.Policy(q)
		return func(key string) (bool, error) {
			res, err := l.Take(ctx, limiter.Charge{Policy: p, Key: key, Cost: 1})
			return res.Allowed, err
		}, closer
	}
	for _, d := range redisbench.Peers {
		if d.Name == name {
			return d.New(r.server.addr, q)
		}
	}
	panic(failure{fmt.Errorf("no peer %q", name)})
}
