//go:build unix

package redislimiter_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
	"github.com/goweir/weir/limiter/redislimiter"
)

// patient are the options of a server that other tests keep busy.
var patient = failover.Options{Budget: 5 * time.Second}

func newInFlight(t testing.TB, l *redislimiter.Limiter, o redislimiter.InFlightOptions) *redislimiter.InFlight {
	t.Helper()
	if o.Failover == (failover.Options{}) {
		o.Failover = patient
	}
	f, err := redislimiter.NewInFlight(l, o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func acquire(t testing.TB, f limiter.Acquirer, s limiter.Slot) (release func()) {
	t.Helper()
	release, err := f.Acquire(t.Context(), s)
	if err != nil {
		t.Fatalf("Acquire(%+v) = %v", s, err)
	}
	return release
}

func refused(t testing.TB, f limiter.Acquirer, s limiter.Slot, reason limiter.OverloadReason) {
	t.Helper()
	_, err := f.Acquire(t.Context(), s)
	if o, ok := errors.AsType[*limiter.OverloadError](err); !ok || o.Reason != reason {
		t.Fatalf("Acquire(%+v) = %v, want %v", s, err, reason)
	}
}

// TestInFlightSharesSlots is two processes' worth of Limiters on one server.
func TestInFlightSharesSlots(t *testing.T) {
	for name, c := range map[string]redis.UniversalClient{
		"server":  client(t, redistest.Start(t).Addr()),
		"cluster": clusterClient(t, redistest.StartCluster(t, 0), redis.ClusterOptions{}),
	} {
		t.Run(name, func(t *testing.T) {
			l := open(t, c, redislimiter.Options{})
			o := redislimiter.InFlightOptions{InFlightOptions: limiter.InFlightOptions{Name: "downloads", Max: 5, MaxPerKey: 3}}
			a, b := newInFlight(t, l, o), newInFlight(t, l, o)
			a1 := acquire(t, a, limiter.Slot{Key: "x", Weight: 2})
			b1 := acquire(t, b, limiter.Slot{Key: "x"})
			refused(t, a, limiter.Slot{Key: "x"}, limiter.OverloadKeyFull)
			refused(t, b, limiter.Slot{Key: "x"}, limiter.OverloadKeyFull)
			b2 := acquire(t, b, limiter.Slot{Key: "y", Weight: 2})
			refused(t, a, limiter.Slot{Key: "z"}, limiter.OverloadFull)

			a1()
			a1() // gives nothing back twice
			eventually(t, "two slots free", 10*time.Second, func() bool {
				release, err := b.Acquire(t.Context(), limiter.Slot{Key: "x", Weight: 2})
				if err == nil {
					a1 = release
				}
				return err == nil
			})
			refused(t, a, limiter.Slot{Key: "z"}, limiter.OverloadFull)
			for _, release := range []func(){a1, b1, b2} {
				release()
			}
			eventually(t, "all keys gone", 10*time.Second, func() bool { return len(allKeys(t, c)) == 0 })
		})
	}
}

func allKeys(t testing.TB, c redis.UniversalClient) (keys []string) {
	t.Helper()
	var mu sync.Mutex
	look := func(ctx context.Context, c *redis.Client) error {
		found, err := c.Keys(ctx, "*").Result()
		mu.Lock()
		defer mu.Unlock()
		keys = append(keys, found...)
		return err
	}
	var err error
	switch c := c.(type) {
	case *redis.Client:
		err = look(t.Context(), c)
	case *redis.ClusterClient:
		err = c.ForEachMaster(t.Context(), look)
	}
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestInFlightRoundTrips shows that taking costs one call, that giving back costs
// one or less, and that a server without slots of this name has no keys.
func TestInFlightRoundTrips(t *testing.T) {
	s := redistest.Start(t)
	f := newInFlight(t, open(t, client(t, s.Addr()), redislimiter.Options{}), redislimiter.InFlightOptions{
		InFlightOptions: limiter.InFlightOptions{Max: 100, MaxPerKey: 100},
		Lease:           time.Minute,
	})
	acquire(t, f, limiter.Slot{})() // the script is there now
	eventually(t, "no keys", 10*time.Second, func() bool { return s.Do("DBSIZE") == "0" })
	before := s.CommandStats()["evalsha"]
	var all []func()
	for range 50 {
		all = append(all, acquire(t, f, limiter.Slot{Key: "k"}))
	}
	if n := s.CommandStats()["evalsha"] - before; n != 50 {
		t.Errorf("%d calls to take 50, want 50", n)
	}
	for key := range strings.FieldsSeq(s.Do("KEYS", "*")) {
		if ttl, _ := strconv.Atoi(s.Do("PTTL", key)); ttl <= 0 || ttl > 60_000 {
			t.Errorf("%s lives for %d ms, want at most a lease", key, ttl)
		}
	}
	for _, release := range all {
		release()
	}
	eventually(t, "no keys", 10*time.Second, func() bool { return s.Do("DBSIZE") == "0" })
	if n := s.CommandStats()["evalsha"] - before; n > 100 {
		t.Errorf("%d calls to take and give back 50, want at most 100", n)
	}
}

// TestInFlightWaits shows the line: whoever came first of a process is first, and
// all ends of a wait leave nothing behind.
func TestInFlightWaits(t *testing.T) {
	s := redistest.Start(t)
	l := open(t, client(t, s.Addr()), redislimiter.Options{})
	o := redislimiter.InFlightOptions{InFlightOptions: limiter.InFlightOptions{Max: 4, Queue: 3, MaxWait: 20 * time.Second}}
	other, f := newInFlight(t, l, o), newInFlight(t, l, o)
	var theirs []func()
	for range 4 {
		theirs = append(theirs, acquire(t, other, limiter.Slot{}))
	}

	var order []int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			release, err := f.Acquire(t.Context(), limiter.Slot{})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, i)
			mu.Unlock()
			release()
		})
		eventually(t, "in the line", 10*time.Second, func() bool { return f.Snapshot().Waiting == i+1 })
	}
	refused(t, f, limiter.Slot{}, limiter.OverloadFull)
	theirs[0]()
	wg.Wait()
	if fmt.Sprint(order) != "[0 1 2]" {
		t.Errorf("served %v, want those first who came first", order)
	}

	theirs[0] = acquire(t, other, limiter.Slot{})
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := f.Acquire(ctx, limiter.Slot{})
		left <- err
	}()
	eventually(t, "in the line", 10*time.Second, func() bool { return f.Snapshot().Waiting == 1 })
	cancel()
	if err := <-left; err != context.Canceled {
		t.Errorf("who left got %v, want %v", err, context.Canceled)
	}
	hasty := o
	hasty.MaxWait = 50 * time.Millisecond
	refused(t, newInFlight(t, l, hasty), limiter.Slot{}, limiter.OverloadWait)
	if got := f.Snapshot(); got.Waiting != 0 || got.InUse != 0 {
		t.Errorf("left behind: %+v", got)
	}
	for _, release := range theirs {
		release()
	}
	eventually(t, "no keys", 10*time.Second, func() bool { return s.Do("DBSIZE") == "0" })
}

// TestTrapLimiter31_LeasesOfSlots shows what a set of members by their end gets
// wrong: members that two callers share, ends by the callers' clocks, and ends
// that come while the work goes on.
func TestTrapLimiter31_LeasesOfSlots(t *testing.T) {
	t.Parallel() // most of it waits
	s := redistest.Start(t)
	c := client(t, s.Addr())
	l := open(t, c, redislimiter.Options{})
	o := redislimiter.InFlightOptions{
		InFlightOptions: limiter.InFlightOptions{Max: 20},
		Lease:           3 * time.Second, // a busy machine may stand still for two thirds of it
	}
	a, b := newInFlight(t, l, o), newInFlight(t, l, o)
	var all []func()
	for i := range 20 { // of the same key, in two processes
		all = append(all, acquire(t, []limiter.Acquirer{a, b}[i%2], limiter.Slot{Key: "same"}))
	}
	keys := allKeys(t, c)
	if len(keys) != 1 {
		t.Fatalf("keys %q, want one", keys)
	}
	if n := s.Do("ZCARD", keys[0]); n != "21" {
		t.Errorf("%s members, want one each and the sum", n)
	}
	// The server's clock: in three seconds at the latest they end, by its TIME.
	now, _ := strconv.ParseInt(strings.Fields(s.Do("TIME"))[0], 10, 64)
	for line := range strings.FieldsSeq(s.Do("ZRANGE", keys[0], "0", "-1", "WITHSCORES")) {
		if end, err := strconv.ParseFloat(line, 64); err == nil && end > 1e12 {
			if left := end/1e6 - float64(now); left < -1 || left > 5 {
				t.Errorf("a lease ends in %v s by the server's clock", left)
			}
		}
	}
	// After a lease all are held still.
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if n := s.Do("ZCARD", keys[0]); n != "21" {
			t.Fatalf("%s members while the work goes on, want 21", n)
		}
		if release, err := newInFlight(t, l, o).Acquire(t.Context(), limiter.Slot{}); err == nil {
			release()
			t.Fatal("a slot was given to another while all are in use")
		}
	}
	for _, release := range all {
		release()
	}
	eventually(t, "no keys", 10*time.Second, func() bool { return s.Do("DBSIZE") == "0" })
}

// events adds up the N of what an Observer is told.
type events struct {
	mu  sync.Mutex
	all []limiter.Event
}

func (e *events) Observe(_ context.Context, x limiter.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, x)
}

func (e *events) of(kind limiter.EventKind, policy string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.all {
		if x.Kind == kind && x.Policy == policy {
			n += x.N
		}
	}
	return n
}

// TestInFlightSurvivesRestart shows that a server which comes back with nothing
// learns of the slots in use.
func TestInFlightSurvivesRestart(t *testing.T) {
	t.Parallel() // most of it waits
	s := redistest.Start(t)
	l := open(t, client(t, s.Addr()), redislimiter.Options{})
	o := redislimiter.InFlightOptions{
		InFlightOptions: limiter.InFlightOptions{Max: 5, MaxPerKey: 5},
		Lease:           2 * time.Second,
	}
	var told events
	watched := o
	watched.Failover = failover.Options{Budget: patient.Budget, Observer: &told}
	f := newInFlight(t, l, watched)
	var all []func()
	for range 3 {
		all = append(all, acquire(t, f, limiter.Slot{Key: "k"}))
	}
	heavy := acquire(t, f, limiter.Slot{Key: "k", Weight: 2})
	s.Kill()
	s.Restart()
	eventually(t, "known again", 20*time.Second, func() bool {
		keys := strings.Fields(s.Do("KEYS", "*"))
		return len(keys) == 2 && s.Do("ZSCORE", keys[0], "#") == "-5" && s.Do("ZSCORE", keys[1], "#") == "-5"
	})
	refused(t, newInFlight(t, l, o), limiter.Slot{Key: "k"}, limiter.OverloadFull)
	eventually(t, "told", 10*time.Second, func() bool { return told.of(limiter.EventLapse, "in-flight") == 4 })
	heavy()
	for _, release := range all {
		release()
	}
	eventually(t, "no keys", 10*time.Second, func() bool { return s.Do("DBSIZE") == "0" })
}

// TestInFlightWhenDown shows who gets slots without a server, and that those
// slots are known to it afterwards.
func TestInFlightWhenDown(t *testing.T) {
	t.Parallel() // most of it waits
	s := redistest.Start(t)
	l := open(t, client(t, s.Addr()), redislimiter.Options{})
	var told events
	o := func(mode failover.Mode) redislimiter.InFlightOptions {
		return redislimiter.InFlightOptions{
			InFlightOptions: limiter.InFlightOptions{Name: mode.String(), Max: 6},
			Lease:           time.Second,
			WhenDown:        mode,
			Failover:        failover.Options{Budget: time.Second, Instances: 3, Observer: &told},
		}
	}
	var fs []*redislimiter.InFlight
	for mode := failover.Closed; mode <= failover.Local; mode++ {
		fs = append(fs, newInFlight(t, l, o(mode)))
	}
	s.Kill()
	if _, err := fs[failover.Closed].Acquire(t.Context(), limiter.Slot{}); !errors.Is(err, failover.ErrUnavailable) {
		t.Errorf("closed: %v, want %v", err, failover.ErrUnavailable)
	}
	var all []func()
	for range 6 {
		all = append(all, acquire(t, fs[failover.Open], limiter.Slot{}))
	}
	refused(t, fs[failover.Open], limiter.Slot{}, limiter.OverloadFull)
	for range 2 {
		all = append(all, acquire(t, fs[failover.Local], limiter.Slot{}))
	}
	refused(t, fs[failover.Local], limiter.Slot{}, limiter.OverloadFull)

	eventually(t, "told", 10*time.Second, func() bool {
		return told.of(limiter.EventFailure, "") > 0 && told.of(limiter.EventFailure, "open") > 0 && told.of(limiter.EventFailure, "local") > 0
	})
	s.Restart()
	for mode, want := range map[failover.Mode]int{failover.Open: 0, failover.Local: 4} {
		eventually(t, "known to the server: "+mode.String(), 20*time.Second, func() bool {
			f := newInFlight(t, l, o(mode))
			var got []func()
			for {
				release, err := f.Acquire(t.Context(), limiter.Slot{})
				if err != nil {
					break
				}
				got = append(got, release)
			}
			defer func() {
				for _, release := range got {
					release()
				}
			}()
			return len(got) == want
		})
	}
	for _, release := range all {
		release()
	}
	eventually(t, "no keys", 20*time.Second, func() bool { return s.Do("DBSIZE") == "0" })
}

// Who has no key is nobody: only the slots of all count.
func TestInFlightWithoutKey(t *testing.T) {
	s := redistest.Start(t)
	l := open(t, client(t, s.Addr()), redislimiter.Options{})
	f := newInFlight(t, l, redislimiter.InFlightOptions{InFlightOptions: limiter.InFlightOptions{Name: "both", Max: 3, MaxPerKey: 1}})
	for range 3 {
		defer acquire(t, f, limiter.Slot{})()
	}
	refused(t, f, limiter.Slot{}, limiter.OverloadFull)

	f = newInFlight(t, l, redislimiter.InFlightOptions{InFlightOptions: limiter.InFlightOptions{Name: "of keys", MaxPerKey: 2}})
	before := s.CommandStats()["evalsha"]
	for range 3 {
		defer acquire(t, f, limiter.Slot{Weight: 5})()
	}
	if n := s.CommandStats()["evalsha"] - before; n > 0 {
		t.Errorf("%d calls about nothing", n)
	}
	for range 2 {
		defer acquire(t, f, limiter.Slot{Key: "k"})()
	}
	refused(t, f, limiter.Slot{Key: "k"}, limiter.OverloadKeyFull)
}

// hooked is a client whose calls of the script go through a function.
func hooked(t testing.TB, addr string, call func(what string, next func() error) error) *redis.Client {
	c := client(t, addr)
	c.AddHook(slotsHook(call))
	return c
}

type slotsHook func(what string, next func() error) error

func (h slotsHook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h slotsHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h slotsHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		for _, what := range []string{"take", "keep", "free"} {
			if slices.Contains(cmd.Args(), any(what)) {
				return h(what, func() error { return next(ctx, cmd) })
			}
		}
		return next(ctx, cmd)
	}
}

// An answer that comes when nobody waits for it is given back, and not the slot
// that was had without it.
func TestInFlightLateAnswer(t *testing.T) {
	t.Parallel() // most of it waits
	s := redistest.Start(t)
	var calls atomic.Int64
	late := make(chan struct{})
	c := hooked(t, s.Addr(), func(what string, next func() error) error {
		if what == "take" && calls.Add(1) == 1 {
			defer func() { <-late }()
		}
		return next()
	})
	f := newInFlight(t, open(t, c, redislimiter.Options{}), redislimiter.InFlightOptions{
		InFlightOptions: limiter.InFlightOptions{Max: 2},
		Lease:           2 * time.Second, // a busy machine may stand still for two thirds of it
		WhenDown:        failover.Open,
		Failover:        failover.Options{Budget: 200 * time.Millisecond},
	})
	release := acquire(t, f, limiter.Slot{})
	close(late)
	leases := func() string {
		key := s.Do("KEYS", "*")
		if key == "" {
			return ""
		}
		return s.Do("ZSCORE", key, "#")
	}
	eventually(t, "one slot in use", 10*time.Second, func() bool { return leases() == "-1" })
	for range 20 { // for more than a lease
		time.Sleep(150 * time.Millisecond)
		if n := leases(); n != "-1" && n != "-2" {
			t.Fatalf("%q slots in use while the work goes on, want 1", n)
		}
	}
	release()
	eventually(t, "no keys", 10*time.Second, func() bool { return s.Do("DBSIZE") == "0" })
}

// Slots that may have been taken, because the answer got lost, are given back.
func TestInFlightLostAnswer(t *testing.T) {
	s := redistest.Start(t)
	var calls atomic.Int64
	c := hooked(t, s.Addr(), func(what string, next func() error) error {
		err := next()
		if what == "take" && calls.Add(1) == 1 {
			err = io.ErrUnexpectedEOF
		}
		return err
	})
	f := newInFlight(t, open(t, c, redislimiter.Options{}), redislimiter.InFlightOptions{
		InFlightOptions: limiter.InFlightOptions{Max: 1},
		Lease:           time.Minute,
	})
	if _, err := f.Acquire(t.Context(), limiter.Slot{}); !errors.Is(err, redislimiter.ErrUnknown) || !errors.Is(err, failover.ErrUnavailable) {
		t.Errorf("Acquire: %v, want %v", err, redislimiter.ErrUnknown)
	}
	eventually(t, "no keys", 10*time.Second, func() bool { return s.Do("DBSIZE") == "0" })
	acquire(t, f, limiter.Slot{})()
}

// Two renewals in a row may fail, and no lease ends.
func TestInFlightFailedRenewals(t *testing.T) {
	t.Parallel() // most of it waits
	s := redistest.Start(t)
	var calls atomic.Int64
	c := hooked(t, s.Addr(), func(what string, next func() error) error {
		if what == "keep" && calls.Add(1) <= 2 {
			return io.ErrUnexpectedEOF
		}
		return next()
	})
	var told events
	f := newInFlight(t, open(t, c, redislimiter.Options{}), redislimiter.InFlightOptions{
		InFlightOptions: limiter.InFlightOptions{Max: 1},
		Lease:           4 * time.Second,
		Failover:        failover.Options{Budget: patient.Budget, Observer: &told},
	})
	release := acquire(t, f, limiter.Slot{})
	key := s.Do("KEYS", "*")
	eventually(t, "renewed after all", 20*time.Second, func() bool { return calls.Load() > 3 })
	if n := s.Do("ZSCORE", key, "#"); n != "-1" || told.of(limiter.EventFailure, "in-flight") != 2 || told.of(limiter.EventLapse, "in-flight") != 0 {
		t.Errorf("%s slots in use, and told of %+v", n, told.all)
	}
	release()
}

// After the clock was set back a lease is no longer than ever, or the slots of
// who has died would be gone for as long.
func TestInFlightClockSetBack(t *testing.T) {
	s := redistest.Start(t)
	l := open(t, client(t, s.Addr()), redislimiter.Options{ClientClock: true})
	now := time.Now()
	l.SetNow(func() time.Time { return now })
	o := redislimiter.InFlightOptions{InFlightOptions: limiter.InFlightOptions{Max: 2}, Lease: time.Minute}
	dead, f := newInFlight(t, l, o), newInFlight(t, l, o)
	t.Cleanup(acquire(t, dead, limiter.Slot{}))
	now = now.Add(-time.Hour)
	defer acquire(t, f, limiter.Slot{})()
	refused(t, f, limiter.Slot{}, limiter.OverloadFull)
	now = now.Add(time.Minute + time.Second)
	defer acquire(t, f, limiter.Slot{})()
}

// Whoever comes while another waits is behind it, even if a slot is free before
// that one has asked again.
func TestInFlightNobodyOvertakes(t *testing.T) {
	t.Parallel() // most of it waits
	s := redistest.Start(t)
	c := client(t, s.Addr())
	l := open(t, c, redislimiter.Options{})
	o := redislimiter.InFlightOptions{InFlightOptions: limiter.InFlightOptions{Max: 2, Queue: 2, MaxWait: 20 * time.Second}}
	other, f := newInFlight(t, l, o), newInFlight(t, l, o)
	defer acquire(t, other, limiter.Slot{})()
	theirs := acquire(t, other, limiter.Slot{})
	key := allKeys(t, c)[0]
	order := make(chan string, 2)
	var wg sync.WaitGroup
	come := func(name string) {
		wg.Go(func() {
			release, err := f.Acquire(t.Context(), limiter.Slot{})
			if err != nil {
				t.Error(err)
				return
			}
			order <- name
			release()
		})
	}
	come("first")
	eventually(t, "in the line", 10*time.Second, func() bool { return f.Snapshot().Waiting == 1 })
	time.Sleep(500 * time.Millisecond) // now it asks rarely
	theirs()
	eventually(t, "a slot is free", 10*time.Second, func() bool { return len(order) > 0 || s.Do("ZSCORE", key, "#") == "-1" })
	come("second")
	wg.Wait()
	if got := <-order; got != "first" {
		t.Errorf("served the %s before the one that came first", got)
	}
}

// countdown is a context that ends when it has been asked so many times.
type countdown struct {
	context.Context
	left atomic.Int64
}

func (c *countdown) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// Whenever it is that somebody leaves, the others are served.
func TestInFlightLeavesAtAnyTime(t *testing.T) {
	t.Parallel() // most of it waits
	s := redistest.Start(t)
	var hold atomic.Bool
	held, last := make(chan struct{}), make(chan struct{})
	c := hooked(t, s.Addr(), func(what string, next func() error) error {
		err := next()
		if what == "take" && hold.CompareAndSwap(true, false) {
			close(held)
			<-last
		}
		return err
	})
	o := redislimiter.InFlightOptions{InFlightOptions: limiter.InFlightOptions{Max: 3, Queue: 3, MaxWait: 20 * time.Second}}
	shared := fresh(redislimiter.Options{})
	of := func(c *redis.Client) *redislimiter.InFlight {
		l, err := redislimiter.New(c, shared)
		if err != nil {
			t.Fatal(err)
		}
		return newInFlight(t, l, o)
	}
	other, f := of(client(t, s.Addr())), of(c)
	theirs := acquire(t, other, limiter.Slot{Weight: 3})

	hold.Store(true) // somebody who asks, so that the line of those who wait stays
	var wg sync.WaitGroup
	wg.Go(func() {
		if release, err := f.Acquire(t.Context(), limiter.Slot{}); err == nil {
			release()
		}
	})
	<-held
	for n := range 10 {
		ctx := &countdown{Context: t.Context()}
		ctx.left.Store(int64(n))
		if release, err := f.Acquire(ctx, limiter.Slot{}); err != context.Canceled {
			t.Errorf("after %d questions: %v", n, err)
			if err == nil {
				release()
			}
		}
	}
	wg.Go(func() {
		if release, err := f.Acquire(t.Context(), limiter.Slot{}); err != nil {
			t.Errorf("the others: %v", err)
		} else {
			release()
		}
	})
	eventually(t, "in the line", 10*time.Second, func() bool { return f.Snapshot().Waiting == 1 })
	theirs()
	eventually(t, "served", 10*time.Second, func() bool { return f.Snapshot().Waiting == 0 })
	close(last)
	wg.Wait()
}

// A server that is away is not asked for every slot that is given back, and what
// it never knew of is not kept for it.
func TestInFlightOutageCostsLittle(t *testing.T) {
	s := redistest.Start(t)
	var calls atomic.Int64
	c := hooked(t, s.Addr(), func(_ string, next func() error) error {
		calls.Add(1)
		return next()
	})
	f := newInFlight(t, open(t, c, redislimiter.Options{}), redislimiter.InFlightOptions{
		InFlightOptions: limiter.InFlightOptions{Max: 100},
		Lease:           time.Minute,
		WhenDown:        failover.Open,
	})
	known := acquire(t, f, limiter.Slot{})
	s.Kill()
	known()
	start := time.Now()
	for range 3000 {
		acquire(t, f, limiter.Slot{})()
	}
	// Until the breaker opens, then once a second; and what is to be given back,
	// twice a second.
	if n, most := calls.Load(), int64(15+3*time.Since(start)/time.Second); n > most {
		t.Errorf("%d calls in %v for 3000 slots, want at most %d", n, time.Since(start), most)
	}
	if n := f.Freed(); n > 20 {
		t.Errorf("%d are remembered for the server, which knows of one", n)
	}
	s.Restart()
	eventually(t, "nothing to be given back", 20*time.Second, func() bool { return f.Freed() == 0 })
	acquire(t, f, limiter.Slot{})()
}

// Whoever flushes knows that the server knows, or that nothing is taken any more.
func TestInFlightFlush(t *testing.T) {
	t.Parallel() // most of it waits
	s := redistest.Start(t)
	f := newInFlight(t, open(t, client(t, s.Addr()), redislimiter.Options{}), redislimiter.InFlightOptions{
		InFlightOptions: limiter.InFlightOptions{Max: 1000},
		Lease:           time.Second,
	})
	flush := func(within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		return f.Flush(ctx)
	}
	if err := flush(time.Minute); err != nil {
		t.Errorf("nothing was taken: %v", err)
	}
	for range 10 {
		var all []func()
		for range 20 {
			all = append(all, acquire(t, f, limiter.Slot{}))
		}
		for _, release := range all {
			release()
		}
		if err := flush(time.Minute); err != nil {
			t.Error(err)
		}
		if keys := s.Do("KEYS", "*"); keys != "" {
			t.Fatalf("the server has %q", keys)
		}
	}
	held := acquire(t, f, limiter.Slot{})
	if err := flush(time.Minute); err != nil {
		t.Errorf("what is held: %v", err)
	}
	s.Kill()
	held()
	if err := flush(50 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a server: %v", err)
	}
	if err := flush(time.Minute); err != nil {
		t.Errorf("after the lease: %v", err)
	}
}

func TestInFlightOptions(t *testing.T) {
	l := open(t, client(t, "127.0.0.1:1"), redislimiter.Options{})
	_, err := redislimiter.NewInFlight(l, redislimiter.InFlightOptions{
		InFlightOptions: limiter.InFlightOptions{Name: "n", Adaptive: &limiter.AdaptiveOptions{}, Queue: -1},
		Lease:           time.Millisecond,
		WhenDown:        9,
		Failover:        failover.Options{Budget: -1},
	})
	for _, want := range []string{"Adaptive", "Queue", "Lease", "WhenDown", "Failover", "Max"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

// What a process does that has the slots of its standard input's name.
const slotsVariable = "WEIR_TEST_SLOTS"

// A slotsJob is the work of such a process.
type slotsJob struct {
	URL, Prefix string
	Max         int
	Lease       time.Duration
	Hold        int           // so many at once, for ever
	Goroutines  int           // which take and give back
	For         time.Duration // so long
}

func TestSlotsProcess(t *testing.T) {
	text := os.Getenv(slotsVariable)
	if text == "" {
		t.Skip("it is run by other tests, as a process of its own")
	}
	if err := workWithSlots(text); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// workWithSlots counts by the server who is inside, by other commands than those
// of the limit.
func workWithSlots(text string) error {
	var j slotsJob
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	ctx := context.Background()
	c, err := redislimiter.Dial(ctx, j.URL)
	if err != nil {
		return err
	}
	l, err := redislimiter.New(c, &redislimiter.Options{Prefix: j.Prefix})
	if err != nil {
		return err
	}
	f, err := redislimiter.NewInFlight(l, redislimiter.InFlightOptions{
		InFlightOptions: limiter.InFlightOptions{Max: j.Max, Queue: 1000, MaxWait: time.Minute},
		Lease:           j.Lease,
		Failover:        patient,
	})
	if err != nil {
		return err
	}
	for range j.Hold {
		if _, err := f.Acquire(ctx, limiter.Slot{}); err != nil {
			return err
		}
	}
	if j.Hold > 0 {
		fmt.Println("held")
		select {}
	}
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	var done atomic.Int64
	end := time.Now().Add(j.For)
	for range j.Goroutines {
		wg.Go(func() {
			for time.Now().Before(end) {
				n := 1 + rand.IntN(2)
				release, err := f.Acquire(ctx, limiter.Slot{Weight: n})
				if err == nil {
					var inside int64
					if inside, err = c.IncrBy(ctx, j.Prefix+":inside", int64(n)).Result(); err == nil && inside > int64(j.Max) {
						err = fmt.Errorf("%d are inside, of %d", inside, j.Max)
					}
					time.Sleep(rand.N(2 * time.Millisecond))
					if err == nil {
						err = c.DecrBy(ctx, j.Prefix+":inside", int64(n)).Err()
					}
					release()
					done.Add(1)
				}
				if err != nil {
					failed.Store(&err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	fmt.Println(done.Load())
	return f.Flush(ctx)
}

func startSlots(t *testing.T, j slotsJob) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	text, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestSlotsProcess$")
	cmd.Env = append(os.Environ(), slotsVariable+"="+string(text))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return cmd, bufio.NewScanner(out)
}

// TestInFlightProcesses shows four processes that together never have more inside
// than there are slots, as the server counts them.
func TestInFlightProcesses(t *testing.T) {
	t.Parallel() // most of it waits
	s := redistest.Start(t)
	span := 3 * time.Second
	if testing.Short() {
		span = time.Second
	}
	j := slotsJob{URL: s.URL(), Prefix: "p", Max: 7, Lease: 5 * time.Second, Goroutines: 8, For: span}
	var cmds []*exec.Cmd
	var outs []*bufio.Scanner
	for range 4 {
		cmd, out := startSlots(t, j)
		cmds, outs = append(cmds, cmd), append(outs, out)
	}
	total := 0
	for i := range cmds {
		outs[i].Scan()
		n, err := strconv.Atoi(outs[i].Text())
		if err := errors.Join(err, cmds[i].Wait()); err != nil {
			t.Fatalf("process %d: %v, %q", i, err, outs[i].Text())
		}
		total += n
	}
	t.Logf("%d times inside", total)
	if total < 100 {
		t.Errorf("only %d times inside in %v", total, span)
	}
	if keys := s.Do("KEYS", "*"); keys != "p:inside" { // the count
		t.Errorf("the processes have flushed, but there is %q", keys)
	}
	if n := s.Do("GET", "p:inside"); n != "0" {
		t.Errorf("%s are inside in the end", n)
	}
}

// TestInFlightHolderKilled shows that the slots of a process which was killed are
// there again when its leases end.
func TestInFlightHolderKilled(t *testing.T) {
	t.Parallel() // most of it waits
	s := redistest.Start(t)
	const lease = 2 * time.Second
	cmd, out := startSlots(t, slotsJob{URL: s.URL(), Prefix: "p", Max: 60, Lease: lease, Hold: 50})
	if !out.Scan() || out.Text() != "held" {
		t.Fatalf("the process says %q", out.Text())
	}
	l, err := redislimiter.New(client(t, s.Addr()), &redislimiter.Options{Prefix: "p"})
	if err != nil {
		t.Fatal(err)
	}
	f := newInFlight(t, l, redislimiter.InFlightOptions{
		InFlightOptions: limiter.InFlightOptions{Max: 60, Queue: 50, MaxWait: time.Minute},
		Lease:           lease,
	})
	key := strings.Fields(s.Do("KEYS", "*"))[0]
	theirs := slices.DeleteFunc(strings.Fields(s.Do("ZRANGE", key, "0", "-1")), func(m string) bool { return m == "#" })
	var all []func()
	for range 10 { // these stay, and their renewals keep the set
		all = append(all, acquire(t, f, limiter.Slot{}))
	}
	eventually(t, "all slots in use", 10*time.Second, func() bool { return s.Do("ZSCORE", key, "#") == "-60" })
	cmd.Process.Kill()
	killed := time.Now()
	cmd.Wait()
	// By the server's clock: when the last of its leases ends.
	serverTime := func() float64 { return float64(clockOf(s).UnixMicro()) }
	end := 0.0
	for _, member := range theirs {
		at, _ := strconv.ParseFloat(s.Do("ZSCORE", key, member), 64)
		end = max(end, at)
	}
	if now := serverTime(); end == 0 || end > now+float64(lease.Microseconds()) {
		t.Errorf("it is %.0f, and the last of %d leases ends at %.0f", now, len(theirs), end)
	}
	for range 50 {
		all = append(all, acquire(t, f, limiter.Slot{}))
	}
	if now := serverTime(); now < end {
		t.Errorf("all slots are given to others at %.0f, before the last lease has ended at %.0f", now, end)
	}
	after := time.Since(killed)
	t.Logf("all slots back %v after the kill, with leases of %v", after, lease)
	if after > lease+5*time.Second {
		t.Errorf("the slots came back after %v, want about %v", after, lease)
	}
	for _, release := range all {
		release()
	}
}
