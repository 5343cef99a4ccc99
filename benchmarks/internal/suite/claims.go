package suite

import (
	"math"

	"github.com/goweir/weir/benchmarks/internal/report"
	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/benchmarks/redisbench"
)

// A quote is a ratio that the documentation quotes, and where it is measured.
// README.md beside the command has a row for each; a test compares them. Bounds
// are wide enough for a busy machine: what a quiet one shows is in its figures.
type quote struct {
	text    string
	atLeast float64
	atMost  float64
	measure func(*report.Results) (pace.Spread, bool)
}

var quotes = []quote{
	{"Redis, one hot key, 256 goroutines: decisions a second, times redis_rate's", 5, 0, metric("redis-peers", "hot key, goroutines: 256", weir, "ratio")},
	{"Redis, 10,000 keys, 64 goroutines: decisions a second, times redis_rate's", 2, 0, metric("redis-peers", "10,000 keys, goroutines: 64", weir, "ratio")},
	{"Redis, 10,000 keys, 256 goroutines: decisions a second, times redis_rate's", 2.5, 0, metric("redis-peers", "10,000 keys, goroutines: 256", weir, "ratio")},
	{"Redis, 10,000 keys, 64 goroutines: the server's CPU time a decision, of redis_rate's", 0, 0.4,
		over("redis-peers", "10,000 keys, goroutines: 64", "server_cpu", weir, redisbench.RedisRate)},
	{"Redis, a key that is refused, 64 goroutines: decisions a second, times redis_rate's", 20, 0, metric("redis-peers", "hot key, refused, goroutines: 64", weir, "ratio")},
	{"Redis, 10,000 keys, 64 goroutines: decisions a second coalesced, times one by one", 2, 0, metric("backends", "10,000 keys, goroutines: 64", coalesced, "ratio")},
	{"Redis, 500 keys, 64 goroutines: round trips a decision", 0, 0.05, metric("costs", "500 keys, 40 decisions each, goroutines: 64", coalesced, "trips")},
	{"Redis, a key that is refused, 64 goroutines, deny cache: round trips a decision", 0, 0.01, metric("costs", "hot key, refused, goroutines: 64", denyCache, "trips")},
	{"Redis, four processes at once: admitted in the worst round of any backend, of the bound", 0, 1, worst("exactness", "weir", "admitted", "bound", inMemory)},
	{"middleware with header fields, allowed: CPU time of the quickest peer, times weir's", 1.3, 0, quickest("allowed")},
	{"middleware with header fields, refused: CPU time of the quickest peer, times weir's", 1.5, 0, quickest("refused")},
	{"capture, JSON of 64 KiB, nothing masked: CPU time of chi's Tee, times weir's", 5, 0, toFirst("capture", "JSON, 64 KiB", weir, "chi Tee")},
	{"capture, large attachments: peak RSS, of the bare handler's", 0, 1.25, over("downloads", "attachments", "rss", weir, bare)},
}

// metric is a ratio, or a number a decision, that is in the results.
func metric(section, group, row, id string) func(*report.Results) (pace.Spread, bool) {
	return func(r *report.Results) (pace.Spread, bool) {
		return r.Section(section).Group(group).Row(row).Get(id)
	}
}

// over is the ratio of one metric of two rows, by their medians.
func over(section, group, id, a, b string) func(*report.Results) (pace.Spread, bool) {
	return func(r *report.Results) (pace.Spread, bool) {
		g := r.Section(section).Group(group)
		x, ok := g.Row(a).Get(id)
		y, known := g.Row(b).Get(id)
		if !ok || !known || y.Median == 0 {
			return pace.Spread{}, false
		}
		return one(x.Median / y.Median), true
	}
}

// worst is the highest round of a metric of any row but one, of its bound: what
// must never happen is not settled by a median. A round with nothing in it is no
// measurement.
func worst(section, group, id, bound, but string) func(*report.Results) (pace.Spread, bool) {
	return func(r *report.Results) (pace.Spread, bool) {
		g := r.Section(section).Group(group)
		if g == nil {
			return pace.Spread{}, false
		}
		most := 0.0
		for _, row := range g.Rows {
			x, ok := row.Get(id)
			y, known := row.Get(bound)
			if row.Name == but || !ok || !known {
				continue
			}
			if x.Min == 0 || y.Median == 0 {
				return pace.Spread{}, false
			}
			most = max(most, x.Max/y.Median)
		}
		return one(most), most > 0
	}
}

// toFirst is the CPU time of a row, of that of the first one, round by round.
func toFirst(section, group, first, row string) func(*report.Results) (pace.Spread, bool) {
	return func(r *report.Results) (pace.Spread, bool) {
		g := r.Section(section).Group(group)
		if g == nil || g.Rows[0].Name != first { // which it is not with -only
			return pace.Spread{}, false
		}
		return g.Row(row).Get("cpu_ratio")
	}
}

// quickest is the CPU time of the peer that needs the least, of weir's. Rows that
// are only there to compare with are no peers.
func quickest(group string) func(*report.Results) (pace.Spread, bool) {
	return func(r *report.Results) (pace.Spread, bool) {
		g := r.Section("middleware").Group(group)
		if g == nil || g.Rows[0].Name != weir {
			return pace.Spread{}, false
		}
		least := pace.Spread{Median: math.Inf(1)}
		for _, row := range g.Rows[1:] {
			if row.Name == weir+", no header fields" || row.Name == bare {
				continue
			}
			if s, ok := row.Get("cpu_ratio"); ok && s.Median < least.Median {
				least = s
			}
		}
		return least, !math.IsInf(least.Median, 1)
	}
}

// claim judges the quotes by what was measured. Ratios of the embedded server are
// nobody's claim.
func claim(r *report.Results) []report.Claim {
	var claims []report.Claim
	for _, q := range quotes {
		c := report.Claim{Text: q.text, AtLeast: q.atLeast, AtMost: q.atMost}
		if c.Measured, c.Known = q.measure(r); !c.Known {
			c.Measured = pace.Spread{}
		}
		if r.Machine.Server == embedded && len(q.text) > 5 && q.text[:5] == "Redis" {
			c.Known = false
		}
		claims = append(claims, c)
	}
	return claims
}
