package limiter_test

import (
	"math"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/limiter"
)

func loadCheck(t testing.TB, o limiter.LoadOptions) func() bool {
	t.Helper()
	check, err := limiter.NewLoadCheck(o)
	if err != nil {
		t.Fatal(err)
	}
	return check
}

func TestLoadCheckFaultsAreReportedAtOnce(t *testing.T) {
	_, err := limiter.NewLoadCheck(limiter.LoadOptions{Memory: 1.5, Every: -1})
	if err == nil || strings.Count(err.Error(), "allowed") != 2 {
		t.Errorf("got %v, want two faults", err)
	}
	for _, o := range []limiter.LoadOptions{{Memory: -1, Wait: -1}, {Memory: math.NaN()}} {
		if _, err := limiter.NewLoadCheck(o); err == nil {
			t.Errorf("%+v is no fault", o)
		}
	}
}

func TestLoadCheckSeesMemory(t *testing.T) {
	check := loadCheck(t, limiter.LoadOptions{Wait: -1, Every: 1})
	if check() {
		t.Error("short of memory without a limit")
	}
	live := make([]byte, 64<<20)
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(4 << 30))
	runtime.GC()
	if check() {
		t.Error("short of memory with 4 GiB")
	}
	debug.SetMemoryLimit(70 << 20)
	runtime.GC()
	if !check() {
		t.Error("not short of memory: 64 MiB are live, and the limit is 70 MiB")
	}
	runtime.KeepAlive(live)
	live = nil
	debug.SetMemoryLimit(1 << 30)
	runtime.GC()
	if check() {
		t.Error("still short of memory when it is free again")
	}
}

func TestLoadCheckSeesTheScheduler(t *testing.T) {
	check := loadCheck(t, limiter.LoadOptions{Memory: -1, Wait: 2 * time.Millisecond, Every: 1})
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for n := 0; ; n++ { // each has the processor for 10 ms
				if n%1_000_000 == 0 {
					select {
					case <-stop:
						return
					default:
					}
				}
			}
		})
	}
	for start := time.Now(); !check(); time.Sleep(100 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Error("50 busy goroutines on one processor are no load")
			break
		}
	}
	close(stop)
	wg.Wait()
	for start := time.Now(); check(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Error("still loaded when nobody is busy")
			break
		}
	}
}

// In between it answers what it found.
func TestLoadCheckLooksNowAndThen(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	runtime.GC()
	synctest.Test(t, func(t *testing.T) {
		check := loadCheck(t, limiter.LoadOptions{Wait: -1, Every: time.Second})
		if check() {
			t.Fatal("loaded without a limit")
		}
		debug.SetMemoryLimit(1)
		if check() {
			t.Error("looked again at once")
		}
		time.Sleep(time.Second)
		if !check() {
			t.Error("did not look again")
		}
		debug.SetMemoryLimit(math.MaxInt64)
		if !check() {
			t.Error("looked again at once")
		}
	})
}

func BenchmarkLoadCheck(b *testing.B) {
	check := loadCheck(b, limiter.LoadOptions{})
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			check()
		}
	})
}

func BenchmarkLoadCheckLooks(b *testing.B) {
	check := loadCheck(b, limiter.LoadOptions{Every: 1})
	b.ReportAllocs()
	for b.Loop() {
		check()
	}
}
