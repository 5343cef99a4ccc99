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

// reducedCapacity is the title of section 6.2 there.
const reducedCapacity = "Request cannot be satisfied due to temporary server capacity constraints"

var (
	// undecided is the answer when the Limiter failed.
	undecided = problem.Prepare(problem.Details{
		Type:   problem.TemporaryReducedCapacity,
		Title:  reducedCapacity,
		Status: http.StatusServiceUnavailable,
	})
	// clientClosed is the answer when the client left while it waited. Nobody gets
	// it but the records, or a client that has only closed its own side, which
	// would take net/http's implicit 200 for what it asked for. The status is
	// not registered; nginx made it common.
	clientClosed = problem.Prepare(problem.Details{
		Status: 499,
		Title:  "Client Closed Request",
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
