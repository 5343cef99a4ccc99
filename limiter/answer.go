package limiter

import (
	"errors"
	"net/http"
	"slices"

	"github.com/goweir/weir/internal/problem"
)

// quotaExceeded is the answer of draft-ietf-httpapi-ratelimit-headers-10
// section 6.1.
func quotaExceeded(policies ...string) problem.Details {
	return problem.Details{
		Type:             problem.QuotaExceeded,
		Title:            "Request cannot be satisfied as assigned quota has been exceeded",
		Status:           http.StatusTooManyRequests,
		ViolatedPolicies: policies,
	}
}

var (
	// undecided is the answer when the Limiter failed; section 6.2 there.
	undecided = problem.Prepare(problem.Details{
		Type:   problem.TemporaryReducedCapacity,
		Title:  "Request cannot be satisfied due to temporary server capacity constraints",
		Status: http.StatusServiceUnavailable,
	})
	// unkeyed is the answer to a request that lacks what it is counted by.
	// Which part that is stays between the server and its own clients.
	unkeyed = problem.Prepare(problem.Details{
		Status: http.StatusBadRequest,
		Detail: "The request lacks what it would be counted by.",
	})
	// keyless is the answer when a Key function failed.
	keyless = problem.Prepare(problem.Details{Status: http.StatusInternalServerError})
)

// serve acts on x.d.
func (x *exchange) serve(w http.ResponseWriter, next http.Handler) {
	m := x.m
	d := &x.d
	failed := d.failed()
	if failed && d.Rule < 0 && m.opts.OnError != nil {
		d.Allowed = m.opts.OnError(x.r, d.Err)
	}
	if m.refunds {
		// Before any hook: what was charged is settled even if one panics.
		defer x.refund()
	}
	if m.opts.OnDecision != nil && (len(d.Charges) > 0 || d.Err != nil) {
		m.opts.OnDecision(x.r, d.public())
	}
	switch {
	case d.Allowed && (len(d.Results) == 0 || d.form == NoHeaders && !m.refunds):
		next.ServeHTTP(w, x.r)
		x.ended = true
	case d.Allowed:
		defer x.finish()
		next.ServeHTTP(x.rw.Wrap(w, x), x.r)
		x.ended = true
	case failed:
		x.answerFailure(w)
	case m.opts.OnLimit != nil:
		defer x.finish()
		m.opts.OnLimit(x.rw.Wrap(w, x), x.r, d.public())
		x.ended = true
	default:
		x.answerRefusal(w)
	}
}

func (x *exchange) answerRefusal(w http.ResponseWriter) {
	x.fields.build(&x.d)
	x.fields.add(w.Header())
	var array [1]string
	names := x.d.violated(array[:0])
	if len(names) == 1 && names[0] == x.m.rules[x.d.Rule].Policy.Name {
		x.m.refusals[x.d.Rule].Write(w)
		return
	}
	problem.Write(w, quotaExceeded(slices.Clone(names)...))
}

func (x *exchange) answerFailure(w http.ResponseWriter) {
	switch {
	case x.d.Rule < 0:
		w.Header().Set(fieldRetryAfter, "1")
		undecided.Write(w)
	case errors.Is(x.d.Err, ErrNoKey):
		unkeyed.Write(w)
	default:
		keyless.Write(w)
	}
}

// Header implements [respwriter.Hooks].
func (x *exchange) Header(_ int, h http.Header) {
	if !x.fields.built {
		x.fields.build(&x.d)
	}
	x.fields.add(h)
}

func (x *exchange) finish() {
	// A client that left before there was an answer got none, even if net/http
	// would now write its implicit 200 to nobody.
	gone := x.rw.Status() == 0 && x.r.Context().Err() != nil
	x.rw.Finish(x.ended && !gone)
}

// refund asks every RefundIf about the response.
func (x *exchange) refund() {
	status := x.rw.Status()
	x.d.refundIf(x.r.Context(), func(i int) bool {
		refundIf := x.m.rules[x.d.which[i]].RefundIf
		return refundIf != nil && refundIf(status)
	})
}
