//go:build unix

package redislimiter_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/redislimiter"
)

// The table in docs/when-redis-fails.md is written by the tests that do to a real
// server what it is about:
//
//	go test -run TestFaults ./limiter/redislimiter -update
//
// With -v they print the figures, too, which differ from machine to machine and
// are not in the table.
var update = flag.Bool("update", false, "rewrite docs/when-redis-fails.md")

// A fault is what a test does to a server, and a row of the table.
type fault struct {
	name string // of the test
	when string
	test func(t *testing.T, f *row)

	alone bool // it measures times: nothing runs beside it
	slow  bool // not with -short
}

// A row is what a test has found. Whatever is in it was checked: nothing is
// written but by a check that passed.
type row struct {
	t    *testing.T
	when string

	mu     sync.Mutex
	errors []string
	holds  []string
}

// hold fails the test unless ok, and writes the statement down. figures, printed
// with -v, say what was measured.
func (r *row) hold(ok bool, statement string, figures ...any) {
	r.t.Helper()
	if !ok {
		r.t.Errorf("this does not hold: %s (%s)", statement, strings.TrimSpace(fmt.Sprintln(figures...)))
	} else if len(figures) > 0 {
		r.t.Logf("%s: %s", statement, strings.TrimSpace(fmt.Sprintln(figures...)))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.holds, statement) {
		r.holds = append(r.holds, statement)
	}
}

// fails writes down which errors the fault makes, and fails the test if errs has
// others. A call may fail in one of several ways only where it depends on what
// was under way.
func (r *row) fails(errs []error, want ...error) {
	r.t.Helper()
	for _, err := range errs {
		own := errors.Is(err, context.DeadlineExceeded) && !slices.ContainsFunc(kinds, func(is error) bool { return errors.Is(err, is) })
		if own {
			continue // the caller's own deadline: it had not been asked
		}
		if !slices.ContainsFunc(want, func(is error) bool { return errors.Is(err, is) }) {
			r.t.Errorf("%v, want one that matches %q", err, want)
		}
	}
	for _, is := range want {
		r.errors = append(r.errors, nameOf(is))
	}
}

// exactly is fails for errors that are certain: there are some, the first of want
// among them.
func (r *row) exactly(errs []error, want ...error) {
	r.t.Helper()
	if !slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, want[0]) }) {
		r.t.Errorf("%v, want some that match %q", errs, want[0])
	}
	r.fails(errs, want...)
}

func (r *row) line() string {
	errs := "none"
	if len(r.errors) > 0 {
		errs = "`" + strings.Join(r.errors, "`, `") + "`"
	}
	return fmt.Sprintf("| %s | %s | %s |\n", r.when, errs, strings.Join(r.holds, "; "))
}

func nameOf(err error) string {
	for is, name := range map[error]string{
		redislimiter.ErrUnknown: "ErrUnknown", redislimiter.ErrUnreachable: "ErrUnreachable", redislimiter.ErrReadOnly: "ErrReadOnly",
		redislimiter.ErrLoading: "ErrLoading", redislimiter.ErrBusy: "ErrBusy", redislimiter.ErrOutOfMemory: "ErrOutOfMemory",
		redislimiter.ErrPermission: "ErrPermission", redislimiter.ErrAuth: "ErrAuth", redislimiter.ErrWrongType: "ErrWrongType",
		redislimiter.ErrCluster: "ErrCluster", redislimiter.ErrServer: "ErrServer",
	} {
		if err == is {
			return name
		}
	}
	panic(err)
}

// sections are the tables, in order.
var sections = []struct {
	title  string
	faults []fault
}{
	{"Redis does not answer", awayFaults},
	{"The network is bad", networkFaults},
	{"Redis answers with an error", refusalFaults},
	{"Redis has lost or changed what was stored", stateFaults},
	{"Sentinel and Redis Cluster", clusterFaults},
}

const faultsFile = "../../docs/when-redis-fails.md"

const faultsHead = `# When Redis fails

What a test does to a real ` + "`redis-server`" + `, and what it then finds. The tests write these tables
(` + "`go test -run TestFaults ./limiter/redislimiter -update`" + `), and each statement is an assertion of the test that wrote it.
With ` + "`-v`" + ` they print what they measured. [redis.md](redis.md) says what to do about it.

The second column has the errors of ` + "`redislimiter`" + `, for whoever uses it bare: after all of them but ` + "`ErrUnknown`" + ` nothing was
taken. Behind ` + "`failover`" + ` callers see none of them unless the mode is ` + "`Closed`" + `: every one counts as a failure, and the mode
decides. Budget and breaker are those of ` + "`failover`" + ` with default options: 50 ms, and five failures in a row.
`

func TestFaults(t *testing.T) {
	rows := map[*fault]*row{}
	run := func(alone bool) func(t *testing.T) {
		return func(t *testing.T) {
			for _, s := range sections {
				for i := range s.faults {
					f := &s.faults[i]
					if f.alone != alone {
						continue
					}
					r := &row{when: f.when}
					rows[f] = r
					t.Run(f.name, func(t *testing.T) {
						if f.slow && testing.Short() {
							t.Skip("starts several servers and waits for them")
						}
						if !alone {
							t.Parallel()
						}
						r.t = t
						f.test(t, r)
					})
				}
			}
		}
	}
	// A group ends when all that is parallel in it has ended.
	t.Run("alone", run(true))
	t.Run("beside each other", run(false))

	file := bytes.NewBufferString(faultsHead)
	all := true
	var lines []string
	for _, s := range sections {
		fmt.Fprintf(file, "\n## %s\n\n| when | errors | what holds |\n| --- | --- | --- |\n", s.title)
		for i := range s.faults {
			r := rows[&s.faults[i]]
			if r == nil || r.t == nil || len(r.holds) == 0 {
				all = false
				continue
			}
			lines = append(lines, r.line())
			file.WriteString(r.line())
		}
	}
	if t.Failed() {
		return
	}
	if *update {
		if !all {
			t.Fatal("-update needs all of TestFaults, without -short")
		}
		if err := os.WriteFile(faultsFile, file.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(faultsFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if !bytes.Contains(got, []byte(line)) {
			t.Errorf("%s lacks this row; -update rewrites it:\n%s", faultsFile, line)
		}
	}
	if all && !bytes.Equal(got, file.Bytes()) {
		t.Errorf("%s is not what the tests would write; -update rewrites it", faultsFile)
	}
}

// quick returns the client that users get.
func quick(t testing.TB, addr string) redis.UniversalClient {
	t.Helper()
	c, err := redislimiter.Dial(t.Context(), "redis://"+addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// one is a charge of one unit to n in a time that no test takes.
func one(n int) limiter.Charge {
	return limiter.Charge{Policy: limiter.Policy{Name: "p", Limit: n, Window: 1000 * time.Hour}, Key: "k", Cost: 1}
}

// counts are what became of calls.
type counts struct {
	mu       sync.Mutex
	granted  int
	denied   int
	unknown  int // ErrUnknown: may have been granted
	errs     []error
	longest  time.Duration
	sources  map[limiter.Source]int
	receipts []limiter.Result
}

func (n *counts) take(ctx context.Context, l limiter.Limiter, c limiter.Charge) {
	start := time.Now()
	r, err := l.Take(ctx, c)
	took := time.Since(start)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.longest = max(n.longest, took)
	if n.sources == nil {
		n.sources = map[limiter.Source]int{}
	}
	switch {
	case err != nil:
		n.errs = append(n.errs, err)
		if errors.Is(err, redislimiter.ErrUnknown) {
			n.unknown++
		}
		return
	case r.Allowed:
		n.granted++
		n.receipts = append(n.receipts, r)
	default:
		n.denied++
	}
	n.sources[r.Source]++
}

// crowd lets goroutines take, as often as times says, with a deadline each.
func (n *counts) crowd(t *testing.T, goroutines, times int, patience time.Duration, l limiter.Limiter, c limiter.Charge) {
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range times {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				n.take(ctx, l, c)
				cancel()
			}
		})
	}
	wg.Wait()
}

// inBudget calls f, which lets callers of a failover take, and writes down that
// none of them waited for longer than its budget, the alarms of a clock beside
// them being as late as they are.
func (r *row) inBudget(statement string, f func() *counts) *counts {
	r.t.Helper()
	for try := 1; ; try++ {
		alarms := new(counts)
		ctx, cancel := context.WithCancel(r.t.Context())
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for ctx.Err() == nil {
					start := time.Now()
					time.Sleep(budget)
					late := time.Since(start)
					alarms.mu.Lock()
					alarms.longest = max(alarms.longest, late)
					alarms.mu.Unlock()
				}
			})
		}
		n := f()
		cancel()
		wg.Wait()
		most := max(budget, alarms.longest) + budget + grace
		if n.longest <= most || try == 5 { // the machine may be busy with something else for a while
			r.hold(n.longest <= most, statement, "longest", n.longest, "- of the alarms of the budget:", alarms.longest)
			return n
		}
	}
}

// used returns how many units of c the server has counted.
func used(t *testing.T, l limiter.Limiter, c limiter.Charge) int {
	t.Helper()
	c.Cost = 0
	r, err := l.Take(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r.Limit - r.Remaining
}

// never twice: what the server has counted is what was granted, and no more of
// what nobody knows than there was of it.
func (r *row) neverTwice(n *counts, counted int) {
	r.t.Helper()
	r.hold(n.granted <= counted && counted <= n.granted+n.unknown,
		"nothing is counted twice: the server's count is what was granted, and at most once what ended in `ErrUnknown`",
		"granted", n.granted, "unknown", n.unknown, "counted", counted, "errors", len(n.errs))
}

// eventually fails the test if f does not become true in time.
func eventually(t *testing.T, what string, within time.Duration, f func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !f() {
		if time.Since(start) > within {
			t.Fatalf("%v have passed without this: %s", within, what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(start)
}
