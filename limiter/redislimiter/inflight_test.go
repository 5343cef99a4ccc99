//go:build unix

package redislimiter_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
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
	for _, key := range strings.Fields(s.Do("KEYS", "*")) {
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
		Lease:           time.Second,
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
	// The server's clock: in a second at the latest they end, by its TIME.
	now, _ := strconv.ParseInt(strings.Fields(s.Do("TIME"))[0], 10, 64)
	for _, line := range strings.Fields(s.Do("ZRANGE", keys[0], "0", "-1", "WITHSCORES")) {
		if end, err := strconv.ParseFloat(line, 64); err == nil && end > 1e12 {
			if left := end/1e6 - float64(now); left < -1 || left > 3 {
				t.Errorf("a lease ends in %v s by the server's clock", left)
			}
		}
	}
	// Three leases later all are held still.
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
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
	f := newInFlight(t, l, o)
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
	o := func(mode failover.Mode) redislimiter.InFlightOptions {
		return redislimiter.InFlightOptions{
			InFlightOptions: limiter.InFlightOptions{Name: mode.String(), Max: 6},
			Lease:           time.Second,
			WhenDown:        mode,
			Failover:        failover.Options{Budget: time.Second, Instances: 3},
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
	return nil
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
	eventually(t, "all given back", 10*time.Second, func() bool { return s.Do("DBSIZE") == "1" }) // the count
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
	var all []func()
	for range 10 { // these stay, and their renewals keep the set
		all = append(all, acquire(t, f, limiter.Slot{}))
	}
	key := strings.Fields(s.Do("KEYS", "*"))[0]
	if n := s.Do("ZSCORE", key, "#"); n != "-60" {
		t.Fatalf("%s slots in use, want 60", n)
	}
	cmd.Process.Kill()
	killed := time.Now()
	cmd.Wait()
	for range 50 {
		all = append(all, acquire(t, f, limiter.Slot{}))
	}
	after := time.Since(killed)
	t.Logf("all slots back %v after the kill, with leases of %v", after, lease)
	if after < lease/2 || after > lease+5*time.Second {
		t.Errorf("the slots came back after %v, want about %v", after, lease)
	}
	for _, release := range all {
		release()
	}
}
