package limiter

import (
	"context"
	"net/http"
	"time"

	"github.com/goweir/weir/internal/respwriter"
)

// An exchange is one request on its way through.
type exchange struct {
	respwriter.NoHooks
	rw     respwriter.Writer
	m      *middleware
	r      *http.Request
	d      Decision
	fields fields
	ended  bool      // the handler returned
	trial  bool      // it is looked at whether something is wrong
	start  time.Time // of the decision, if there is an Observer

	// Room for the common case.
	charge [1]Charge
	result [1]Result
	which  [1]int
}

// newExchange makes the exchange of a request to which one rule applies.
func newExchange(m *middleware, r *http.Request, c Charge, res Result, err error) *exchange {
	x := &exchange{m: m, r: r, charge: [1]Charge{c}, result: [1]Result{res}}
	x.d = Decision{limiter: m.limiter, rules: m.rules, form: m.opts.Headers, Rule: -1, Err: err, which: x.which[:]}
	switch e := err.(type) {
	case nil:
		x.d.Charges, x.d.Results = x.charge[:], x.result[:]
		x.d.settle()
	case *KeyError:
		if m.opts.Unkeyed == SkipUnkeyed {
			x.d.Allowed = true
			if e.Err == ErrNoKey {
				x.d.Err = nil
			}
		} else {
			x.d.Rule = e.Rule
		}
	default:
		x.d.Charges = x.charge[:]
	}
	return x
}

// serve acts on x.d.
func (x *exchange) serve(w http.ResponseWriter, next http.Handler) {
	m := x.m
	d := &x.d
	failed := d.failed()
	if x.trial {
		x.warnTwice(w)
	}
	if failed && d.Rule < 0 && m.opts.OnError != nil {
		d.Allowed = m.opts.OnError(x.r, d.Err)
	}
	if m.refunds {
		// Before any hook: what was charged is settled even if one panics.
		defer x.refund()
	}
	if m.opts.Observer != nil {
		x.observe(m.opts.Observer)
	}
	if m.opts.OnDecision != nil && (len(d.Charges) > 0 || d.Err != nil) {
		m.opts.OnDecision(x.r, d.public())
	}
	if d.Allowed && !x.hold(w) {
		return
	}
	if d.Allowed {
		defer x.giveBack(w.Header())
	}
	switch {
	case d.Allowed && (len(d.Results) == 0 || d.form == NoHeaders && !m.refunds && !x.trial):
		next.ServeHTTP(w, x.r)
		x.ended = true
	case d.Allowed:
		defer x.finish()
		next.ServeHTTP(x.rw.Wrap(w, x), x.r)
		x.ended = true
	case failed:
		if d.Rule >= 0 {
			warnUnkeyed(x.r, m.rules[d.Rule].Policy.Name, d.Err)
		}
		x.answerFailure(w)
	case m.opts.OnLimit != nil:
		defer x.finish()
		m.opts.OnLimit(x.rw.Wrap(w, x), x.r, d.public())
		x.ended = true
	default:
		x.answerRefusal(w)
	}
}

// giveBack refunds all if the request was refused further in.
func (x *exchange) giveBack(header http.Header) {
	if turnedAway(header) {
		// That units were lost would not change what the client gets.
		_ = x.d.Refund(x.r.Context())
	}
}

// hold waits for the request's turn. It reports false if the turn did not come;
// everything is settled then.
func (x *exchange) hold(w http.ResponseWriter) bool {
	delay := x.d.Delay()
	if delay == 0 {
		return true
	}
	start, ctx := time.Now(), x.r.Context()
	came := sleep(ctx, delay)
	if x.m.opts.Observer != nil {
		x.observeHold(x.m.opts.Observer, start, came)
	}
	if came {
		return true
	}
	// That units were lost would not change what the client gets.
	_ = x.d.Refund(ctx)
	// The client may still be there: a return without an answer would be an
	// empty 200.
	if ctx.Err() == context.DeadlineExceeded {
		w.Header().Set(fieldRetryAfter, "1")
		undecided.Write(w)
	} else {
		clientClosed.Write(w)
	}
	return false
}

// Header implements [respwriter.Hooks].
func (x *exchange) Header(_ int, h http.Header) {
	if !x.fields.built {
		x.fields.build(&x.d)
	}
	x.fields.add(h)
}

func (x *exchange) finish() { finish(&x.rw, x.r, x.ended) }

func finish(rw *respwriter.Writer, r *http.Request, ended bool) {
	// A client that left before there was an answer got none, even if net/http
	// would now write its implicit 200 to nobody.
	gone := rw.Status() == 0 && r.Context().Err() != nil
	rw.Finish(ended && !gone)
}

// refund asks every RefundIf about the response.
func (x *exchange) refund() {
	status := x.rw.Status()
	x.d.refundIf(x.r.Context(), func(i int) bool {
		refundIf := x.m.rules[x.d.which[i]].RefundIf
		return refundIf != nil && refundIf(status)
	})
}
