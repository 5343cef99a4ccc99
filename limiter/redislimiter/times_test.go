package redislimiter

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/limiter"
)

// A question asked n times at once is answered as if it were asked n times, and
// a call of many questions as if they were many calls.
func TestTimes(t *testing.T) {
	c := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr(), MaxRetries: -1, ContextTimeoutEnabled: true})
	t.Cleanup(func() { c.Close() })
	now := time.Now()
	limiters := make([]*Limiter, 2)
	for i := range limiters {
		l, err := New(c, &Options{Prefix: fmt.Sprint("p", i), ClientClock: true})
		if err != nil {
			t.Fatal(err)
		}
		l.now = func() time.Time { return now }
		limiters[i] = l
	}
	rnd := rand.New(rand.NewPCG(1, 22))
	unit := time.Second
	for step := range 200 {
		now = now.Add(time.Duration(rnd.Int64N(int64(3 * unit))).Truncate(time.Microsecond))
		// A few decisions, some of them with several charges.
		var cs [][]limiter.Charge
		var times []int
		for range 1 + rnd.IntN(4) {
			var ch []limiter.Charge
			log := false
			for range 1 + rnd.IntN(3)*rnd.IntN(2) {
				p := limiter.Policy{Name: "p", Algorithm: limiter.Algorithm(rnd.IntN(5)), Limit: 12, Window: 12 * unit}
				x := limiter.Charge{Policy: p, Key: fmt.Sprint(rnd.IntN(2)), Cost: rnd.IntN(4)}
				if rnd.IntN(4) == 0 {
					x.MaxDelay = time.Duration(rnd.IntN(5)) * unit
				}
				log = log || p.Algorithm == limiter.SlidingLog
				ch = append(ch, x)
			}
			n := 1 + rnd.IntN(8)
			if log {
				n = 1 // events have one id each
			}
			cs, times = append(cs, ch), append(times, n)
		}
		questions := func(l *Limiter, i, n int) *question {
			q := &question{entries: make([]entry, len(cs[i])), times: n}
			for j := range cs[i] {
				q.entries[j].encode(l, &cs[i][j])
			}
			return q
		}
		var all []*question
		for i := range cs {
			all = append(all, questions(limiters[0], i, times[i]))
		}
		if err := limiters[0].ask(t.Context(), all...); err != nil {
			t.Fatal(err)
		}
		for i := range cs {
			for n := range times[i] {
				one := questions(limiters[1], i, 1)
				if err := limiters[1].ask(t.Context(), one); err != nil {
					t.Fatal(err)
				}
				var got, want []limiter.Result
				all[i].results(n, false, func(_ *entry, r limiter.Result) { got = append(got, r) })
				one.results(0, false, func(_ *entry, r limiter.Result) { want = append(want, r) })
				for j := range want {
					if cs[i][j].Policy.Algorithm == limiter.SlidingLog {
						got[j].Receipt.Given, want[j].Receipt.Given = 0, 0 // the id
					}
					if got[j] != want[j] {
						t.Fatalf("step %d, decision %d of %+v, time %d of %d:\n got %+v\nwant %+v", step, i, cs[i], n, times[i], got[j], want[j])
					}
				}
			}
		}
	}
}

// The errors of servers as they come, of several versions.
func TestMeaning(t *testing.T) {
	for _, tt := range []struct {
		text string
		want error
	}{
		{"READONLY You can't write against a read only replica.", ErrReadOnly},
		{"READONLY You can't write against a read only replica. script: 1a2b, on @user_script:5.", ErrReadOnly},
		{"ERR Error running script (call to f_1a2b): @user_script:5: @user_script: 5: -READONLY You can't write against a read only replica.", ErrReadOnly},
		{"LOADING Redis is loading the dataset in memory", ErrLoading},
		{"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", ErrBusy},
		{"OOM command not allowed when used memory > 'maxmemory'.", ErrOutOfMemory},
		{"ERR Error running script (call to f_1a2b): @user_script:5: @user_script: 5: -OOM command not allowed when used memory > 'maxmemory'.", ErrOutOfMemory},
		{"NOPERM this user has no permissions to run the 'evalsha' command", ErrPermission},
		{"ERR The user executing the script can't run this command or subcommand script: 1a2b, on @user_script:5.", ErrPermission},
		{"ERR ACL failure in script: User limits has no permissions to run the 'get' command script: 1a2b", ErrPermission},
		{"NOAUTH Authentication required.", ErrAuth},
		{"WRONGPASS invalid username-password pair or user is disabled.", ErrAuth},
		{"WRONGTYPE Operation against a key holding the wrong kind of value", ErrWrongType},
		{"ERR Error running script (call to f_1a2b): @user_script:5: WRONGTYPE Operation against a key holding the wrong kind of value", ErrWrongType},
		{"CLUSTERDOWN Hash slot not served", ErrCluster},
		{"TRYAGAIN Multiple keys request during rehashing of slot", ErrCluster},
		{"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", ErrCluster},
		{"CROSSSLOT Keys in request don't hash to the same slot", ErrCluster},
		{"ERR value is not an integer or out of range", ErrServer},
		{"BUSYGROUP nothing of ours", ErrServer},
	} {
		if got := meaning(serverError(tt.text), true); got != tt.want {
			t.Errorf("%q means %q, want %q", tt.text, got, tt.want)
		}
	}
	for _, tt := range []struct {
		err  error
		sent bool
		want error
	}{
		{io.EOF, true, ErrUnknown},
		{io.EOF, false, ErrUnreachable},
		{&net.OpError{Op: "read", Err: errors.New("i/o timeout")}, true, ErrUnknown},
		{&net.OpError{Op: "dial", Err: errors.New("connection refused")}, true, ErrUnreachable},
		{redis.ErrPoolTimeout, true, ErrUnreachable},
		{redis.ErrClosed, true, ErrUnreachable},
	} {
		if got := meaning(tt.err, tt.sent); got != tt.want {
			t.Errorf("%v, sent %v, means %q, want %q", tt.err, tt.sent, got, tt.want)
		}
	}
}

type serverError string

func (e serverError) Error() string { return string(e) }
func (serverError) RedisError()     {}
