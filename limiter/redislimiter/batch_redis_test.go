package redislimiter

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
)

var serial atomic.Int64

// connectTo returns a Limiter with a prefix of its own, and its client.
func connectTo(t testing.TB, addr string, o Options) (*Limiter, *redis.Client) {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, ContextTimeoutEnabled: true, PoolSize: 64})
	t.Cleanup(func() { c.Close() })
	if o.Prefix == "" {
		o.Prefix = "b" + strconv.FormatInt(serial.Add(1), 36)
	}
	l, err := New(c, &o)
	if err != nil {
		t.Fatal(err)
	}
	return l, c
}

// slow is a policy of n units that do not come back while a test runs.
func slow(n int) limiter.Policy { return limiter.Policy{Name: "p", Limit: n, Window: 1000 * time.Hour} }

// questionOf returns the question of one decision.
func (l *Limiter) questionOf(cs []limiter.Charge) *question {
	q := &question{entries: make([]entry, len(cs))}
	for i := range cs {
		q.entries[i].encode(l, &cs[i])
	}
	if l.cluster {
		q.slot = l.slotOf(q.entries[0].key)
	}
	return q
}

func (q *question) all() (rs []limiter.Result) {
	q.results(0, false, func(e *entry, r limiter.Result) {
		if e.kind == slidingLog {
			r.Receipt.Given = 0 // the event's id is drawn
		}
		rs = append(rs, r)
	})
	return rs
}

// TestFlightDecidesAsOneByOne asks many questions in one flight, and the same of
// other keys one by one, at the same instant by a clock that stands still. Every
// result is the same: each is granted in the order of arrival, however questions
// were merged.
func TestFlightDecidesAsOneByOne(t *testing.T) {
	addr := redistest.Start(t).Addr()
	together, _ := connectTo(t, addr, Options{ClientClock: true})
	alone, _ := connectTo(t, addr, Options{ClientClock: true})
	now := time.Now()
	together.now, alone.now = func() time.Time { return now }, func() time.Time { return now }
	rounds := uint64(200)
	if testing.Short() {
		rounds = 30
	}
	merged, granted := 0, 0
	for seed := range rounds {
		rnd := rand.New(rand.NewPCG(seed, 5))
		charge := func() limiter.Charge {
			c := limiter.Charge{
				Policy: limiter.Policy{
					Name:      "p",
					Algorithm: limiter.Algorithm(rnd.IntN(5)),
					Limit:     []int{3, 10, 1000}[rnd.IntN(3)],
					Window:    time.Hour, // the server's own clock must not make keys expire
				},
				Key:  fmt.Sprint(seed/4, rnd.IntN(3)),
				Cost: rnd.IntN(4),
			}
			if rnd.IntN(4) == 0 {
				c.Cost = 1
			}
			if rnd.IntN(8) == 0 {
				c.MaxDelay = time.Hour / 4
			}
			return c
		}
		var a, b []*question
		var asked [][]limiter.Charge
		for range 2 + rnd.IntN(150) {
			var cs []limiter.Charge
			if rnd.IntN(3) == 0 && len(asked) > 0 {
				cs = asked[max(0, len(asked)-1-rnd.IntN(4))] // again
			} else {
				for range 1 + max(0, rnd.IntN(5)-2) {
					cs = append(cs, charge())
				}
			}
			asked = append(asked, cs)
			a, b = append(a, together.questionOf(cs)), append(b, alone.questionOf(cs))
		}
		if err := together.fly(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		var m manifest
		m.last = make(map[string]int)
		m.merge(a)
		merged += len(a) - len(m.runs)
		for i := range b {
			if err := alone.ask(t.Context(), b[i]); err != nil {
				t.Fatal(err)
			}
			if a[i].failed != nil {
				t.Fatal(a[i].failed)
			}
			got, want := a[i].all(), b[i].all()
			granted += b[i].granted
			for j := range got {
				if got[j] != want[j] || a[i].granted != b[i].granted {
					t.Fatalf("seed %d, question %d of %d, charge %d: %+v\n got %+v\nwant %+v", seed, i, len(a), j, asked[i], got[j], want[j])
				}
			}
		}
		now = now.Add(time.Duration(rnd.IntN(30)) * time.Minute)
	}
	if merged < int(rounds)*5 || granted < int(rounds)*5 {
		t.Errorf("only %d questions were merged and %d granted: the test is too weak", merged, granted)
	}
}

// TestCrowdGetsExactlyTheLimit lets 256 goroutines of four Limiters ask for one
// quota, by flights that overlap.
func TestCrowdGetsExactlyTheLimit(t *testing.T) {
	addr := redistest.Start(t).Addr()
	for _, cost := range []int{1, 3} {
		p := slow(3000)
		var ls [4]*Limiter
		for i := range ls {
			ls[i], _ = connectTo(t, addr, Options{Prefix: fmt.Sprint("crowd", cost), DenyCache: -1})
		}
		var admitted atomic.Int64
		var wg sync.WaitGroup
		for g := range 256 {
			wg.Go(func() {
				for range 30 {
					r, err := ls[g%len(ls)].Take(t.Context(), limiter.Charge{Policy: p, Key: "k", Cost: cost})
					if err != nil {
						t.Error(err)
						return
					}
					if r.Allowed {
						admitted.Add(int64(cost))
					}
				}
			})
		}
		wg.Wait()
		if n := admitted.Load(); n != 3000 {
			t.Errorf("%d units of 3000 were admitted in portions of %d", n, cost)
		}
	}
}

// A gate is a hook that holds back every call until it is open.
type gate struct {
	open chan struct{}
	held atomic.Int64
}

func (g *gate) DialHook(next redis.DialHook) redis.DialHook { return next }

func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		g.held.Add(1)
		<-g.open
		return next(ctx, cmd)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 10s still not: %s", what)
		}
	}
}

// TestCancelledMemberHarmsNobody cancels callers whose questions are underway
// with those of others: the others are answered, and the units of those who left
// come back.
func TestCancelledMemberHarmsNobody(t *testing.T) {
	l, c := connectTo(t, redistest.Start(t).Addr(), Options{})
	g := &gate{open: make(chan struct{})}
	c.AddHook(g)
	p := slow(100)
	charge := limiter.Charge{Policy: p, Key: "k", Cost: 1}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var left, stayed atomic.Int64
	caller := func(ctx context.Context) {
		wg.Go(func() {
			switch r, err := l.Take(ctx, charge); {
			case err == nil && r.Allowed:
				stayed.Add(1)
			case errors.Is(err, ErrUnknown) && errors.Is(err, context.Canceled):
				left.Add(1)
			default:
				t.Errorf("Take = %+v, %v", r, err)
			}
		})
	}
	for range lanes {
		caller(t.Context())
	}
	eventually(t, "the lanes are taken", func() bool { return g.held.Load() == lanes })
	for range 10 {
		caller(t.Context())
		caller(ctx)
	}
	// Nobody boards any more when a further flight has taken off.
	eventually(t, "all are underway", func() bool {
		l.line.mu.Lock()
		defer l.line.mu.Unlock()
		return l.line.waitingLocked() == 0 && l.line.flights > lanes
	})
	cancel()
	eventually(t, "the cancelled have left", func() bool { return left.Load() == 10 })
	close(g.open)
	wg.Wait()
	if n := stayed.Load(); n != lanes+10 {
		t.Errorf("%d of %d who stayed were admitted", n, lanes+10)
	}
	look := charge
	look.Cost = 0
	want := 100 - lanes - 10
	eventually(t, "the units of those who left have come back", func() bool {
		r, err := l.Take(t.Context(), look)
		if err != nil || r.Remaining > want {
			t.Fatalf("%+v, %v: more than %d remain", r, err, want)
		}
		return r.Remaining == want
	})
}

// A key that holds something else fails its own callers.
func TestForeignKeyFailsOnlyItsOwn(t *testing.T) {
	s := redistest.Start(t)
	l, _ := connectTo(t, s.Addr(), Options{})
	p := limiter.PerHour("p", 5)
	var qs []*question
	bad := map[int]bool{3: true, 40: true, 41: true}
	for i := range 64 {
		q := l.questionOf([]limiter.Charge{{Policy: p, Key: strconv.Itoa(i), Cost: 2}})
		if bad[i] {
			s.Do("LPUSH", q.entries[0].key, "x")
		}
		qs = append(qs, q)
	}
	if err := l.fly(t.Context(), qs); err != nil {
		t.Fatal(err)
	}
	for i, q := range qs {
		switch {
		case bad[i] && !errors.Is(q.failed, ErrWrongType):
			t.Errorf("question %d about a foreign key: %v", i, q.failed)
		case !bad[i] && (q.failed != nil || q.all()[0].Remaining != 3):
			t.Errorf("question %d: %+v, %v; want it charged once", i, q.all(), q.failed)
		}
	}
}

// A flight finds the scripts gone.
func TestFlightBringsTheScriptAlong(t *testing.T) {
	s := redistest.Start(t)
	l, _ := connectTo(t, s.Addr(), Options{})
	p := slow(1000)
	for range 3 {
		s.Do("SCRIPT", "FLUSH")
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				if r, err := l.Take(t.Context(), limiter.Charge{Policy: p, Key: "k", Cost: 1}); err != nil || !r.Allowed {
					t.Errorf("Take = %+v, %v", r, err)
				}
			})
		}
		wg.Wait()
	}
	if r := take(t, l, limiter.Charge{Policy: p, Key: "k"}); r.Remaining != 1000-3*64 {
		t.Errorf("%+v, want %d remaining", r, 1000-3*64)
	}
}

// What many callers cost the server. How far they gather depends on the machine,
// so the bounds are generous.
func TestManyCallersShareFewCalls(t *testing.T) {
	s := redistest.Start(t)
	l, _ := connectTo(t, s.Addr(), Options{})
	take(t, l, limiter.Charge{Policy: limiter.PerHour("p", 1), Key: "", Cost: 0}) // brings the script
	for _, tt := range []struct {
		name string
		keys int
	}{{"one key", 1}, {"many keys", 10_000}} {
		t.Run(tt.name, func(t *testing.T) {
			s.ResetStats()
			const callers, times = 64, 100
			p := limiter.PerHour("p", 1_000_000)
			var wg sync.WaitGroup
			for g := range callers {
				wg.Go(func() {
					for i := range times {
						c := limiter.Charge{Policy: p, Key: strconv.Itoa((g*times + i) % tt.keys), Cost: 1}
						if r, err := l.Take(t.Context(), c); err != nil || !r.Allowed {
							t.Errorf("Take = %+v, %v", r, err)
							return
						}
					}
				})
			}
			wg.Wait()
			stats := s.CommandStats()
			calls := float64(stats["evalsha"]) / (callers * times)
			t.Logf("%.3f calls a decision; all commands: %v", calls, stats)
			if calls > 0.25 {
				t.Errorf("%.3f calls a decision, want 0.25 at most", calls)
			}
		})
	}
}

func TestCachedDenialCostsTheServerNothing(t *testing.T) {
	s := redistest.Start(t)
	l, _ := connectTo(t, s.Addr(), Options{DenyTime: time.Hour})
	p, other := limiter.PerHour("p", 2), limiter.PerHour("other", 10)
	c := limiter.Charge{Policy: p, Key: "k", Cost: 1}
	o := limiter.Charge{Policy: other, Key: "k", Cost: 1}
	take(t, l, c)
	held := take(t, l, c)
	first := take(t, l, c)
	if first.Allowed || first.Source != limiter.SourceRedis {
		t.Fatalf("Take = %+v, want it refused by the server", first)
	}
	s.ResetStats()
	var r limiter.Result
	if n := testing.AllocsPerRun(1000, func() { r, _ = l.Take(context.Background(), c) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
	if r.Allowed || r.Source != limiter.SourceDenyCache || r.RetryAfter <= 0 || r.RetryAfter > first.RetryAfter+time.Second || r.Remaining != 0 {
		t.Errorf("Take = %+v, want it as %+v, by the cache", r, first)
	}
	rs, err := l.TakeAll(t.Context(), []limiter.Charge{o, c, c})
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range rs {
		if i == 1 {
			if r.Allowed || r.Source != limiter.SourceDenyCache || r.Remaining != 0 {
				t.Errorf("result 1 = %+v, want the refusal", r)
			}
		} else if !r.Allowed || r.Source != limiter.SourceDenyCache || r.Remaining != -1 || r.Receipt != (limiter.Receipt{}) {
			t.Errorf("result %d = %+v, want it unknown", i, r)
		}
	}
	if stats := s.CommandStats(); stats["evalsha"] != 0 {
		t.Errorf("the server was asked: %v", stats)
	}
	if err := l.Refund(t.Context(), c, &held); err != nil {
		t.Fatal(err)
	}
	if rs, err := l.TakeAll(t.Context(), []limiter.Charge{o, c}); err != nil || !rs[0].Allowed || !rs[1].Allowed || rs[0].Remaining != 9 {
		t.Errorf("TakeAll after a refund = %+v, %v", rs, err)
	}
	if r := take(t, l, c); r.Allowed {
		t.Errorf("Take = %+v, want it refused", r)
	}
	if err := l.Reset(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if r := take(t, l, c); !r.Allowed || r.Remaining != 1 {
		t.Errorf("Take after a reset = %+v, want it allowed", r)
	}
}

// A sum that can never fit is no reason to refuse a part of it.
func TestDenialOfASumIsNotRemembered(t *testing.T) {
	l, _ := connectTo(t, redistest.Start(t).Addr(), Options{DenyTime: time.Hour})
	for a := limiter.TokenBucket; a <= limiter.SlidingLog; a++ {
		c := limiter.Charge{Policy: with(limiter.PerHour("p", 5), a), Key: "k", Cost: 3}
		if rs, err := l.TakeAll(t.Context(), []limiter.Charge{c, c}); err != nil || rs[1].RetryAfter != limiter.Never {
			t.Fatalf("%v: TakeAll = %+v, %v", a, rs, err)
		}
		if r := take(t, l, c); !r.Allowed {
			t.Errorf("%v: Take = %+v, want it allowed", a, r)
		}
	}
}

// TestLeasesOnOneServer lets four processes lease from one server: everything is
// given out once, by few calls.
func TestLeasesOnOneServer(t *testing.T) {
	s := redistest.Start(t)
	const processes, units, n = 4, 40_000, 100
	p := limiter.PerHour("p", units)
	var ls [processes]*Limiter
	for i := range ls {
		ls[i], _ = connectTo(t, s.Addr(), Options{Prefix: "lease", Lease: func(limiter.Policy) int { return n }})
	}
	s.ResetStats()
	c := limiter.Charge{Policy: p, Key: "k", Cost: 1}
	var admitted atomic.Int64
	run := func(times int) {
		var wg sync.WaitGroup
		for g := range 32 {
			wg.Go(func() {
				for range times {
					if r, err := ls[g%processes].Take(t.Context(), c); err != nil {
						t.Error(err)
						return
					} else if r.Allowed {
						admitted.Add(1)
					}
				}
			})
		}
		wg.Wait()
	}
	const decisions = 32 * 1000
	run(decisions / 32)
	calls := float64(s.CommandStats()["evalsha"]) / decisions
	t.Logf("%.4f calls a decision", calls)
	if got := admitted.Load(); got != decisions {
		t.Errorf("%d of %d decisions were admitted", got, decisions)
	}
	if calls > 0.02 {
		t.Errorf("%.4f calls a decision with leases of %d, want 0.02 at most", calls, n)
	}
	run(1000)
	stock := 0
	for _, l := range ls {
		id := l.ids.of(&c)
		if lease := l.leases.shardOf(id).leases[id]; lease != nil {
			stock += lease.stock
		}
	}
	got := admitted.Load()
	// Some come back while the test runs: one in 90 ms.
	if got+int64(stock) < units || got > units+processes*n {
		t.Errorf("%d units of %d were admitted, %d are in stock", got, units, stock)
	}
}

func TestTakeAllWithLeasedCharges(t *testing.T) {
	s := redistest.Start(t)
	l, _ := connectTo(t, s.Addr(), Options{Lease: func(p limiter.Policy) int {
		if p.Name == "global" {
			return 50
		}
		return 0
	}})
	global := limiter.Charge{Policy: limiter.PerHour("global", 200), Key: "", Cost: 1}
	user := func(k string) limiter.Charge {
		return limiter.Charge{Policy: limiter.PerHour("user", 3), Key: k, Cost: 1}
	}
	remain := func(want int) {
		t.Helper()
		look := global
		look.Cost = 0
		if r := take(t, l, look); r.Remaining != want {
			t.Errorf("%d of the leased quota remain, want %d", r.Remaining, want)
		}
	}
	var last []limiter.Result
	for i := range 3 {
		rs, err := l.TakeAll(t.Context(), []limiter.Charge{global, user("a")})
		if err != nil || !rs[0].Allowed || !rs[1].Allowed || rs[0].Source != limiter.SourceLease || rs[1].Source != limiter.SourceRedis {
			t.Fatalf("TakeAll %d = %+v, %v", i, rs, err)
		}
		last = rs
	}
	remain(197)
	for range 5 { // by the server, then by the cache
		rs, err := l.TakeAll(t.Context(), []limiter.Charge{global, user("a")})
		if err != nil || rs[1].Allowed || !rs[0].Allowed || rs[0].Receipt != (limiter.Receipt{}) {
			t.Fatalf("TakeAll of what is used up = %+v, %v", rs, err)
		}
		remain(197)
	}
	if err := l.Refund(t.Context(), global, &last[0]); err != nil {
		t.Fatal(err)
	}
	remain(198)
	if err := l.Refund(t.Context(), user("a"), &last[1]); err != nil {
		t.Fatal(err)
	}
	if rs, err := l.TakeAll(t.Context(), []limiter.Charge{user("a"), global, global}); err != nil || !rs[0].Allowed || rs[0].Remaining != 0 {
		t.Fatalf("TakeAll after a refund = %+v, %v", rs, err)
	}
	remain(196)

	// A Reset drops what is in stock.
	if err := l.Reset(t.Context(), global); err != nil {
		t.Fatal(err)
	}
	s.ResetStats()
	if r := take(t, l, global); r.Remaining != 199 || s.CommandStats()["evalsha"] != 1 {
		t.Errorf("Take after a reset = %+v after %v", r, s.CommandStats())
	}
}

// TestHungServerHoldsUpNobody stops the server under load: everybody leaves when
// its time is up, nothing is counted twice, and soon after the server goes on so
// does everything else.
func TestHungServerHoldsUpNobody(t *testing.T) {
	s := redistest.Start(t)
	l, _ := connectTo(t, s.Addr(), Options{})
	const units = 1_000_000
	c := limiter.Charge{Policy: limiter.PerHour("p", units), Key: "k", Cost: 1}
	c.Policy.Window = 1000 * time.Hour
	take(t, l, c)
	admitted, unknown := atomic.Int64{}, atomic.Int64{}
	admitted.Add(1)
	stop := make(chan struct{})
	var slowest atomic.Int64
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				begin := time.Now()
				r, err := l.Take(ctx, c)
				took := time.Since(begin)
				cancel()
				switch {
				case err == nil && r.Allowed:
					admitted.Add(1)
				case errors.Is(err, ErrUnknown):
					unknown.Add(1)
				case !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrUnreachable):
					t.Errorf("Take = %+v, %v", r, err)
				}
				for before := slowest.Load(); int64(took) > before && !slowest.CompareAndSwap(before, int64(took)); before = slowest.Load() {
				}
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	s.Stop()
	time.Sleep(300 * time.Millisecond)
	before := admitted.Load()
	s.Cont()
	eventually(t, "decisions are made again", func() bool { return admitted.Load() > before+100 })
	close(stop)
	wg.Wait()
	if d := time.Duration(slowest.Load()); d > 2*time.Second {
		t.Errorf("a call with 50ms took %v", d)
	}
	eventually(t, "no flight is in the air", func() bool {
		l.line.mu.Lock()
		defer l.line.mu.Unlock()
		return l.line.flights == 0
	})
	look := c
	look.Cost = 0
	used := int64(units - take(t, l, look).Remaining)
	t.Logf("%d admitted, %d unknown, %d counted, the slowest took %v", admitted.Load(), unknown.Load(), used, time.Duration(slowest.Load()))
	if used < admitted.Load() || used > admitted.Load()+unknown.Load() {
		t.Errorf("%d units are counted for %d admitted and %d unknown", used, admitted.Load(), unknown.Load())
	}
}

// On a cluster a flight makes a call for each slot, all in one round trip.
func TestFlightsOnACluster(t *testing.T) {
	if testing.Short() {
		t.Skip("a cluster takes some seconds to start")
	}
	nodes := redistest.StartCluster(t, 0)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: nodes.Addrs(), MaxRetries: -1, ContextTimeoutEnabled: true})
	t.Cleanup(func() { client.Close() })
	l, err := New(client, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := limiter.PerHour("p", 10)
	questions := func() (qs []*question) {
		for i := range 120 {
			qs = append(qs, l.questionOf([]limiter.Charge{{Policy: p, Key: strconv.Itoa(i % 100), Cost: 1}}))
		}
		return qs
	}
	foreign := questions()[7].entries[0].key
	for round := range 3 {
		if round == 2 {
			if err := client.Del(t.Context(), foreign).Err(); err != nil {
				t.Fatal(err)
			}
			if err := client.LPush(t.Context(), foreign, "x").Err(); err != nil {
				t.Fatal(err)
			}
		}
		if round > 0 {
			for _, n := range nodes.Nodes() {
				n.Do("SCRIPT", "FLUSH")
			}
		}
		qs := questions()
		if err := l.fly(t.Context(), qs); err != nil {
			t.Fatal(err)
		}
		for i, q := range qs {
			want := 10 - 1 - round
			if i%100 < 20 {
				want -= round + i/100
			}
			switch {
			case round == 2 && i%100 == 7:
				if !errors.Is(q.failed, ErrWrongType) {
					t.Errorf("question %d about a foreign key: %v", i, q.failed)
				}
			case q.failed != nil:
				t.Errorf("round %d, question %d: %v", round, i, q.failed)
			case q.all()[0].Remaining != want:
				t.Errorf("round %d, question %d: %+v, want %d remaining", round, i, q.all(), want)
			}
		}
	}
	// By the lines of the nodes.
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for i := range 60 {
				r, err := l.Take(t.Context(), limiter.Charge{Policy: limiter.PerHour("q", 50), Key: strconv.Itoa(i % 30), Cost: 1})
				if err != nil {
					t.Error(err)
				} else if r.Allowed {
					admitted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := admitted.Load(); n != 30*50 {
		t.Errorf("%d units of %d were admitted", n, 30*50)
	}
}
