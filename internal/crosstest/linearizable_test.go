//go:build unix

package crosstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/goweir/weir/internal/faultnet"
	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/redislimiter"
)

// Short histories of several clients of one Redis server are checked for
// linearizability: there is an order of the decisions, each between its question
// and its answer, in which one caller alone would have got the same answers.
//
// What a server decides depends on its clock, and its answers say what that
// showed: a grant by where it left the quota and how long that is until it is
// whole, a refusal by the latter. The clock of a server on the same machine is
// that of the clients, so the reading, too, must lie between question and
// answer, and must not step back in the order. Times are microseconds.

// An asked is the input of an operation.
type asked struct {
	policy limiter.Policy
	key    string
	at     int64
	over   int64 // when the history ended
}

// An answered is its output.
type answered struct {
	at      int64
	result  limiter.Result
	unknown bool // whether it was decided
}

// A record is a history.
type record struct {
	mu    sync.Mutex
	begin time.Time
	ops   []porcupine.Operation
}

func (r *record) take(l limiter.Limiter, client int, p limiter.Policy, key string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	call := time.Now()
	result, err := l.Take(ctx, limiter.Charge{Policy: p, Key: key, Cost: 1})
	end := time.Now()
	if err != nil && !errors.Is(err, redislimiter.ErrUnknown) {
		return err // nothing was taken: there is nothing to explain
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, porcupine.Operation{
		ClientId: client,
		Input:    asked{policy: p, key: key, at: call.UnixMicro()},
		Call:     int64(call.Sub(r.begin)),
		Output:   answered{at: end.UnixMicro(), result: result, unknown: err != nil},
		Return:   int64(end.Sub(r.begin)),
	})
	return err
}

// close ends a history. What nobody knows may have happened until then.
func (r *record) close() []porcupine.Operation {
	end := time.Now()
	for i := range r.ops {
		in := r.ops[i].Input.(asked)
		in.over = end.UnixMicro()
		r.ops[i].Input = in
		if r.ops[i].Output.(answered).unknown {
			r.ops[i].Return = int64(end.Sub(r.begin))
		}
	}
	return r.ops
}

// A shelf is the state of a quota: of a bucket, the bounds of its arrival; of a
// fixed window, its end and what was taken in it. seen is the latest reading of
// the clock.
type shelf struct{ lo, hi, units, seen int64 }

func model() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			parts := map[string][]porcupine.Operation{}
			for _, op := range history {
				in := op.Input.(asked)
				id := in.policy.Name + " " + in.key
				parts[id] = append(parts[id], op)
			}
			var all [][]porcupine.Operation
			for _, p := range parts {
				all = append(all, p)
			}
			return all
		},
		Init: func() []any { return []any{shelf{}} },
		Step: func(state, input, output any) []any {
			s, in, out := state.(shelf), input.(asked), output.(answered)
			if in.policy.Algorithm == limiter.FixedWindow {
				return windowStep(s, in, out)
			}
			return bucketStep(s, in, out)
		},
		DescribeOperation: func(input, output any) string {
			in, out := input.(asked), output.(answered)
			if out.unknown {
				return fmt.Sprintf("%s %s: ?", in.policy.Name, in.key)
			}
			return fmt.Sprintf("%s %s: %+v", in.policy.Name, in.key, out.result)
		},
		DescribeState: func(state any) string { return fmt.Sprintf("%+v", state) },
	}
	return m.ToModel()
}

// bucketStep is a GCRA by its definition: the arrival moves by a unit for each
// grant, which is given as long as it is no further ahead than the capacity
// less a unit.
func bucketStep(s shelf, in asked, out answered) []any {
	unit := in.policy.Window.Microseconds() / int64(in.policy.Limit)
	room := unit * int64(in.policy.Burst-1)
	reset := out.result.ResetAfter.Microseconds()
	switch {
	case out.unknown:
		next := []any{s}
		if s.lo-in.over <= room {
			next = append(next, shelf{lo: max(s.lo, in.at) + unit, hi: max(s.hi, in.over) + unit, seen: s.seen})
		}
		return next
	case out.result.Allowed:
		until := out.result.Receipt.Until
		now := until - reset
		if now < max(in.at, s.seen) || now > out.at {
			return nil
		}
		before := until - unit
		switch {
		case before == now && s.lo <= now:
		case before > now && before-now <= room && s.lo <= before && before <= s.hi:
		default:
			return nil
		}
		return []any{shelf{lo: until, hi: until, seen: now}}
	}
	if reset <= room || out.result.RetryAfter.Microseconds() != reset-room {
		return nil
	}
	next := shelf{lo: max(s.lo, max(in.at, s.seen)+reset), hi: min(s.hi, out.at+reset)}
	if next.lo > next.hi {
		return nil
	}
	next.seen = next.lo - reset
	return []any{next}
}

// windowStep counts in the windows of the clock.
func windowStep(s shelf, in asked, out answered) []any {
	length, limit := in.policy.Window.Microseconds(), int64(in.policy.Limit)
	reset := out.result.ResetAfter.Microseconds()
	grant := func(end, now int64) (shelf, bool) {
		n := shelf{lo: end, hi: end, units: 1, seen: now}
		if end == s.lo {
			n.units = s.units + 1
		}
		return n, end >= s.lo && n.units <= limit
	}
	switch {
	case out.unknown:
		next := []any{s}
		first := max(s.lo, in.at-in.at%length+length)
		for end := first; end-length <= in.over; end += length {
			if n, ok := grant(end, s.seen); ok {
				next = append(next, n)
			}
		}
		return next
	case out.result.Allowed:
		end := out.result.Receipt.Until
		now := end - reset
		if now < max(in.at, s.seen) || now > out.at || end%length != 0 || reset <= 0 || reset > length {
			return nil
		}
		if n, ok := grant(end, now); ok && int64(out.result.Remaining) == limit-n.units {
			return []any{n}
		}
		return nil
	}
	now := s.lo - reset
	if s.units != limit || now < max(in.at, s.seen) || now > out.at || out.result.RetryAfter.Microseconds() != reset {
		return nil
	}
	s.seen = now
	return []any{s}
}

// checked fails the test unless the history is as it should be, and draws it.
func checked(t *testing.T, history []porcupine.Operation) {
	t.Helper()
	m := model()
	result, info := porcupine.CheckOperationsVerbose(m, history, time.Minute)
	if result == porcupine.Ok {
		return
	}
	path := filepath.Join(t.ArtifactDir(), "history.html")
	if err := porcupine.VisualizePath(m, info, path); err != nil {
		t.Error(err)
	}
	t.Errorf("the history of %d operations is %s; -artifacts keeps a picture of it in %s", len(history), result, path)
}

var linearizable = []limiter.Policy{
	{Name: "bucket", Limit: 100, Window: time.Second, Burst: 5},
	{Name: "window", Algorithm: limiter.FixedWindow, Limit: 8, Window: 100 * time.Millisecond},
}

// scarce are quotas that are used up however slow a busy machine is.
var scarce = []limiter.Policy{
	{Name: "bucket", Limit: 10, Window: time.Second, Burst: 5},
	{Name: "window", Algorithm: limiter.FixedWindow, Limit: 8, Window: time.Second},
}

const (
	clients = 8
	each    = 40
)

// A client has one question at a time on its way. Those who leave others behind
// on a shared way have what they left given back, at a time that nobody knows.
func history(t *testing.T, addr string, policies []limiter.Policy, seed uint64, patience time.Duration, begin func() (end func())) ([]porcupine.Operation, int) {
	t.Helper()
	prefix := fmt.Sprintf("p%d", seed)
	var ls []limiter.Limiter
	for range clients {
		// How long an answer may take is for patience to say.
		c, err := redislimiter.Dial(t.Context(), "redis://"+addr+"?dial_timeout=10s&read_timeout=10s&write_timeout=10s&pool_timeout=10s")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		l, err := redislimiter.New(c, &redislimiter.Options{Prefix: prefix, DenyCache: -1})
		if err != nil {
			t.Fatal(err)
		}
		ls = append(ls, l)
	}
	end := begin()
	r := &record{begin: time.Now()}
	var wg sync.WaitGroup
	for client, l := range ls {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(client)))
			for range each {
				p := policies[rnd.IntN(len(policies))]
				if r.take(l, client, p, string(rune('a'+rnd.IntN(2))), patience) == nil {
					time.Sleep(time.Duration(rnd.IntN(8_000)) * time.Microsecond)
				}
			}
		})
	}
	wg.Wait()
	end()
	ops := r.close()
	unknown := 0
	for _, op := range ops {
		if op.Output.(answered).unknown {
			unknown++
		}
	}
	return ops, unknown
}

func TestLinearizable(t *testing.T) {
	for _, tt := range []struct {
		name     string
		patience time.Duration
		// begin makes faults, and returns what ends them.
		begin func(s *redistest.Server, p *faultnet.Proxy) (end func())
		lossy bool
	}{
		{"healthy", 5 * time.Second, func(*redistest.Server, *faultnet.Proxy) func() { return func() {} }, false},
		{"jitter", 5 * time.Second, func(_ *redistest.Server, p *faultnet.Proxy) func() {
			p.Set(faultnet.Faults{Latency: time.Millisecond, Jitter: 3 * time.Millisecond})
			return func() {}
		}, false},
		{"scripts flushed", 5 * time.Second, func(s *redistest.Server, _ *faultnet.Proxy) func() {
			return repeat(5*time.Millisecond, func() { s.Do("SCRIPT", "FLUSH") })
		}, false},
		{"replies lost", time.Second, func(_ *redistest.Server, p *faultnet.Proxy) func() {
			p.Set(faultnet.Faults{LoseReply: losing(25)})
			return func() {}
		}, true},
		{"connections reset", time.Second, func(_ *redistest.Server, p *faultnet.Proxy) func() {
			p.Set(faultnet.Faults{Jitter: time.Millisecond})
			return repeat(60*time.Millisecond, p.Reset)
		}, true},
		{"server stops for a while", 40 * time.Millisecond, func(s *redistest.Server, _ *faultnet.Proxy) func() {
			return repeat(80*time.Millisecond, func() {
				s.Stop()
				time.Sleep(50 * time.Millisecond)
				s.Cont()
			})
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rounds := 4
			if testing.Short() {
				rounds = 1
			}
			all, lost := 0, 0
			for round := range rounds {
				s := redistest.Start(t)
				p := faultnet.New(t, s.Addr())
				ops, unknown := history(t, p.Addr(), linearizable, uint64(round), tt.patience, func() func() { return tt.begin(s, p) })
				all, lost = all+len(ops), lost+unknown
				if !tt.lossy && (unknown > 0 || len(ops) != clients*each) {
					t.Errorf("%d operations, %d of them without an answer, want %d and none", len(ops), unknown, clients*each)
				}
				checked(t, ops)
			}
			t.Logf("%d operations in %d histories, %d without an answer", all, rounds, lost)
			if tt.lossy && lost == 0 {
				t.Error("no answer was lost")
			}
		})
	}
}

// losing loses about one reply of n to decisions.
func losing(n int) func([]byte) bool {
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(1, uint64(n)))
	return func(sent []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		return bytes.Contains(sent, []byte("evalsha")) && rnd.IntN(n) == 0
	}
}

// repeat calls f every so often, until the function returned is called.
func repeat(every time.Duration, f func()) (end func()) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(every):
				f()
			}
		}
	})
	return func() {
		close(stop)
		wg.Wait()
	}
}

// The check notices what a wrong limiter would have answered, wherever that shows
// in what comes later.
func TestLinearizableNotices(t *testing.T) {
	ops, _ := history(t, redistest.Start(t).Addr(), scarce, 1, 5*time.Second, func() func() { return func() {} })
	checked(t, ops)
	for _, a := range []limiter.Algorithm{limiter.TokenBucket, limiter.FixedWindow} {
		for _, tt := range []struct {
			name    string
			allowed bool
			change  func(*limiter.Result) // nil: nobody has asked
		}{
			{"a grant is counted twice", true, func(r *limiter.Result) {
				r.Receipt.Until += 10_000
				r.ResetAfter += 10 * time.Millisecond
				r.Remaining--
			}},
			{"the clock steps back", true, func(r *limiter.Result) { r.ResetAfter += 10 * time.Second }},
			{"a grant is forgotten", true, nil},
			{"a refusal is wrong", false, func(r *limiter.Result) {
				r.ResetAfter /= 2
				r.RetryAfter /= 2
			}},
		} {
			tried, noticed := 0, 0
			for i, op := range ops {
				in, out := op.Input.(asked), op.Output.(answered)
				if in.policy.Algorithm != a || out.result.Allowed != tt.allowed || tried == 20 {
					continue
				}
				wrong := slices.Clone(ops)
				if tt.change == nil {
					wrong = slices.Delete(wrong, i, i+1)
				} else {
					tt.change(&out.result)
					wrong[i].Output = out
				}
				tried++
				if !porcupine.CheckOperations(model(), wrong) {
					noticed++
				}
			}
			t.Logf("%v: of %d histories in which %s, %d are noticed", a, tried, tt.name, noticed)
			if noticed <= tried/2 {
				t.Errorf("%v: of %d histories in which %s, %d are noticed", a, tried, tt.name, noticed)
			}
		}
	}
}
