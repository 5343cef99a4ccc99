package failover_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
)

// A machine is what a failover should do, call by call, written from the
// description of the breaker and of failures.
type machine struct {
	failures int
	down     bool
	until    time.Time // no probe before or at it
}

// asks reports whether a call now is to reach the backend.
func (m *machine) asks(now time.Time) bool { return !m.down || now.After(m.until) }

func (m *machine) good() { m.failures, m.down = 0, false }

func (m *machine) bad(now time.Time) {
	m.failures++
	if m.down || m.failures == failover.DefaultFailures {
		m.down, m.until = true, now.Add(time.Second)
	}
}

// The ways in which the backend may meet a call, and what becomes of it if its
// caller stays for longer than the budget.
var meetings = []struct {
	name  string
	took  time.Duration // until it answers
	heeds bool          // its context
	err   error
	r     limiter.Result
}{
	{name: "answers", r: limiter.Result{Allowed: true, Source: limiter.SourceRedis}},
	{name: "answers in a while", took: 30 * ms, r: limiter.Result{Allowed: true, Source: limiter.SourceRedis}},
	{name: "denies", r: limiter.Result{Source: limiter.SourceRedis, RetryAfter: 1}},
	{name: "has it from a cache", r: limiter.Result{Source: limiter.SourceDenyCache, RetryAfter: 1}},
	{name: "refuses", err: errBroken},
	{name: "refuses in a while", took: 30 * ms, err: errBroken},
	{name: "gives up", took: 30 * ms, err: context.DeadlineExceeded},
	{name: "finds it invalid", err: limiter.ErrPolicy},
	{name: "hangs", took: time.Minute, heeds: true, err: context.DeadlineExceeded},
	{name: "hangs and heeds nothing", took: 3 * time.Second, r: limiter.Result{Allowed: true, Source: limiter.SourceRedis}},
	{name: "hangs and fails", took: 3 * time.Second, err: errBroken},
}

// FuzzBreaker plays calls one after the other, two bytes each: how the backend
// meets it, and when the caller leaves or how long the pause before it is.
func FuzzBreaker(f *testing.F) {
	f.Add([]byte{4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 0, 0, 0, 7, 0, 0})
	f.Add([]byte{8, 0, 8, 0, 8, 1, 8, 0, 8, 0, 8, 2, 8, 0, 3, 7, 3, 0, 9, 0, 1, 7})
	f.Add([]byte{9, 0, 9, 1, 9, 0, 9, 2, 9, 0, 9, 0, 9, 0, 10, 7, 10, 7, 1, 1, 1, 7, 1, 0})
	f.Add([]byte{5, 2, 5, 0, 5, 0, 3, 0, 7, 0, 5, 0, 5, 0, 5, 0, 7, 7, 3, 0, 1, 1, 2, 0})
	f.Add([]byte{6, 0, 6, 0, 6, 0, 6, 0, 6, 0, 6, 7, 0, 7})
	f.Fuzz(play)
}

// The same with random scripts.
func TestBreaker(t *testing.T) {
	scripts := 3000
	if testing.Short() {
		scripts = 300
	}
	for seed := range scripts {
		rnd := rand.New(rand.NewPCG(uint64(seed), 28))
		script := make([]byte, 2*rnd.IntN(100))
		bad := rnd.IntN(4)
		for i := range script {
			script[i] = byte(rnd.IntN(256))
			if i%2 == 0 && rnd.IntN(4) < bad {
				script[i] = []byte{4, 5, 6, 8, 9, 10}[rnd.IntN(6)]
			}
		}
		if play(t, script); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func play(t *testing.T, script []byte) {
	inTime(t, func(t *testing.T) {
		var m machine
		var asked atomic.Int64
		var meeting atomic.Int64
		l := failover.New(answeringIn{func(ctx context.Context) (limiter.Result, error) {
			asked.Add(1)
			k := meetings[meeting.Load()]
			end := ctx.Done()
			if !k.heeds {
				end = nil
			}
			select {
			case <-time.After(k.took):
				return k.r, k.err
			case <-end:
				return limiter.Result{}, ctx.Err()
			}
		}}, failover.Closed, nil)
		for i := 0; i+1 < len(script) && i < 400; i += 2 {
			meeting.Store(int64(script[i]) % int64(len(meetings)))
			k := meetings[meeting.Load()]
			ctx, cancel, stays := t.Context(), context.CancelFunc(func() {}), time.Hour
			switch script[i+1] % 8 {
			case 1:
				stays = 20 * ms
				ctx, cancel = context.WithTimeout(ctx, stays)
			case 2:
				stays = 20 * ms
				ctx, cancel = context.WithCancel(ctx)
				time.AfterFunc(stays, cancel)
			case 6:
				time.Sleep(time.Second)
			case 7:
				time.Sleep(time.Second + 1)
			}
			start := time.Now()
			reaches := m.asks(start)
			probe := reaches && m.down
			before := asked.Load()
			r, err := l.Take(ctx, of(day(1), 1))
			took := time.Since(start)
			left := ctx.Err()
			cancel()

			if n := asked.Load(); (n > before) != reaches || n > before+1 {
				t.Fatalf("call %d, which %s: the backend was asked %d times, want %v", i/2, k.name, n-before, reaches)
			}
			if !reaches {
				if took != 0 || !errors.Is(err, failover.ErrUnavailable) {
					t.Fatalf("call %d while the breaker is open: %+v, %v after %v", i/2, r, err, took)
				}
				continue
			}
			patience := budget
			if !probe {
				patience = min(budget, stays)
			}
			want := min(k.took, patience)
			if took != want {
				t.Fatalf("call %d, which %s: took %v, want %v", i/2, k.name, took, want)
			}
			answered := k.took < patience
			switch {
			case answered && k.err == nil:
				if err != nil || r != k.r {
					t.Fatalf("call %d, which %s: %+v, %v", i/2, k.name, r, err)
				}
				if k.r.Source == limiter.SourceRedis {
					m.good()
				}
			case answered && k.err == limiter.ErrPolicy:
				if err != k.err {
					t.Fatalf("call %d, which %s: %v", i/2, k.name, err)
				}
			case !answered && patience < budget:
				if err != left || left == nil {
					t.Fatalf("call %d, whose caller left: %v, want %v", i/2, err, left)
				}
			default:
				m.bad(time.Now())
				if left == nil && !errors.Is(err, failover.ErrUnavailable) || left != nil && err != left ||
					left == nil && errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("call %d, which %s: %v (the caller: %v)", i/2, k.name, err, left)
				}
			}
		}
	})
}

// answeringIn is a backend that may take its time.
type answeringIn struct {
	answer func(context.Context) (limiter.Result, error)
}

func (a answeringIn) Take(ctx context.Context, _ limiter.Charge) (limiter.Result, error) {
	return a.answer(ctx)
}
func (answeringIn) TakeAll(context.Context, []limiter.Charge) ([]limiter.Result, error) {
	panic("unused")
}
func (answeringIn) Refund(context.Context, limiter.Charge, *limiter.Result) error { panic("unused") }
func (answeringIn) Reset(context.Context, limiter.Charge) error                   { panic("unused") }
