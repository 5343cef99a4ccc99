package fifo_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/internal/fifo"
)

// slots returns a request of class 0 without a key.
func slots(n int) fifo.Request { return fifo.Request{N: n} }

// acquire takes slots that must be free.
func acquire(t *testing.T, l *fifo.Line, r fifo.Request) fifo.Held {
	t.Helper()
	h, ok := l.TryAcquire(r)
	if !ok {
		t.Fatalf("TryAcquire(%+v) = false, %+v", r, l.Stats())
	}
	return h
}

func TestServedInOrderOfClassThenArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fifo.New(fifo.Size{Slots: 1, Length: 10}, 3)
		first := acquire(t, l, fifo.Request{Class: 2, N: 1})
		if _, ok := l.TryAcquire(slots(1)); ok {
			t.Fatal("want one slot, no more")
		}
		var served []int
		for i, class := range []int{2, 1, 0, 1, 2, 0} {
			go func() {
				h, err := l.Acquire(t.Context(), fifo.Request{Class: class, N: 1})
				if err != nil {
					t.Error(err)
				}
				served = append(served, 10*class+i)
				l.Release(h)
			}()
			synctest.Wait()
		}
		l.Release(first)
		synctest.Wait()
		if want := []int{2, 5, 11, 13, 20, 24}; !slices.Equal(served, want) {
			t.Errorf("served %v, want %v", served, want)
		}
		if s := l.Stats(); s != (fifo.Stats{Slots: 1}) {
			t.Errorf("%+v, want nothing", s)
		}
	})
}

func TestFullLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fifo.New(fifo.Size{Slots: 1, Length: 2}, 3)
		first := acquire(t, l, slots(1))
		errs := make([]error, 4)
		start := func(i, class int) {
			go func() {
				var h fifo.Held
				if h, errs[i] = l.Acquire(t.Context(), fifo.Request{Class: class, N: 1}); errs[i] == nil {
					l.Release(h)
				}
			}()
			synctest.Wait()
		}
		start(0, 1)
		start(1, 2)
		if _, err := l.Acquire(t.Context(), fifo.Request{Class: 2, N: 1}); err != fifo.ErrFull {
			t.Errorf("third in a line of two: %v, want ErrFull", err)
		}
		start(2, 1) // takes the place of 1, the last of the worst class
		if errs[1] != fifo.ErrFull {
			t.Errorf("displaced: %v, want ErrFull", errs[1])
		}
		start(3, 1) // nobody is worse
		if errs[3] != fifo.ErrFull {
			t.Errorf("among equals: %v, want ErrFull", errs[3])
		}
		l.Release(first)
		synctest.Wait()
		if errs[0] != nil || errs[2] != nil {
			t.Errorf("those who waited: %v, %v", errs[0], errs[2])
		}
	})
}

func TestLightOnesDoNotOvertakeTheHeavy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fifo.New(fifo.Size{Slots: 4, Length: 10}, 1)
		acquire(t, l, slots(2))
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		var heavy error
		var light atomic.Bool
		go func() { _, heavy = l.Acquire(ctx, slots(4)) }()
		synctest.Wait()
		go func() { l.Acquire(t.Context(), slots(1)); light.Store(true) }()
		synctest.Wait()
		if _, ok := l.TryAcquire(slots(1)); ok || light.Load() {
			t.Fatal("served before the one that came first")
		}
		cancel(gone)
		synctest.Wait()
		if heavy != gone || !light.Load() {
			t.Errorf("the heavy one got %v, the one behind it was served: %t", heavy, light.Load())
		}
	})
}

// Who waits for its key has nothing of the slots of all, and nobody with another
// key waits behind it.
func TestWaitingForAKeyIsInNobodysWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fifo.New(fifo.Size{Slots: 3, Length: 10, PerKey: 1}, 1)
		a := acquire(t, l, fifo.Request{Key: "a", N: 1})
		var mu sync.Mutex
		served := map[string]int{}
		serve := func(key string) {
			if _, err := l.Acquire(t.Context(), fifo.Request{Key: key, N: 1}); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			served[key]++
		}
		for _, key := range []string{"a", "a", "b", "c"} {
			go serve(key)
			synctest.Wait()
		}
		if fmt.Sprint(served) != "map[b:1 c:1]" || l.Stats() != (fifo.Stats{Slots: 3, InUse: 3, Waiting: 2, Keys: 3}) {
			t.Fatalf("served %v, %+v", served, l.Stats())
		}
		go serve("d")
		synctest.Wait()
		l.Release(a)
		synctest.Wait()
		// d was in the line when a's second was still waiting for its key.
		if fmt.Sprint(served) != "map[b:1 c:1 d:1]" {
			t.Errorf("then served %v", served)
		}
		l.Resize(fifo.Size{Slots: 9, Length: 10, PerKey: 2})
		synctest.Wait()
		if fmt.Sprint(served) != "map[a:2 b:1 c:1 d:1]" {
			t.Errorf("with room for all, served %v", served)
		}
	})
}

// Of one key, the better class is served first, also when the worse has already
// joined the line for all.
func TestClassesOfOneKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fifo.New(fifo.Size{Slots: 1, Length: 10, PerKey: 1}, 2)
		first := acquire(t, l, fifo.Request{Key: "b", N: 1})
		var served []int
		for _, class := range []int{1, 0} {
			go func() {
				h, err := l.Acquire(t.Context(), fifo.Request{Key: "a", Class: class, N: 1})
				if err != nil {
					t.Error(err)
				}
				served = append(served, class)
				l.Release(h)
			}()
			synctest.Wait()
		}
		l.Release(first)
		synctest.Wait()
		if !slices.Equal(served, []int{0, 1}) {
			t.Errorf("served the classes %v, want 0 and then 1", served)
		}
	})
}

func TestOneKeyCannotFillTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fifo.New(fifo.Size{Slots: 1, Length: 3, PerKey: 1, LengthPerKey: 2}, 2)
		acquire(t, l, fifo.Request{Key: "a", N: 1})
		ctx, cancel := context.WithCancel(t.Context())
		errs := make([]error, 6)
		for i, r := range []fifo.Request{
			{Key: "a", Class: 1, N: 1}, {Key: "a", Class: 1, N: 1}, {Key: "a", Class: 1, N: 1},
			{Key: "b", Class: 1, N: 1}, {Key: "a", N: 1}, {Key: "c", Class: 1, N: 1},
		} {
			go func() { _, errs[i] = l.Acquire(ctx, r) }()
			synctest.Wait()
		}
		if s := l.Stats(); s != (fifo.Stats{Slots: 1, InUse: 1, Waiting: 3, Keys: 2}) {
			t.Errorf("%+v", s)
		}
		cancel()
		synctest.Wait()
		want := []error{context.Canceled, fifo.ErrKeyFull, fifo.ErrKeyFull, context.Canceled, context.Canceled, fifo.ErrFull}
		if !slices.Equal(errs, want) {
			t.Errorf("got %v, want %v", errs, want)
		}
	})
}

func TestResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fifo.New(fifo.Size{Length: 10}, 1)
		var mu sync.Mutex
		var served []fifo.Held
		for range 5 {
			go func() {
				h, _ := l.Acquire(t.Context(), slots(2))
				mu.Lock()
				served = append(served, h)
				mu.Unlock()
			}()
		}
		for _, step := range []struct{ slots, want int }{{0, 0}, {1, 1}, {3, 1}, {4, 2}, {1, 2}, {8, 4}, {10, 5}} {
			l.Resize(fifo.Size{Slots: step.slots, Length: 10})
			synctest.Wait()
			if got := len(served); got != step.want {
				t.Errorf("%d slots: %d of weight 2 served, want %d", step.slots, got, step.want)
			}
		}
		l.Resize(fifo.Size{Slots: 2})
		for _, h := range served[1:] {
			l.Release(h)
		}
		if _, ok := l.TryAcquire(slots(1)); ok {
			t.Error("served beyond the new number of slots")
		}
		l.SetSlots(3)
		if _, ok := l.TryAcquire(slots(1)); !ok {
			t.Error("not served by the new number of slots")
		}
	})
}

func TestEndedContextTakesNoSlot(t *testing.T) {
	l := fifo.New(fifo.Size{Slots: 1, Length: 1}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Acquire(ctx, slots(1)); err != context.Canceled {
		t.Errorf("got %v", err)
	}
	if s := l.Stats(); s.InUse != 0 {
		t.Errorf("%+v", s)
	}
}

// Slots are granted while their waiters give up. None may be lost, and never
// more may be out than there are, in all and for each key.
func TestNoSlotIsLost(t *testing.T) {
	const all, perKey, keys = 5, 3, 3
	l := fifo.New(fifo.Size{Slots: all, Length: 8, PerKey: perKey, LengthPerKey: 5}, 2)
	var (
		wg                    sync.WaitGroup
		out                   atomic.Int64
		ofKey                 [keys]atomic.Int64
		served, full, expired atomic.Int64
	)
	for g := range 16 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range 2000 {
				n, key := 1+r.IntN(perKey), r.IntN(keys)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(50))*time.Microsecond)
				switch h, err := l.Acquire(ctx, fifo.Request{Key: fmt.Sprint(key), Class: r.IntN(2), N: n}); err {
				case nil:
					if now := out.Add(int64(n)); now > all {
						t.Errorf("%d slots out, there are %d", now, all)
					}
					if now := ofKey[key].Add(int64(n)); now > perKey {
						t.Errorf("%d slots out of a key, there are %d", now, perKey)
					}
					served.Add(1)
					ofKey[key].Add(-int64(n))
					out.Add(-int64(n))
					l.Release(h)
				case fifo.ErrFull, fifo.ErrKeyFull:
					full.Add(1)
				case context.DeadlineExceeded:
					expired.Add(1)
				default:
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	t.Logf("served %d, full %d, expired %d", served.Load(), full.Load(), expired.Load())
	if s := l.Stats(); s != (fifo.Stats{Slots: all}) {
		t.Errorf("%+v, want nothing", s)
	}
	acquire(t, l, slots(all))
}

// Whatever was known of a key is gone with its last slot, and so is the room of
// the map that held very many.
func TestKeysAreForgotten(t *testing.T) {
	l := fifo.New(fifo.Size{Slots: 1 << 20, PerKey: 1}, 1)
	var held []fifo.Held
	for i := range 5000 {
		held = append(held, acquire(t, l, fifo.Request{Key: fmt.Sprint(i), N: 1}))
	}
	if s := l.Stats(); s.Keys != 5000 {
		t.Errorf("%+v", s)
	}
	for _, h := range held {
		l.Release(h)
	}
	if s := l.Stats(); s != (fifo.Stats{Slots: 1 << 20}) {
		t.Errorf("%+v, want nothing", s)
	}
	one := fifo.Request{Key: "k", N: 1}
	if n := testing.AllocsPerRun(100, func() { l.Release(acquire(t, l, one)) }); n != 0 {
		t.Errorf("a key that comes and goes costs %v allocations", n)
	}
}

func TestWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fifo.New(fifo.Size{Slots: 1, Length: 1}, 1)
		h := acquire(t, l, slots(1))
		start := time.Now()
		if _, err := l.Acquire(t.Context(), fifo.Request{N: 1, Wait: time.Second}); err != fifo.ErrWaited || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		time.AfterFunc(time.Second-1, func() { l.Release(h) })
		if _, err := l.Acquire(t.Context(), fifo.Request{N: 1, Wait: time.Second}); err != nil {
			t.Errorf("in time: %v", err)
		}
	})
}

func TestMistakesPanic(t *testing.T) {
	l := fifo.New(fifo.Size{Slots: 1, Length: 1}, 1)
	for name, f := range map[string]func(){
		"release of nothing": func() { l.Release(fifo.Held{}) },
		"released twice":     func() { h := acquire(t, l, slots(1)); l.Release(h); l.Release(h) },
		"no such class":      func() { l.TryAcquire(fifo.Request{Class: 1, N: 1}) },
		"no slots asked for": func() { l.TryAcquire(fifo.Request{}) },
		"negative slots":     func() { fifo.New(fifo.Size{Slots: -1}, 1) },
		"no class":           func() { fifo.New(fifo.Size{Slots: 1}, 0) },
		"negative length":    func() { l.Resize(fifo.Size{Slots: 1, Length: -1}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}
