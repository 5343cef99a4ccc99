package limiter

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// A Decision is what became of one request.
type Decision struct {
	// Allowed reports whether the request may pass.
	Allowed bool

	// Rule is the index of the first rule that refused, or whose key could not
	// be told; -1 if there is none.
	Rule int

	// Charges are those of the rules that apply to the request, in order.
	Charges []Charge

	// Results[i] answers Charges[i]. There are none if the Limiter failed. A
	// shadow rule that would have refused is not Allowed here; one that was
	// not asked, because another rule refused, has no Source.
	Results []Result

	// Err says why there was no decision: an error of the Limiter, or a
	// [*KeyError]; or why a limit on requests in flight refused, mostly an
	// [*OverloadError]. With a shadow rule, or by choice of the Options, the
	// request may be Allowed nevertheless.
	Err error

	limiter Limiter
	rules   Rules
	which   []int // the rule of each charge
	form    HeaderForm
	busy    *OverloadError // Err, if it is one
}

// Check decides about r and charges it, without writing a response. Rules must
// be valid: see [Rules.Validate]. The error is that of l, or a [*KeyError] for
// a request that a rule cannot tell the key of; nothing is charged then, and
// nothing if the request is refused.
//
// It is for what is no http.Handler, and for tests; handlers use [Middleware].
// RefundIf is not asked: call Decision.Refund if the request is to count no
// longer. Nor is a request held: see Decision.Delay.
func Check(ctx context.Context, l Limiter, rules Rules, r *http.Request) (Decision, error) {
	d := Decision{limiter: l, rules: rules}
	if d.collect(r, false) {
		d.take(ctx)
	}
	if d.failed() {
		return d, d.Err
	}
	return d, nil
}

// failed reports whether the request was not decided about. Err alone does not
// say so: a shadow may have failed beside a refusal.
func (d *Decision) failed() bool { return !d.Allowed && len(d.Results) == 0 }

// collect fills in the charges. It reports false if a request without a key is
// to be refused.
func (d *Decision) collect(r *http.Request, skip bool) bool {
	d.Rule = -1
	for i := range d.rules {
		var c Charge
		applies, err := d.rules.charge(i, r, &c)
		switch {
		case !applies:
		case err == nil:
			if d.Charges == nil {
				d.Charges = make([]Charge, 0, len(d.rules))
				d.which = make([]int, 0, len(d.rules))
			}
			d.Charges = append(d.Charges, c)
			d.which = append(d.which, i)
		case skip || d.rules[i].Shadow:
			// Having no key is no fault where it was chosen to mean nothing.
			if !errors.Is(err, ErrNoKey) {
				d.note(err)
			}
		default:
			d.Rule, d.Err = i, err
			d.Charges, d.which = nil, nil
			return false
		}
	}
	return true
}

// note keeps the first error of what cannot refuse.
func (d *Decision) note(err error) {
	if d.Err == nil {
		d.Err = err
	}
}

func (d *Decision) shadow(i int) bool { return d.rules[d.which[i]].Shadow }

// take asks the Limiter: first for all charges that can refuse, in one step,
// then for each shadow.
func (d *Decision) take(ctx context.Context) {
	enforced := d.Charges
	for i := range d.Charges {
		if d.shadow(i) {
			enforced = make([]Charge, 0, len(d.Charges))
			for i, c := range d.Charges {
				if !d.shadow(i) {
					enforced = append(enforced, c)
				}
			}
			break
		}
	}
	var results []Result
	var err error
	switch len(enforced) {
	case 0:
	case 1:
		results = make([]Result, 1)
		results[0], err = d.limiter.Take(ctx, enforced[0])
	default:
		results, err = d.limiter.TakeAll(ctx, enforced)
	}
	if err != nil {
		d.Err = err
		return
	}
	if len(enforced) == len(d.Charges) {
		d.Results = results
		d.settle()
		return
	}
	d.Results = make([]Result, len(d.Charges))
	for i := range d.Charges {
		if !d.shadow(i) {
			d.Results[i], results = results[0], results[1:]
		}
	}
	d.settle()
	for i, c := range d.Charges {
		if !d.shadow(i) {
			continue
		}
		d.Results[i] = Result{Allowed: true, Limit: c.Policy.Limit, Remaining: -1}
		if !d.Allowed {
			continue
		}
		if r, err := d.limiter.Take(ctx, c); err == nil {
			d.Results[i] = r
		} else {
			d.note(err)
		}
	}
}

// settle derives Allowed and Rule from Results.
func (d *Decision) settle() {
	d.Allowed, d.Rule = true, -1
	for i := range d.Results {
		if !d.Results[i].Allowed && !d.shadow(i) {
			d.Allowed, d.Rule = false, d.which[i]
			return
		}
	}
}

// Delay returns how long the request is to be held before it goes on: the
// longest Delay of its rules, but not of shadow rules. It is above 0 only with
// a LeakyBucket. [Middleware] holds requests by itself.
func (d Decision) Delay() time.Duration {
	var delay time.Duration
	for i := range d.Results {
		if !d.shadow(i) {
			delay = max(delay, d.Results[i].Delay)
		}
	}
	return delay
}

// retryAfter returns the time until none of the quotas that refused would. It
// is Never if one of them always will, and 0 if none did.
func (d *Decision) retryAfter() time.Duration {
	if d.busy != nil {
		return d.busy.RetryAfter
	}
	var after time.Duration
	for i := range d.Results {
		if !d.Results[i].Allowed && !d.shadow(i) {
			after = max(after, d.Results[i].RetryAfter)
		}
	}
	return after
}

// violated appends the names of the policies that refused.
func (d *Decision) violated(names []string) []string {
	for i := range d.Results {
		if !d.Results[i].Allowed && !d.shadow(i) {
			names = append(names, d.Charges[i].Policy.Name)
		}
	}
	return names
}

// refundTime is how long giving back may take: nobody waits for it, but it must
// end.
const refundTime = time.Second

// Refund gives back what the request was charged. It goes on, for at most one
// second, when ctx is cancelled, because mostly it is called for a caller that
// has left. A second call does nothing, and nor does one on the copies that
// hooks get.
func (d Decision) Refund(ctx context.Context) error {
	return d.refundIf(ctx, func(int) bool { return true })
}

func (d *Decision) refundIf(ctx context.Context, ok func(i int) bool) error {
	var errs []error
	detached := false
	for i := range d.Results {
		if d.Results[i].Receipt == (Receipt{}) || !ok(i) {
			continue
		}
		if !detached {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), refundTime)
			defer cancel()
			detached = true
		}
		errs = append(errs, d.limiter.Refund(ctx, d.Charges[i], &d.Results[i]))
	}
	return errors.Join(errs...)
}

// public returns the copy that hooks get.
func (d *Decision) public() Decision {
	p := *d
	p.limiter = nil
	p.Results = append([]Result(nil), d.Results...)
	for i := range p.Results {
		p.Results[i].Receipt = Receipt{}
	}
	return p
}
