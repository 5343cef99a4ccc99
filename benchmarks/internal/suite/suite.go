// Package suite is what `go run ./benchmarks` measures.
package suite

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/goweir/weir/benchmarks/internal/report"
	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/benchmarks/redisbench"
	"github.com/goweir/weir/internal/faultnet"
)

// Options say what to measure.
type Options struct {
	Quick bool           // a minute: what .ci/run asks for
	Check bool           // what the quoted ratios need, in more rounds
	Only  *regexp.Regexp // of "section/group/row"; nil: all
	Redis string         // the server's address; empty: see openServer

	// Rounds and Slice are how often each row has its turn, and for how long.
	Rounds int
	Slice  time.Duration

	// Progress is told before each turn how many have been and are to come. It
	// may be nil.
	Progress func(done, total int, group, row string)
}

// A section is a part of the suite: what it says of itself, and its groups, which
// are known before anything is measured.
type section struct {
	report.Section
	groups []group
}

// A group is a comparison.
type group struct {
	name  string
	x     int
	panel string
	rows  []string // of which some may be left out
	turns int      // of each row
	quick bool     // part of a quick run
	check bool     // part of a check

	// measure measures these rows. A row that fails is there with a note.
	measure func(rows []string) ([]report.Row, error)
}

// A run is the suite while it measures.
type run struct {
	Options
	ctx   context.Context
	stage *stage
	id    string // part of every key

	server *server
	place  place
	far    *faultnet.Proxy
	left   []string

	opened map[string]*opened

	done, total int
	now         string // the group
}

// Run measures until all is done or ctx ends: then the results are partial and
// say so. The error is for what no results can come of.
func Run(ctx context.Context, o Options) (*report.Results, error) {
	redisbench.Quiet()
	r := &run{Options: o, ctx: ctx, stage: new(stage), id: fmt.Sprintf("b%08x", rand.Uint32()), opened: map[string]*opened{}}
	defer r.stage.clear()
	started := time.Now()
	results := &report.Results{Schema: report.Schema, Started: started.UTC(), Machine: machine()}

	sections := r.plan()
	wanted := 0
	redis := false
	for i := range sections {
		s := &sections[i]
		var groups []group
		for _, g := range s.groups {
			g.rows = r.wanted(s.ID, g)
			if len(g.rows) > 0 {
				groups = append(groups, g)
				wanted += g.turns * len(g.rows)
				redis = redis || s.needsRedis(g)
			}
		}
		s.groups = groups
	}
	if wanted == 0 {
		return nil, errors.New("nothing to measure: no section/group/row matches; they are\n  " + strings.Join(names(r.plan()), "\n  "))
	}
	r.total = wanted

	results.Machine.Redis = "not asked"
	if redis {
		if err := r.connect(); err != nil {
			return nil, err
		}
		defer r.server.forget(r.id)
		results.Machine.Redis, results.Machine.Server = r.server.about, r.server.kind
	}

	for _, s := range sections {
		if len(s.groups) == 0 {
			continue
		}
		out := s.Section
		for _, g := range s.groups {
			if ctx.Err() != nil {
				break
			}
			r.now = s.ID + ": " + g.name
			before := r.done
			var rows []report.Row
			var err error
			if failed := try(func() { rows, err = g.measure(g.rows) }); failed != nil {
				err = failed
			}
			r.done = before + g.turns*len(g.rows)
			if err != nil {
				r.leave(fmt.Sprintf("%s, %s: %v", s.Title, g.name, err))
			}
			rows = measured(rows)
			if len(rows) > 0 {
				out.Groups = append(out.Groups, report.Group{Name: g.name, X: g.x, Plot: g.panel, Rows: rows})
			}
		}
		if len(out.Groups) > 0 {
			results.Sections = append(results.Sections, out)
		}
	}
	r.close()
	if ctx.Err() != nil {
		results.Partial = fmt.Sprintf("interrupted after %v; what is here was measured, the rest was not", time.Since(started).Round(time.Second))
	}
	results.Left = r.left
	for _, c := range claim(results) {
		if c.Known || r.Check {
			results.Claims = append(results.Claims, c)
		}
	}
	results.Seconds = time.Since(started).Seconds()
	return results, nil
}

// wanted returns the rows of g that this run measures.
func (r *run) wanted(section string, g group) []string {
	if r.Quick && !g.quick || r.Check && !g.check {
		return nil
	}
	var rows []string
	for _, row := range g.rows {
		if r.Only == nil || r.Only.MatchString(section+"/"+g.name+"/"+row) {
			rows = append(rows, row)
		}
	}
	return rows
}

func (s *section) needsRedis(g group) bool {
	switch s.ID {
	case "memory-peers", "middleware", "chain", "capture", "proxy", "proxies", "downloads", "pinned":
		return false
	}
	if g.name == oneProcess {
		return false
	}
	for _, row := range g.rows {
		if row != inMemory && row != overPrefix+inMemory && row != nothing {
			return true
		}
	}
	return false
}

func names(sections []section) []string {
	var all []string
	for _, s := range sections {
		for _, g := range s.groups {
			all = append(all, s.ID+"/"+g.name)
		}
	}
	return all
}

// measured leaves out the rows that had no turn.
func measured(rows []report.Row) []report.Row {
	var with []report.Row
	for _, row := range rows {
		if len(row.Metrics) > 0 || row.Note != "" {
			with = append(with, row)
		}
	}
	return with
}

// step is called before each turn and reports whether to go on.
func (r *run) step(what string) bool {
	if r.Progress != nil {
		r.Progress(r.done, r.total, r.now, what)
	}
	r.done = min(r.done+1, r.total)
	return r.ctx.Err() == nil
}

// leave says what is left out, once.
func (r *run) leave(what string) {
	if !slices.Contains(r.left, what) {
		r.left = append(r.left, what)
	}
}

// connect finds the server, and puts the delay in front of it and the cluster
// beside it where there can be any.
func (r *run) connect() (err error) {
	if r.server, err = openServer(r.stage, r.Redis); err != nil {
		return err
	}
	r.place = place{URL: r.server.url, Prefix: "weir-" + r.id, Clock: r.server.kind == embedded}
	if r.Quick {
		return nil
	}
	if url, net, err := r.server.away(r.stage, time.Millisecond/2); err != nil {
		r.leave("Redis behind a delay: " + err.Error())
	} else {
		r.place.Far, r.far = url, net
	}
	return nil
}

// cluster starts the cluster when it is first asked for.
func (r *run) cluster() error {
	if len(r.place.Cluster) > 0 {
		return nil
	}
	if r.server.kind != own {
		return errNoCluster
	}
	return try(func() { r.place.Cluster = startCluster(r.stage) })
}

func (r *run) loads() pace.LoadOptions {
	return pace.LoadOptions{Rounds: r.Rounds, Slice: r.Slice, Step: r.step}
}

func (r *run) cases() pace.Options {
	return pace.Options{Rounds: r.Rounds + 2, Slice: r.Slice / 4, Step: r.step}
}

func one(f float64) pace.Spread { return pace.Spread{Median: f, Min: f, Max: f} }

// put adds a metric of which there are figures.
func put(row *report.Row, metric string, figures []float64, scale float64) {
	if len(figures) == 0 {
		return
	}
	s := pace.Median(figures)
	if row.Metrics == nil {
		row.Metrics = make(map[string]pace.Spread)
	}
	row.Metrics[metric] = pace.Spread{Median: s.Median * scale, Min: s.Min * scale, Max: s.Max * scale}
}

// ratio adds the ratio of figures, round by round.
func ratio(row *report.Row, metric string, a, b []float64) {
	if r := pace.Ratio(a, b); r.Max > 0 {
		row.Metrics[metric] = r
	}
}

// rowsOf shows what pace.Compare measured.
func rowsOf(rows []pace.Row) []report.Row {
	out := make([]report.Row, len(rows))
	for i, row := range rows {
		out[i].Name = row.Name
		if len(row.Wall) == 0 {
			continue
		}
		put(&out[i], "wall", row.Wall, 1)
		put(&out[i], "cpu_ns", row.CPU, 1)
		out[i].Metrics["allocs"], out[i].Metrics["bytes"] = one(row.Allocs), one(row.Bytes)
		ratio(&out[i], "wall_ratio", row.Wall, rows[0].Wall)
		ratio(&out[i], "cpu_ratio", row.CPU, rows[0].CPU)
	}
	return out
}

func keys(id string, n int) []string {
	ks := make([]string, n)
	for i := range ks {
		ks[i] = fmt.Sprintf("%s-user-%08d", id, i)
	}
	rand.Shuffle(n, func(i, j int) { ks[i], ks[j] = ks[j], ks[i] })
	return ks
}

func machine() report.Machine {
	return report.Machine{
		CPU: cpuName(), Cores: runtime.GOMAXPROCS(0), OS: runtime.GOOS + "/" + runtime.GOARCH,
		Go: runtime.Version(), Load: load(),
	}
}
