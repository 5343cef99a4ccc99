package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/limiter"
)

// cycles is how often a soak does what it does: a million times if WEIR_SOAK is
// set.
func cycles() int {
	switch {
	case os.Getenv("WEIR_SOAK") != "":
		return 1_000_000
	case testing.Short():
		return 10_000
	}
	return 40_000
}

// A census counts who is inside, from after a slot was had until before it is
// given back: never more than there are slots in use.
type census struct {
	t      *testing.T
	all    atomic.Int64
	keys   [5]atomic.Int64
	served [8]atomic.Int64 // by ending
}

const (
	soakMax    = 12
	soakPerKey = 5
)

func (c *census) enter(key, weight int) {
	if n := c.all.Add(int64(weight)); n > soakMax {
		c.t.Errorf("%d slots in use, there are %d", n, soakMax)
	}
	if n := c.keys[key].Add(int64(weight)); n > soakPerKey {
		c.t.Errorf("%d slots in use by a key, it may have %d", n, soakPerKey)
	}
}

func (c *census) leave(key, weight int) {
	c.keys[key].Add(int64(-weight))
	c.all.Add(int64(-weight))
}

// Requests end in every way there is, many at once. No slot is lost or given back
// twice, and never are more in use than there are.
func TestInFlightLosesNoSlot(t *testing.T) {
	f := inFlight(t, limiter.InFlightOptions{
		Max: soakMax, MaxPerKey: soakPerKey, Queue: 20, QueuePerKey: 12, MaxWait: 500 * time.Microsecond, Classes: 3,
	})
	m := limiter.NewMemory(nil)
	quota := limiter.Policy{Name: "q", Limit: 10_000_000, Window: 100 * 365 * 24 * time.Hour} // nothing comes back meanwhile
	// With much taken, what is given back is exact whatever the order.
	const before = 1_000_000
	take(t, m, limiter.Charge{Policy: quota, Key: "*", Cost: before})
	c := &census{t: t}
	var conns sync.WaitGroup
	type plan struct {
		slot        limiter.Slot
		key, ending int
		cancel      context.CancelFunc
	}
	type planKey struct{}
	of := func(r *http.Request) *plan { return r.Context().Value(planKey{}).(*plan) }
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := of(r)
		c.enter(p.key, p.slot.Weight)
		c.served[p.ending].Add(1)
		runtime.Gosched()
		leave := sync.OnceFunc(func() { c.leave(p.key, p.slot.Weight) })
		if p.ending < 5 {
			defer leave()
		}
		switch p.ending {
		case 0:
			w.Write([]byte("whole"))
		case 1:
			panic("a panic")
		case 2:
			w.Write([]byte("some"))
			panic(http.ErrAbortHandler)
		case 3: // the client leaves
			p.cancel()
		case 4: // nothing is written
		case 5: // hijacked, and closed by whoever, at any time, twice
			conn, _, _ := w.(http.Hijacker).Hijack()
			for range 2 {
				conns.Go(func() { leave(); conn.Close() })
			}
		case 6: // hijacked, and then a panic
			conn, _, _ := w.(http.Hijacker).Hijack()
			leave()
			conns.Go(func() { conn.Close() })
			panic(http.ErrAbortHandler)
		case 7: // hijacked and closed while the handler goes on
			conn, _, _ := w.(http.Hijacker).Hijack()
			leave()
			conn.Close()
		}
	})
	slot := func(r *http.Request) (limiter.Slot, error) { return of(r).slot, nil }
	h := limiter.Middleware(m, limiter.Rules{{Policy: quota, Key: limiter.KeyGlobal}}, nil)(f.Middleware(slot, nil)(handler))

	var refused, gone atomic.Int64
	var workers sync.WaitGroup
	const at = 40
	for g := range at {
		workers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 8))
			for range cycles() / at {
				p := &plan{key: r.IntN(len(c.keys)), ending: r.IntN(8)}
				p.slot = limiter.Slot{Key: fmt.Sprint(p.key), Weight: 1 + r.IntN(3), Class: r.IntN(3)}
				ctx, cancel := context.WithCancel(context.WithValue(t.Context(), planKey{}, p))
				p.cancel = cancel
				if r.IntN(4) == 0 { // the client leaves while the request waits
					time.AfterFunc(time.Duration(r.IntN(300))*time.Microsecond, cancel)
				}
				if r.IntN(4) == 0 { // without HTTP
					release, err := f.Acquire(ctx, p.slot)
					switch {
					case err == nil:
						c.enter(p.key, p.slot.Weight)
						runtime.Gosched()
						c.leave(p.key, p.slot.Weight)
						conns.Go(release)
						release()
					case errors.Is(err, limiter.ErrOverload):
						refused.Add(1)
					case err == context.Canceled:
						gone.Add(1)
					default:
						t.Error(err)
					}
				} else {
					client, server := net.Pipe()
					w := &piped{httptest.NewRecorder(), server}
					func() {
						defer func() { recover() }()
						h.ServeHTTP(w, request(t).WithContext(ctx))
					}()
					if w.Code == 503 {
						refused.Add(1)
					}
					client.Close()
				}
				cancel()
			}
		})
	}
	workers.Wait()
	conns.Wait()
	if s := f.Snapshot(); s.InUse != 0 || s.Waiting != 0 || s.Keys != 0 {
		t.Errorf("afterwards %+v", s)
	}
	acquire(t, f, limiter.Slot{Weight: soakMax})()
	var endings [8]int64
	for i := range endings {
		if endings[i] = c.served[i].Load(); endings[i] == 0 {
			t.Errorf("nothing ended in way %d", i)
		}
	}
	t.Logf("%d cycles: served %d by ending, refused %d, gone %d", cycles(), endings, refused.Load(), gone.Load())
	if refused.Load() == 0 {
		t.Error("nothing was refused")
	}
	// What was refused has given back what the rule took, and nothing else has.
	var served int64
	for _, n := range endings {
		served += n
	}
	left := take(t, m, limiter.Charge{Policy: quota, Key: "*"})
	if took := int64(quota.Limit - before - left.Remaining); took != served {
		t.Errorf("the rule has %d units taken, and %d requests were served", took, served)
	}
}

// Whoever waits is served after all of better classes and those of its own that
// came before; the oracle is the order in which they came.
func TestInFlightIsFirstComeFirstServed(t *testing.T) {
	inTime(t, func(t *testing.T) {
		const classes = 3
		f := inFlight(t, limiter.InFlightOptions{Max: 2, Queue: 1000, MaxWait: time.Hour, Classes: classes})
		r := rand.New(rand.NewPCG(8, 1))
		var (
			mu      sync.Mutex
			waiting [classes][]int // who came, in order
			held    []func()
			cancels = map[int]context.CancelFunc{}
			granted int
		)
		come := func(id int) {
			class := r.IntN(classes)
			ctx, cancel := context.WithCancel(t.Context())
			mu.Lock()
			waiting[class] = append(waiting[class], id)
			cancels[id] = cancel
			mu.Unlock()
			go func() {
				release, err := f.Acquire(ctx, limiter.Slot{Class: class})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					return
				}
				granted++
				held = append(held, release)
				for better := range class {
					if len(waiting[better]) > 0 {
						t.Errorf("%d of class %d was served before %v of class %d", id, class, waiting[better], better)
					}
				}
				if waiting[class][0] != id {
					t.Errorf("of class %d, %d was served before %d", class, id, waiting[class][0])
				}
				waiting[class] = waiting[class][1:]
			}()
			synctest.Wait()
		}
		for id := range cycles() / 10 {
			come(id)
			for r.IntN(100) < 52 { // about as many leave as come
				mu.Lock()
				if r.IntN(8) == 0 { // one that waits gives up
					class := r.IntN(classes)
					if n := len(waiting[class]); n > 0 {
						i := r.IntN(n)
						cancels[waiting[class][i]]()
						waiting[class] = append(waiting[class][:i:i], waiting[class][i+1:]...)
					}
				} else if len(held) > 0 {
					held[0]()
					held = held[1:]
				}
				mu.Unlock()
				synctest.Wait()
			}
		}
		for {
			mu.Lock()
			if len(held) == 0 {
				mu.Unlock()
				break
			}
			held[0]()
			held = held[1:]
			mu.Unlock()
			synctest.Wait()
		}
		inUse(t, f, 0, 0)
		t.Logf("%d served", granted)
		for _, cancel := range cancels {
			cancel()
		}
	})
}
