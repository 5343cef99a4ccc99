package capture_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/capture"
)

// notebook is an Observer that counts, by kind and reason.
type notebook struct {
	mu     sync.Mutex
	counts map[string]int
	events []capture.Event
}

func (n *notebook) Observe(_ context.Context, e capture.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.counts == nil {
		n.counts = map[string]int{}
	}
	var name strings.Builder
	name.WriteString(e.Kind.String())
	for _, detail := range []string{string(e.Part), string(e.Skip), string(e.Drop)} {
		if detail != "" {
			name.WriteString(" " + detail)
		}
	}
	n.counts[name.String()]++
	n.events = append(n.events, e)
}

func (n *notebook) count(kind string) (sum int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, count := range n.counts {
		if name == kind || strings.HasPrefix(name, kind+" ") {
			sum += count
		}
	}
	return sum
}

func TestObserverOfAMiddleware(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		o := new(notebook)
		budget := capture.NewBudget(1 << 20)
		failing := errors.New("disk full")
		h := capture.Middleware(capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
			time.Sleep(time.Second)
			if x.Path == "/fails" {
				return failing
			}
			return nil
		}), &capture.Options{
			Observer: o, Budget: budget, ResponseCap: 4, RefusalsPerSecond: -1,
			Keep: func(x *capture.Exchange) bool { return x.Path != "/sampled" },
		})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Pattern = "route"
			time.Sleep(time.Minute)
			switch r.URL.Path {
			case "/refused":
				capture.From(r.Context()).Refused("limit")
				w.WriteHeader(429)
			case "/image":
				w.Header().Set("Content-Type", "image/png")
				io.WriteString(w, "png")
			case "/long":
				io.WriteString(w, "longer than the cap")
			default:
				io.WriteString(w, "ok")
			}
		}))
		for _, path := range []string{"/ok", "/fails", "/sampled", "/refused", "/image", "/long"} {
			h.ServeHTTP(httptest.NewRecorder(), get(path))
		}
		want := map[string]int{
			"offered": 4, "sampled_out": 1, "thinned": 1, "delivered": 3, "dropped failed": 1,
			"skipped request no_body": 6, "skipped response content_type": 1, "skipped response status": 1,
			"truncated response cap": 1,
		}
		if !maps.Equal(o.counts, want) {
			t.Errorf("observed %v, want %v", o.counts, want)
		}
		first := []capture.Event{
			{Kind: capture.EventSkipped, Part: capture.PartRequest, Skip: capture.SkipNoBody, Duration: time.Minute, InUse: 512},
			{Kind: capture.EventOffered, Duration: time.Minute, InUse: 512},
			{Kind: capture.EventDelivered, Duration: time.Second, InUse: 512},
		}
		for i, want := range first {
			want.Route, want.Status, want.Outcome, want.Start = "route", 200, capture.OutcomeOK, start
			if want.Kind == capture.EventDelivered {
				want.Start = start.Add(time.Minute)
			}
			if got := o.events[i]; got != want {
				t.Errorf("event %d is %+v, want %+v", i, got, want)
			}
		}
	})
}

// Every sink that misbehaves, alone and behind a queue that is too small: each
// exchange is accounted for exactly once.
func TestConservation(t *testing.T) {
	const each, workers = 50, 8
	for name, sink := range map[string]capture.SinkFunc{
		"good":      func(context.Context, *capture.Exchange) error { return nil },
		"failing":   func(context.Context, *capture.Exchange) error { return io.ErrShortWrite },
		"panicking": func(context.Context, *capture.Exchange) error { panic("sink") },
		"stalled": func(context.Context, *capture.Exchange) error {
			time.Sleep(time.Hour)
			return nil
		},
	} {
		for queued, full := range map[string]capture.FullPolicy{"alone": 99, "newest": capture.DropNewest, "oldest": capture.DropOldest, "block": capture.Block} {
			t.Run(name+"/"+queued, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					mo, qo := new(notebook), new(notebook)
					q := capture.Async(sink, &capture.AsyncOptions{Records: 20, Full: full, Observer: qo})
					var s capture.Sink = q
					if queued == "alone" {
						s, qo = sink, mo
					}
					budget := capture.NewBudget(1 << 20)
					h := capture.Middleware(s, &capture.Options{
						Observer: mo, Budget: budget, RefusalsPerSecond: 5,
						Keep: func(x *capture.Exchange) bool { return x.Query != "sampled" },
					})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if r.URL.RawQuery == "refused" {
							capture.From(r.Context()).Refused("limit")
						}
						io.WriteString(w, "some text")
					}))
					var wg sync.WaitGroup
					for range workers {
						wg.Go(func() {
							for range each {
								for _, query := range []string{"kept", "sampled", "refused"} {
									func() {
										defer func() { recover() }()
										h.ServeHTTP(new(sinkhole), get("/?"+query))
									}()
								}
							}
						})
					}
					wg.Wait()
					ctx, cancel := context.WithTimeout(t.Context(), 90*time.Minute)
					defer cancel()
					q.Close(ctx)
					q.Close(t.Context()) // waits for the record that is being delivered
					offered, thinned, sampled := mo.count("offered"), mo.count("thinned"), mo.count("sampled_out")
					if offered+thinned+sampled != 3*each*workers || sampled != each*workers {
						t.Errorf("%d exchanges = %d offered + %d thinned + %d sampled out", 3*each*workers, offered, thinned, sampled)
					}
					delivered, dropped := qo.count("delivered"), qo.count("dropped")
					if offered != delivered+dropped {
						t.Errorf("%d offered = %d delivered + %d dropped", offered, delivered, dropped)
					}
					if (delivered == 0) == (name == "good" || name == "stalled") {
						t.Errorf("%d delivered", delivered)
					}
					if stats := q.Stats(); queued != "alone" && (stats.Offered != int64(offered) || stats.Delivered != int64(delivered) ||
						stats.DroppedFull != int64(qo.count("dropped full")) || stats.DroppedFailed != int64(qo.count("dropped failed")) ||
						stats.DroppedClosed != int64(qo.count("dropped closed"))) {
						t.Errorf("the queue counts %+v, its observer %v", stats, qo.counts)
					}
					if budget.InUse() != 0 {
						t.Errorf("%d bytes in use", budget.InUse())
					}
				})
			})
		}
	}
}

func TestRefusalsAreThinned(t *testing.T) {
	for _, c := range []struct {
		option, want int
	}{{0, 100}, {7, 7}, {-1, 0}} {
		synctest.Test(t, func(t *testing.T) {
			o, s := new(notebook), make(shelf, 10_000)
			h := capture.Middleware(s, &capture.Options{RefusalsPerSecond: c.option, Observer: o})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/refused" {
					capture.From(r.Context()).Refused("")
				}
				w.WriteHeader(429)
			}))
			var admitted []time.Time
			for range 3000 { // for 3 s, a thousand a second
				h.ServeHTTP(new(sinkhole), get("/refused"))
				if len(s) > 0 {
					<-s
					admitted = append(admitted, time.Now())
				}
				time.Sleep(time.Millisecond)
			}
			if len(admitted) != 3*c.want || o.count("thinned") != 3000-3*c.want {
				t.Errorf("of 3000 refusals in 3 s %d were offered and %d thinned, want %d a second", len(admitted), o.count("thinned"), c.want)
			}
			for i := range admitted[:max(0, len(admitted)-c.want)] {
				if d := admitted[i+c.want].Sub(admitted[i]); d < time.Second {
					t.Fatalf("%d refusals within %v", c.want+1, d)
				}
			}
			// An upstream's own 429 is no refusal.
			for range 1000 {
				h.ServeHTTP(new(sinkhole), get("/upstream"))
			}
			if len(s) != 1000 {
				t.Errorf("%d of 1000 answers of 429 were offered", len(s))
			}
		})
	}
}
