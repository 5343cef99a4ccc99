//go:build unix

package redislimiter_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/redislimiter"
)

// Several processes are several runs of this test binary: each runs TestProcess,
// which does nothing in a test run of its own.
const processVariable = "WEIR_TEST_PROCESS"

// A job is what a process does at once with each of its Limiters.
type job struct {
	Charges []limiter.Charge

	// Each goroutine of each Limiter goes through the charges Times times, or for
	// so long, and pauses after each.
	Goroutines int
	Times      int
	For        time.Duration
	Pause      time.Duration
}

// A setup is what a process gets first.
type setup struct {
	URL, Prefix string
	Limiters    int
	Lease       int // 0: none
}

// A decided charge, as the process saw it.
type decided struct {
	Charge        int   // in the job
	Limiter       int   // in the process, later of all
	Before, After int64 // when it asked and was answered, by the machine's clock
	Allowed       bool
	Source        limiter.Source
	Until, Paid   int64 // of the receipt
	Reset         int64 // ResetAfter
	Err           string
}

// serverTime returns when the server granted d, by its own clock: the answer to
// a grant says how far ahead of it what the receipt names is. That is so for all
// that has its ResetAfter end at Until: buckets and fixed windows.
func (d *decided) serverTime() int64 { return d.Until - d.Reset }

func TestProcess(t *testing.T) {
	text := os.Getenv(processVariable)
	if text == "" {
		t.Skip("it is run by other tests, as a process of its own")
	}
	in := json.NewDecoder(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	if err := work(text, in, out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0) // without the words of package testing
}

func work(text string, in *json.Decoder, out *json.Encoder) error {
	var s setup
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	var ls []*redislimiter.Limiter
	for range s.Limiters {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		// What is counted does not depend on how fast a busy machine is.
		c, err := redislimiter.Dial(ctx, s.URL+"?dial_timeout=10s&read_timeout=10s&write_timeout=10s&pool_timeout=10s")
		cancel()
		if err != nil {
			return err
		}
		defer c.Close()
		o := &redislimiter.Options{Prefix: s.Prefix}
		if s.Lease > 0 {
			o.Lease = func(limiter.Policy) int { return s.Lease }
		}
		l, err := redislimiter.New(c, o)
		if err != nil {
			return err
		}
		ls = append(ls, l)
	}
	for {
		var j job
		if err := in.Decode(&j); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := out.Encode(j.do(ls)); err != nil {
			return err
		}
	}
}

func (j *job) do(ls []*redislimiter.Limiter) []decided {
	var mu sync.Mutex
	var all []decided
	var wg sync.WaitGroup
	end := time.Now().Add(j.For)
	for i, l := range ls {
		for range j.Goroutines {
			wg.Go(func() {
				var own []decided
				for n := 0; n < j.Times || j.For > 0 && time.Now().Before(end); n++ {
					for k, c := range j.Charges {
						own = append(own, decide(l, c, i, k))
						if j.Pause > 0 {
							time.Sleep(j.Pause)
						}
					}
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, own...)
			})
		}
	}
	wg.Wait()
	return all
}

func decide(l *redislimiter.Limiter, c limiter.Charge, i, k int) decided {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	d := decided{Charge: k, Limiter: i, Before: time.Now().UnixMicro()}
	r, err := l.Take(ctx, c)
	d.After = time.Now().UnixMicro()
	d.Allowed, d.Source, d.Until, d.Paid, d.Reset = r.Allowed, r.Source, r.Receipt.Until, r.Receipt.Paid, r.ResetAfter.Microseconds()
	if err != nil {
		d.Err = err.Error()
	}
	return d
}

// A process is one that a test has started.
type process struct {
	limiters int
	in       *json.Encoder
	out      *json.Decoder
}

// processes starts n of them, ready for jobs. They end with the test.
func processes(t *testing.T, n int, s setup) []*process {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var ps []*process
	for range n {
		cmd := exec.Command(os.Args[0], "-test.run=^TestProcess$")
		cmd.Env = append(os.Environ(), processVariable+"="+string(text))
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			in.Close() // which ends it
			io.Copy(io.Discard, out)
			if err := cmd.Wait(); err != nil {
				t.Errorf("a process: %v", err)
			}
		})
		ps = append(ps, &process{s.Limiters, json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out))})
	}
	return ps
}

// together lets all processes do a job, the i-th of jobs or the last, and returns
// what was decided.
func together(t *testing.T, ps []*process, jobs ...job) []decided {
	t.Helper()
	answers := make([][]decided, len(ps))
	errs := make([]error, len(ps))
	var wg sync.WaitGroup
	for i, p := range ps {
		wg.Go(func() {
			if errs[i] = p.in.Encode(jobs[min(i, len(jobs)-1)]); errs[i] == nil {
				errs[i] = p.out.Decode(&answers[i])
			}
		})
	}
	wg.Wait()
	var all []decided
	for i := range ps {
		if errs[i] != nil {
			t.Fatalf("process %d: %v", i, errs[i])
		}
		for _, d := range answers[i] {
			if d.Err != "" {
				t.Fatalf("process %d: %s", i, d.Err)
			}
			d.Limiter += i * ps[i].limiters
			all = append(all, d)
		}
	}
	return all
}
