package limiter

import (
	"context"
	"strconv"
	"time"
)

// An Observer is told what happens, for metrics and traces. It is called by many
// goroutines at once, with no lock held, on the way of the request: it should
// return soon. nil Observers cost nothing.
type Observer interface {
	Observe(ctx context.Context, e Event)
}

// An Event is something that happened. Which fields are set is said at its Kind;
// fields may be added.
type Event struct {
	Kind     EventKind
	Policy   string  // its Name
	Route    string  // the request's Pattern; empty in events of a Memory
	Result   Outcome // what became of it
	Source   Source  // who decided
	Start    time.Time
	Duration time.Duration
	N        int
	Reason   OverloadReason // why a limit on requests in flight refused
	Err      error          // not for clients
}

// An EventKind says what happened.
type EventKind uint8

const (
	// EventDecision is the decision about one charge of a request, told by
	// [Middleware]. N is its Cost; Start and Duration are those of the decision
	// about all charges of the request. A request without a key has one event,
	// with the rule's policy and N 0; a rule that was left out has none.
	EventDecision EventKind = iota + 1

	// EventHold is the end of a request's wait for its turn, told by
	// [Middleware], with the policy that gave the last turn. N is 1.
	EventHold

	// EventEviction is told by [Memory]: N states were forgotten before they
	// were whole, to make room for Policy.
	EventEviction

	// EventNoRoom is told by [Memory]: N charges to Policy were refused because
	// there was no room for their state.
	EventNoRoom

	// EventFailure is told by package failover: a backend failed to answer in
	// time, or at all. Err says how; Start and Duration are those of the call. N
	// is 1.
	EventFailure

	// EventBreakerOpen is told by package failover, as are the next two: the
	// breaker opened, so the backend is not asked for a while. N is 1, and Start
	// is when it happened.
	EventBreakerOpen

	// EventBreakerHalfOpen says that one call asked the backend whether it is
	// back. It is told when that has ended, before what came of it.
	EventBreakerHalfOpen

	// EventBreakerClosed says that the backend has answered, and is asked again.
	EventBreakerClosed

	// EventSlot says what became of a request that asked for slots, told by
	// [InFlightMiddleware]: Start is when it asked, Duration how long it waited,
	// N its Weight, Policy the name of the limit. Denied has a Reason.
	EventSlot

	// EventRelease says that such a request gave its slots back. Start is when it
	// had got them, Duration how long it held them.
	EventRelease
)

var eventKinds = [...]string{"none", "decision", "hold", "eviction", "no room", "failure",
	"breaker open", "breaker half-open", "breaker closed", "slot", "release"}

// String returns the kind in words, for logs and metric labels.
func (k EventKind) String() string {
	if int(k) < len(eventKinds) {
		return eventKinds[k]
	}
	return "EventKind(" + strconv.Itoa(int(k)) + ")"
}

// An Outcome says what became of a charge or of a wait. Events of a Memory have
// none.
type Outcome uint8

const (
	OutcomeAllowed Outcome = iota + 1 // it may pass
	OutcomeDenied                     // it was refused
	OutcomeSpared                     // it would have fitted, but another rule refused: nothing was taken
	OutcomeShadow                     // it did not fit a rule that never refuses
	OutcomeUnkeyed                    // there was no key to charge
	OutcomeFailed                     // the Limiter could not decide
	OutcomeLeft                       // the request ended before its turn came
)

var outcomes = [...]string{"none", "allowed", "denied", "spared", "shadow", "unkeyed", "failed", "left"}

// String returns the outcome in words, for logs and metric labels.
func (o Outcome) String() string {
	if int(o) < len(outcomes) {
		return outcomes[o]
	}
	return "Outcome(" + strconv.Itoa(int(o)) + ")"
}

// outcome returns what became of charge i.
func (d *Decision) outcome(i int) Outcome {
	switch r := &d.Results[i]; {
	case !r.Allowed && d.shadow(i):
		return OutcomeShadow
	case !r.Allowed:
		return OutcomeDenied
	case !d.Allowed:
		return OutcomeSpared
	}
	return OutcomeAllowed
}

// observe tells the Observer of the decision, which has just been made.
func (x *exchange) observe(o Observer) {
	d := &x.d
	e := Event{Kind: EventDecision, Route: x.r.Pattern, Start: x.start, Duration: time.Since(x.start)}
	ctx := x.r.Context()
	switch {
	case len(d.Results) > 0:
		for i := range d.Results {
			// A shadow that was not asked has no Source.
			if e.Source = d.Results[i].Source; e.Source != 0 {
				e.Policy, e.N, e.Result = d.Charges[i].Policy.Name, d.Charges[i].Cost, d.outcome(i)
				o.Observe(ctx, e)
			}
		}
	case d.Rule >= 0:
		e.Policy, e.Result = d.rules[d.Rule].Policy.Name, OutcomeUnkeyed
		o.Observe(ctx, e)
	case d.Err != nil:
		for i := range d.Charges {
			e.Policy, e.N, e.Result = d.Charges[i].Policy.Name, d.Charges[i].Cost, OutcomeFailed
			o.Observe(ctx, e)
		}
	}
}

// observeHold tells the Observer that the request was held since start.
func (x *exchange) observeHold(o Observer, start time.Time, came bool) {
	e := Event{Kind: EventHold, Route: x.r.Pattern, Result: OutcomeLeft, Start: start, Duration: time.Since(start), N: 1}
	if came {
		e.Result = OutcomeAllowed
	}
	longest := x.d.Delay()
	for i := range x.d.Results {
		if r := &x.d.Results[i]; r.Delay == longest && !x.d.shadow(i) {
			e.Policy, e.Source = x.d.Charges[i].Policy.Name, r.Source
			break
		}
	}
	o.Observe(x.r.Context(), e)
}

// observe tells the Observer whether the request got its n slots.
func (x *occupant) observe(d *Decision, n int) {
	now := time.Now()
	e := Event{
		Kind: EventSlot, Policy: x.m.name, Route: x.r.Pattern, Result: x.result, Source: x.m.source,
		Start: x.start, Duration: now.Sub(x.start), N: n, Err: d.Err,
	}
	switch {
	case x.holds:
		e.Result = OutcomeAllowed
	case d.busy != nil:
		e.Reason = d.busy.Reason
	}
	x.start, x.n = now, n
	x.m.opts.Observer.Observe(x.r.Context(), e)
}

// room is how often a shard had none for a newcomer.
type room struct{ evicted, refused uint64 }

func (s *shard) roomCounts() room { return room{s.evicted, s.refused} }

// observeRoom tells the Observer of what has happened to room between two counts
// on behalf of p. The shard is no longer locked.
func (m *Memory) observeRoom(ctx context.Context, p *Policy, before, after room) {
	e := Event{Policy: p.Name, Source: SourceMemory, Start: time.Now()}
	if e.N = int(after.evicted - before.evicted); e.N > 0 {
		e.Kind = EventEviction
		m.observer.Observe(ctx, e)
	}
	if e.N = int(after.refused - before.refused); e.N > 0 {
		e.Kind = EventNoRoom
		m.observer.Observe(ctx, e)
	}
}
