package limiter

import (
	"log/slog"
	"net/http"
	"reflect"
	"sync/atomic"

	"github.com/goweir/weir/internal/diagnose"
	"github.com/goweir/weir/internal/respwriter"
)

// trialRequests is of how many requests each middleware looks whether something
// is wrong with them. Mistakes of construction show soon, and what comes later
// costs nothing more.
const trialRequests = 1000

// A trial counts them.
type trial struct{ seen atomic.Int32 }

// open reports whether the request at hand is to be looked at.
func (t *trial) open() bool {
	return t.seen.Load() < trialRequests && t.seen.Add(1) <= trialRequests && !diagnose.ChargedTwice.Told()
}

// warnTwice warns if a quota that was charged for the request is charged again:
// by this middleware, or by another with the same Limiter that stands further
// out. It knows them by their response writers.
func (x *exchange) warnTwice(w http.ResponseWriter) {
	for {
		var outer *exchange
		switch h := respwriter.HooksOf(w).(type) {
		case *exchange:
			outer = h
		case *brief:
			if h.m == x.m {
				x.tellTwice(x.m.rules[0].Policy.Name)
			}
		}
		if outer != nil && (outer.m == x.m || sameLimiter(outer.m.limiter, x.m.limiter)) {
			for i := range x.d.Charges {
				for j := range outer.d.Charges {
					if c, d := &x.d.Charges[i], &outer.d.Charges[j]; c.Key == d.Key && c.Cost > 0 && d.Cost > 0 &&
						c.Policy.Name == d.Policy.Name && c.Policy.Algorithm == d.Policy.Algorithm {
						x.tellTwice(c.Policy.Name)
					}
				}
			}
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return
		}
		w = u.Unwrap()
	}
}

func (x *exchange) tellTwice(policy string) {
	diagnose.ChargedTwice.Tell(x.r.Context(), "limiter: a request was charged to the same quota twice, so its limit is half of what it says; "+
		"use each Middleware once on the way of a request", slog.String("policy", policy), slog.String("route", x.r.Pattern))
}

// sameLimiter compares what may not be comparable.
func sameLimiter(a, b Limiter) bool {
	return reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// warnUnkeyed warns that r is refused because it has no key, of which err says
// more.
func warnUnkeyed(r *http.Request, policy string, err error) {
	if diagnose.NoKey.Told() {
		return
	}
	diagnose.NoKey.Tell(r.Context(), "limiter: a request was refused because a rule could not tell its key; "+
		"use Options.Unkeyed or KeyFirst if such requests are to pass", slog.String("policy", policy),
		slog.String("route", r.Pattern), slog.String("error", err.Error()))
}
