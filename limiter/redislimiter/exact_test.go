//go:build unix

package redislimiter_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/redislimiter"
)

// The well-known accident: ten a second, a hundred requests at once over four
// processes. Ten runs, each with quotas of its own.
func TestTenOfAHundredAtOnce(t *testing.T) {
	s := redistest.Start(t)
	ps := processes(t, 4, setup{URL: s.URL(), Prefix: fresh(redislimiter.Options{}).Prefix, Limiters: 1})
	for run := range 10 {
		for a := limiter.TokenBucket; a <= limiter.SlidingLog; a++ {
			// Nothing comes back while a run lasts.
			hour := limiter.Policy{Name: "hour", Algorithm: a, Limit: 10, Window: 1000 * time.Hour}
			n := 0
			for _, d := range together(t, ps, job{Goroutines: 25, Times: 1, Charges: []limiter.Charge{{Policy: hour, Key: fmt.Sprint(run), Cost: 1}}}) {
				if d.Allowed {
					n++
				}
			}
			if n != 10 {
				t.Errorf("run %d, %v: %d of 100 admitted, want 10", run, a, n)
			}
		}
		// What comes back while a run lasts is counted by the server's clock.
		c := limiter.Charge{Policy: limiter.PerSecond("second", 10), Key: fmt.Sprint(run), Cost: 1}
		all := grants(together(t, ps, job{Goroutines: 25, Times: 1, Charges: []limiter.Charge{c}}), 0)
		checkBucket(t, all, c.Policy)
		if len(all) < 10 {
			t.Errorf("run %d: %d of 100 admitted, want 10 at least", run, len(all))
		}
		took := time.Duration(all[len(all)-1].serverTime()-all[0].serverTime()) * time.Microsecond
		t.Logf("run %d: %d admitted in %v", run, len(all), took)
	}
}

// grants returns what was granted of a charge, in the server's order.
func grants(all []decided, charge int) []decided {
	all = slices.DeleteFunc(slices.Clone(all), func(d decided) bool { return d.Charge != charge || !d.Allowed })
	slices.SortFunc(all, func(a, b decided) int {
		return cmp.Or(cmp.Compare(a.serverTime(), b.serverTime()), cmp.Compare(a.Until, b.Until))
	})
	return all
}

// checkBucket fills an ideal bucket, that knows nothing of arrivals, with what
// was granted, by the server's time. It counts in units times the window, which
// is whole numbers: in a microsecond, Limit of them leak out.
func checkBucket(t *testing.T, all []decided, p limiter.Policy) {
	t.Helper()
	window := p.Window.Microseconds()
	capacity := int64(cmp.Or(p.Burst, p.Limit)) * window
	level, last := int64(0), int64(0)
	for i, d := range all {
		now := d.serverTime()
		if now < d.Before || now > d.After {
			t.Errorf("%d was granted at %d by the server's clock, asked at %d and answered at %d", i, now, d.Before, d.After)
		}
		if level > 0 {
			level = max(0, level-(now-last)*int64(p.Limit))
		}
		level, last = level+window, now
		if level > capacity {
			t.Fatalf("grant %d of %d: %d units above the burst", i, len(all), (level-capacity+window-1)/window)
		}
		if i > 0 && d.Until-d.Paid < all[i-1].Until {
			t.Fatalf("grants %d and %d are for the same turn: %+v, %+v", i-1, i, all[i-1], d)
		}
	}
}

// checkWindows counts grants by window of the server's clock.
func checkWindows(t *testing.T, all []decided, p limiter.Policy) (windows int) {
	t.Helper()
	counts := map[int64]int{}
	for _, d := range all {
		if counts[d.Until]++; counts[d.Until] == p.Limit+1 {
			t.Errorf("more than %d are granted in the window that ends at %d", p.Limit, d.Until)
		}
	}
	return len(counts)
}

// checkSliding counts grants in every span of a window's length.
func checkSliding(t *testing.T, all []decided, p limiter.Policy, most int, at func(*decided) int64) {
	t.Helper()
	var times []int64
	for i := range all {
		times = append(times, at(&all[i]))
	}
	slices.Sort(times)
	for i := range times {
		if j := i + most; j < len(times) && times[j]-times[i] < p.Window.Microseconds() {
			t.Fatalf("%d within %d µs, want %d in %v at most", most+1, times[j]-times[i], most, p.Window)
		}
	}
}

// Eight Limiters in four processes flood quotas. Everything that was granted is
// replayed by the server's time.
func TestExactAcrossProcesses(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	ps := processes(t, 4, setup{URL: s.URL(), Prefix: fresh(redislimiter.Options{}).Prefix, Limiters: 2})
	flood := floods()
	all := together(t, ps, job{Charges: flood, Goroutines: 4, For: span(), Pause: time.Millisecond / 2})
	asked, demand := map[limiter.Source]int{}, make([]int, len(flood))
	first, last := all[0].Before, all[0].After
	for _, d := range all {
		asked[d.Source]++
		demand[d.Charge]++
		first, last = min(first, d.Before), max(last, d.After)
	}
	elapsed := time.Duration(last-first) * time.Microsecond
	t.Logf("%d decisions: %v", len(all), asked)
	for k, c := range flood {
		got := grants(all, k)
		p := c.Policy
		ideal := float64(cmp.Or(p.Burst, p.Limit)) + float64(p.Limit)*float64(elapsed)/float64(p.Window)
		switch p.Algorithm {
		case limiter.TokenBucket, limiter.LeakyBucket:
			checkBucket(t, got, p)
		case limiter.FixedWindow:
			checkWindows(t, got, p)
			ideal += float64(p.Limit)
		case limiter.SlidingLog:
			checkSliding(t, got, p, p.Limit, func(d *decided) int64 { return d.Until - p.Window.Microseconds() })
		}
		t.Logf("%s: %d granted in %v, ideal %.0f", p.Name, len(got), elapsed.Round(time.Millisecond), ideal)
		// Nor is it a lock-out; on a busy machine less may be asked for.
		if float64(len(got)) < 0.5*min(ideal-float64(2*p.Limit), float64(demand[k])) {
			t.Errorf("%s: only %d granted of %.0f, for %d that were asked", p.Name, len(got), ideal, demand[k])
		}
	}
}

func floods() []limiter.Charge {
	return []limiter.Charge{
		{Policy: limiter.Policy{Name: "token bucket", Limit: 200, Window: time.Second, Burst: 50}, Key: "k", Cost: 1},
		{Policy: limiter.Policy{Name: "broken unit", Limit: 300, Window: 700 * time.Millisecond, Burst: 7}, Key: "k", Cost: 1},
		{Policy: limiter.Policy{Name: "fixed window", Algorithm: limiter.FixedWindow, Limit: 100, Window: 500 * time.Millisecond}, Key: "k", Cost: 1},
		{Policy: limiter.Policy{Name: "sliding log", Algorithm: limiter.SlidingLog, Limit: 100, Window: 500 * time.Millisecond}, Key: "k", Cost: 1},
	}
}

// A client that waits a unit's time after each answer is below the rate, however
// late its answers are. Three other processes flood other quotas meanwhile.
func TestPacedClientIsNeverRefused(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	ps := processes(t, 4, setup{URL: s.URL(), Prefix: fresh(redislimiter.Options{}).Prefix, Limiters: 1})
	var paced []limiter.Charge
	for _, a := range []limiter.Algorithm{limiter.TokenBucket, limiter.LeakyBucket, limiter.SlidingLog} {
		paced = append(paced, limiter.Charge{Policy: limiter.Policy{Name: "paced", Algorithm: a, Limit: 1, Window: 20 * time.Millisecond}, Key: "k", Cost: 1})
	}
	// Three charges in turn, with three pauses between two of the same quota.
	all := together(t, ps, job{Charges: paced, Goroutines: 1, For: span(), Pause: 7 * time.Millisecond},
		job{Charges: floods(), Goroutines: 2, For: span(), Pause: time.Millisecond})
	asked, refused := 0, 0
	for _, d := range all {
		if d.Limiter == 0 {
			asked++
			if !d.Allowed {
				refused++
			}
		}
	}
	t.Logf("%d decisions of a paced client, %d refused", asked, refused)
	if refused > 0 || asked < 10 {
		t.Errorf("%d of %d refused, want none", refused, asked)
	}
}

// span is how long a flood lasts.
func span() time.Duration {
	if testing.Short() {
		return 2 * time.Second
	}
	return 10 * time.Second
}

// With leases what was taken before may be spent later: as many units more in
// any span as all Limiters have leased at most. Here they lease, wait until the
// quota is whole again, and spend all at once.
func TestLeasesAcrossProcesses(t *testing.T) {
	t.Parallel()
	const lease, limiters = 10, 8
	s := redistest.Start(t)
	ps := processes(t, 4, setup{URL: s.URL(), Prefix: fresh(redislimiter.Options{}).Prefix, Limiters: 2, Lease: lease})
	p := limiter.Policy{Name: "p", Limit: 200, Window: time.Second, Burst: 100}
	charges := []limiter.Charge{{Policy: p, Key: "k", Cost: 1}}
	var all []decided
	for begin := time.Now(); time.Since(begin) < span(); {
		all = append(all, together(t, ps, job{Charges: charges, Goroutines: 1, Times: 1})...)
		time.Sleep(600 * time.Millisecond)
		all = append(all, together(t, ps, job{Charges: charges, Goroutines: 2, Times: 100, Pause: time.Millisecond})...)
	}
	leased := 0
	all = slices.DeleteFunc(all, func(d decided) bool {
		if d.Source == limiter.SourceLease {
			leased++
		}
		return !d.Allowed
	})
	excess := mostExcess(all, p)
	t.Logf("%d admitted, %d from leases; at most %d more in a span than the bucket admits, %d allowed", len(all), leased, excess, limiters*lease)
	if leased == 0 || excess > limiters*lease {
		t.Errorf("%d from leases, and %d more than burst and rate admit; want some, and %d at most", leased, excess, limiters*lease)
	}
}

// mostExcess returns by how much the admissions of any span exceed what a bucket
// admits in it. When each was is known from its caller's clock only: it counts
// where it is certain that it was in the span.
func mostExcess(all []decided, p limiter.Policy) (most int) {
	slices.SortFunc(all, func(a, b decided) int { return cmp.Compare(b.Before, a.Before) })
	var ends []int64
	for _, d := range all {
		i, _ := slices.BinarySearch(ends, d.After)
		ends = slices.Insert(ends, i, d.After)
		for n, end := range ends {
			bound := int64(cmp.Or(p.Burst, p.Limit)) + (end-d.Before)*int64(p.Limit)/p.Window.Microseconds()
			most = max(most, n+1-int(bound))
		}
	}
	return most
}
