package benchmarks_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

// What is offered in TestOverload comes from another process, which is a run of
// this test binary too.
const offerVariable = "WEIR_BENCH_OFFER"

// An offer is what the other process is to ask for: a request each Every, whether
// those before it are answered or not. With Callers, these ask one after the
// other instead.
type offer struct {
	URL     string
	For     time.Duration
	Every   time.Duration
	Callers int
}

// answered is what became of it: the times from when a request was due.
type answered struct {
	Served, Refused []time.Duration
	Failed          int
	Took            time.Duration
}

func TestOffer(t *testing.T) {
	text := os.Getenv(offerVariable)
	if text == "" {
		t.Skip("it is run by TestOverload, as a process of its own")
	}
	var o offer
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	var (
		mu  sync.Mutex
		a   answered
		wg  sync.WaitGroup
		get = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	)
	ask := func(due time.Time) {
		res, err := get.Get(o.URL)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
		took := time.Since(due)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			a.Failed++
		case res.StatusCode == http.StatusOK:
			a.Served = append(a.Served, took)
		default:
			a.Refused = append(a.Refused, took)
		}
	}
	start := time.Now()
	if o.Callers > 0 {
		for range o.Callers {
			wg.Go(func() {
				for time.Since(start) < o.For {
					ask(time.Now())
				}
			})
		}
	} else {
		for due := start; due.Sub(start) < o.For; due = due.Add(o.Every) {
			time.Sleep(time.Until(due))
			wg.Go(func() { ask(due) })
		}
	}
	wg.Wait()
	a.Took = time.Since(start)
	if err := json.NewEncoder(os.Stdout).Encode(a); err != nil {
		t.Fatal(err)
	}
	os.Exit(0) // nothing else may be printed
}

func (o offer) make(t *testing.T) (a answered) {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOffer$")
	cmd.Env = append(os.Environ(), offerVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := json.Unmarshal(out, &a); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return a
}

func quantile(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[int(q*float64(len(times)-1))]
}

// TestOverload offers ten times what a server can do that serves 20 at once, for
// 100 ms each. Unloaded, 20 callers ask one after the other. What is offered to a
// handler that only refuses says what the machine, its kernel and the other
// process take.
func TestOverload(t *testing.T) {
	const slots, takes = 20, 100 * time.Millisecond
	f := newInFlight(t, limiter.InFlightOptions{Max: slots, Queue: slots})
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(takes)
		io.WriteString(w, "ok")
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", f.Middleware(nil, nil)(h))
	mux.HandleFunc("/bare", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	srv := &http.Server{Handler: mux}
	go srv.Serve(ln)
	defer srv.Close()
	url := "http://" + ln.Addr().String() + "/"

	long, many := 500*time.Millisecond, 1
	if *measuring {
		long, many = 10*time.Second, 3
	}
	for range many {
		alone := offer{URL: url, For: long, Callers: slots}.make(t)
		flood := offer{URL: url, For: long, Every: takes / slots / 10}.make(t)
		bare := offer{URL: url + "bare", For: long, Every: takes / slots / 10}.make(t)
		if len(alone.Served) == 0 || len(flood.Served) == 0 || len(flood.Refused) == 0 {
			t.Fatalf("served %d alone; of the flood %d, refused %d", len(alone.Served), len(flood.Served), len(flood.Refused))
		}
		// What was still under way at the end is served within the time that it
		// took to end.
		rate := func(a answered) float64 { return float64(len(a.Served)) / a.Took.Seconds() }
		offered := len(flood.Served) + len(flood.Refused) + flood.Failed
		fmt.Fprintf(t.Output(), "offered %.0f a second, served %.1f, unloaded %.1f: %.3f of it; failed %d\n",
			float64(offered)/long.Seconds(), rate(flood), rate(alone), rate(flood)/rate(alone), flood.Failed+alone.Failed)
		fmt.Fprintf(t.Output(), "refused %d: p50 %v, p99 %v, p99.9 %v; served: p50 %v, p99 %v, unloaded p99 %v\n", len(flood.Refused),
			quantile(flood.Refused, 0.5), quantile(flood.Refused, 0.99), quantile(flood.Refused, 0.999),
			quantile(flood.Served, 0.5), quantile(flood.Served, 0.99), quantile(alone.Served, 0.99))
		fmt.Fprintf(t.Output(), "the same offered to a handler that does nothing but refuse: p50 %v, p99 %v, p99.9 %v\n",
			quantile(bare.Refused, 0.5), quantile(bare.Refused, 0.99), quantile(bare.Refused, 0.999))
		if s := f.Snapshot(); s.InUse != 0 || s.Waiting != 0 {
			t.Errorf("afterwards %+v", s)
		}
	}
}
