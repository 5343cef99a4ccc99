package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/limiter"
)

func inFlight(t testing.TB, opts limiter.InFlightOptions) *limiter.InFlight {
	t.Helper()
	f, err := limiter.NewInFlight(opts)
	if err != nil {
		t.Fatalf("NewInFlight(%+v): %v", opts, err)
	}
	return f
}

func acquire(t testing.TB, a limiter.Acquirer, s limiter.Slot) (release func()) {
	t.Helper()
	release, err := a.Acquire(t.Context(), s)
	if err != nil {
		t.Fatalf("Acquire(%+v): %v", s, err)
	}
	return release
}

// busy is the reason why a slot is refused at once.
func busy(t testing.TB, a limiter.Acquirer, s limiter.Slot) limiter.OverloadReason {
	t.Helper()
	release, err := a.Acquire(t.Context(), s)
	e, ok := errors.AsType[*limiter.OverloadError](err)
	if !ok || !errors.Is(err, limiter.ErrOverload) || release != nil {
		t.Fatalf("Acquire(%+v): %v, want an OverloadError and no release", s, err)
	}
	return e.Reason
}

func inUse(t testing.TB, a limiter.Acquirer, slots, waiting int) {
	t.Helper()
	if s := a.Snapshot(); s.InUse != slots || s.Waiting != waiting {
		t.Errorf("%d slots in use, %d requests waiting; want %d, %d", s.InUse, s.Waiting, slots, waiting)
	}
}

func TestInFlightFaultsAreReportedAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts limiter.InFlightOptions
		want []string
	}{
		{"nothing limited", limiter.InFlightOptions{}, []string{
			`limiter: policy "in-flight": Max is 0, and so is MaxPerKey; one of them is needed`,
		}},
		{"all negative", limiter.InFlightOptions{Name: "a\n", Max: -1, MaxPerKey: -2, Queue: -3, QueuePerKey: -4, MaxWait: -5, Classes: 17}, []string{
			`limiter: policy "a\n": Name has bytes that are not printable ASCII (0x20 to 0x7e)`,
			`limiter: policy "a\n": Max is -1; allowed: 0 (no cap over all) or more`,
			`limiter: policy "a\n": MaxPerKey is -2; allowed: 0 (no cap per key) or more`,
			`limiter: policy "a\n": Queue is -3; allowed: 0 (nobody waits) or more`,
			`limiter: policy "a\n": QueuePerKey is -4; allowed: 0 (half of Queue) or more`,
			`limiter: policy "a\n": MaxWait is -5ns; allowed: 0 (1s) or more`,
			`limiter: policy "a\n": Classes is 17; allowed: 0 (1) to 16`,
		}},
		{"adaptive", limiter.InFlightOptions{Adaptive: &limiter.AdaptiveOptions{Min: 1, Tolerance: 0.5}}, []string{
			`limiter: policy "in-flight": Max is 0; with Adaptive it is the ceiling: 1 or more`,
			`limiter: policy "in-flight": Adaptive.Min is 1; allowed: 0 (a tenth of Max) to Max, 0`,
			`limiter: policy "in-flight": Adaptive.Tolerance is 0.5; allowed: 1 to 10, or 0 (1.5)`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := limiter.NewInFlight(tt.opts)
			if err == nil || !errors.Is(err, limiter.ErrPolicy) {
				t.Fatalf("got %v, want an error that matches ErrPolicy", err)
			}
			if got := strings.Split(err.Error(), "\n"); !slices.Equal(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", err, strings.Join(tt.want, "\n"))
			}
			f := inFlight(t, limiter.InFlightOptions{Max: 1})
			if err := f.Set(tt.opts); err == nil || f.Snapshot().Max != 1 {
				t.Errorf("Set: %v, and then Max is %d", err, f.Snapshot().Max)
			}
		})
	}
}

func TestInFlightCaps(t *testing.T) {
	f := inFlight(t, limiter.InFlightOptions{Max: 4, MaxPerKey: 2})
	a := acquire(t, f, limiter.Slot{Key: "a"})
	acquire(t, f, limiter.Slot{Key: "a"})
	if r := busy(t, f, limiter.Slot{Key: "a"}); r != limiter.OverloadKeyFull {
		t.Errorf("third of a key that may have two: %v", r)
	}
	acquire(t, f, limiter.Slot{Key: "b", Weight: 9}) // all that a key can have
	if r := busy(t, f, limiter.Slot{Key: "c"}); r != limiter.OverloadFull {
		t.Errorf("fifth of four: %v", r)
	}
	a()
	a() // gives nothing back that is not there
	inUse(t, f, 3, 0)
	acquire(t, f, limiter.Slot{})
	if s := f.Snapshot(); s != (limiter.InFlightSnapshot{Name: "in-flight", Source: limiter.SourceMemory, Max: 4, Limit: 4, MaxPerKey: 2, InUse: 4, Keys: 2}) {
		t.Errorf("%+v", s)
	}
}

func TestInFlightWaits(t *testing.T) {
	inTime(t, func(t *testing.T) {
		f := inFlight(t, limiter.InFlightOptions{Max: 1, Queue: 2, MaxWait: 2 * time.Second, Classes: 2})
		release := acquire(t, f, limiter.Slot{})
		var mu sync.Mutex
		var served []string
		wait := func(name string, ctx context.Context, class int) {
			go func() {
				start := time.Now()
				release, err := f.Acquire(ctx, limiter.Slot{Class: class})
				if err == nil {
					defer release()
				}
				mu.Lock()
				defer mu.Unlock()
				served = append(served, fmt.Sprintf("%s after %v: %v", name, time.Since(start), err))
			}()
			synctest.Wait()
		}
		late, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wait("first", t.Context(), 1)
		wait("displaced", t.Context(), 1)
		wait("late", late, 0)
		wait("refused", t.Context(), 1)
		inUse(t, f, 1, 2)
		time.Sleep(time.Second)
		wait("patient", t.Context(), 1)
		time.Sleep(3 * time.Second)
		wait("served second", t.Context(), 1)
		wait("served first", t.Context(), 0)
		time.Sleep(time.Second)
		release()
		synctest.Wait()
		want := []string{
			`displaced after 0s: limiter: in flight, "in-flight": full`,
			`refused after 0s: limiter: in flight, "in-flight": full`,
			"late after 1s: context deadline exceeded",
			`first after 2s: limiter: in flight, "in-flight": waited too long`,
			`patient after 2s: limiter: in flight, "in-flight": waited too long`,
			"served first after 1s: <nil>",
			"served second after 1s: <nil>",
		}
		slices.Sort(served)
		slices.Sort(want)
		if !slices.Equal(served, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(served, "\n"), strings.Join(want, "\n"))
		}
		inUse(t, f, 0, 0)
	})
}

func TestInFlightLeaves(t *testing.T) {
	inTime(t, func(t *testing.T) {
		f := inFlight(t, limiter.InFlightOptions{Max: 1, Queue: 1})
		release := acquire(t, f, limiter.Slot{})
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Millisecond, func() { cancel(errors.New("because")) })
		if _, err := f.Acquire(ctx, limiter.Slot{}); err != context.Canceled {
			t.Errorf("left while it waited: %v", err)
		}
		if _, err := f.Acquire(ctx, limiter.Slot{}); err != context.Canceled {
			t.Errorf("left before: %v", err)
		}
		release()
		inUse(t, f, 0, 0)
	})
}

func TestInFlightRefusesInvalidSlots(t *testing.T) {
	f := inFlight(t, limiter.InFlightOptions{Max: 1, Classes: 2})
	for _, s := range []limiter.Slot{{Weight: -1}, {Class: -1}, {Class: 2}} {
		if _, err := f.Acquire(t.Context(), s); !errors.Is(err, limiter.ErrPolicy) {
			t.Errorf("Acquire(%+v): %v, want ErrPolicy", s, err)
		}
	}
	inUse(t, f, 0, 0)
}

func TestInFlightSet(t *testing.T) {
	inTime(t, func(t *testing.T) {
		opts := limiter.InFlightOptions{Max: 4, Queue: 4, MaxWait: time.Hour}
		f := inFlight(t, opts)
		var releases []func()
		for range 4 {
			releases = append(releases, acquire(t, f, limiter.Slot{Key: "k"}))
		}
		var served atomic.Int64
		for range 3 {
			go func() { acquire(t, f, limiter.Slot{Key: "k"}); served.Add(1) }()
		}
		synctest.Wait()
		set := func(o limiter.InFlightOptions) {
			t.Helper()
			if err := f.Set(o); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		opts.Max = 2
		set(opts)
		releases[0]()
		releases[1]()
		synctest.Wait()
		if inUse(t, f, 2, 3); served.Load() != 0 {
			t.Errorf("%d served beyond the new cap", served.Load())
		}
		opts.Max, opts.MaxPerKey = 6, 1
		set(opts) // those who wait came when keys did not count
		inUse(t, f, 5, 0)
		acquire(t, f, limiter.Slot{Key: "k"})
		opts.Queue = 0
		set(opts)
		if r := busy(t, f, limiter.Slot{Key: "k"}); r != limiter.OverloadKeyFull {
			t.Errorf("with the new cap per key: %v", r)
		}
		for _, o := range []limiter.InFlightOptions{
			{Name: "another", Max: 1}, {Max: 1, Classes: 2}, {Max: 1, Adaptive: &limiter.AdaptiveOptions{}},
		} {
			if err := f.Set(o); err == nil {
				t.Errorf("Set(%+v) changed what cannot change", o)
			}
		}
	})
}

// Overloaded refuses newcomers, but not the only one: what overloads the process
// then is something else.
func TestInFlightOverloaded(t *testing.T) {
	overloaded := false
	f := inFlight(t, limiter.InFlightOptions{Max: 3, Overloaded: func() bool { return overloaded }})
	acquire(t, f, limiter.Slot{})()
	overloaded = true
	release := acquire(t, f, limiter.Slot{})
	if r := busy(t, f, limiter.Slot{}); r != limiter.OverloadLoad {
		t.Errorf("while overloaded: %v", r)
	}
	overloaded = false
	acquire(t, f, limiter.Slot{})
	release()
	inUse(t, f, 1, 0)
}

func TestInFlightAllocations(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts limiter.InFlightOptions
		slot limiter.Slot
	}{
		{"over all", limiter.InFlightOptions{Max: 2}, limiter.Slot{}},
		{"per key", limiter.InFlightOptions{Max: 2, MaxPerKey: 1, Queue: 5}, limiter.Slot{Key: "k"}},
		{"adaptive", limiter.InFlightOptions{Max: 2, Adaptive: &limiter.AdaptiveOptions{}}, limiter.Slot{}},
	} {
		f := inFlight(t, tt.opts)
		ctx := t.Context()
		got := testing.AllocsPerRun(200, func() {
			release, err := f.Acquire(ctx, tt.slot)
			if err != nil {
				t.Fatal(err)
			}
			release()
		})
		if got > 2 {
			t.Errorf("%s: %v allocations, want at most 2", tt.name, got)
		}
	}
}
