package suite

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/goweir/weir/benchmarks/internal/report"
	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/benchmarks/redisbench"
	"github.com/goweir/weir/limiter"
)

const manyKeys = 10_000

// nothing is the row of a decision that is none: what the schedule itself costs.
const nothing = "(nothing: the clock and the scheduler)"

// opened is a backend in use, and what it has been asked about.
type opened struct {
	l      limiter.Limiter
	keys   []string
	known  map[string]bool // quotas that were filled
	closer func()
}

// backend opens the one of that name, or returns it if it is open.
func (r *run) backend(name string) (*opened, error) {
	if o := r.opened[name]; o != nil {
		return o, nil
	}
	if strings.Contains(name, "Cluster") {
		if err := r.cluster(); err != nil {
			return nil, err
		}
	}
	if name == farOne || name == farAll {
		if r.place.Far == "" {
			return nil, errors.New("there is no delay on this server")
		}
	}
	l, closer, err := r.place.open(name)
	if err != nil {
		return nil, err
	}
	o := &opened{l: l, closer: closer, keys: keys(r.id, manyKeys), known: map[string]bool{}}
	r.opened[name] = o
	return o, nil
}

func (r *run) close() {
	for _, o := range r.opened {
		o.closer()
	}
	clear(r.opened)
}

// fill sees every key once, so that scripts are loaded and what is measured are
// decisions about keys that are known.
func (o *opened) fill(ctx context.Context, p limiter.Policy, keys []string) error {
	quota := fmt.Sprint(p, len(keys))
	if o.known[quota] {
		return nil
	}
	failed := each(keys, func(k string) error { return o.insist(ctx, p, k) })
	o.known[quota] = failed == nil
	return failed
}

// each calls f for every key, from 64 goroutines at most, of which each stops at
// its first error.
func each(keys []string, f func(string) error) (failed error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for part := range slices.Chunk(keys, (len(keys)+63)/64) {
		wg.Go(func() {
			for _, k := range part {
				if err := f(k); err != nil {
					mu.Lock()
					defer mu.Unlock()
					failed = err
					return
				}
			}
		})
	}
	wg.Wait()
	return failed
}

// insist asks until it is answered: a busy machine may let a first call time out.
func (o *opened) insist(ctx context.Context, p limiter.Policy, key string) (err error) {
	for range 100 {
		if _, err = o.l.Take(ctx, limiter.Charge{Policy: p, Key: key, Cost: 1}); err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return err
}

// load is the workload of many callers, each of whom starts at another place.
func (o *opened) load(name string, p limiter.Policy, draws []string) pace.Load {
	ctx := context.Background()
	return pace.Load{Name: name, Do: func(caller, i int) error {
		_, err := o.l.Take(ctx, limiter.Charge{Policy: p, Key: draws[(caller*7919+i)%len(draws)], Cost: 1})
		return err
	}}
}

// A pattern is which keys are asked for.
type pattern struct {
	name  string
	quota redisbench.Quota
	draws func([]string) []string
}

var patterns = []pattern{
	{"hot key", redisbench.Plenty, func(ks []string) []string { return ks[:1] }},
	{"10,000 keys", redisbench.Plenty, func(ks []string) []string { return ks }},
	{"Zipf over 10,000 keys", redisbench.Plenty, zipf},
	{"hot key, refused", redisbench.Few, func(ks []string) []string { return ks[:1] }},
}

func zipf(ks []string) []string {
	z := rand.NewZipf(rand.New(rand.NewPCG(1, 8)), 1.1, 1, uint64(len(ks)-1))
	draws := make([]string, 1<<18)
	for i := range draws {
		draws[i] = ks[z.Uint64()]
	}
	return draws
}

var callers = []int{1, 16, 64, 256}

var loadColumns = []string{"rate", "ratio", "offered", "p50", "p95", "p99", "max", "commands", "reads", "cpu", "server_cpu"}

// decisions is the full cross of backends, callers and keys for a TokenBucket.
func (r *run) decisions() section {
	s := section{Section: report.Section{
		ID: "backends", Title: "Backends", Columns: loadColumns,
		Text: "Decisions of a token bucket. The reference of ratios is Redis asked one by one. The rate is that of callers who each ask again as soon as they are answered; " +
			"commands, reads and CPU time (of client and driver, and of the server) are of that, too. Times are of a second measurement: decisions are due on a " +
			"schedule, at half of the reference's rate, or of its own if that is less, and never more than 20,000 a second, and time counts from when a decision " +
			"was due, so that a backend that stalls pays for those who wait behind it. What the schedule itself costs is the row of nothing. \"1 ms away\" is a " +
			"proxy in this process that delays; it takes CPU time for each packet. Failover has a budget of a second here.",
	}}
	for _, p := range patterns {
		for _, n := range callers {
			if p.quota == redisbench.Few && n != 1 && n != 64 {
				continue
			}
			var rows []string
			for _, b := range backends {
				if (r.Quick || r.Check) && !b.quick {
					continue
				}
				rows = append(rows, b.name)
			}
			g := group{
				name: fmt.Sprintf("%s, goroutines: %d", p.name, n), x: n, panel: p.name,
				rows: append(rows, nothing), turns: 2 * r.Rounds,
				quick: (n == 1 || n == 64) && p.name != patterns[2].name,
				check: n == 64 && p.name == patterns[1].name,
			}
			g.measure = func(rows []string) ([]report.Row, error) {
				policy := redisbench.Policy(p.quota)
				return r.press(rows, n, policy, p.draws)
			}
			s.groups = append(s.groups, g)
		}
	}
	return s
}

// algorithms compares the algorithms at one load.
func (r *run) algorithms() section {
	s := section{Section: report.Section{
		ID: "algorithms", Title: "Algorithms", Columns: loadColumns,
		Text: "The other algorithms at 64 goroutines and 10,000 keys, measured like the backends. The sliding log has a limit of 20 a second for each key, " +
			"since it remembers every event: in memory most of its decisions are refusals. Leases are for token buckets and fixed windows only.",
	}}
	for a := limiter.TokenBucket; a <= limiter.SlidingLog; a++ {
		rows := []string{inMemory, oneByOne, coalesced}
		if a == limiter.TokenBucket || a == limiter.FixedWindow {
			rows = append(rows, leased)
		}
		s.groups = append(s.groups, group{
			name: a.String(), rows: rows, turns: 2 * r.Rounds,
			measure: func(rows []string) ([]report.Row, error) {
				return r.press(rows, 64, policyOf(a), patterns[1].draws)
			},
		})
	}
	return s
}

// press measures backends under so many callers: how fast they are, and then how
// long they take when they are asked on a schedule.
func (r *run) press(names []string, callers int, p limiter.Policy, draws func([]string) []string) ([]report.Row, error) {
	var loads []pace.Load
	var failed []error
	var used func() pace.Usage
	var far []bool
	for _, name := range names {
		if name == nothing {
			loads = append(loads, pace.Load{Name: name, Do: func(int, int) error { return nil }})
			far = append(far, true)
			continue
		}
		o, err := r.backend(name)
		if err == nil {
			known := o.keys
			if len(draws(o.keys)) == 1 {
				known = o.keys[:1]
			}
			err = o.fill(r.ctx, p, known)
		}
		switch {
		case err == nil:
		case errors.Is(err, errNoCluster):
			r.leave(err.Error()) // not in every group
			continue
		default:
			if r.ctx.Err() == nil {
				failed = append(failed, fmt.Errorf("%s: %w", name, err))
			}
			continue
		}
		loads = append(loads, o.load(name, p, draws(o.keys)))
		far = append(far, name == farOne || name == farAll)
	}
	if r.server != nil {
		used = r.server.used()
	}
	return r.rates(loads, far, callers, used), errors.Join(failed...)
}

// isReference reports whether ratios are to l: a group has one such, or none if
// that is left out; then the slowest that is not far away sets the schedule.
func isReference(l pace.Load) bool { return l.Name == oneByOne || l.Name == redisbench.RedisRate }

// rates measures loads as fast as they go, and then on a schedule.
func (r *run) rates(loads []pace.Load, far []bool, callers int, used func() pace.Usage) []report.Row {
	o := r.loads()
	o.Callers, o.Used = callers, used
	fast := pace.Press(o, loads...)

	half := 0.0
	for i, h := range fast {
		rate := pace.Median(h.Rate).Median
		if isReference(loads[i]) && rate > 0 {
			half = rate
			break
		}
		if rate > 0 && !far[i] && (half == 0 || rate < half) {
			half = rate
		}
	}
	// More than this is more than the schedule itself can keep.
	half = min(half/2, 20_000)
	o.Used = nil
	var due []pace.Load
	for i, h := range fast {
		rate := half
		if own := pace.Median(h.Rate).Median / 2; own > 0 && (rate == 0 || own < rate) {
			rate = own
		}
		l := loads[i]
		if rate > 0 {
			l.Every = time.Duration(float64(callers) / rate * float64(time.Second))
		}
		due = append(due, l)
	}
	var timed []pace.Heat
	if r.ctx.Err() == nil {
		timed = pace.Press(o, due...)
	}

	rows := make([]report.Row, len(loads))
	for i, h := range fast {
		row := &rows[i]
		row.Name = loads[i].Name
		if len(h.Rate) == 0 {
			continue
		}
		if row.Name != nothing {
			put(row, "rate", h.Rate, 1)
			if reference := slices.IndexFunc(loads, isReference); reference >= 0 {
				ratio(row, "ratio", h.Rate, fast[reference].Rate)
			}
			if used != nil && !strings.Contains(row.Name, "Cluster") {
				put(row, "commands", h.Commands, 1)
				if r.server.kind != embedded {
					put(row, "reads", h.Reads, 1)
					put(row, "server_cpu", h.ServerCPU, 1e-3)
				}
			}
			put(row, "cpu", h.CPU, 1e-3) // ns a decision are ms a million
		}
		errs, err := h.Errors, h.Err
		if timed != nil && timed[i].Answers > 0 && due[i].Every > 0 {
			t := timed[i]
			put(row, "offered", []float64{float64(callers) / due[i].Every.Seconds()}, 1)
			put(row, "p50", t.P50, 1)
			put(row, "p95", t.P95, 1)
			put(row, "p99", t.P99, 1)
			put(row, "max", []float64{slices.Max(t.Max)}, 1)
		}
		if timed != nil {
			errs += timed[i].Errors
			if timed[i].Err != nil {
				err = timed[i].Err
			}
		}
		if errs > 0 {
			row.Note = fmt.Sprintf("%d errors, such as: %v", errs, err)
		}
	}
	return rows
}
