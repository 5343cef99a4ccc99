package capture_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/capture"
)

// kept returns the numbers and queries of what a ring holds.
func kept(t *testing.T, r *capture.Ring) string {
	t.Helper()
	var b strings.Builder
	for n := int64(0); n < r.Last(); {
		x, at, err := r.Next(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(strconv.FormatInt(at, 10) + x.Query + " ")
		n = at
	}
	return strings.TrimSpace(b.String())
}

func TestRingKeepsTheLast(t *testing.T) {
	for name, opts := range map[string]*capture.RingOptions{
		"records": {Records: 3},
		"bytes":   {Bytes: 3 * (2<<10 + 2000)},
	} {
		r := capture.NewRing(opts)
		budget := capture.NewBudget(1 << 20)
		h := exchanges(r, budget, 1500)
		for query := range strings.SplitSeq("abcdefgh", "") {
			h.ServeHTTP(new(sinkhole), get("/?"+query))
			if budget.InUse() != 0 {
				t.Fatalf("%s: %d bytes of the budget held", name, budget.InUse())
			}
		}
		if got := kept(t, r); got != "6f 7g 8h" {
			t.Errorf("%s: kept %q", name, got)
		}
		if x, _, _ := r.Next(t.Context(), 7); captured(x.Response.Body) != strings.Repeat("h", 1500) {
			t.Errorf("%s: the last has the body %.10q", name, captured(x.Response.Body))
		}
	}
	r := capture.NewRing(&capture.RingOptions{Bytes: 10_000})
	h := exchanges(r, nil, 1000)
	for _, query := range []string{"a", "b"} {
		h.ServeHTTP(new(sinkhole), get("/?"+query))
	}
	var err error
	h = capture.Middleware(r, &capture.Options{OnError: func(e error) { err = e }})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat("large ", 5000))
	}))
	h.ServeHTTP(new(sinkhole), get("/"))
	if got := kept(t, r); got != "1a 2b" || !errors.Is(err, capture.ErrDropped) {
		t.Errorf("after a record that is too large: kept %q, error %v", got, err)
	}
}

// liveHeap returns how many bytes are reachable.
func liveHeap() int64 {
	var m runtime.MemStats
	for range 3 { // what other tests left in pools goes by the second
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestRingIsBoundedInBytes(t *testing.T) {
	const bound = 4 << 20
	r := capture.NewRing(&capture.RingOptions{Bytes: bound, Records: 1 << 20})
	h := exchanges(r, nil, 10_000)
	before := liveHeap()
	for range 5000 { // 50 MB of bodies
		h.ServeHTTP(new(sinkhole), get("/?x"))
	}
	if grown := liveHeap() - before; grown > bound*5/4 || grown < bound/2 {
		t.Errorf("the heap grew by %d bytes with a ring of %d", grown, bound)
	}
	runtime.KeepAlive(r)
}

func TestRingSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := capture.NewRing(&capture.RingOptions{Records: 5})
		h := exchanges(r, capture.NewBudget(1<<20), 10)
		serve := func(n int) {
			for range n {
				h.ServeHTTP(new(sinkhole), get("/?x"))
			}
		}
		serve(3)
		ctx, cancel := context.WithCancelCause(t.Context())
		var wg sync.WaitGroup
		follow := func(from int64, pause time.Duration, seen, missed *int) {
			wg.Go(func() {
				for n := from; ; {
					x, at, err := r.Next(ctx, n)
					if err != nil {
						if err.Error() != "page closed" {
							t.Errorf("Next returned %v", err)
						}
						return
					}
					if x.Response.Body.Len() != 10 {
						t.Errorf("record %d has %d bytes", at, x.Response.Body.Len())
					}
					*seen, *missed = *seen+1, *missed+int(at-n-1)
					n = at
					time.Sleep(pause)
				}
			})
		}
		var all, fresh, slow, missedAll, missedFresh, missedSlow int
		follow(0, 0, &all, &missedAll)
		follow(r.Last(), 0, &fresh, &missedFresh)
		follow(0, time.Hour, &slow, &missedSlow)
		synctest.Wait()
		start := time.Now()
		for range 10 {
			serve(2)
			synctest.Wait()
		}
		restarted, cancelRestarted := context.WithTimeout(t.Context(), time.Second)
		defer cancelRestarted()
		if _, at, err := r.Next(restarted, 1000); !errors.Is(err, context.DeadlineExceeded) || at != r.Last() {
			t.Errorf("a number from before a restart: at %d, %v", at, err)
		}
		start = start.Add(time.Second)
		if time.Since(start) != 0 {
			t.Errorf("a slow subscriber held back the records for %v", time.Since(start))
		}
		time.Sleep(10 * time.Hour)
		cancel(errors.New("page closed"))
		wg.Wait()
		if all != 23 || missedAll != 0 || fresh != 20 || missedFresh != 0 {
			t.Errorf("quick subscribers saw %d and %d of 23 and 20 records, missed %d and %d", all, fresh, missedAll, missedFresh)
		}
		if slow != 6 || missedSlow != 17 { // the first, and the five that are kept
			t.Errorf("the slow one saw %d and was told of %d that it missed, of 23", slow, missedSlow)
		}
	})
}

// Method, path and query of a record are parts of the request line, of which the
// record shows less than there was.
func TestRingIsBoundedWhateverTheRequestIs(t *testing.T) {
	const records, bound = 50, 4 << 20
	long := strings.Repeat("a", 512<<10)
	for name, head := range map[string]string{
		"path":   "GET /" + long + "?x=1 HTTP/1.1",
		"query":  "GET /?" + long + " HTTP/1.1",
		"secret": "GET /?a=1&token=" + long + " HTTP/1.1",
		"header": "GET /?x HTTP/1.1\r\nCookie: " + long,
		"method": long + " /?x HTTP/1.1",
		"fields": "GET /?x HTTP/1.1" + strings.Repeat("\r\na:bc", 8<<10),
	} {
		r := capture.NewRing(&capture.RingOptions{Bytes: bound})
		h := exchanges(r, nil, 10)
		before := liveHeap()
		for range records {
			// As net/http makes a request of what arrives.
			req := must(http.ReadRequest(bufio.NewReader(strings.NewReader(head + "\r\nHost: a\r\n\r\n"))))
			h.ServeHTTP(new(sinkhole), req)
		}
		if grown := liveHeap() - before; grown > bound*5/4 || r.Last() != records {
			t.Errorf("%s: the heap grew by %d bytes with %d records", name, grown, r.Last())
		}
		runtime.KeepAlive(r)
	}
}
