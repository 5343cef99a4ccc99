package proxy

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"
)

// A reference is a breaker as a list of what happened, written from the doc of
// Breaker, without a gobreaker.
type reference struct {
	cfg   Breaker
	state gobreaker.State
	since time.Time // of state
	epoch int       // changes of state so far

	judged  []judgement // in the closed state
	pending int         // probes that wait for their judgement
	well    int         // probes that have gone well
	tickets []*refTicket
}

type judgement struct {
	tenth int // of the window, counted from since, in which the request began
	ok    bool
}

type refTicket struct {
	epoch, tenth int
	probe        bool
	settled      bool
	due          time.Time // when a probe is taken for a good one
	failed       bool
	later        bool
}

func (r *reference) enter(s gobreaker.State) {
	r.state, r.since, r.epoch = s, time.Now(), r.epoch+1
	r.judged, r.pending, r.well = nil, 0, 0
}

func (r *reference) tenth() int { return int(time.Since(r.since) / (r.cfg.Window / 10)) }

// tick lets time have its way.
func (r *reference) tick() {
	if r.state == gobreaker.StateOpen && time.Since(r.since) > r.cfg.OpenFor {
		r.enter(gobreaker.StateHalfOpen)
	}
}

func (r *reference) allow() *refTicket {
	r.tick()
	switch {
	case r.state == gobreaker.StateOpen, r.state == gobreaker.StateHalfOpen && r.pending+r.well >= r.cfg.Probes:
		return nil
	case r.state == gobreaker.StateHalfOpen:
		r.pending++
	}
	t := &refTicket{epoch: r.epoch, tenth: r.tenth(), probe: r.state == gobreaker.StateHalfOpen}
	r.tickets = append(r.tickets, t)
	return t
}

func (r *reference) judge(epoch, tenth int, o outcome) {
	r.tick()
	if epoch != r.epoch {
		return
	}
	if r.state == gobreaker.StateHalfOpen {
		r.pending--
		switch o {
		case failure:
			r.enter(gobreaker.StateOpen)
		case success:
			if r.well++; r.well >= r.cfg.Probes {
				r.enter(gobreaker.StateClosed)
			}
		}
		return
	}
	if o == noSign {
		return
	}
	r.judged = append(r.judged, judgement{tenth, o == success})
	if o == success {
		return
	}
	all, bad := 0, 0
	for _, j := range r.judged {
		if j.tenth > r.tenth()-10 {
			all++
			if !j.ok {
				bad++
			}
		}
	}
	// A failure that is too old to count is still a moment at which it is counted.
	if all >= r.cfg.MinRequests && float64(bad) >= r.cfg.FailureRatio*float64(all) {
		r.enter(gobreaker.StateOpen)
	}
}

func (r *reference) settle(t *refTicket, o outcome) bool {
	if t.settled {
		return false
	}
	t.settled = true
	r.judge(t.epoch, t.tenth, o)
	return true
}

func (r *reference) header(t *refTicket, o outcome, more bool) {
	t.failed = o == failure
	switch {
	case more && t.probe:
		t.due = time.Now().Add(time.Second)
	case more:
		t.later = true
		r.settle(t, noSign)
	default:
		r.settle(t, o)
	}
}

func (r *reference) end(t *refTicket, o outcome) {
	t.due = time.Time{}
	if r.settle(t, o) || o == noSign || t.failed || o == success && !t.later {
		return
	}
	if r.tick(); r.state == gobreaker.StateClosed {
		r.judge(r.epoch, r.tenth(), o)
	}
}

// Whatever happens in whatever order, the breaker is in the state that the
// reference is in.
func TestBreakerAgainstReference(t *testing.T) {
	changes := map[gobreaker.State]int{}
	for seed := range uint64(400) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 6))
			cfg := Breaker{
				FailureRatio: []float64{0.1, 0.5, 1}[rnd.IntN(3)],
				MinRequests:  1 + rnd.IntN(6),
				Window:       time.Second,
				OpenFor:      700 * time.Millisecond,
				Probes:       1 + rnd.IntN(3),
			}
			b := newBreaker(&cfg, func(to gobreaker.State) { changes[to]++ })
			ref := &reference{cfg: cfg, since: time.Now()}
			type pair struct {
				real    *ticket
				ref     *refTicket
				headers bool
			}
			var under []*pair
			for step := range 400 {
				switch op := rnd.IntN(10); {
				case op < 4:
					real, want := b.allow(), ref.allow()
					if (real == nil) != (want == nil) {
						t.Fatalf("seed %d, step %d: allowed %t, want %t in state %s", seed, step, real != nil, want != nil, ref.state)
					}
					if real != nil {
						under = append(under, &pair{real, want, false})
					}
				case op < 8 && len(under) > 0:
					i := rnd.IntN(len(under))
					u := under[i]
					o := outcome(rnd.IntN(3))
					if !u.headers {
						u.headers = true
						more := rnd.IntN(2) == 0
						if more {
							o = noSign
						}
						u.real.header(o, more)
						ref.header(u.ref, o, more)
						break
					}
					u.real.end(o)
					ref.end(u.ref, o)
					under = append(under[:i], under[i+1:]...)
				default:
					until := time.Now().Add(time.Duration(rnd.IntN(250)) * time.Millisecond)
					for { // the timers that fire on the way, one by one
						var next *refTicket
						for _, t := range ref.tickets {
							if !t.due.IsZero() && !t.due.After(until) && (next == nil || t.due.Before(next.due)) {
								next = t
							}
						}
						if next == nil {
							break
						}
						time.Sleep(time.Until(next.due))
						synctest.Wait()
						next.due = time.Time{}
						ref.settle(next, success)
					}
					time.Sleep(time.Until(until))
				}
				ref.tick()
				if got := b.now(); got != ref.state {
					t.Fatalf("seed %d, step %d: %s, want %s", seed, step, got, ref.state)
				}
			}
			for _, u := range under {
				u.real.end(noSign)
			}
		})
	}
	for _, s := range []gobreaker.State{gobreaker.StateClosed, gobreaker.StateHalfOpen, gobreaker.StateOpen} {
		if changes[s] < 500 {
			t.Errorf("%s was entered %d times: the sequences are too tame", s, changes[s])
		}
	}
	t.Logf("entered: %v", changes)
}
