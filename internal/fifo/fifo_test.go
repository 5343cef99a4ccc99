package fifo_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/internal/fifo"
)

func TestServedInOrderOfClassThenArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fifo.New(1, 10, 3)
		if !l.TryAcquire(2, 1) || l.TryAcquire(0, 1) {
			t.Fatal("want one slot, no more")
		}
		var served []int
		for i, class := range []int{2, 1, 0, 1, 2, 0} {
			go func() {
				if err := l.Acquire(t.Context(), class, 1); err != nil {
					t.Error(err)
				}
				served = append(served, 10*class+i)
				l.Release(1)
			}()
			synctest.Wait()
		}
		l.Release(1)
		synctest.Wait()
		if want := []int{2, 5, 11, 13, 20, 24}; !slices.Equal(served, want) {
			t.Errorf("served %v, want %v", served, want)
		}
		if inUse, waiting := l.Stats(); inUse != 0 || waiting != 0 {
			t.Errorf("%d in use, %d waiting, want none", inUse, waiting)
		}
	})
}

func TestFullLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fifo.New(1, 2, 3)
		l.TryAcquire(0, 1)
		errs := make([]error, 4)
		start := func(i, class int) {
			go func() { errs[i] = l.Acquire(t.Context(), class, 1) }()
			synctest.Wait()
		}
		start(0, 1)
		start(1, 2)
		if err := l.Acquire(t.Context(), 2, 1); err != fifo.ErrFull {
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
		for range 3 {
			l.Release(1)
			synctest.Wait()
		}
		if errs[0] != nil || errs[2] != nil {
			t.Errorf("those who waited: %v, %v", errs[0], errs[2])
		}
	})
}

func TestLightOnesDoNotOvertakeTheHeavy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fifo.New(4, 10, 1)
		l.TryAcquire(0, 2)
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		var heavy error
		var light atomic.Bool
		go func() { heavy = l.Acquire(ctx, 0, 4) }()
		synctest.Wait()
		go func() { l.Acquire(t.Context(), 0, 1); light.Store(true) }()
		synctest.Wait()
		if light.Load() || l.TryAcquire(0, 1) {
			t.Fatal("served before the one that came first")
		}
		cancel(gone)
		synctest.Wait()
		if heavy != gone || !light.Load() {
			t.Errorf("the heavy one got %v, the one behind it was served: %t", heavy, light.Load())
		}
	})
}

func TestResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fifo.New(0, 10, 1)
		var served atomic.Int64
		for range 5 {
			go func() { l.Acquire(t.Context(), 0, 2); served.Add(1) }()
		}
		for _, step := range []struct{ slots, want int }{{0, 0}, {1, 1}, {3, 1}, {4, 2}, {1, 2}, {8, 4}, {10, 5}} {
			l.Resize(step.slots, 10)
			synctest.Wait()
			if got := int(served.Load()); got != step.want {
				t.Errorf("%d slots: %d of weight 2 served, want %d", step.slots, got, step.want)
			}
		}
		l.Resize(1, 0)
		l.Release(9)
		if l.TryAcquire(0, 1) {
			t.Error("served beyond the new number of slots")
		}
		l.Release(1)
		if !l.TryAcquire(0, 1) {
			t.Error("not served by the new number of slots")
		}
	})
}

func TestEndedContextTakesNoSlot(t *testing.T) {
	l := fifo.New(1, 1, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Acquire(ctx, 0, 1); err != context.Canceled {
		t.Errorf("got %v", err)
	}
	if inUse, _ := l.Stats(); inUse != 0 {
		t.Errorf("%d in use", inUse)
	}
}

// Slots are granted while their waiters give up. None may be lost, and never
// more may be out than there are.
func TestNoSlotIsLost(t *testing.T) {
	const slots = 3
	l := fifo.New(slots, 8, 2)
	var (
		wg                    sync.WaitGroup
		out                   atomic.Int64
		served, full, expired atomic.Int64
	)
	for g := range 16 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range 2000 {
				n := 1 + r.IntN(slots)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(50))*time.Microsecond)
				switch err := l.Acquire(ctx, r.IntN(2), n); err {
				case nil:
					if now := out.Add(int64(n)); now > slots {
						t.Errorf("%d slots out, there are %d", now, slots)
					}
					served.Add(1)
					out.Add(-int64(n))
					l.Release(n)
				case fifo.ErrFull:
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
	if inUse, waiting := l.Stats(); inUse != 0 || waiting != 0 {
		t.Errorf("%d in use, %d waiting, want none", inUse, waiting)
	}
	if !l.TryAcquire(0, slots) {
		t.Error("not all slots are there")
	}
}

func TestMistakesPanic(t *testing.T) {
	l := fifo.New(1, 1, 1)
	for name, f := range map[string]func(){
		"release of nothing": func() { l.Release(1) },
		"no such class":      func() { l.TryAcquire(1, 1) },
		"no slots asked for": func() { l.TryAcquire(0, 0) },
		"negative slots":     func() { fifo.New(-1, 0, 1) },
		"no class":           func() { fifo.New(1, 0, 0) },
		"negative length":    func() { l.Resize(1, -1) },
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

// A model is a Line as a list: who comes is put behind the last of the same or a
// better class, and the front is served while it fits.
type model struct {
	slots, length, inUse int
	line                 []*caller
}

type caller struct {
	class, n int
	cancel   context.CancelFunc
	ended    atomic.Bool
	err      error

	served, gone bool // by the model
}

func (m *model) serve() {
	for len(m.line) > 0 && m.slots > 0 && (m.inUse == 0 || m.inUse+m.line[0].n <= m.slots) {
		m.inUse += m.line[0].n
		m.line[0].served = true
		m.line = m.line[1:]
	}
}

func (m *model) acquire(c *caller) {
	at := len(m.line)
	for at > 0 && m.line[at-1].class > c.class {
		at--
	}
	if at == 0 && m.slots > 0 && (m.inUse == 0 || m.inUse+c.n <= m.slots) {
		m.inUse += c.n
		c.served = true
		return
	}
	if len(m.line) >= m.length {
		if at == len(m.line) {
			c.gone = true
			return
		}
		m.line[len(m.line)-1].gone = true
		m.line = m.line[:len(m.line)-1]
	}
	m.line = slices.Insert(m.line, at, c)
}

func FuzzLineAgainstModel(f *testing.F) {
	f.Add([]byte{0, 0, 1, 1, 2, 0, 3, 2})
	f.Add([]byte{0, 3, 0, 5, 0, 9, 0, 13, 2, 0, 1, 0, 1, 0})
	f.Add([]byte{0, 1, 0, 1, 0, 2, 0, 0, 0, 4, 3, 1, 3, 7, 1, 0, 2, 2})
	f.Fuzz(func(t *testing.T, steps []byte) {
		if len(steps) > 200 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			l, m := fifo.New(2, 3, 3), &model{slots: 2, length: 3}
			var all []*caller
			for i := 0; i+1 < len(steps); i += 2 {
				switch arg := int(steps[i+1]); steps[i] % 4 {
				case 0:
					c := &caller{class: arg % 3, n: 1 + arg/3%4}
					var ctx context.Context
					ctx, c.cancel = context.WithCancel(t.Context())
					all = append(all, c)
					m.acquire(c)
					go func() { c.err = l.Acquire(ctx, c.class, c.n); c.ended.Store(true) }()
				case 1: // the first who holds slots gives them back
					for _, c := range all {
						if c.served && !c.gone {
							c.gone = true
							m.inUse -= c.n
							m.serve()
							l.Release(c.n)
							break
						}
					}
				case 2: // somebody who waits gives up
					if len(m.line) > 0 {
						at := arg % len(m.line)
						c := m.line[at]
						m.line = slices.Delete(m.line, at, at+1)
						c.gone = true
						m.serve()
						c.cancel()
					}
				case 3:
					m.slots, m.length = arg%5, arg/5%5
					m.serve()
					l.Resize(m.slots, m.length)
				}
				synctest.Wait()
				if inUse, waiting := l.Stats(); inUse != m.inUse || waiting != len(m.line) {
					t.Fatalf("step %d: %d in use, %d waiting; want %d, %d", i/2, inUse, waiting, m.inUse, len(m.line))
				}
				for j, c := range all {
					if ended := c.served || c.gone; c.ended.Load() != ended || ended && (c.err == nil) != c.served {
						t.Fatalf("step %d, caller %d: ended %t with %v; want ended %t, served %t", i/2, j, c.ended.Load(), c.err, ended, c.served)
					}
				}
			}
			for _, c := range all {
				c.cancel()
			}
		})
	})
}

func BenchmarkAcquireRelease(b *testing.B) {
	l := fifo.New(64, 64, 1)
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Acquire(b.Context(), 0, 1); err != nil {
			b.Fatal(err)
		}
		l.Release(1)
	}
}
