package limiter_test

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

const kib, mib = int64(1 << 10), int64(1 << 20)

func bandwidth(t testing.TB, opts limiter.BandwidthOptions) *limiter.Bandwidth {
	t.Helper()
	b, err := limiter.NewBandwidth(opts)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A tap is a ResponseWriter that counts, and takes no time.
type tap struct {
	header  http.Header
	n       atomic.Int64
	largest int
	writes  int
}

func (c *tap) Header() http.Header { return c.header }
func (c *tap) WriteHeader(int)     {}
func (c *tap) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	c.largest = max(c.largest, len(p))
	c.writes++
	return len(p), nil
}

// A download is an endless response to a request, until its context ends.
type download struct {
	target string
	header string        // X-Key
	size   int           // of each Write; 0: 32 KiB
	period time.Duration // between Writes; 0: at once
}

// run makes all of downloads at once and returns what each got in d. What is in
// the buckets before passes first and is not counted.
func run(t *testing.T, b *limiter.Bandwidth, d time.Duration, downloads ...download) []int64 {
	t.Helper()
	return runAfter(t, b, time.Second, d, downloads...)
}

func runAfter(t *testing.T, b *limiter.Bandwidth, before, d time.Duration, downloads ...download) []int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), before+d)
	defer cancel()
	got := make([]int64, len(downloads))
	var wg sync.WaitGroup
	for i, down := range downloads {
		wg.Go(func() {
			h := b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				p := make([]byte, max(down.size, 1))
				if down.size == 0 {
					p = make([]byte, 32<<10)
				}
				for next := time.Now(); r.Context().Err() == nil; {
					if _, err := w.Write(p); err != nil {
						return
					}
					next = next.Add(down.period)
					time.Sleep(time.Until(next))
				}
			}))
			r := httptest.NewRequestWithContext(ctx, "GET", "http://example.com"+down.target, nil)
			r.Header.Set("X-Key", down.header)
			r.Pattern = down.target
			c := &tap{header: http.Header{}}
			var early atomic.Int64
			if before > 0 {
				defer time.AfterFunc(before, func() { early.Store(c.n.Load()) }).Stop()
			}
			func() {
				defer func() {
					if e := recover(); e != nil && e != http.ErrAbortHandler {
						panic(e)
					}
				}()
				h.ServeHTTP(c, r)
			}()
			got[i] = c.n.Load() - early.Load()
		})
	}
	wg.Wait()
	return got
}

func sum(ns []int64) (total int64) {
	for _, n := range ns {
		total += n
	}
	return total
}

// near reports whether got is want, give or take a part of it.
func near(got, want, part float64) bool { return math.Abs(got-want) <= part*want }

// What passes in 10 s is the rate, to 2 %, whatever the rate, the size of a
// Write and where the limit stands.
func TestBandwidthRate(t *testing.T) {
	const d = 10 * time.Second
	for _, rate := range []int64{64 * kib, 300_001, mib, 16 * mib, 256 * mib} {
		for name, limits := range map[string]limiter.BandwidthLimits{
			"response": {PerResponse: rate},
			"key":      {PerKey: rate},
			"route":    {PerRoute: rate},
			"one":      {Routes: map[string]int64{"/": rate}},
			"total":    {Total: rate},
			"class":    {Classes: []limiter.BandwidthClass{{Name: "a", Max: rate}}},
			"all":      {PerResponse: rate, PerKey: rate, PerRoute: rate, Total: rate},
		} {
			for _, size := range []int{0, 1000, 5 << 20} {
				if rate > mib && (name != "all" && size == 1000 || testing.Short() && (name != "all" || size != 0)) {
					continue // a million Writes each
				}
				inTime(t, func(t *testing.T) {
					b := bandwidth(t, limiter.BandwidthOptions{Limits: limits, Key: limiter.KeyByHeader("X-Key")})
					got := runAfter(t, b, 0, d, download{target: "/", header: "k", size: size})
					if want := float64(rate) * d.Seconds(); !near(float64(got[0]), want, 0.02) {
						t.Errorf("%s at %s in Writes of %d: %d bytes in %v, %.4f of the rate",
							name, limiter.FormatByteRate(rate), size, got[0], d, float64(got[0])/want)
					}
				})
			}
		}
	}
}

// Streams that want the same get the same, however many bytes they write at
// once: Jain's index over 100 of them.
func TestBandwidthIsFair(t *testing.T) {
	for _, rate := range []int64{64 * kib, 10 * mib, 256 * mib} {
		if testing.Short() && rate > 10*mib {
			continue
		}
		for _, of := range []string{"total", "key"} {
			inTime(t, func(t *testing.T) {
				limits := limiter.BandwidthLimits{Total: rate}
				if of == "key" {
					limits = limiter.BandwidthLimits{PerKey: rate}
				}
				b := bandwidth(t, limiter.BandwidthOptions{Limits: limits, Key: limiter.KeyByHeader("X-Key")})
				var downloads []download
				for i := range 100 {
					d := download{target: "/", header: "k"}
					if rate < mib || i%2 == 0 {
						d.size = 1500
					}
					downloads = append(downloads, d)
				}
				got := run(t, b, 10*time.Second, downloads...)
				var squares float64
				for _, n := range got {
					squares += float64(n) * float64(n)
				}
				total := float64(sum(got))
				jain := total * total / (float64(len(got)) * squares)
				t.Logf("%s of %s: Jain's index %.5f, %.4f of the rate", of, limiter.FormatByteRate(rate), jain, total/float64(10*rate))
				if jain < 0.98 || !near(total, float64(10*rate), 0.02) {
					t.Errorf("%s of %s: Jain's index %.4f, %.4f of the rate", of, limiter.FormatByteRate(rate), jain, total/float64(10*rate))
				}
			})
		}
	}
}

func highLow(weights ...int64) []limiter.BandwidthClass {
	names := []string{"high", "low", "bulk"}
	var classes []limiter.BandwidthClass
	for i, w := range weights {
		classes = append(classes, limiter.BandwidthClass{Name: names[i], Weight: w})
	}
	return classes
}

func byPath(r *http.Request) string { return strings.TrimPrefix(r.URL.Path, "/") }

// Classes divide Total by their weights, whoever has more streams, and what one
// leaves over the others borrow.
func TestBandwidthClasses(t *testing.T) {
	high, low, bulk := download{target: "/high"}, download{target: "/low"}, download{target: "/bulk"}
	slow := func(d download) download { d.size, d.period = 8<<10, 125*time.Millisecond; return d } // 64 KiB/s
	tests := []struct {
		name    string
		total   int64
		classes []limiter.BandwidthClass
		streams []download
		want    map[string]int64 // bytes a second
	}{
		{"of the issue", 640 * kib, highLow(512*kib, 128*kib), []download{high, low}, map[string]int64{"/high": 512 * kib, "/low": 128 * kib}},
		{"one against ten", 640 * kib, highLow(4, 1), []download{high, low, low, low, low, low, low, low, low, low, low},
			map[string]int64{"/high": 512 * kib, "/low": 128 * kib}},
		{"low alone borrows all", 640 * kib, highLow(4, 1), []download{low}, map[string]int64{"/low": 640 * kib}},
		{"high wants little", 640 * kib, highLow(4, 1), []download{slow(high), low}, map[string]int64{"/high": 64 * kib, "/low": 576 * kib}},
		{"three, one at rest", 600 * kib, highLow(3, 2, 1), []download{high, bulk, bulk}, map[string]int64{"/high": 450 * kib, "/bulk": 150 * kib}},
		{"three", 600 * kib, highLow(3, 2, 1), []download{high, low, low, bulk}, map[string]int64{"/high": 300 * kib, "/low": 200 * kib, "/bulk": 100 * kib}},
		{"far apart", 101 * mib, highLow(100, 1), []download{high, low, low, low}, map[string]int64{"/high": 100 * mib, "/low": mib}},
		{"fast", 256 * mib, highLow(3, 1), []download{high, low}, map[string]int64{"/high": 192 * mib, "/low": 64 * mib}},
		{"a ceiling", 600 * kib, []limiter.BandwidthClass{{Name: "high", Weight: 2, Max: 100 * kib}, {Name: "low"}}, []download{high, low},
			map[string]int64{"/high": 100 * kib, "/low": 500 * kib}},
		{"of no class: the last", 600 * kib, highLow(2, 1), []download{high, {target: "/other"}}, map[string]int64{"/high": 400 * kib, "/other": 200 * kib}},
	}
	for _, tt := range tests {
		if testing.Short() && tt.total > mib {
			continue
		}
		inTime(t, func(t *testing.T) {
			b := bandwidth(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{Total: tt.total, Classes: tt.classes}, Class: byPath})
			const seconds = 10
			got := map[string]int64{}
			for i, n := range run(t, b, seconds*time.Second, tt.streams...) {
				got[tt.streams[i].target] += n / seconds
			}
			var total int64
			for target, want := range tt.want {
				total += want
				if !near(float64(got[target]), float64(want), 0.05) {
					t.Errorf("%s: %s got %d a second, want %d", tt.name, target, got[target], want)
				}
			}
			if used := got["/high"] + got["/low"] + got["/bulk"] + got["/other"]; !near(float64(used), float64(total), 0.02) {
				t.Errorf("%s: %d a second in all, want %d", tt.name, used, total)
			}
		})
	}
}

// A byte needs room in each rate, and two connections of one key share its.
func TestBandwidthNested(t *testing.T) {
	inTime(t, func(t *testing.T) {
		b := bandwidth(t, limiter.BandwidthOptions{
			Limits: limiter.BandwidthLimits{
				PerResponse: 200 * kib, PerKey: 300 * kib, PerRoute: 700 * kib, Total: mib,
				Routes: map[string]int64{"/free": 0, "/slow": 10 * kib},
			},
			Key: limiter.KeyByHeader("X-Key"),
		})
		const seconds = 10
		rates := func(downloads ...download) []int64 {
			got := run(t, b, seconds*time.Second, downloads...)
			for i := range got {
				got[i] /= seconds
			}
			return got
		}
		check := func(name string, got, want int64) {
			t.Helper()
			if !near(float64(got), float64(want), 0.02) {
				t.Errorf("%s: %d bytes a second, want %d", name, got, want)
			}
		}
		a := func(target, key string) download { return download{target: target, header: key} }
		check("a response", rates(a("/", "a"))[0], 200*kib)
		two := rates(a("/", "a"), a("/", "a"))
		check("two of a key", sum(two), 300*kib)
		check("one of two", two[0], 150*kib)
		check("four keys of one route", sum(rates(a("/", "a"), a("/", "b"), a("/", "c"), a("/", "d"))), 700*kib)
		check("a route of its own rate", rates(a("/slow", "a"))[0], 10*kib)
		check("all", sum(rates(a("/", "a"), a("/", "b"), a("/", "c"), a("/", "d"), a("/x", "e"), a("/free", "f"), a("/free", "g"), a("/x", "h"))), mib)
	})
}

func TestBandwidthFree(t *testing.T) {
	inTime(t, func(t *testing.T) {
		b := bandwidth(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{Total: 100 * kib}, Free: mib})
		start := time.Now()
		h := b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Write(make([]byte, mib))
			if d := time.Since(start); d != 0 {
				t.Errorf("free bytes took %v", d)
			}
			w.Write(make([]byte, 210*kib)) // of them 10 are in the bucket
		}))
		h.ServeHTTP(httptest.NewRecorder(), request(t))
		if d := time.Since(start); d < 1900*ms || d > 2100*ms {
			t.Errorf("took %v, want 2s", d)
		}
	})
}

// What changes at run time holds for what is under way.
func TestBandwidthSetLimits(t *testing.T) {
	key := limiter.KeyByHeader("X-Key")
	for name, make := range map[string]func(int64) limiter.BandwidthLimits{
		"response": func(n int64) limiter.BandwidthLimits { return limiter.BandwidthLimits{PerResponse: n} },
		"key":      func(n int64) limiter.BandwidthLimits { return limiter.BandwidthLimits{PerKey: n} },
		"route":    func(n int64) limiter.BandwidthLimits { return limiter.BandwidthLimits{PerRoute: n} },
		"total":    func(n int64) limiter.BandwidthLimits { return limiter.BandwidthLimits{Total: n} },
	} {
		inTime(t, func(t *testing.T) {
			b := bandwidth(t, limiter.BandwidthOptions{Limits: make(100 * kib), Key: key})
			set := func(after time.Duration, n int64) {
				time.AfterFunc(after, func() {
					if err := b.SetLimits(make(n)); err != nil {
						t.Error(err)
					}
				})
			}
			set(4*s, mib)
			set(8*s, kib)
			set(12*s, 500*kib)
			got := runAfter(t, b, 0, 16*s, download{target: "/", header: "k"})[0]
			if want := 4 * (100 + 1024 + 1 + 500) * kib; !near(float64(got), float64(want), 0.03) {
				t.Errorf("%s: got %d, want %d", name, got, want)
			}
			if got := b.Limits(); got.PerResponse+got.PerKey+got.PerRoute+got.Total != 500*kib {
				t.Errorf("%s: Limits() = %+v", name, got)
			}
		})
	}
	inTime(t, func(t *testing.T) {
		b := bandwidth(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{Total: mib, Classes: highLow(3, 1)}, Class: byPath})
		time.AfterFunc(5*s, func() {
			if err := b.SetLimits(limiter.BandwidthLimits{Total: 2 * mib, Classes: highLow(1, 1)}); err != nil {
				t.Error(err)
			}
		})
		got := runAfter(t, b, 0, 10*s, download{target: "/high"}, download{target: "/low"})
		if !near(float64(got[0]), float64(5*mib*3/4+5*mib), 0.05) || !near(float64(got[1]), float64(5*mib/4+5*mib), 0.05) {
			t.Errorf("got %v", got)
		}
	})
	t.Run("faults", func(t *testing.T) {
		b := bandwidth(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{Total: mib, Classes: highLow(3, 1)}, Class: byPath})
		err := b.SetLimits(limiter.BandwidthLimits{Total: -1, PerKey: 1, Classes: highLow(3)})
		wantFaults(t, err, "Limits.Total is -1", "Limits.PerKey is set, but", "Limits.Classes are other classes")
		if got := b.Limits(); got.Total != mib || len(got.Classes) != 2 {
			t.Errorf("after an error, Limits() = %+v", got)
		}
	})
	t.Run("taken away", func(t *testing.T) {
		inTime(t, func(t *testing.T) {
			b := bandwidth(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{PerResponse: 1, Total: 1}})
			time.AfterFunc(2*time.Hour, func() { b.SetLimits(limiter.BandwidthLimits{}) })
			start := time.Now()
			h := b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, mib)) }))
			h.ServeHTTP(httptest.NewRecorder(), request(t))
			if d := time.Since(start); d < 2*time.Hour || d > 2*time.Hour+10*time.Minute {
				t.Errorf("took %v", d)
			}
		})
	})
}

func wantFaults(t *testing.T, err error, want ...string) {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("error %v, want %d faults joined", err, len(want))
	}
	faults := joined.Unwrap()
	if len(faults) != len(want) {
		t.Errorf("%d faults, want %d:\n%v", len(faults), len(want), err)
	}
	for i, fault := range faults {
		if _, ok := errors.AsType[*limiter.BandwidthError](fault); !ok {
			t.Errorf("fault %d is a %T", i, fault)
		}
		if i < len(want) && !strings.HasPrefix(fault.Error(), "limiter: bandwidth: "+want[i]) {
			t.Errorf("fault %d is %q, want %q", i, fault, want[i])
		}
	}
}

// Every fault is reported at once, each with what is allowed.
func TestNewBandwidthReportsEveryFault(t *testing.T) {
	b, err := limiter.NewBandwidth(limiter.BandwidthOptions{
		Limits: limiter.BandwidthLimits{
			PerResponse: -1, PerKey: 1<<40 + 1, PerRoute: -2, Total: -3,
			Routes:  map[string]int64{"/b": -5, "/a": -4, "/c": 0},
			Classes: []limiter.BandwidthClass{{}, {Name: "x", Weight: -1}, {Name: "x", Max: -1}},
		},
		Bodies: 9, Free: -1, MaxKeys: -1, Unkeyed: 9,
	})
	if b != nil {
		t.Error("a Bandwidth besides the error")
	}
	wantFaults(t, err, "Limits.PerResponse is -1", "Limits.PerKey is 1099511627777", "Limits.PerRoute is -2",
		`Limits.Routes["/a"] is -4`, `Limits.Routes["/b"] is -5`, "Limits.Total is -3", "Limits.Classes[0].Name is empty",
		"Limits.Classes[1].Weight is -1", `Limits.Classes[2].Name is "x", as that of Classes[1]`, "Limits.Classes[2].Max is -1",
		"Key is nil", "Class is nil; 3 Classes", "Bodies is 9", "Free is -1", "MaxKeys is -1", "Unkeyed is 9")
	_, err = limiter.NewBandwidth(limiter.BandwidthOptions{Class: byPath})
	wantFaults(t, err, "Class is set, but")
}

func TestBandwidthUnkeyed(t *testing.T) {
	broken := func(*http.Request) (string, error) { return "", errors.New("broken") }
	for _, tt := range []struct {
		name    string
		limits  limiter.BandwidthLimits
		key     limiter.KeyFunc
		unkeyed limiter.Unkeyed
		status  int
	}{
		{"no key", limiter.BandwidthLimits{PerKey: 1}, limiter.KeyByHeader("X-Key"), limiter.RefuseUnkeyed, 400},
		{"no key, skipped", limiter.BandwidthLimits{PerKey: 1}, limiter.KeyByHeader("X-Key"), limiter.SkipUnkeyed, 200},
		{"broken key", limiter.BandwidthLimits{PerKey: 1}, broken, limiter.RefuseUnkeyed, 500},
		{"broken key that nobody needs", limiter.BandwidthLimits{Total: 1}, broken, limiter.RefuseUnkeyed, 200},
		{"no route", limiter.BandwidthLimits{PerRoute: 1}, nil, limiter.RefuseUnkeyed, 500},
		{"no route, skipped", limiter.BandwidthLimits{PerRoute: 1}, nil, limiter.SkipUnkeyed, 200},
		{"no route, but others have rates", limiter.BandwidthLimits{Routes: map[string]int64{"/": 1}}, nil, limiter.RefuseUnkeyed, 200},
	} {
		var n notebook
		b := bandwidth(t, limiter.BandwidthOptions{Limits: tt.limits, Key: tt.key, Unkeyed: tt.unkeyed, Observer: &n})
		w := httptest.NewRecorder()
		b.Middleware()(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, request(t))
		if w.Code != tt.status {
			t.Errorf("%s: %d, want %d", tt.name, w.Code, tt.status)
		}
		if events := n.take(); tt.status != 200 && (len(events) != 1 || events[0].Kind != limiter.EventSent ||
			events[0].Result != limiter.OutcomeUnkeyed || events[0].Err == nil) {
			t.Errorf("%s: events %+v", tt.name, events)
		}
	}
}
