package limiter

import (
	"errors"
	"fmt"
	"math"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"
)

// LoadOptions are the options of [NewLoadCheck].
type LoadOptions struct {
	// Memory is the share of the memory limit (GOMEMLIMIT, or
	// debug.SetMemoryLimit) that what is live may take: the heap that the last
	// garbage collection found reachable, and the stacks. It is not the memory
	// in use, which is near the limit in every busy process that has one. 0
	// means 0.8; negative does not look at it, and it is not looked at without a
	// limit; above 1 is a fault.
	Memory float64

	// Wait is how long goroutines that are ready may wait for a processor:
	// overloaded means that more than one in ten waited longer since the last
	// look, of the one in eight that Go measures, and at least two. 0 means 50
	// ms; negative does not look at it.
	Wait time.Duration

	// Every is how much time lies between two looks at least. 0 means 100 ms;
	// negative is a fault.
	Every time.Duration
}

// NewLoadCheck returns a function for InFlightOptions.Overloaded that reports
// whether this process is short of memory or of processors, by what the package
// runtime/metrics says. The error joins every fault of o.
//
// The function looks at most once in Every, when it is called, and in between
// answers what it found; it has no goroutine. It is safe for concurrent use.
//
// It protects the process from what no number of slots can: requests that differ
// in weight, or other work. It is no replacement for Max, because it acts when
// it is nearly too late.
func NewLoadCheck(o LoadOptions) (func() bool, error) {
	var faults []error
	if o.Memory > 1 || math.IsNaN(o.Memory) {
		faults = append(faults, fmt.Errorf("limiter: NewLoadCheck: Memory is %v; allowed: up to 1, 0 (0.8), or negative (not looked at)", o.Memory))
	}
	if o.Every < 0 {
		faults = append(faults, fmt.Errorf("limiter: NewLoadCheck: Every is %v; allowed: 0 (100ms) or more", o.Every))
	}
	if o.Memory < 0 && o.Wait < 0 {
		faults = append(faults, errors.New("limiter: NewLoadCheck: Memory and Wait are both negative, so there is nothing to look at"))
	}
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	if o.Memory == 0 {
		o.Memory = 0.8
	}
	if o.Wait == 0 {
		o.Wait = 50 * time.Millisecond
	}
	if o.Every == 0 {
		o.Every = 100 * time.Millisecond
	}
	l := &load{opts: o, start: time.Now(), samples: []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}, {Name: "/gc/gomemlimit:bytes"},
		{Name: "/sched/latencies:seconds"},
	}}
	l.look() // what was before does not count
	l.next.Store(0)
	return l.overloaded, nil
}

// load is what NewLoadCheck's function looks at.
type load struct {
	opts    LoadOptions
	start   time.Time
	next    atomic.Int64 // when to look again, since start
	verdict atomic.Bool

	mu      sync.Mutex
	samples []metrics.Sample
	waits   []uint64 // the counts of the last look
}

func (l *load) overloaded() bool {
	now := time.Since(l.start)
	// Whoever finds somebody looking takes what was found before.
	if now >= time.Duration(l.next.Load()) && l.mu.TryLock() {
		defer l.mu.Unlock()
		// Once more, for somebody may have looked in between: a look right
		// after another finds nothing, and would say so.
		if now >= time.Duration(l.next.Load()) {
			l.next.Store(int64(now + l.opts.Every))
			l.verdict.Store(l.look())
		}
	}
	return l.verdict.Load()
}

func (l *load) look() bool {
	metrics.Read(l.samples)
	short := false
	for _, s := range l.samples {
		if s.Value.Kind() == metrics.KindBad {
			return false // a Go that has it no more
		}
	}
	if limit := l.samples[2].Value.Uint64(); l.opts.Memory > 0 && limit < math.MaxInt64 {
		live := l.samples[0].Value.Uint64() + l.samples[1].Value.Uint64()
		short = float64(live) > l.opts.Memory*float64(limit)
	}
	if l.opts.Wait > 0 {
		short = l.waitedLong(l.samples[3].Value.Float64Histogram()) || short
	}
	return short
}

// waitedLong compares the histogram, which only ever grows, with that of the
// last look.
func (l *load) waitedLong(h *metrics.Float64Histogram) bool {
	if len(l.waits) != len(h.Counts) {
		l.waits = make([]uint64, len(h.Counts))
	}
	var all, long uint64
	for i, n := range h.Counts {
		since := n - l.waits[i]
		l.waits[i] = n
		all += since
		if h.Buckets[i] >= l.opts.Wait.Seconds() {
			long += since
		}
	}
	return long >= 2 && long > all/10
}
