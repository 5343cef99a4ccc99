package capture_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/capture"
)

// exchange is a handler whose exchanges carry a body of n bytes.
func exchanges(sink capture.Sink, budget *capture.Budget, n int) http.Handler {
	return capture.Middleware(sink, &capture.Options{Budget: budget})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, strings.Repeat(r.URL.RawQuery[:1], n))
	}))
}

// stalled is a sink that delivers only after its gate was opened.
type stalled struct {
	gate  chan struct{}
	shelf shelf
}

func (s *stalled) Record(ctx context.Context, x *capture.Exchange) error {
	<-s.gate
	return s.shelf.Record(ctx, x)
}

func conserved(t *testing.T, s capture.QueueStats) {
	t.Helper()
	if s.Offered != s.Delivered+s.Dropped()+int64(s.Waiting) {
		t.Errorf("not conserved: %+v", s)
	}
}

func TestAsyncConservesRecords(t *testing.T) {
	for name, opts := range map[string]capture.AsyncOptions{
		"newest": {Records: 10},
		"oldest": {Records: 10, Full: capture.DropOldest},
		"block":  {Records: 10, Full: capture.Block, Wait: time.Millisecond},
		"bytes":  {Bytes: 20_000},
	} {
		t.Run(name, func(t *testing.T) {
			budget := capture.NewBudget(1 << 20)
			sink := &stalled{make(chan struct{}), newShelf()}
			q := capture.Async(sink, &opts)
			h := exchanges(q, budget, 1000)
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range 50 {
						h.ServeHTTP(new(sinkhole), get("/?x"))
						conserved(t, q.Stats())
					}
				})
			}
			wg.Wait()
			s := q.Stats()
			conserved(t, s)
			if s.Offered != 200 || s.DroppedFull < 150 || s.Waiting == 0 || s.Waiting > 11 {
				t.Errorf("while the sink is stalled: %+v", s)
			}
			if n := budget.InUse(); n == 0 || n > int64(s.Waiting)*(512+4096) {
				t.Errorf("%d records hold %d bytes of budget", s.Waiting, n)
			}
			close(sink.gate)
			if err := q.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			s = q.Stats()
			conserved(t, s)
			if s.Waiting != 0 || s.WaitingBytes != 0 || int(s.Delivered) != len(sink.shelf) || budget.InUse() != 0 {
				t.Errorf("closed: %+v, %d delivered, %d bytes in use", s, len(sink.shelf), budget.InUse())
			}
			for range s.Delivered {
				if got := captured(sink.shelf.next(t).Response.Body); got != strings.Repeat("x", 1000) {
					t.Fatalf("delivered %.20q", got)
				}
			}
		})
	}
}

func TestAsyncDropsNewestOrOldest(t *testing.T) {
	for full, want := range map[capture.FullPolicy]string{capture.DropNewest: "abc", capture.DropOldest: "aef"} {
		synctest.Test(t, func(t *testing.T) {
			sink := &stalled{make(chan struct{}), make(shelf, 10)}
			q := capture.Async(sink, &capture.AsyncOptions{Records: 2, Full: full})
			h := exchanges(q, capture.NewBudget(1<<20), 1)
			for _, mark := range "abcdef" {
				h.ServeHTTP(new(sinkhole), get("/?"+string(mark)))
				synctest.Wait() // the first is being delivered, outside the queue
			}
			close(sink.gate)
			if err := q.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for len(sink.shelf) > 0 {
				got.WriteString((<-sink.shelf).Query)
			}
			if got.String() != want {
				t.Errorf("policy %d delivered %q, want %q", full, got.String(), want)
			}
		})
	}
}

func TestAsyncBlocksNoLongerThanWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &stalled{make(chan struct{}), make(shelf, 10)}
		q := capture.Async(sink, &capture.AsyncOptions{Records: 1, Full: capture.Block, Wait: time.Second})
		h := exchanges(q, capture.NewBudget(1<<20), 1)
		serve := func() time.Duration {
			start := time.Now()
			h.ServeHTTP(new(sinkhole), get("/?x"))
			synctest.Wait()
			return time.Since(start)
		}
		if serve() != 0 || serve() != 0 {
			t.Error("waited although there was room")
		}
		if d := serve(); d != time.Second {
			t.Errorf("waited %v, want 1s", d)
		}
		time.AfterFunc(300*time.Millisecond, func() { sink.gate <- struct{}{} })
		if d := serve(); d != 300*time.Millisecond {
			t.Errorf("waited %v although there was room after 300ms", d)
		}
		conserved(t, q.Stats())
		close(sink.gate)
		if err := q.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := q.Stats(); s.Offered != 4 || s.Delivered != 3 || s.DroppedFull != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAsyncClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := capture.NewBudget(1 << 20)
		sink := &stalled{make(chan struct{}), make(shelf, 10)}
		q := capture.Async(sink, nil)
		h := exchanges(q, budget, 1000)
		for range 5 {
			h.ServeHTTP(new(sinkhole), get("/?x"))
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := q.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("Close returned %v after %v", err, time.Since(start))
		}
		s := q.Stats()
		if conserved(t, s); s.Waiting != 1 || s.DroppedClosed != 4 {
			t.Errorf("after the deadline: %+v", s)
		}
		x := capture.Exchange{}
		if err := q.Record(t.Context(), &x); !errors.Is(err, capture.ErrDropped) {
			t.Errorf("Record after Close returned %v", err)
		}
		close(sink.gate)
		for range 2 {
			if err := q.Close(t.Context()); err != nil {
				t.Errorf("Close again: %v", err)
			}
		}
		s = q.Stats()
		if conserved(t, s); s.Delivered != 1 || s.DroppedClosed != 5 || budget.InUse() != 0 {
			t.Errorf("at the end: %+v, %d bytes in use", s, budget.InUse())
		}
	})
	// A queue that was never used, and one whose waiters are still blocked.
	if err := capture.Async(newShelf(), nil).Close(t.Context()); err != nil {
		t.Error(err)
	}
	synctest.Test(t, func(t *testing.T) {
		sink := &stalled{make(chan struct{}), make(shelf, 10)}
		q := capture.Async(sink, &capture.AsyncOptions{Records: 1, Full: capture.Block, Wait: time.Hour})
		h := exchanges(q, capture.NewBudget(1<<20), 1)
		for range 4 {
			go h.ServeHTTP(new(sinkhole), get("/?x"))
			synctest.Wait()
		}
		go func() { time.Sleep(time.Second); close(sink.gate) }()
		if err := q.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if s := q.Stats(); s.Offered != 4 || s.Waiting != 0 || s.DroppedClosed != 2 || s.Delivered != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAsyncOutlivesABadSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := capture.NewBudget(1 << 20)
		var errs []string
		good := make(shelf, 10)
		q := capture.Async(capture.SinkFunc(func(ctx context.Context, x *capture.Exchange) error {
			switch x.Query {
			case "error":
				return errors.New("disk full")
			case "panic":
				panic("boom")
			case "goexit":
				runtime.Goexit()
			}
			return good.Record(ctx, x)
		}), &capture.AsyncOptions{OnError: func(err error) { errs = append(errs, err.Error()) }})
		h := exchanges(q, budget, 1000)
		for _, q := range []string{"a", "error", "b", "panic", "c", "goexit", "d"} {
			h.ServeHTTP(new(sinkhole), get("/?"+q))
		}
		if err := q.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s := q.Stats()
		if conserved(t, s); s.Delivered != 4 || s.DroppedFailed != 3 || len(good) != 4 || budget.InUse() != 0 {
			t.Errorf("%+v, %d bytes in use", s, budget.InUse())
		}
		if got := strings.Join(errs, "; "); got != "disk full; capture: the sink panicked: boom; capture: the sink ended its goroutine" {
			t.Errorf("errors %q", got)
		}
	})
}

// A sink in front of several may give one record to a queue and go on using it.
func TestAsyncSharesARecord(t *testing.T) {
	budget := capture.NewBudget(1 << 20)
	first, second := newShelf(), newShelf()
	q1, q2 := capture.Async(first, nil), capture.Async(second, nil)
	third := newShelf()
	h := exchanges(capture.SinkFunc(func(ctx context.Context, x *capture.Exchange) error {
		return errors.Join(q1.Record(ctx, x), q2.Record(ctx, x), third.Record(ctx, x))
	}), budget, 1000)
	for range 100 {
		h.ServeHTTP(new(sinkhole), get("/?x"))
	}
	if err := errors.Join(q1.Close(t.Context()), q2.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	for _, s := range []shelf{first, second, third} {
		for range 100 {
			if n := s.next(t).Response.Body.Len(); n != 1000 {
				t.Fatalf("captured %d, want 1000", n)
			}
		}
	}
	if budget.InUse() != 0 {
		t.Errorf("%d bytes in use", budget.InUse())
	}
}

// A request's context ends with it; what it carries is there for the sink.
func TestRecordContext(t *testing.T) {
	type key struct{}
	ctx, cancel := context.WithCancelCause(context.WithValue(t.Context(), key{}, "trace"))
	var got context.Context
	sink := capture.SinkFunc(func(ctx context.Context, x *capture.Exchange) error { got = ctx; return nil })
	capture.Middleware(sink, nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(key{}) != "trace" {
			t.Error("the handler lost a value of the context")
		}
		cancel(errors.New("left"))
		if r.Context().Err() == nil || context.Cause(r.Context()).Error() != "left" {
			t.Error("the handler's context was not cancelled")
		}
	})).ServeHTTP(new(sinkhole), get("/").WithContext(ctx))
	child, cancelChild := context.WithCancelCause(context.WithValue(got, key{}, "child"))
	for _, c := range []context.Context{got, child} {
		if c.Value(key{}) == nil || c.Err() != nil || context.Cause(c) != nil {
			t.Errorf("sink: value %v, err %v, cause %v", c.Value(key{}), c.Err(), context.Cause(c))
		}
		if _, ok := c.Deadline(); ok {
			t.Error("sink: a deadline")
		}
	}
	if got.Value(key{}) != "trace" || got.Done() != nil {
		t.Errorf("sink: value %v, done %v", got.Value(key{}), got.Done())
	}
	cancelChild(io.EOF)
	if context.Cause(child) != io.EOF {
		t.Errorf("a child of the sink's context has the cause %v", context.Cause(child))
	}
}
