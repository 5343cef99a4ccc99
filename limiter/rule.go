package limiter

import (
	"errors"
	"fmt"
	"net/http"
)

// A Rule says which requests are charged to which quota. Its functions are
// called by many goroutines at once.
type Rule struct {
	// Policy is the quota. Required, also with PolicyFor.
	Policy Policy

	// Key says whose quota. Required.
	Key KeyFunc

	// PolicyFor returns the caller's own quota in place of Policy, or false if
	// it has none. An invalid policy is an error of the decision: see
	// Options.OnError. nil: Policy for everybody.
	PolicyFor func(*http.Request) (Policy, bool)

	// Cost returns how many units the request costs. 0 admits it for nothing;
	// negative is an error of the decision. nil: 1.
	Cost func(*http.Request) int

	// Match reports whether the rule applies to the request. It is asked
	// first. nil: to every one.
	Match func(*http.Request) bool

	// Shadow rules decide and report but never refuse, and their quota is in
	// no header field. They are charged after the others have admitted the
	// request, each for itself.
	Shadow bool

	// RefundIf reports, after the response, whether the charge is given back:
	// to count only failed logins, or only what did not fail. An empty
	// response is status 200 and a hijacked one 101; 0 means that nothing was
	// answered, because of a panic or because the client left. nil: never.
	RefundIf func(status int) bool
}

// Rules are in order of priority: the first that refuses names the refusal. A
// request is charged to all that apply to it, or to none.
type Rules []Rule

// A RuleError is one fault of [Rules].
type RuleError struct {
	Rule int // its index
	Err  error
}

func (e *RuleError) Error() string { return fmt.Sprintf("rule %d: %v", e.Rule, e.Err) }

// Unwrap returns the fault itself, often a [*PolicyError].
func (e *RuleError) Unwrap() error { return e.Err }

// Validate returns every fault, joined; each is a [*RuleError]. One Name with
// two different policies is a fault that names both. No rules at all are valid
// and admit everything.
func (rs Rules) Validate() error {
	var faults []error
	fault := func(i int, err error) { faults = append(faults, &RuleError{i, err}) }
	first := make(map[string]int)
	for i := range rs {
		r := &rs[i]
		for _, err := range unjoin(r.Policy.Validate()) {
			fault(i, err)
		}
		if r.Key == nil {
			fault(i, &PolicyError{r.Policy.Name, "Key", "is nil; a rule needs one, such as KeyGlobal or KeyByClientIP"})
		}
		if r.Policy.Name == "" {
			continue
		}
		j, seen := first[r.Policy.Name]
		if !seen {
			first[r.Policy.Name] = i
		} else if !rs[j].Policy.same(r.Policy) {
			fault(i, &PolicyError{r.Policy.Name, "Name", fmt.Sprintf("has two different policies: %s in rule %d, %s here",
				rs[j].Policy.describe(), j, r.Policy.describe())})
		}
	}
	return errors.Join(faults...)
}

func unjoin(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return nil
}

// ErrNoKey is the error about a request for which a rule's Key returned "".
var ErrNoKey = errors.New("limiter: the request has no key")

// A KeyError says that a request could not be charged, because a rule's Key
// function failed or returned "".
type KeyError struct {
	Rule   int    // its index
	Policy string // its name
	Err    error  // ErrNoKey, or what the function returned
}

func (e *KeyError) Error() string {
	return fmt.Sprintf("limiter: rule %d, policy %q: %v", e.Rule, e.Policy, e.Err)
}

// Unwrap returns Err.
func (e *KeyError) Unwrap() error { return e.Err }

// charge fills c with what rule i asks of r; false if it does not apply.
func (rs Rules) charge(i int, r *http.Request, c *Charge) (applies bool, err error) {
	rule := &rs[i]
	if rule.Match != nil && !rule.Match(r) {
		return false, nil
	}
	key, err := rule.Key(r)
	if err == nil && key == "" {
		err = ErrNoKey
	}
	if err != nil {
		return true, &KeyError{i, rule.Policy.Name, err}
	}
	c.Policy, c.Key, c.Cost = rule.Policy, bounded(key), 1
	if rule.PolicyFor != nil {
		if own, ok := rule.PolicyFor(r); ok {
			c.Policy = own
		}
	}
	if rule.Cost != nil {
		c.Cost = rule.Cost(r)
	}
	return true, nil
}
