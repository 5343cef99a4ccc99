package capture_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/capture"
)

// explode is looked for in stacks.
func explode(v any) { panic(v) }

func TestTrapCapture23_PanicsPass(t *testing.T) {
	type custom struct{ n int }
	for _, c := range []struct {
		name  string
		value any
		want  capture.Outcome
	}{
		{"abort", http.ErrAbortHandler, capture.OutcomeAbort},
		{"error", io.ErrUnexpectedEOF, capture.OutcomePanic},
		{"struct", custom{7}, capture.OutcomePanic},
	} {
		s := newShelf()
		w := httptest.NewRecorder()
		var stack string
		func() {
			defer func() {
				if v := recover(); v != c.value {
					t.Errorf("%s: recovered %v, want %v", c.name, v, c.value)
				}
				stack = string(debug.Stack())
			}()
			capture.Middleware(s, nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Left", "1")
				explode(c.value)
			})).ServeHTTP(w, get("/"))
		}()
		if x := s.next(t); x.Outcome != c.want || x.Status != 0 {
			t.Errorf("%s: recorded %s, %d", c.name, x.Outcome, x.Status)
		}
		if w.Code != 200 || w.Body.Len() > 0 || w.Result().StatusCode != 200 {
			t.Errorf("%s: something was written: %d %q", c.name, w.Code, w.Body)
		}
		if !strings.Contains(stack, "capture_test.explode") {
			t.Errorf("%s: the stack lost the place of the panic:\n%s", c.name, stack)
		}
	}
	// A goroutine that ends does so, and leaves a record.
	s := newShelf()
	done := make(chan bool)
	go func() {
		defer close(done)
		capture.Middleware(s, nil)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			runtime.Goexit()
		})).ServeHTTP(httptest.NewRecorder(), get("/"))
		t.Error("runtime.Goexit was stopped")
	}()
	<-done
	if x := s.next(t); x.Outcome != capture.OutcomeAbort {
		t.Errorf("Goexit: %s, want abort", x.Outcome)
	}
	// A sink or a hook that panics too does not take the place of the handler's
	// panic.
	func() {
		defer func() {
			if v := recover(); v != "handler" {
				t.Errorf("recovered %v, want the handler's panic", v)
			}
		}()
		sink := capture.SinkFunc(func(context.Context, *capture.Exchange) error { panic("sink") })
		capture.Middleware(sink, nil)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			panic("handler")
		})).ServeHTTP(httptest.NewRecorder(), get("/"))
	}()
	// Nor does a hook keep the record or the budget, which is asked about the
	// implicit header when the handler has returned.
	budget := capture.NewBudget(1 << 20)
	opts := &capture.Options{Budget: budget, ResponseBody: func(*http.Request, int, http.Header, capture.SkipReason) capture.SkipReason {
		panic("hook")
	}}
	func() {
		defer func() {
			if v := recover(); v != "hook" {
				t.Errorf("recovered %v, want the hook's panic", v)
			}
		}()
		capture.Middleware(s, opts)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
		})).ServeHTTP(httptest.NewRecorder(), post("text/plain", "in"))
	}()
	if x := s.next(t); x.Outcome != capture.OutcomePanic || x.Phase != capture.PhaseWaiting || captured(x.Request.Body) != "in" || budget.InUse() != 0 {
		t.Errorf("a hook's panic: %s in %s, %d bytes in use", x.Outcome, x.Phase, budget.InUse())
	}
}

func TestTrapCapture24_LateWritersMeetNoReusedBuffer(t *testing.T) {
	budget := capture.NewBudget(1 << 20)
	var late sync.WaitGroup
	stop := make(chan struct{})
	s := newShelf()
	h := capture.Middleware(s, &capture.Options{Budget: budget})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		mark := r.URL.Query().Get("mark")
		io.WriteString(w, strings.Repeat(mark, 2000))
		live := capture.From(r.Context())
		late.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					io.WriteString(w, strings.Repeat(mark, 100))
					live.Set("late", mark)
					live.Skip()
					live.Refused(mark)
				}
			}
		})
	}))
	for i := range 50 {
		mark := string(rune('a' + i%26))
		h.ServeHTTP(&lockedWriter{ResponseWriter: httptest.NewRecorder()}, get("/?mark="+mark))
		x := s.next(t)
		if got := captured(x.Response.Body); strings.Trim(got, mark) != "" {
			t.Fatalf("record of %q shows %q", mark, got)
		}
		for _, a := range x.Attributes {
			if a.Value != mark {
				t.Fatalf("record of %q has attribute %v", mark, a)
			}
		}
	}
	close(stop)
	late.Wait()
	if n := budget.InUse(); n != 0 {
		t.Errorf("%d bytes of budget still taken", n)
	}
}

// lockedWriter may be written to concurrently.
type lockedWriter struct {
	http.ResponseWriter
	mu sync.Mutex
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(p), nil
}

func TestTrapCapture28_IdleStreamsHoldWhatTheyUse(t *testing.T) {
	budget := capture.NewBudget(1 << 20)
	for _, c := range []struct {
		contentType string
		written     int
		held        int64
	}{
		{"text/plain", 0, 0},
		{"text/plain", 100, 512},
		{"text/plain", 5000, 512 + 2*4096},
		{"text/plain", 10 << 20, 64<<10 + 512},
		{"text/event-stream", 10 << 20, 0},
		{"", 400, 512}, // undecided
	} {
		record(t, &capture.Options{Budget: budget}, get("/"), func(w http.ResponseWriter, r *http.Request) {
			if c.contentType != "" {
				w.Header().Set("Content-Type", c.contentType)
			}
			w.Write(make([]byte, c.written))
			if n := budget.InUse(); n != c.held {
				t.Errorf("%q after %d bytes: holds %d, want %d", c.contentType, c.written, n, c.held)
			}
		})
	}
}

func TestTrapCapture34_NothingOutlivesItsExchange(t *testing.T) {
	budget := capture.NewBudget(1 << 20)
	var alive atomic.Int64
	var contexts []context.Context // which somebody may keep
	sink := capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		alive.Add(1)
		runtime.AddCleanup(x, func(int) { alive.Add(-1) }, 0)
		return errors.New("and the sink fails")
	})
	h := capture.Middleware(sink, &capture.Options{Budget: budget})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		contexts = append(contexts, r.Context())
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, "some text")
		switch r.URL.Path {
		case "/panic":
			panic("boom")
		case "/abort":
			panic(http.ErrAbortHandler)
		}
	}))
	for range 100 {
		for _, path := range []string{"/", "/panic", "/abort"} {
			func() {
				defer func() { recover() }()
				h.ServeHTTP(httptest.NewRecorder(), get(path))
			}()
		}
	}
	if n := budget.InUse(); n != 0 {
		t.Errorf("%d bytes of budget still taken", n)
	}
	for deadline := time.Now().Add(time.Minute); alive.Load() > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of 300 records are still reachable", alive.Load())
		}
		runtime.GC()
	}
	runtime.KeepAlive(h)
	runtime.KeepAlive(contexts)
}

func TestDefectCapture_PanicIsRecorded(t *testing.T) {
	x, _ := record(t, nil, get("/"), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(201)
		io.WriteString(w, `{"half":`)
		panic("boom")
	})
	if x.Outcome != capture.OutcomePanic || x.Status != 201 || captured(x.Response.Body) != `{"half":` {
		t.Errorf("recorded %s %d %q", x.Outcome, x.Status, captured(x.Response.Body))
	}
}
