package main_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/limiter"
)

const bandwidthFile = 64 << 20

// bandwidthServer serves /write, an endless response in Writes of 32 KiB, and
// /file, one of a file of 64 MiB by io.CopyN, behind limits, over TCP. The time at which
// a /write ends is sent to ended, if somebody waits for it.
func bandwidthServer(t *testing.T, limits limiter.BandwidthLimits, ended chan time.Time) (*limiter.Bandwidth, *httptest.Server) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, bandwidthFile); err != nil {
		t.Fatal(err)
	}
	opts := limiter.BandwidthOptions{Limits: limits, Key: limiter.KeyByClientIP}
	if len(limits.Classes) > 1 {
		opts.Class = func(r *http.Request) string { return r.URL.RawQuery }
	}
	b, err := limiter.NewBandwidth(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// With a length there are no chunks, which a client reads as a whole.
		w.Header().Set("Content-Length", "1000000000000")
		if r.URL.Path == "/file" {
			f, err := os.Open(path)
			if err != nil {
				panic(err)
			}
			defer f.Close()
			for err == nil {
				f.Seek(0, io.SeekStart)
				_, err = io.CopyN(w, f, bandwidthFile)
			}
			return
		}
		page := make([]byte, 32<<10)
		for {
			if _, err := w.Write(page); err != nil {
				select {
				case ended <- time.Now():
				default:
				}
				return
			}
		}
	})))
	t.Cleanup(srv.Close)
	return b, srv
}

// receive gets each of paths, again and again, and returns the bytes a second
// of each during span, which begins half a second after the requests. lost is
// the part of it that a bucket could not make up for, because the machine had no
// time for this process for longer than a tenth of a second: others use it too.
func receive(t *testing.T, srv *httptest.Server, span time.Duration, paths ...string) (rates []float64, lost float64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	counts := make([]atomic.Int64, len(paths))
	var wg sync.WaitGroup
	for i, path := range paths {
		wg.Go(func() {
			buf := make([]byte, 256<<10)
			for ctx.Err() == nil {
				req, _ := http.NewRequestWithContext(ctx, "GET", srv.URL+path, nil)
				res, err := srv.Client().Do(req)
				if err != nil {
					return
				}
				for {
					n, err := res.Body.Read(buf)
					counts[i].Add(int64(n))
					if err != nil {
						break
					}
				}
				res.Body.Close()
			}
		})
	}
	time.Sleep(min(span, 500*time.Millisecond))
	begin, before := time.Now(), make([]int64, len(paths))
	for i := range counts {
		before[i] = counts[i].Load()
	}
	for last := begin; time.Since(begin) < span; {
		time.Sleep(time.Millisecond)
		now := time.Now()
		lost += max(0, (now.Sub(last) - 100*time.Millisecond).Seconds())
		last = now
	}
	after, took := make([]float64, len(paths)), time.Since(begin).Seconds()
	for i := range counts {
		after[i] = float64(counts[i].Load()-before[i]) / took
	}
	cancel()
	wg.Wait()
	return after, lost / took
}

func total(rates []float64) (sum float64) {
	for _, r := range rates {
		sum += r
	}
	return sum
}

// jain is Jain's index of fairness: 1 if all are equal.
func jain(rates []float64) float64 {
	var squares float64
	for _, r := range rates {
		squares += r * r
	}
	return total(rates) * total(rates) / (float64(len(rates)) * squares)
}

// TestBandwidth measures over TCP what the tests of package limiter prove on a
// clock of their own: the error of a rate, fairness, weights, and how soon a
// client that leaves is noticed. It asserts nothing but that bytes pass, because
// the machine's other users take part.
func TestBandwidth(t *testing.T) {
	span := 50 * time.Millisecond
	if *measuring {
		span = 10 * time.Second
	}
	report := func(t *testing.T, format string, args ...any) { fmt.Fprintf(t.Output(), format+"\n", args...) }
	t.Run("rate", func(t *testing.T) {
		for _, text := range []string{"64KiB/s", "1MiB/s", "16MiB/s", "256MiB/s"} {
			rate, err := limiter.ParseByteRate(text)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				name   string
				limits limiter.BandwidthLimits
				paths  []string
			}{
				{"a response by Write", limiter.BandwidthLimits{PerResponse: rate}, []string{"/write"}},
				{"a response by sendfile", limiter.BandwidthLimits{PerResponse: rate}, []string{"/file"}},
				{"a key's 2", limiter.BandwidthLimits{PerKey: rate}, slices.Repeat([]string{"/write"}, 2)},
				{"in total, 8", limiter.BandwidthLimits{Total: rate}, slices.Repeat([]string{"/write"}, 8)},
			} {
				_, srv := bandwidthServer(t, c.limits, nil)
				rates, lost := receive(t, srv, span, c.paths...)
				got := total(rates)
				if got == 0 && *measuring {
					t.Errorf("%s: nothing passed", c.name)
				}
				report(t, "%-9s %-24s %+.2f %%; stood still %.2f %%", text, c.name, 100*(got/float64(rate)-1), 100*lost)
				srv.Close()
			}
		}
	})
	t.Run("fair", func(t *testing.T) {
		for _, rate := range []int64{1 << 20, 64 << 20} {
			_, srv := bandwidthServer(t, limiter.BandwidthLimits{Total: rate}, nil)
			got, lost := receive(t, srv, span, slices.Repeat([]string{"/write"}, 100)...)
			report(t, "100 streams of %s: Jain's index %.4f, rate %+.2f %%; stood still %.2f %%",
				limiter.FormatByteRate(rate), jain(got), 100*(total(got)/float64(rate)-1), 100*lost)
			srv.Close()
		}
	})
	t.Run("weights", func(t *testing.T) {
		classes := []limiter.BandwidthClass{{Name: "high", Weight: 4}, {Name: "low", Weight: 1}}
		for _, rate := range []int64{640 << 10, 64 << 20, 256 << 20} {
			for _, low := range []int{1, 10} {
				_, srv := bandwidthServer(t, limiter.BandwidthLimits{Total: rate, Classes: classes}, nil)
				got, lost := receive(t, srv, span, append([]string{"/write?high"}, slices.Repeat([]string{"/write?low"}, low)...)...)
				report(t, "4 to 1 of %s, 1 stream against %d: high has %+.2f %% of its part, both %+.2f %% of the rate; stood still %.2f %%", limiter.FormatByteRate(rate), low,
					100*(got[0]/total(got)/0.8-1), 100*(total(got)/float64(rate)-1), 100*lost)
				srv.Close()
			}
		}
	})
	t.Run("departures", func(t *testing.T) {
		ended := make(chan time.Time, 1) // sent without waiting
		b, srv := bandwidthServer(t, limiter.BandwidthLimits{PerResponse: 10, Total: 1 << 20}, ended)
		var took []time.Duration
		departures := 3
		if *measuring {
			departures = 200
		}
		for range departures {
			ctx, cancel := context.WithCancel(t.Context())
			req, _ := http.NewRequestWithContext(ctx, "GET", srv.URL+"/write", nil)
			go func() {
				if res, err := srv.Client().Do(req); err == nil {
					io.Copy(io.Discard, res.Body)
				}
			}()
			for b.Stats().Classes[0].Bodies == 0 {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(10 * time.Millisecond)
			left := time.Now()
			cancel()
			took = append(took, (<-ended).Sub(left))
		}
		slices.Sort(took)
		report(t, "%d clients left: the wait ended after %v (median), %v (the longest)", len(took), took[len(took)/2], took[len(took)-1])
	})
}

// TestBandwidthOverhead compares what a Write of 4 KiB costs, to a writer that
// does nothing: bare, behind a Bandwidth that leaves the response alone, and
// behind one whose limits are far away.
func TestBandwidthOverhead(t *testing.T) {
	page := make([]byte, 4<<10)
	writes := func(name string, wrap func(http.Handler) http.Handler) pace.Case {
		return pace.Case{Name: name, Run: func(n int) {
			wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				for range n {
					w.Write(page)
				}
			})).ServeHTTP(nothing{http.Header{}}, httptest.NewRequest("GET", "/", nil))
		}}
	}
	behind := func(opts limiter.BandwidthOptions) func(http.Handler) http.Handler {
		b, err := limiter.NewBandwidth(opts)
		if err != nil {
			t.Fatal(err)
		}
		return b.Middleware()
	}
	far := limiter.BandwidthLimits{PerResponse: 1 << 40, PerKey: 1 << 40, Total: 1 << 40}
	compare(t, "a Write of 4 KiB", options(false),
		writes("bare", func(h http.Handler) http.Handler { return h }),
		writes("no limits", behind(limiter.BandwidthOptions{})),
		writes("exempt", behind(limiter.BandwidthOptions{Limits: far, Key: limiter.KeyGlobal, ExemptEvents: true})),
		writes("one limit, far away", behind(limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{PerResponse: 1 << 40}})),
		writes("three limits, far away", behind(limiter.BandwidthOptions{Limits: far, Key: limiter.KeyGlobal})),
	)
}

type nothing struct{ header http.Header }

func (n nothing) Header() http.Header         { return n.header }
func (n nothing) WriteHeader(int)             {}
func (n nothing) Write(p []byte) (int, error) { return len(p), nil }
