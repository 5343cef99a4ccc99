package suite

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/benchmarks/internal/report"
	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/benchmarks/peer"
	"github.com/goweir/weir/benchmarks/redisbench"
	"github.com/goweir/weir/limiter"
)

const (
	processes = 4
	inEach    = 250 // decisions, by 50 goroutines

	oneProcess = "in memory, in one process"
)

// exactness counts what is admitted when four processes ask at once.
func (r *run) exactness() section {
	s := section{Section: report.Section{
		ID: "exactness", Title: "Exactness", Columns: []string{"admitted", "bound", "asked", "errors"},
		Text: fmt.Sprintf("%d processes of %d decisions each, by 50 goroutines each, all at once, about one quota of 10 an hour; the mark is the bound, 10. "+
			"Five times each, each time about another key: median, lowest and highest. Memory belongs to a process, so %d of them admit %d times as much: that is what a shared backend is for. "+
			"Leases are cut down to the quota here, and admit up to a lease more for each process over a longer time, which is their documented price. "+
			"go-zero's TokenLimiter is not asked: its units come back each second. In one process 16 goroutines ask 40,000 times, at once, about a thousand a day; "+
			"an error, which throttled may answer with, admits nobody.", processes, inEach, processes, processes),
	}}
	rows := []string{inMemory, oneByOne, coalesced, denyCache, leased, overPrefix + denyCache, onCluster}
	var peers []string
	for _, d := range redisbench.Peers {
		if d.Name != "go-zero TokenLimiter" {
			peers = append(peers, d.Name)
		}
	}
	for name, rows := range map[string][]string{"weir": rows, "peers": peers} {
		g := group{name: name, rows: rows, turns: 5, check: name == "weir"}
		g.measure = func(rows []string) ([]report.Row, error) {
			var out []report.Row
			for _, name := range rows {
				row := report.Row{Name: name}
				var admitted, errors []float64
				for round := range 5 {
					if !r.step(name) {
						return out, nil
					}
					if name == onCluster {
						if err := r.cluster(); err != nil {
							row.Note = err.Error()
							break
						}
					}
					sum, err := r.four(name, fmt.Sprintf("%s-exact-%d-%s", r.id, round, name))
					if err != nil {
						if r.ctx.Err() == nil {
							row.Note = err.Error()
						}
						break
					}
					admitted, errors = append(admitted, float64(sum.Admitted)), append(errors, float64(sum.Errors))
					put(&row, "asked", []float64{float64(sum.Asked)}, 1)
					put(&row, "bound", []float64{10}, 1)
				}
				put(&row, "admitted", admitted, 1)
				put(&row, "errors", errors, 1)
				out = append(out, row)
			}
			return out, nil
		}
		s.groups = append(s.groups, g)
	}
	if s.groups[0].name != "weir" {
		s.groups[0], s.groups[1] = s.groups[1], s.groups[0]
	}
	rows = []string{weir}
	for _, d := range peer.Deciders {
		rows = append(rows, d.Name)
	}
	s.groups = append(s.groups, group{name: oneProcess, rows: rows, turns: 5, measure: func(rows []string) (out []report.Row, err error) {
		for _, name := range rows {
			row := report.Row{Name: name}
			var admitted []float64
			for range 5 {
				if !r.step(name) {
					return out, nil
				}
				admitted = append(admitted, float64(admittedAtOnce(name)))
			}
			put(&row, "admitted", admitted, 1)
			put(&row, "bound", []float64{1000}, 1)
			put(&row, "asked", []float64{atOnce * askedByEach}, 1)
			out = append(out, row)
		}
		return out, nil
	}})
	return s
}

const (
	atOnce      = 16
	askedByEach = 2500
)

// admittedAtOnce counts what a new decider with a quota of a thousand a day
// admits. It takes too short for another one to come back.
func admittedAtOnce(name string) int64 {
	take, closer := memoryDecider(name, peer.Thousand)
	defer closer()
	var admitted atomic.Int64
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for range atOnce {
		wg.Go(func() {
			<-begin
			for range askedByEach {
				if take("ann") {
					admitted.Add(1)
				}
			}
		})
	}
	close(begin)
	wg.Wait()
	return admitted.Load()
}

// An order is what a process is started for, and a reckoning its answer.
type order struct {
	Kind      string // "exact" or "downloads"
	Place     place
	Addr      string // for peers
	Name, Key string
}

type reckoning struct {
	Admitted, Asked, Errors int
	RSS                     int64 `json:",omitempty"`
}

const orderVariable = "WEIR_BENCHMARKS_ORDER"

// A child is a process of this program.
type child struct {
	in  io.WriteCloser
	out *bufio.Reader
	cmd *exec.Cmd
}

func (r *run) child(o order) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.CommandContext(r.ctx, self)}
	c.cmd.Env = append(os.Environ(), orderVariable+"="+string(b))
	c.cmd.Stderr = os.Stderr
	// So that Ctrl-C ends the run, and the run its children.
	c.cmd.WaitDelay = time.Second
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	return c, c.cmd.Start()
}

// finish reads the answer of a child and waits for its end.
func (c *child) finish() (rec reckoning, err error) {
	err = json.NewDecoder(c.out).Decode(&rec)
	c.in.Close()
	if ended := c.cmd.Wait(); ended != nil && err == nil {
		err = ended
	}
	return rec, err
}

// four has four processes ask at once.
func (r *run) four(name, key string) (sum reckoning, err error) {
	o := order{Kind: "exact", Place: r.place, Name: name, Key: key}
	for _, d := range redisbench.Peers {
		if d.Name == name {
			if o.Addr = r.server.addr; o.Addr == "" {
				return sum, fmt.Errorf("peers need an address of the form redis://HOST:PORT")
			}
		}
	}
	var children []*child
	defer func() {
		for _, c := range children {
			rec, failed := c.finish()
			if failed != nil && err == nil {
				err = failed
			}
			sum.Admitted, sum.Asked, sum.Errors = sum.Admitted+rec.Admitted, sum.Asked+rec.Asked, sum.Errors+rec.Errors
		}
	}()
	for range processes {
		c, err := r.child(o)
		if err != nil {
			return sum, err
		}
		children = append(children, c)
	}
	for _, c := range children {
		if line, err := c.out.ReadString('\n'); line != "ready\n" {
			return sum, fmt.Errorf("a process is not ready: %q, %v", line, err)
		}
	}
	for _, c := range children {
		fmt.Fprintln(c.in, "go")
	}
	return sum, nil
}

// Child reports whether this process was started by a run, and does what it was
// started for.
func Child() bool {
	text := os.Getenv(orderVariable)
	if text == "" {
		return false
	}
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var rec reckoning
	var err error
	if failed := try(func() { rec, err = o.carryOut() }); failed != nil {
		err = failed
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(rec)
	return true
}

func (o order) carryOut() (rec reckoning, err error) {
	if o.Kind == "downloads" {
		return downloads(o.Name)
	}
	take, closer, err := o.decider()
	if err != nil {
		return rec, err
	}
	defer closer()
	// Scripts and connections, with a quota of its own. A first call may fail.
	for i := range 20 {
		if _, err := take(fmt.Sprintf("%s-warm-%d-%d", o.Key, os.Getpid(), i)); err == nil && i > 2 {
			break
		}
	}
	fmt.Println("ready")
	if line, err := bufio.NewReader(os.Stdin).ReadString('\n'); strings.TrimSpace(line) != "go" {
		return rec, fmt.Errorf("not told to go: %q, %w", line, err)
	}
	var admitted, failed atomic.Int64
	var wg sync.WaitGroup
	const goroutines = 50
	for range goroutines {
		wg.Go(func() {
			for range inEach / goroutines {
				ok, err := take(o.Key)
				if ok {
					admitted.Add(1)
				}
				if err != nil {
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return reckoning{Admitted: int(admitted.Load()), Asked: inEach, Errors: int(failed.Load())}, nil
}

func (o order) decider() (func(string) (bool, error), func(), error) {
	for _, d := range redisbench.Peers {
		if d.Name == o.Name {
			take, closer := d.New(o.Addr, redisbench.Ten)
			return take, closer, nil
		}
	}
	l, closer, err := o.Place.open(o.Name)
	if err != nil {
		return nil, nil, err
	}
	ctx, p := context.Background(), redisbench.Policy(redisbench.Ten)
	return func(key string) (bool, error) {
		res, err := l.Take(ctx, limiter.Charge{Policy: p, Key: key, Cost: 1})
		return res.Allowed, err
	}, closer, nil
}

// costs counts what a decision takes of the network and of the server.
func (r *run) costs() section {
	s := section{Section: report.Section{
		ID: "costs", Title: "Round trips and commands", Columns: []string{"trips", "commands", "reads"},
		Text: "Of one decision, counted over 20,000 of them, which are the first about their keys: round trips by a proxy on the way (what is sent before an answer has come is one of them with what was sent before), " +
			"commands and reads from sockets by the server; commands within scripts count too.",
	}}
	for _, p := range []pattern{patterns[0], patterns[1], patterns[3]} {
		name := p.name
		if p.name == patterns[1].name {
			name = "500 keys, 40 decisions each"
		}
		for _, n := range []int{1, 64} {
			s.groups = append(s.groups, group{
				name: fmt.Sprintf("%s, goroutines: %d", name, n), turns: 1, check: n == 64,
				rows:    []string{oneByOne, coalesced, denyCache, leased},
				measure: func(rows []string) ([]report.Row, error) { return r.count(rows, n, p) },
			})
		}
	}
	return s
}

func (r *run) count(names []string, callers int, p pattern) ([]report.Row, error) {
	url, net, err := r.server.away(r.stage, 0)
	if err != nil {
		return nil, err
	}
	const decisions = 20_000
	near := r.place
	near.URL, near.Prefix = url, near.Prefix+"-count"
	used := r.server.used()
	var rows []report.Row
	for _, name := range names {
		if !r.step(name) {
			break
		}
		l, closer, err := near.open(name)
		if err != nil {
			return rows, err
		}
		o := &opened{l: l, closer: closer, keys: keys(r.id, 500), known: map[string]bool{}}
		policy, draws := redisbench.Policy(p.quota), p.draws(o.keys)
		// Scripts and connections, with other keys.
		if err := o.fill(r.ctx, policy, keys(r.id+"warm", 64)); err != nil {
			closer()
			return rows, err
		}
		do := o.load(name, policy, draws).Do
		zero, before, trips := used(), used(), net.Stats().RoundTrips
		var wg sync.WaitGroup
		var failed atomic.Int64
		for c := range callers {
			wg.Go(func() {
				for i := range decisions / callers {
					if do(c, i) != nil {
						failed.Add(1)
					}
				}
			})
		}
		wg.Wait()
		after := used()
		asked := float64(decisions / callers * callers)
		row := report.Row{Name: name, Metrics: map[string]pace.Spread{}}
		row.Metrics["trips"] = one(float64(net.Stats().RoundTrips-trips) / asked)
		// Reading the counters counts, too.
		row.Metrics["commands"] = one(max(0, after.Commands-before.Commands-(before.Commands-zero.Commands)) / asked)
		if r.server.kind != embedded {
			row.Metrics["reads"] = one(max(0, after.Reads-before.Reads-(before.Reads-zero.Reads)) / asked)
		}
		if n := failed.Load(); n > 0 {
			row.Note = fmt.Sprintf("%d errors", n)
		}
		rows = append(rows, row)
		closer()
	}
	return rows, nil
}
