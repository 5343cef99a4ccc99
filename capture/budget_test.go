package capture_test

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/capture"
)

func TestBudgetIsNeverExceeded(t *testing.T) {
	const limit = 100_000
	budget := capture.NewBudget(limit)
	var peak atomic.Int64
	text := strings.Repeat("0123456789abcdef", 1<<12) // 64 KiB
	var full, cut atomic.Int64
	sink := capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		b := x.Response.Body
		if captured(b) != text[:b.Len()] {
			t.Error("the capture is not a prefix")
		}
		switch {
		case b.Skipped == "" && !b.Truncated && b.Len() == len(text):
			full.Add(1)
		case b.Skipped == capture.SkipBudget && b.Truncated == (b.Len() > 0) && b.Len() < len(text):
			cut.Add(1)
		default:
			t.Errorf("%+v, captured %d", b, b.Len())
		}
		return nil
	})
	// Two middlewares, one budget.
	opts := &capture.Options{Budget: budget}
	mw := []func(http.Handler) http.Handler{capture.Middleware(sink, opts), capture.Middleware(sink, opts)}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			h := mw[i%2](http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/plain")
				for p := text; p != ""; p = p[1024:] {
					io.WriteString(w, p[:1024])
					runtime.Gosched()
					for n := budget.InUse(); ; {
						old := peak.Load()
						if n <= old || peak.CompareAndSwap(old, n) {
							break
						}
					}
				}
			}))
			for range 50 {
				h.ServeHTTP(new(sinkhole), get("/"))
			}
		})
	}
	wg.Wait()
	if budget.InUse() != 0 || peak.Load() == 0 || peak.Load() > limit {
		t.Errorf("in use %d at the end, %d at the peak", budget.InUse(), peak.Load())
	}
	if cut.Load() == 0 || full.Load()+cut.Load() != 400 {
		t.Errorf("%d whole and %d cut bodies", full.Load(), cut.Load())
	}
}

// A body of which nothing was captured is skipped, not truncated, whatever took
// the room.
func TestNothingIsNoBeginning(t *testing.T) {
	o := new(notebook)
	x, _ := record(t, &capture.Options{Budget: capture.NewBudget(0), Observer: o}, post("text/plain", "in"), func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	})
	for _, b := range []capture.Body{x.Request.Body, x.Response.Body} {
		if b.Size != 2 || b.Len() != 0 || b.Truncated || b.Skipped != capture.SkipBudget {
			t.Errorf("without a budget: %+v", b)
		}
	}
	if o.count("skipped request budget") != 1 || o.count("skipped response budget") != 1 || o.count("truncated") != 0 {
		t.Errorf("observed %v", o.counts)
	}
	x, _ = record(t, &capture.Options{ResponseCap: 10}, get("/"), coded("gzip", "text/plain", gz("some text")))
	if b := x.Response.Body; b.Len() != 0 || b.Truncated || b.Skipped != capture.SkipEncoded {
		t.Errorf("of what was captured nothing can be decoded: %+v", b)
	}
}

// One GiB to each of several clients, labelled so that it is captured, costs
// what the budget allows.
func TestStreamingCostsTheBudget(t *testing.T) {
	const clients, limit = 8, 256 << 10
	size := int64(1 << 30)
	if testing.Short() {
		size = 64 << 20
	}
	budget := capture.NewBudget(limit)
	h := capture.Middleware(capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		if x.Response.Body.Size != size || x.Request.Body.Size != size {
			t.Errorf("sizes %d and %d, want %d", x.Request.Body.Size, x.Response.Body.Size, size)
		}
		return nil
	}), &capture.Options{Budget: budget})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if _, err := io.Copy(w, r.Body); err != nil {
			t.Error(err)
		}
	}))
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse
	}
	runtime.GC()
	before := heap()
	var peak uint64
	done := make(chan struct{})
	var watch, serve sync.WaitGroup
	watch.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				peak = max(peak, heap())
			}
		}
	})
	for range clients {
		serve.Go(func() {
			r := get("/")
			r.Method, r.ContentLength = "POST", size
			r.Header.Set("Content-Type", "application/json")
			r.Body = io.NopCloser(io.LimitReader(zeros{}, size))
			h.ServeHTTP(new(sinkhole), r)
		})
	}
	serve.Wait()
	close(done)
	watch.Wait()
	// Besides the budget there is a copy of what it holds while that is searched
	// for secrets, a buffer of io.Copy of 32 KiB for each client, and some slack
	// of the runtime.
	grown := int64(peak) - int64(before)
	t.Logf("%d x %d MiB in and out: heap grew by at most %d KiB, budget %d KiB", clients, size>>20, grown>>10, limit>>10)
	if grown > 2*limit+clients*(32<<10)+1<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
	if budget.InUse() != 0 {
		t.Errorf("%d bytes still in use", budget.InUse())
	}
}
