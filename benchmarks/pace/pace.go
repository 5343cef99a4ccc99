// Package pace compares how fast things are on a machine that others use too.
//
// Times move by half and more between one minute and the next there, and all
// cases move together: so the cases take turns, a few milliseconds each, and
// what is compared is what happened within one round. The figure is the median
// of the rounds' ratios, with the lowest and the highest beside it.
package pace

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

// A Case is one of the things compared.
type Case struct {
	Name string
	Run  func(n int) // does the work n times
}

// Options say how long to measure.
type Options struct {
	Rounds int           // turns of each case
	Slice  time.Duration // length of a turn

	// Large leaves out the garbage collection before each turn, because live
	// data of the cases is so much that it would take most of the time. Then it
	// is so much too that no collection starts by itself.
	Large bool

	// Step is called before each turn with the name of the case. When it
	// reports false, nothing more is measured, and some of the cases may have
	// fewer rounds than others, or none. It may be nil.
	Step func(name string) bool
}

// A Row is what was measured of a Case: nanoseconds per run in each round.
type Row struct {
	Name          string
	CPU           []float64 // of all threads of this process, the collector's included
	Wall          []float64
	Allocs, Bytes float64 // per run
}

// Compare measures the cases, in turns.
func Compare(o Options, cases ...Case) []Row {
	runtime.GC()
	rows := make([]Row, len(cases))
	times := make([]int, len(cases))
	for i, c := range cases {
		rows[i].Name = c.Name
		times[i] = calibrate(c.Run, o.Slice)
	}
	for round := range o.Rounds {
		for k := range cases {
			// Nobody is always behind the same one.
			i := (k + round) % len(cases)
			if round%2 == 1 {
				i = len(cases) - 1 - i
			}
			if o.Step != nil && !o.Step(cases[i].Name) {
				return rows
			}
			if !o.Large {
				runtime.GC() // nobody pays for another's garbage
			}
			cases[i].Run(times[i]/8 + 1) // nor for another's caches
			measure(&rows[i], times[i], cases[i].Run)
		}
	}
	return rows
}

// calibrate returns how often f runs in about d, when nobody else takes the
// core: it believes the quickest of four tries.
func calibrate(f func(int), d time.Duration) int {
	try := func(n int) time.Duration {
		start := time.Now()
		f(n)
		return max(1, time.Since(start))
	}
	for n := 1; ; n *= 2 {
		if took := try(n); took >= d/8 || n >= 1<<28 {
			took = min(took, try(n), try(n), try(n))
			return max(1, int(float64(n)*float64(d)/float64(took)))
		}
	}
}

func measure(r *Row, n int, f func(int)) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu, start := cpuTime(), time.Now()
	f(n)
	wall, used := time.Since(start), cpuTime()-cpu
	runtime.ReadMemStats(&after)
	r.Wall = append(r.Wall, float64(wall)/float64(n))
	r.CPU = append(r.CPU, float64(used)/float64(n))
	r.Allocs = float64(after.Mallocs-before.Mallocs) / float64(n)
	r.Bytes = float64(after.TotalAlloc-before.TotalAlloc) / float64(n)
}

// Parallel returns a Run that divides its work among so many goroutines.
func Parallel(goroutines int, f func(worker, n int)) func(int) {
	if goroutines == 1 {
		return func(n int) { f(0, n) }
	}
	return func(n int) {
		var wg sync.WaitGroup
		for w := range goroutines {
			wg.Go(func() { f(w, (n+w)/goroutines) })
		}
		wg.Wait()
	}
}

// Minus returns r less what bare cost in the same round.
func (r Row) Minus(bare Row) Row {
	sub := func(a, b []float64) []float64 {
		c := slices.Clone(a)
		for i := range c {
			c[i] -= b[i]
		}
		return c
	}
	r.CPU, r.Wall = sub(r.CPU, bare.CPU), sub(r.Wall, bare.Wall)
	r.Allocs, r.Bytes = r.Allocs-bare.Allocs, r.Bytes-bare.Bytes
	return r
}

// A Spread is the median of several figures, the lowest and the highest.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func (s Spread) String() string { return fmt.Sprintf("%.2f [%.2f %.2f]", s.Median, s.Min, s.Max) }

// Median returns the spread of figures, which is 0 of none.
func Median(figures []float64) Spread {
	if len(figures) == 0 {
		return Spread{}
	}
	s := slices.Sorted(slices.Values(figures))
	mid := (s[(len(s)-1)/2] + s[len(s)/2]) / 2
	return Spread{mid, s[0], s[len(s)-1]}
}

// Ratio returns the spread of a/b, over the rounds that both have and in which b
// is not 0.
func Ratio(a, b []float64) Spread {
	var r []float64
	for i := range min(len(a), len(b)) {
		if b[i] != 0 {
			r = append(r, a[i]/b[i])
		}
	}
	return Median(r)
}

// Print writes a table of rows: the median of the CPU time of a run and the
// lowest, the median by the clock on the wall, and what was allocated.
// "first/this" is how many times as long the first row takes as this one,
// "this/first" the other way round.
func Print(w io.Writer, title string, rows []Row) {
	fmt.Fprintf(w, "\n%s\n", title)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "\tCPU ns\tbest\twall ns\tallocs\tB\tfirst/this CPU\tfirst/this wall\tthis/first CPU\tthis/first wall\t")
	first := rows[0]
	for _, r := range rows {
		fmt.Fprintf(tw, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.0f\t%v\t%v\t%v\t%v\t\n", r.Name,
			Median(r.CPU).Median, Median(r.CPU).Min, Median(r.Wall).Median, r.Allocs, r.Bytes,
			Ratio(first.CPU, r.CPU), Ratio(first.Wall, r.Wall), Ratio(r.CPU, first.CPU), Ratio(r.Wall, first.Wall))
	}
	tw.Flush()
}
