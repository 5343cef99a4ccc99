package limiter_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

// A service is something that is as quick as it can be for a number of requests
// at once, and shares that among more.
type service struct {
	takes    atomic.Int64 // time.Duration for one alone
	capacity int64        // 0: no bound
	noise    func() float64
	busy     atomic.Int64
}

func (s *service) serve(ctx context.Context) {
	took := float64(s.takes.Load())
	if busy := s.busy.Add(1); s.capacity > 0 {
		took *= max(1, float64(busy)/float64(s.capacity))
	}
	defer s.busy.Add(-1)
	if s.noise != nil {
		took *= s.noise()
	}
	timer := time.NewTimer(time.Duration(took))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// callers asks in a loop, from a number of goroutines, until stop is called. One
// that is refused asks again after a while.
func callers(t *testing.T, n int, f *limiter.InFlight, timeout time.Duration, serve func(context.Context)) (stop func()) {
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for i := range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				call, cancel := context.WithTimeout(ctx, timeout)
				release, err := f.Acquire(call, limiter.Slot{})
				if err == nil {
					serve(call)
					release()
				} else if errors.Is(err, limiter.ErrOverload) {
					time.Sleep(5*time.Millisecond + time.Duration(i)*time.Microsecond)
				}
				cancel()
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

func adapting(t *testing.T, ceiling, floor int) *limiter.InFlight {
	return inFlight(t, limiter.InFlightOptions{Max: ceiling, Adaptive: &limiter.AdaptiveOptions{Min: floor}})
}

// minutes skips a test that simulates minutes of traffic.
func minutes(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("simulates minutes of traffic")
	}
}

// limitWithin reads the cap once a second.
func limitWithin(t *testing.T, f *limiter.InFlight, seconds, least, most int) {
	t.Helper()
	low, high := 1<<30, 0
	for range seconds {
		time.Sleep(time.Second)
		l := f.Snapshot().Limit
		low, high = min(low, l), max(high, l)
	}
	t.Logf("the cap was %d to %d for %d s", low, high, seconds)
	if low < least || high > most {
		t.Errorf("the cap was %d to %d, want %d to %d", low, high, least, most)
	}
}

func newService(takes time.Duration, capacity int64) *service {
	s := &service{capacity: capacity}
	s.takes.Store(int64(takes))
	return s
}

// usual is what most services here take: so long that a simulated minute is over
// soon.
const usual = 50 * time.Millisecond

const long = time.Hour

func TestAdaptiveGrowsWithUseOnly(t *testing.T) {
	minutes(t)
	inTime(t, func(t *testing.T) {
		f, s := adapting(t, 50, 10), newService(usual, 0)
		few := callers(t, 4, f, long, s.serve)
		limitWithin(t, f, 30, 10, 10)
		many := callers(t, 50, f, long, s.serve)
		time.Sleep(15 * time.Second)
		limitWithin(t, f, 5, 50, 50)
		many()
		limitWithin(t, f, 30, 50, 50) // nor does it shrink
		few()
	})
}

// Netflix/concurrency-limits#134: under an overload that lasts the cap crept up.
func TestAdaptiveFindsTheCapacityAndStaysThere(t *testing.T) {
	minutes(t)
	for _, demand := range []int{20, 100} {
		inTime(t, func(t *testing.T) {
			f, s := adapting(t, 200, 2), newService(usual, 10)
			defer callers(t, demand, f, long, s.serve)()
			time.Sleep(15 * time.Second)
			limitWithin(t, f, 60, 9, 20)
		})
	}
}

// Netflix/concurrency-limits#137: constant timeouts became the normal latency,
// and the cap grew to its ceiling.
func TestAdaptiveShrinksUnderConstantTimeouts(t *testing.T) {
	minutes(t)
	inTime(t, func(t *testing.T) {
		f, s := adapting(t, 40, 4), newService(usual, 0)
		good := callers(t, 40, f, long, s.serve)
		time.Sleep(20 * time.Second)
		if l := f.Snapshot().Limit; l != 40 {
			t.Fatalf("the cap is %d before, want 40", l)
		}
		good()
		s.takes.Store(int64(time.Hour))
		bad := callers(t, 40, f, time.Second, s.serve)
		time.Sleep(30 * time.Second)
		limitWithin(t, f, 10, 4, 4)
		bad()
		// And back: the timeouts have spoilt nothing.
		s.takes.Store(int64(usual))
		good = callers(t, 40, f, long, s.serve)
		defer good()
		time.Sleep(10 * time.Second)
		limitWithin(t, f, 5, 20, 40)
	})
	t.Run("from the beginning", func(t *testing.T) {
		inTime(t, func(t *testing.T) {
			f, s := adapting(t, 40, 4), newService(time.Hour, 0)
			defer callers(t, 40, f, 100*time.Millisecond, s.serve)()
			limitWithin(t, f, 60, 4, 4)
		})
	})
	t.Run("some", func(t *testing.T) {
		inTime(t, func(t *testing.T) {
			f, s := adapting(t, 40, 4), newService(usual, 0)
			r := rand.New(rand.NewPCG(1, 2))
			var mu sync.Mutex
			s.noise = func() float64 {
				mu.Lock()
				defer mu.Unlock()
				if r.IntN(5) == 0 {
					return 1000 // a fifth
				}
				return 1
			}
			defer callers(t, 40, f, 200*time.Millisecond, s.serve)()
			time.Sleep(10 * time.Second)
			limitWithin(t, f, 10, 4, 10)
		})
	})
}

// A baseline that is never learned up again keeps the cap at its floor; one that
// follows the past lets it grow.
func TestAdaptiveLearnsThatTheServiceIsSlowerNow(t *testing.T) {
	minutes(t)
	inTime(t, func(t *testing.T) {
		f, s := adapting(t, 50, 5), newService(usual, 0)
		defer callers(t, 50, f, long, s.serve)()
		time.Sleep(20 * time.Second)
		s.takes.Store(int64(4 * usual))
		low := 50
		for range 150 {
			time.Sleep(100 * time.Millisecond)
			low = min(low, f.Snapshot().Limit)
		}
		if low > 10 {
			t.Errorf("the cap fell to %d, want near its floor, 5", low)
		}
		time.Sleep(40 * time.Second)
		limitWithin(t, f, 10, 45, 50)
		s.takes.Store(int64(usual)) // quicker is no harm
		limitWithin(t, f, 10, 45, 50)
	})
}

// Netflix/concurrency-limits#146: clients that do not wait shrank the cap.
func TestAdaptiveIgnoresImpatientClients(t *testing.T) {
	minutes(t)
	inTime(t, func(t *testing.T) {
		f, s := adapting(t, 40, 5), newService(usual, 0)
		defer callers(t, 20, f, long, s.serve)()
		hasty := func(ctx context.Context, wait time.Duration) {
			call, cancel := context.WithCancel(ctx)
			if release, err := f.Acquire(call, limiter.Slot{}); err == nil {
				time.Sleep(wait)
				cancel()
				release()
			}
			cancel()
			time.Sleep(3 * time.Millisecond)
		}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wait := atomic.Int64{}
		wait.Store(int64(time.Millisecond))
		for range 20 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						hasty(t.Context(), time.Duration(wait.Load()))
					}
				}
			})
		}
		time.Sleep(20 * time.Second)
		limitWithin(t, f, 5, 36, 40)
		wait.Store(int64(4 * usual)) // now they waited for too long
		time.Sleep(10 * time.Second)
		limitWithin(t, f, 5, 5, 34)
		close(stop)
		wg.Wait()
	})
}

// Netflix/concurrency-limits#176: a failure that comes at once looked like a quick
// answer, and every other one like a queue.
func TestAdaptiveIgnoresQuickFailures(t *testing.T) {
	minutes(t)
	for _, tt := range []struct {
		status      int
		least, most int
	}{{500, 36, 40}, {503, 5, 10}, {504, 5, 10}} {
		inTime(t, func(t *testing.T) {
			f := adapting(t, 40, 5)
			var n atomic.Int64
			h := f.Middleware(nil, nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1)%2 == 0 {
					time.Sleep(time.Millisecond)
					w.WriteHeader(tt.status)
					return
				}
				time.Sleep(usual)
				w.WriteHeader(200)
				time.Sleep(time.Second) // how long the body takes is up to the client
			}))
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for range 60 {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							h.ServeHTTP(&nowhere{http.Header{}}, request(t))
							time.Sleep(30 * time.Millisecond)
						}
					}
				})
			}
			time.Sleep(time.Minute)
			limitWithin(t, f, 5, tt.least, tt.most)
			close(stop)
			wg.Wait()
		})
	}
}

// Latencies that vary by themselves are no queue.
func TestAdaptiveBearsNoise(t *testing.T) {
	minutes(t)
	for name, noise := range map[string]func(*rand.Rand) float64{
		"uniform":     func(r *rand.Rand) float64 { return 0.5 + r.Float64() },
		"exponential": func(r *rand.Rand) float64 { return r.ExpFloat64() },
		"stragglers": func(r *rand.Rand) float64 {
			if r.IntN(100) == 0 {
				return 100
			}
			return 1
		},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				f, s := adapting(t, 50, 5), newService(usual, 0)
				r := rand.New(rand.NewPCG(1, 2))
				var mu sync.Mutex
				s.noise = func() float64 {
					mu.Lock()
					defer mu.Unlock()
					return noise(r)
				}
				defer callers(t, 60, f, long, s.serve)()
				time.Sleep(30 * time.Second)
				limitWithin(t, f, 20, 25, 50)
			})
		})
	}
}

func TestAdaptiveSet(t *testing.T) {
	inTime(t, func(t *testing.T) {
		f, s := adapting(t, 50, 5), newService(usual, 0)
		stop := callers(t, 50, f, long, s.serve)
		time.Sleep(20 * time.Second)
		for _, o := range []struct{ ceiling, floor, want int }{{20, 1, 20}, {200, 30, 30}, {30, 30, 30}} {
			if err := f.Set(limiter.InFlightOptions{Max: o.ceiling, Adaptive: &limiter.AdaptiveOptions{Min: o.floor}}); err != nil {
				t.Fatal(err)
			}
			if s := f.Snapshot(); s.Limit != o.want || s.Max != o.ceiling {
				t.Errorf("%+v: %+v", o, s)
			}
		}
		stop()
		inUse(t, f, 0, 0)
	})
}

// Where the clock is coarse a latency may be 0.
func TestAdaptiveBearsNoLatency(t *testing.T) {
	inTime(t, func(t *testing.T) {
		f := adapting(t, 100, 1)
		for range 200 {
			acquire(t, f, limiter.Slot{})()
			time.Sleep(10 * time.Millisecond)
		}
		if l := f.Snapshot().Limit; l < 1 || l > 100 {
			t.Errorf("the cap is %d", l)
		}
	})
}
