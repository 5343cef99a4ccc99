package weirprom_test

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/adapters/weirprom"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
)

func TestLimiter(t *testing.T) {
	m := weirprom.New(nil)
	memory := limiter.NewMemory(&limiter.MemoryOptions{Observer: m.Limiter()})
	reg := registered(t, m, weirprom.Memory("api", memory))
	limits := limiter.Middleware(memory, limiter.Rules{
		{Policy: limiter.PerDay("everyone", 100), Key: limiter.KeyGlobal, Cost: func(*http.Request) int { return 10 }},
		{Policy: limiter.PerDay("user", 2), Key: limiter.KeyByHeader("X-User")},
		{Policy: limiter.PerDay("new", 1), Key: limiter.KeyGlobal, Shadow: true},
	}, &limiter.Options{Observer: m.Limiter()})
	s := serve(t, routed([]string{"/users/{id}", "/other"}, limits(hello)))
	for i, want := range []int{200, 200, 429, 200, 400} {
		path, user := "/users/"+strconv.Itoa(i), "ann"
		if i == 3 {
			path, user = "/other", "bob"
		}
		if i == 4 {
			user = ""
		}
		if status := get(t, s.URL+path, "X-User", user); status != want {
			t.Errorf("request %d: status %d, want %d", i, status, want)
		}
	}
	shows(t, reg, map[string]float64{
		`weir_limiter_decisions_total{policy="everyone",result="allowed",route="/users/{id}"}`:  2,
		`weir_limiter_decisions_total{policy="everyone",result="spared",route="/users/{id}"}`:   1,
		`weir_limiter_decisions_total{policy="everyone",result="allowed",route="/other"}`:       1,
		`weir_limiter_decisions_total{policy="user",result="allowed",route="/users/{id}"}`:      2,
		`weir_limiter_decisions_total{policy="user",result="denied",route="/users/{id}"}`:       1,
		`weir_limiter_decisions_total{policy="user",result="unkeyed",route="/users/{id}"}`:      1,
		`weir_limiter_decisions_total{policy="user",result="allowed",route="/other"}`:           1,
		`weir_limiter_decisions_total{policy="new",result="allowed",route="/users/{id}"}`:       1,
		`weir_limiter_decisions_total{policy="new",result="shadow_denied",route="/users/{id}"}`: 1,
		`weir_limiter_decisions_total{policy="new",result="shadow_denied",route="/other"}`:      1,
		`weir_limiter_store_duration_seconds{source="memory"}`:                                  11,
		`weir_limiter_keys{memory="api"}`:                                                       4,
		`weir_limiter_memory_bytes{memory="api"}`:                                               -1,
	})
}

// What is waited for is in the histogram, by how it ended.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := weirprom.New(nil)
		reg := registered(t, m)
		h := limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{{
			Policy: limiter.Policy{Name: "paced", Algorithm: limiter.LeakyBucket, Limit: 1, Window: time.Second, Burst: 5},
			Key:    limiter.KeyGlobal,
		}}, &limiter.Options{Observer: m.Limiter(), Headers: limiter.NoHeaders})(hello)
		for i := range 3 {
			r, err := http.NewRequest("GET", "/", nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			if i == 2 {
				time.AfterFunc(time.Millisecond, cancel)
			}
			h.ServeHTTP(sinkhole{}, r.WithContext(ctx))
			cancel()
		}
		shows(t, reg, map[string]float64{
			`weir_limiter_decisions_total{policy="paced",result="allowed",route=""}`: 3,
			`weir_limiter_store_duration_seconds{source="memory"}`:                   3,
			`weir_limiter_hold_duration_seconds{policy="paced",result="allowed"}`:    1,
			`weir_limiter_hold_duration_seconds{policy="paced",result="left"}`:       1,
		})
	})
}

// sinkhole is a response that nobody gets.
type sinkhole struct{}

func (sinkhole) Header() http.Header         { return http.Header{} }
func (sinkhole) Write(p []byte) (int, error) { return len(p), nil }
func (sinkhole) WriteHeader(int)             {}

// A memory that is full tells which policy needed the room.
func TestRoom(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		m := weirprom.New(nil)
		reg := registered(t, m)
		memory := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 1 << 10, RefuseNew: refuse, Observer: m.Limiter()})
		h := limiter.Middleware(memory, limiter.Rules{{Policy: limiter.PerDay("p", 1), Key: limiter.KeyByHeader("X-User")}}, nil)(hello)
		s := serve(t, h)
		for i := range 100 {
			get(t, s.URL, "X-User", strconv.Itoa(i))
		}
		st := memory.Stats()
		want := map[string]float64{`weir_limiter_evictions_total{policy="p"}`: float64(st.Evicted)}
		if refuse {
			want = map[string]float64{`weir_limiter_no_room_total{policy="p"}`: float64(st.Refused)}
		}
		if st.Evicted+st.Refused == 0 {
			t.Fatal("the memory was never full")
		}
		shows(t, reg, want)
	}
}

// flaky is a backend that fails when it is told to.
type flaky struct {
	limiter.Limiter
	broken atomic.Bool
}

func (f *flaky) Take(ctx context.Context, c limiter.Charge) (limiter.Result, error) {
	if f.broken.Load() {
		return limiter.Result{}, errors.New("broken")
	}
	return f.Limiter.Take(ctx, c)
}

func TestFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := weirprom.New(nil)
		reg := registered(t, m)
		server := &flaky{Limiter: limiter.NewMemory(nil)}
		shared := failover.New(server, failover.Local, &failover.Options{Failures: 3, Instances: 2, Observer: m.Failover("redis")})
		h := limiter.Middleware(shared, limiter.Rules{{Policy: limiter.PerDay("p", 4), Key: limiter.KeyGlobal}},
			&limiter.Options{Observer: m.Limiter()})(hello)
		request := func(n int) {
			for range n {
				r, err := http.NewRequestWithContext(t.Context(), "GET", "/", nil)
				if err != nil {
					t.Fatal(err)
				}
				h.ServeHTTP(sinkhole{}, r)
			}
		}
		state := func(is string) map[string]float64 {
			want := map[string]float64{}
			for _, s := range []string{"closed", "half_open", "open"} {
				want[`weir_limiter_breaker_state{backend="redis",state="`+s+`"}`] = 0
			}
			want[`weir_limiter_breaker_state{backend="redis",state="`+is+`"}`] = 1
			return want
		}
		want := state("closed")
		want[`weir_limiter_backend_failures_total{backend="redis"}`] = 0
		want[`weir_limiter_breaker_opened_total{backend="redis"}`] = 0
		shows(t, reg, want)

		request(1)
		server.broken.Store(true)
		request(3)
		want = state("open")
		want[`weir_limiter_backend_failures_total{backend="redis"}`] = 3
		want[`weir_limiter_breaker_opened_total{backend="redis"}`] = 1
		want[`weir_limiter_decisions_total{policy="p",result="allowed",route=""}`] = 1
		want[`weir_limiter_decisions_total{policy="p",result="local_fallback",route=""}`] = 2
		want[`weir_limiter_decisions_total{policy="p",result="denied",route=""}`] = 1
		want[`weir_limiter_store_duration_seconds{source="memory"}`] = 1
		want[`weir_limiter_store_duration_seconds{source="fallback"}`] = 3
		shows(t, reg, want)

		server.broken.Store(false)
		time.Sleep(2 * time.Second)
		request(1)
		want = gathered(t, reg)
		for k, v := range state("closed") {
			if want[k] != v {
				t.Errorf("%s = %v after the backend came back, want %v", k, want[k], v)
			}
		}
	})
}

// When nobody decides, Options.OnError does, and that is told apart.
func TestErrors(t *testing.T) {
	for result, admit := range map[string]bool{"error_allowed": true, "error_denied": false} {
		m := weirprom.New(nil)
		reg := registered(t, m)
		broken := new(flaky)
		broken.broken.Store(true)
		s := serve(t, limiter.Middleware(broken, limiter.Rules{{Policy: limiter.PerDay("p", 4), Key: limiter.KeyGlobal}},
			&limiter.Options{Observer: m.Limiter(), OnError: func(*http.Request, error) bool { return admit }})(hello))
		get(t, s.URL)
		shows(t, reg, map[string]float64{
			`weir_limiter_decisions_total{policy="p",result="` + result + `",route=""}`: 1,
			`weir_limiter_store_duration_seconds{source="none"}`:                        1,
		})
	}
}
