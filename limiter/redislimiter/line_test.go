package redislimiter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A tower is a server for lines of numbers: it notes each flight, which takes
// rtt, or as long as hold says.
type tower struct {
	*line[int]
	rtt  time.Duration
	hold func(ctx context.Context, flight int) error

	mu       sync.Mutex
	flights  [][]int
	inAir    int
	most     int
	forsaken []int
}

func newTower(rtt time.Duration) *tower {
	w := &tower{rtt: rtt}
	w.line = newLine(w.fly, func(qs []int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.forsaken = append(w.forsaken, qs...)
	}, one)
	return w
}

func one[Q any](Q) int { return 1 }

func (w *tower) fly(ctx context.Context, qs []int) error {
	w.mu.Lock()
	n := len(w.flights)
	w.flights = append(w.flights, slices.Clone(qs))
	w.inAir++
	w.most = max(w.most, w.inAir)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.inAir--
		w.mu.Unlock()
	}()
	if w.hold != nil {
		return w.hold(ctx, n)
	}
	return pause(ctx, w.rtt)
}

// pause returns early, and with the context's error, if ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// idle fails unless the line soon is as it was when it was made.
func (w *tower) idle(t *testing.T) {
	t.Helper()
	synctest.Wait()
	w.line.mu.Lock()
	defer w.line.mu.Unlock()
	if l := w.line; l.flights != 0 || l.waitingLocked() != 0 || len(l.queue) != 0 || l.gone != 0 {
		t.Errorf("in the end %d flights are in the air, %d wait, the queue has %d, %d of them gone", l.flights, l.waitingLocked(), len(l.queue), l.gone)
	}
}

// arrive lets numbers from begin to end-1 ask one after the other, in goroutines
// of their own, and returns their errors, complete after wg.
func (w *tower) arrive(ctx context.Context, wg *sync.WaitGroup, begin, end int) []error {
	errs := make([]error, end-begin)
	for i := begin; i < end; i++ {
		wg.Go(func() { errs[i-begin] = w.ask(ctx, i) })
		synctest.Wait()
	}
	return errs
}

func noErrors(t *testing.T, errs []error) {
	t.Helper()
	for i, err := range errs {
		if err != nil {
			t.Errorf("question %d: %v", i, err)
		}
	}
}

func TestLoneQuestionFliesAtOnceWithItsOwnContext(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, 1)
	own := 0
	l := newLine(func(got context.Context, qs []int) error {
		if got == ctx && len(qs) == 1 {
			own++
		}
		return nil
	}, nil, one)
	for i := range 3 {
		if err := l.ask(ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	if own != 3 {
		t.Errorf("%d of 3 questions flew alone with their own context", own)
	}
}

func TestQuestionsShareFlightsInArrivalOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTower(time.Millisecond)
		var wg sync.WaitGroup
		n := lanes + 2*seats + 10
		errs := w.arrive(t.Context(), &wg, 0, n)
		wg.Wait()
		noErrors(t, errs)
		// Two that take off at the same moment are seen in either order.
		slices.SortFunc(w.flights, slices.Compare)
		if all := slices.Concat(w.flights...); len(all) != n || !slices.IsSorted(all) {
			t.Errorf("%d questions flew in this order: %v", n, all)
		}
		// The first two had nobody before them, the next find the queue.
		if got, want := len(w.flights), lanes+3; got != want {
			t.Errorf("%d questions took %d flights, want %d", n, got, want)
		}
		if w.most != lanes {
			t.Errorf("%d flights at once, want %d", w.most, lanes)
		}
		w.idle(t)
	})
}

// Large questions take many seats, but fly however large they are.
func TestFlightIsBoundedBySize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTower(time.Millisecond)
		w.size = func(q int) int { return q }
		var wg sync.WaitGroup
		for _, q := range []int{1, 1, 100, 100, 56, 1, 300, 255, 1, 2} {
			wg.Go(func() {
				if err := w.ask(t.Context(), q); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		slices.SortFunc(w.flights, slices.Compare) // as above: two take off at the same moment
		if got, want := fmt.Sprint(w.flights), "[[1] [1] [1] [2] [100 100 56] [255 1] [300]]"; got != want {
			t.Errorf("flights %v, want %v", got, want)
		}
		w.idle(t)
	})
}

// A question waits for the flight before it and for its own: two round trips at
// most as long as one flight takes everybody who queues.
func TestQuestionWaitsForOneFlightAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTower(time.Millisecond)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for i := range 50 {
					start := time.Now()
					if err := w.ask(t.Context(), i); err != nil {
						t.Error(err)
					}
					if d := time.Since(start); d > 2*time.Millisecond {
						t.Errorf("a question took %v with round trips of 1ms", d)
					}
				}
			})
		}
		wg.Wait()
		w.idle(t)
		if got, most := len(w.flights), 100*50/20; got > most {
			t.Errorf("5000 questions of 100 callers took %d flights, want %d at most", got, most)
		}
	})
}

func TestWhoLeavesTheQueueHasNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTower(time.Millisecond)
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		stay := w.arrive(t.Context(), &wg, 0, 4)
		leave := w.arrive(ctx, &wg, 4, 8)
		stay2 := w.arrive(t.Context(), &wg, 8, 12)
		start := time.Now()
		cancel()
		synctest.Wait()
		for _, err := range leave {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("a cancelled caller got %v", err)
			}
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("leaving took %v", d)
		}
		wg.Wait()
		noErrors(t, append(stay, stay2...))
		if got, want := fmt.Sprint(w.flights), "[[0] [1] [2 3 8 9 10 11]]"; got != want {
			t.Errorf("flights %v, want %v", got, want)
		}
		if len(w.forsaken) != 0 {
			t.Errorf("%v were asked and forsaken", w.forsaken)
		}
		w.idle(t)
	})
}

func TestWhoLeavesInFlightHarmsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTower(5 * time.Millisecond)
		var wg sync.WaitGroup
		first := w.arrive(t.Context(), &wg, 0, lanes)
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Millisecond)
		defer cancel()
		stay := w.arrive(t.Context(), &wg, 10, 12)
		leave := w.arrive(ctx, &wg, 12, 14)
		stay2 := w.arrive(t.Context(), &wg, 14, 16)
		start := time.Now()
		wg.Wait()
		noErrors(t, slices.Concat(first, stay, stay2))
		for _, err := range leave {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a caller past its deadline got %v", err)
			}
		}
		if d := time.Since(start); d != 10*time.Millisecond {
			t.Errorf("the others had their answers after %v, want 10ms", d)
		}
		synctest.Wait()
		if got, want := fmt.Sprint(w.forsaken), "[12 13]"; got != want {
			t.Errorf("forsaken: %v, want %v", got, want)
		}
		w.idle(t)
	})
}

func TestQuestionWithAnEndedContextIsNotAsked(t *testing.T) {
	w := newTower(0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.ask(ctx, 1); !errors.Is(err, context.Canceled) || len(w.flights) != 0 {
		t.Errorf("ask = %v after %d flights", err, len(w.flights))
	}
}

// The flight of several ends when the last of them has left, and no later than
// flightTime.
func TestFlightEndsWithItsLastMember(t *testing.T) {
	for _, tt := range []struct {
		name      string
		deadlines []time.Duration
		want      time.Duration
	}{
		{"the last deadline", []time.Duration{20 * time.Millisecond, 50 * time.Millisecond, 30 * time.Millisecond}, 50 * time.Millisecond},
		{"one without", []time.Duration{20 * time.Millisecond, 0, 30 * time.Millisecond}, 5*time.Millisecond + flightTime},
		{"a late one", []time.Duration{time.Hour, time.Hour}, 5*time.Millisecond + flightTime},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTower(0)
				w.hold = func(ctx context.Context, flight int) error {
					if flight < lanes {
						return pause(ctx, 5*time.Millisecond)
					}
					<-ctx.Done()
					return ctx.Err()
				}
				var wg sync.WaitGroup
				start := time.Now()
				w.arrive(t.Context(), &wg, 0, lanes)
				for i, d := range tt.deadlines {
					ctx := t.Context()
					if d > 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, d)
						defer cancel()
					}
					wg.Go(func() {
						if err := w.ask(ctx, 10+i); !errors.Is(err, context.DeadlineExceeded) {
							t.Errorf("ask = %v", err)
						}
					})
				}
				wg.Wait()
				if d := time.Since(start); d != tt.want {
					t.Errorf("the flight ended after %v, want %v", d, tt.want)
				}
				synctest.Wait()
				w.idle(t)
			})
		})
	}
}

func TestErrorReachesAllOfAFlightAndNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTower(time.Millisecond)
		broken := errors.New("broken")
		w.hold = func(ctx context.Context, flight int) error {
			_ = pause(ctx, time.Millisecond)
			w.mu.Lock()
			defer w.mu.Unlock()
			// The next two take off at the same moment.
			if w.flights[flight][0] == 10 {
				return broken
			}
			return nil
		}
		var wg sync.WaitGroup
		first := w.arrive(t.Context(), &wg, 0, lanes)
		bad := w.arrive(t.Context(), &wg, 10, 10+seats)
		after := w.arrive(t.Context(), &wg, 1000, 1010)
		wg.Wait()
		noErrors(t, append(first, after...))
		for _, err := range bad {
			if err != broken {
				t.Fatalf("a member of the broken flight got %v", err)
			}
		}
		w.idle(t)
	})
}

func TestPanicReachesTheMembersAndTheLineGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTower(time.Millisecond)
		broken := errors.New("broken")
		w.hold = func(ctx context.Context, flight int) error {
			_ = pause(ctx, time.Millisecond)
			if flight == 0 || flight == lanes {
				panic(broken)
			}
			return nil
		}
		var wg sync.WaitGroup
		var panics atomic.Int64
		for i := range lanes + 3 {
			wg.Go(func() {
				defer func() {
					if r := recover(); r != nil {
						if err, _ := r.(error); errors.Is(err, broken) {
							panics.Add(1)
						}
					}
				}()
				if err := w.ask(t.Context(), i); err != nil {
					t.Errorf("ask = %v", err)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		if got := panics.Load(); got != 1+3 {
			t.Errorf("%d callers panicked, want the lone one and the 3 of a flight", got)
		}
		after := w.arrive(t.Context(), &wg, 100, 101)
		wg.Wait()
		noErrors(t, after)
		w.idle(t)
	})
}

// The first flights hang; whoever comes then is held up for no longer than it
// takes to notice, and the flights stay bounded.
func TestHungFlightsHoldUpNobodyForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTower(0)
		w.hold = func(ctx context.Context, flight int) error {
			if flight < lanes {
				return pause(ctx, time.Minute)
			}
			return pause(ctx, time.Millisecond)
		}
		var wg sync.WaitGroup
		hung := w.arrive(t.Context(), &wg, 0, lanes)
		for range 10 {
			wg.Go(func() {
				for i := range 100 {
					start := time.Now()
					if err := w.ask(t.Context(), 10+i); err != nil {
						t.Error(err)
					}
					if d := time.Since(start); d > stalled+2*time.Millisecond {
						t.Errorf("a question took %v", d)
					}
				}
			})
		}
		wg.Wait()
		noErrors(t, hung)
		w.idle(t)
	})
}

func TestFlightsToAHungServerAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTower(0)
		w.hold = func(ctx context.Context, _ int) error {
			<-ctx.Done()
			return ctx.Err()
		}
		var wg sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for i := range 2000 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 500 * time.Microsecond)
				if err := w.ask(ctx, i); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("ask = %v", err)
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		if w.most > maxLanes {
			t.Errorf("%d flights at once, want %d at most", w.most, maxLanes)
		}
		w.idle(t)
	})
}

// As many flights hang as there may be, and those that return in the end leave it
// to others to fly, who never do: who waits then is seen to nevertheless.
func TestWhoWaitsForHungFlightsIsSeenTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTower(0)
		begin := time.Now()
		const back = time.Second
		w.hold = func(ctx context.Context, flight int) error {
			switch {
			case flight < lanes:
				return pause(ctx, time.Minute)
			case flight < maxLanes:
				time.Sleep(back - time.Since(begin))
				return nil
			}
			return pause(ctx, time.Millisecond)
		}
		var wg sync.WaitGroup
		for i := range maxLanes {
			wg.Go(func() { w.ask(t.Context(), i) })
			time.Sleep(2 * stalled)
		}
		w.mu.Lock()
		if w.most != maxLanes {
			t.Errorf("%d flights are in the air, want %d", w.most, maxLanes)
		}
		w.mu.Unlock()
		wg.Go(func() {
			if err := w.ask(t.Context(), 100); err != nil {
				t.Error(err)
			}
			if d := time.Since(begin); d > back+2*stalled {
				t.Errorf("who waited was answered after %v, when a flight could have taken off at %v", d, back)
			}
		})
		wg.Wait()
		w.idle(t)
	})
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTower(time.Minute) // as long as the test lasts
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		w.arrive(ctx, &wg, 0, maxLanes) // two at once, then one after the other
		var asked, crowded atomic.Int64
		crowd := func(n int) {
			for range n {
				wg.Go(func() {
					switch err := w.ask(ctx, 1); {
					case errors.Is(err, ErrCrowded):
						crowded.Add(1)
					case errors.Is(err, context.Canceled):
						asked.Add(1)
					default:
						t.Errorf("ask = %v", err)
					}
				})
			}
		}
		w.line.mu.Lock()
		w.line.flights = maxLanes // nobody boards
		w.line.mu.Unlock()
		crowd(maxQueue)
		synctest.Wait()
		w.line.mu.Lock()
		if n := len(w.line.queue); n != maxQueue {
			t.Errorf("the queue has %d, want %d", n, maxQueue)
		}
		w.line.mu.Unlock()
		if n := crowded.Load(); n == 0 {
			t.Errorf("nobody was turned away at a queue of %d", maxQueue)
		}
		// Those who left make room, and nothing of them remains.
		cancel()
		wg.Wait()
		w.line.mu.Lock()
		if n, gone := len(w.line.queue), w.line.gone; n != 0 || gone != 0 {
			t.Errorf("all have left, but the queue has %d, %d of them gone", n, gone)
		}
		w.line.mu.Unlock()
		ctx, cancel = context.WithCancel(t.Context())
		before := crowded.Load()
		w.line.mu.Lock()
		w.line.flights = maxLanes
		w.line.mu.Unlock()
		crowd(10)
		synctest.Wait()
		if n := crowded.Load() - before; n != 0 {
			t.Errorf("%d of 10 were turned away after all others had left", n)
		}
		cancel()
		wg.Wait()
	})
}

// TestLineUnderRace lets callers come, leave and be answered at random; each is
// answered once, or has left.
func TestLineUnderRace(t *testing.T) {
	var asked, answered, forsaken, left atomic.Int64
	type question struct{ n atomic.Int64 }
	l := newLine(func(ctx context.Context, qs []*question) error {
		asked.Add(int64(len(qs)))
		for _, q := range qs {
			q.n.Add(1)
		}
		return nil
	}, func(qs []*question) { forsaken.Add(int64(len(qs))) }, one)
	const callers, times = 64, 300
	var wg sync.WaitGroup
	for g := range callers {
		wg.Go(func() {
			for i := range times {
				ctx, cancel := context.WithCancel(t.Context())
				if (g+i)%3 == 0 {
					go cancel()
				}
				q := new(question)
				switch err := l.ask(ctx, q); {
				case err == nil && q.n.Load() == 1:
					answered.Add(1)
				case err != nil && errors.Is(err, context.Canceled):
					left.Add(1)
				default:
					t.Errorf("ask = %v, asked %d times", err, q.n.Load())
				}
				cancel()
			}
		})
	}
	wg.Wait()
	for range 1000 { // the last flight may still tell who was forsaken
		l.mu.Lock()
		n := l.flights
		l.mu.Unlock()
		if n == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if answered.Load()+left.Load() != callers*times {
		t.Errorf("%d answered and %d left of %d", answered.Load(), left.Load(), callers*times)
	}
	if asked.Load() != answered.Load()+forsaken.Load() {
		t.Errorf("%d were asked, %d answered, %d forsaken", asked.Load(), answered.Load(), forsaken.Load())
	}
}
