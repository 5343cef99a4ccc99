package proxy

import (
	"cmp"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// Breaker stops sending requests to an upstream of which too many have failed,
// lets it rest, and then tries it with a few. The zero value is no breaker. What
// is a failure is said at [Ejection]. An answer is judged when its header comes
// and again when its body ends: one that is broken off is a failure, the client's
// leaving says nothing either way. An upgraded connection and an event stream are
// good ones from their header on.
//
// Each upstream has a breaker of its own. While it is open, requests go to other
// upstreams, or are answered with 503 and a Retry-After. A breaker costs up
// to ten locks, each held for a moment, and three small allocations a request, and
// a timer for a probe.
type Breaker struct {
	_ [0]func() // keyed literals only: fields will be added

	// FailureRatio is the share of failures among the judged requests of the
	// window from which on the breaker opens. 0: no breaker; below 0 and above 1
	// are faults.
	FailureRatio float64

	// MinRequests is how many must have been judged in the window before the
	// share means anything. 0 means 20; negative is a fault.
	MinRequests int

	// Window is the time that is looked back on. It moves on in tenths. 0 means
	// 10 s; less than 10 ms is a fault.
	Window time.Duration

	// OpenFor is how long the breaker is open before it lets probes through. 0
	// means 5 s; negative is a fault.
	OpenFor time.Duration

	// Probes is how many requests may try an upstream after that. The breaker
	// closes when so many have gone well, and opens again with the first that has
	// not. A probe has gone well when its answer has ended, or has lasted for one
	// second after its header. 0 means 1; negative is a fault.
	Probes int
}

func (b *Breaker) resolve(fault func(string, ...any)) {
	if !(b.FailureRatio >= 0 && b.FailureRatio <= 1) {
		fault("Breaker.FailureRatio is %v: 0 (meaning no breaker) to 1 are allowed", b.FailureRatio)
	}
	if b.MinRequests < 0 {
		fault("Breaker.MinRequests is %d: 0 (meaning 20) and more are allowed", b.MinRequests)
	}
	if b.Window != 0 && b.Window < 10*time.Millisecond {
		fault("Breaker.Window is %s: 0 (meaning 10s), and 10ms and more are allowed", b.Window)
	}
	if b.OpenFor < 0 {
		fault("Breaker.OpenFor is %s: 0 (meaning 5s) and more are allowed", b.OpenFor)
	}
	if b.Probes < 0 {
		fault("Breaker.Probes is %d: 0 (meaning 1) and more are allowed", b.Probes)
	}
	b.MinRequests = cmp.Or(b.MinRequests, 20)
	b.Window = cmp.Or(b.Window, 10*time.Second)
	b.OpenFor = cmp.Or(b.OpenFor, 5*time.Second)
	b.Probes = cmp.Or(b.Probes, 1)
}

// A BreakerState is the state of an upstream's breaker.
type BreakerState uint8

const (
	BreakerNone     BreakerState = iota // there is no breaker
	BreakerClosed                       // requests pass
	BreakerHalfOpen                     // probes pass
	BreakerOpen                         // no request passes
)

// String returns none, closed, half-open or open.
func (s BreakerState) String() string {
	switch s {
	case BreakerClosed:
		return "closed"
	case BreakerHalfOpen:
		return "half-open"
	case BreakerOpen:
		return "open"
	}
	return "none"
}

// probeTime is how long after its header a probe's answer may keep others
// waiting for its end: a slow client must not keep the breaker half-open.
const probeTime = time.Second

var (
	errSign   = errors.New("failure")
	errNoSign = errors.New("no sign") // says nothing about the upstream
)

// A breaker is a gobreaker that tells of its changes while it holds no lock, in
// their order.
type breaker struct {
	inner   *gobreaker.TwoStepCircuitBreaker[struct{}]
	openFor time.Duration
	probes  uint32
	state   atomic.Uint32 // a gobreaker.State, as of the latest change
	opened  atomic.Int64  // when, in nanoseconds since 1970
	log     func(gobreaker.State)

	mu      sync.Mutex
	changes []gobreaker.State // not told yet
	telling bool              // somebody tells them
}

func newBreaker(b *Breaker, log func(gobreaker.State)) *breaker {
	br := &breaker{openFor: b.OpenFor, probes: uint32(b.Probes), log: log}
	br.inner = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests:  br.probes,
		Interval:     b.Window,
		BucketPeriod: b.Window / 10,
		Timeout:      b.OpenFor,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			// Not c.Requests, which counts those that are not judged yet.
			judged := c.TotalSuccesses + c.TotalFailures
			return int64(judged) >= int64(b.MinRequests) && float64(c.TotalFailures) >= b.FailureRatio*float64(judged)
		},
		IsExcluded:    func(err error) bool { return err == errNoSign },
		OnStateChange: br.change,
	})
	return br
}

// change is called by the gobreaker under its lock.
func (b *breaker) change(_ string, _, to gobreaker.State) {
	b.state.Store(uint32(to))
	if to == gobreaker.StateOpen {
		b.opened.Store(time.Now().UnixNano())
	}
	b.mu.Lock()
	b.changes = append(b.changes, to)
	b.mu.Unlock()
}

// tell logs what has changed, unless somebody does already: who does goes on
// until there is nothing left, so that the order is kept.
func (b *breaker) tell() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.telling {
		return
	}
	b.telling = true
	defer func() { b.telling = false }()
	for len(b.changes) > 0 {
		changes := b.changes
		b.changes = nil
		b.logUnlocked(changes)
	}
}

func (b *breaker) logUnlocked(changes []gobreaker.State) {
	b.mu.Unlock()
	defer b.mu.Lock()
	for _, to := range changes {
		b.log(to)
	}
}

// now returns the state at this moment. An open breaker becomes half-open when
// it is asked.
func (b *breaker) now() gobreaker.State {
	s := b.inner.State()
	b.tell()
	return s
}

// refuses reports whether no request is let through: the breaker is open, or
// half-open with as many probes under way as there may be.
func (b *breaker) refuses() bool {
	if b == nil {
		return false
	}
	switch b.now() {
	case gobreaker.StateOpen:
		return true
	case gobreaker.StateHalfOpen:
		c := b.inner.Counts()
		return c.Requests-c.TotalExclusions >= b.probes && b.inner.State() == gobreaker.StateHalfOpen // still: c is of that state
	}
	return false
}

// wait is how long an open breaker stays open.
func (b *breaker) wait() time.Duration {
	return max(0, b.openFor-time.Since(time.Unix(0, b.opened.Load())))
}

func (b *breaker) public() BreakerState {
	if b == nil {
		return BreakerNone
	}
	return publicState(b.now())
}

func publicState(s gobreaker.State) BreakerState {
	switch s {
	case gobreaker.StateOpen:
		return BreakerOpen
	case gobreaker.StateHalfOpen:
		return BreakerHalfOpen
	}
	return BreakerClosed
}

// allow returns what the fate of one attempt must be reported to, or nil if it
// must not be made.
func (b *breaker) allow() *ticket {
	done, err := b.inner.Allow()
	if err != nil {
		return nil
	}
	return &ticket{breaker: b, done: done, probe: gobreaker.State(b.state.Load()) == gobreaker.StateHalfOpen}
}

// A ticket is the breaker's view of one attempt. It is judged once when the
// header has come (header), and once when everything has ended (end), which must
// be called in any case.
type ticket struct {
	breaker *breaker
	done    func(error)
	probe   bool
	settled atomic.Bool // done was called
	timer   *time.Timer

	failed bool // has been counted as a failure
	later  bool // was not counted at the header: the end decides
}

// header says what the header tells: nothing yet, if a body follows that does
// (more).
func (t *ticket) header(o outcome, more bool) {
	switch {
	case more && t.probe:
		t.timer = time.AfterFunc(probeTime, func() { t.settle(success) })
	case more:
		// By the time of its end the request would be too old to be counted.
		t.later = true
		t.settle(noSign)
	default:
		t.settle(o)
	}
	t.failed = o == failure
}

// end says how it ended.
func (t *ticket) end(o outcome) {
	if t.timer != nil {
		t.timer.Stop()
	}
	if t.settle(o) || t.failed || o == noSign || o == success && !t.later {
		return
	}
	// A request of its own, as it were. What began before the breaker opened is
	// no probe.
	if t.breaker.now() != gobreaker.StateClosed {
		return
	}
	if done, err := t.breaker.inner.Allow(); err == nil {
		done(o.err())
		t.breaker.tell()
	}
}

// settle reports to the gobreaker, unless that was done.
func (t *ticket) settle(o outcome) bool {
	if !t.settled.CompareAndSwap(false, true) {
		return false
	}
	t.done(o.err())
	t.breaker.tell()
	return true
}

func (o outcome) err() error {
	switch o {
	case success:
		return nil
	case failure:
		return errSign
	}
	return errNoSign
}

// logBreaker returns what logs the changes of one upstream's breaker.
func (p *Proxy) logBreaker(up *upstream) func(gobreaker.State) {
	return func(to gobreaker.State) {
		level := slog.LevelInfo
		if to == gobreaker.StateOpen {
			level = slog.LevelError
		}
		p.tell(level, "proxy: breaker is "+to.String(), up)
		p.observe(Event{Kind: EventBreaker, Upstream: up.name, State: publicState(to), Start: time.Now()})
	}
}
