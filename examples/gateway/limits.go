package main

import (
	"errors"
	"net/http"
	"strings"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/examples/gateway/internal/config"
	"github.com/goweir/weir/limiter"
)

// rules makes the limits of a route into rules.
func (b *builder) rules(limits []config.Limit) limiter.Rules {
	rules := make(limiter.Rules, len(limits))
	for i := range limits {
		l := &limits[i]
		rules[i] = limiter.Rule{
			Policy: l.Policy(),
			Key:    l.Key.Func(b.apiKey),
			Match:  l.Match.Func(),
			Shadow: l.Shadow,
		}
		if l.Cost > 1 {
			rules[i].Cost = func(*http.Request) int { return int(l.Cost) }
		}
		if len(l.RefundIf) > 0 {
			rules[i].RefundIf = config.Statuses(l.RefundIf).Has
		}
		if len(l.Plans) > 0 {
			rules[i].PolicyFor = func(r *http.Request) (limiter.Policy, bool) {
				plan, ok := b.plan(r)
				if !ok {
					return limiter.Policy{}, false
				}
				return l.PolicyOf(plan.Name)
			}
		}
	}
	return rules
}

// limitOptions are those of all limits of a route; there are no rules
// for those on requests in flight.
func (b *builder) limitOptions(unkeyed config.Unkeyed, rules limiter.Rules, status config.Count) *limiter.Options {
	return &limiter.Options{
		Headers:        limiter.HeaderForm(b.Headers),
		Unkeyed:        limiter.Unkeyed(unkeyed),
		Observer:       b.observe.limiter,
		InFlightStatus: int(status),
		OnDecision: func(r *http.Request, d limiter.Decision) {
			record := capture.From(r.Context())
			if !d.Allowed {
				record.Refused(refuser(rules, d))
			}
			if names := shadowed(rules, d); names != "" {
				record.Set("shadow", names)
			}
		},
	}
}

// refuser names what refused a request, for its record.
func refuser(rules limiter.Rules, d limiter.Decision) string {
	if d.Rule >= 0 {
		return rules[d.Rule].Policy.Name
	}
	if over, ok := errors.AsType[*limiter.OverloadError](d.Err); ok {
		return over.Name
	}
	return "limiter failed"
}

// shadowed names the shadow limits that would have refused the request.
func shadowed(rules limiter.Rules, d limiter.Decision) string {
	var names []string
	for i, res := range d.Results {
		if res.Allowed || res.Source == 0 {
			continue
		}
		for _, rule := range rules {
			if rule.Shadow && rule.Policy.Name == d.Charges[i].Policy.Name {
				names = append(names, rule.Policy.Name)
			}
		}
	}
	return strings.Join(names, ", ")
}
