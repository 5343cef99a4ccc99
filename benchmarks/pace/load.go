package pace

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"text/tabwriter"
	"time"
)

// A Load is one of the things compared under many callers at once, each of whom
// waits for its answer.
type Load struct {
	Name string
	Do   func(caller, i int) error // the i-th request of that caller

	// Every is in place of that of the options. 0: that of the options.
	Every time.Duration
}

// LoadOptions say how to ask and for how long.
type LoadOptions struct {
	Callers int
	Rounds  int           // turns of each load
	Slice   time.Duration // length of a turn

	// Every is the time between two requests of a caller. What is late is asked
	// at once, and its time counts from when it was due, so that nobody looks
	// quick by answering slowly and being asked less. 0: each caller asks again
	// as soon as it is answered, and time counts from then.
	Every time.Duration

	// Used says what a server has used so far. It may be nil.
	Used func() Usage

	// Step is called before each turn with the name of the load. When it
	// reports false, nothing more is measured, and some of the loads may have
	// fewer rounds than others, or none. It may be nil.
	Step func(name string) bool
}

// Usage is what a server says it has used since it started.
type Usage struct {
	Commands, Reads float64       // those within scripts are commands too; a read is of a socket
	CPU             time.Duration // user and system
}

// A Heat is what was measured of a Load, one figure a round.
type Heat struct {
	Name            string
	Rate            []float64 // answers a second
	P50, P95, P99   []float64 // ns
	Max             []float64 // ns, the longest of a round
	CPU             []float64 // of this process, ns an answer
	Commands, Reads []float64 // of the server, an answer
	ServerCPU       []float64 // ns an answer
	Errors, Answers int       // of all rounds; an error is no answer
	Err             error     // one of them
}

// Press measures the loads, in turns.
func Press(o LoadOptions, loads ...Load) []Heat {
	heats := make([]Heat, len(loads))
	for round := range o.Rounds {
		for k := range loads {
			// Nobody is always behind the same one.
			i := (k + round) % len(loads)
			if round%2 == 1 {
				i = len(loads) - 1 - i
			}
			heats[i].Name = loads[i].Name
			if o.Step != nil && !o.Step(loads[i].Name) {
				return heats
			}
			turn := o
			if loads[i].Every > 0 {
				turn.Every = loads[i].Every
			}
			runtime.GC()                               // nobody pays for another's garbage
			drive(loads[i].Do, turn, o.Slice/8, 1<<40) // nor for another's caches and connections
			heats[i].measure(loads[i].Do, turn)
		}
	}
	return heats
}

func (h *Heat) measure(do func(int, int) error, o LoadOptions) {
	used := o.Used
	if used == nil {
		used = func() Usage { return Usage{} }
	}
	before := used()
	cpu, start := cpuTime(), time.Now()
	all := drive(do, o, o.Slice, 0)
	took, cpu := time.Since(start), cpuTime()-cpu
	after := used()

	n := float64(max(1, all.times.total))
	add := func(figures *[]float64, f float64) { *figures = append(*figures, f) }
	add(&h.Rate, float64(all.times.total)/took.Seconds())
	add(&h.P50, float64(all.times.quantile(0.5)))
	add(&h.P95, float64(all.times.quantile(0.95)))
	add(&h.P99, float64(all.times.quantile(0.99)))
	add(&h.Max, float64(all.times.longest))
	add(&h.CPU, float64(cpu)/n)
	add(&h.Commands, (after.Commands-before.Commands)/n)
	add(&h.Reads, (after.Reads-before.Reads)/n)
	add(&h.ServerCPU, float64(after.CPU-before.CPU)/n)
	h.Answers += all.times.total
	h.Errors += all.errors
	if all.err != nil {
		h.Err = all.err
	}
}

type driven struct {
	times  histogram
	errors int
	err    error
}

// drive has the callers ask for that long, from their first-th request on.
func drive(do func(int, int) error, o LoadOptions, d time.Duration, first int) *driven {
	each := make([]driven, o.Callers)
	var wg sync.WaitGroup
	start := time.Now()
	for c := range o.Callers {
		wg.Go(func() {
			r := &each[c]
			asked := time.Since(start)
			if o.Every > 0 {
				asked = o.Every * time.Duration(c) / time.Duration(o.Callers)
			}
			for i := first; asked < d; i++ {
				if early := asked - time.Since(start); o.Every > 0 && early > 0 {
					sleep(early)
				}
				err := do(c, i)
				now := time.Since(start)
				if err == nil {
					r.times.add(now - asked)
				} else {
					r.errors++
					r.err = err
				}
				if asked = now; o.Every > 0 {
					asked = o.Every*time.Duration(c)/time.Duration(o.Callers) + o.Every*time.Duration(i+1-first)
				}
			}
		})
	}
	wg.Wait()
	all := &driven{}
	for i := range each {
		all.times.merge(&each[i].times)
		all.errors += each[i].errors
		if each[i].err != nil {
			all.err = each[i].err
		}
	}
	return all
}

// PrintHeats writes a table of heats, medians of the rounds: "first x" is how
// many times as many answers a second the first one gives, or how many times as
// long it takes.
func PrintHeats(w io.Writer, title string, heats []Heat) {
	fmt.Fprintf(w, "\n%s\n", title)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "\tanswers/s\tfirst x\tp50 µs\tfirst x\tp99 µs\tfirst x\tCPU µs\tserver CPU µs\tfirst x\tcommands\treads\terrors\t")
	first := heats[0]
	for _, h := range heats {
		fmt.Fprintf(tw, "%s\t%.0f\t%v\t%.1f\t%v\t%.1f\t%v\t%.2f\t%.2f\t%v\t%.3f\t%.3f\t%d\t\n", h.Name,
			Median(h.Rate).Median, Ratio(first.Rate, h.Rate),
			Median(h.P50).Median/1e3, Ratio(first.P50, h.P50),
			Median(h.P99).Median/1e3, Ratio(first.P99, h.P99),
			Median(h.CPU).Median/1e3,
			Median(h.ServerCPU).Median/1e3, Ratio(first.ServerCPU, h.ServerCPU),
			Median(h.Commands).Median, Median(h.Reads).Median, h.Errors)
	}
	tw.Flush()
}
