package limiter_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

func TestRulesValidate(t *testing.T) {
	rule := func(p limiter.Policy) limiter.Rule { return limiter.Rule{Policy: p, Key: limiter.KeyGlobal} }
	tests := []struct {
		name  string
		rules limiter.Rules
		want  []string // a part of each fault
	}{
		{"none", nil, nil},
		{"one", limiter.Rules{rule(limiter.PerSecond("a", 1))}, nil},
		{"the same policy twice", limiter.Rules{rule(limiter.PerSecond("a", 1)), rule(limiter.PerSecond("a", 1))}, nil},
		{"the same with its burst spelt out", limiter.Rules{rule(limiter.PerSecond("a", 5)), rule(named("a", 5, time.Second, 5))}, nil},
		{"two policies of one name", limiter.Rules{rule(limiter.PerSecond("a", 10)), rule(limiter.PerSecond("b", 1)), rule(named("a", 10, time.Second, 20))},
			[]string{`rule 2: limiter: policy "a": Name has two different policies: 10/s in rule 0, 10/s burst 20 here`}},
		{"everything", limiter.Rules{{}, rule(limiter.PerSecond("a", 1)), rule(limiter.PerMinute("a", -1))},
			[]string{`rule 0: limiter: policy "": Name is empty`, "rule 0: limiter: policy \"\": Window is 0s; allowed: 1µs or longer",
				"rule 0: limiter: policy \"\": Key is nil", `rule 2: limiter: policy "a": Limit is -1`, "1/s in rule 1, -1/m here"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.rules.Validate()
			if len(tt.want) == 0 {
				if err != nil {
					t.Fatalf("Validate() = %v", err)
				}
				return
			}
			if !errors.Is(err, limiter.ErrPolicy) {
				t.Errorf("%v does not match ErrPolicy", err)
			}
			faults := err.(interface{ Unwrap() []error }).Unwrap()
			if len(faults) != len(tt.want) {
				t.Fatalf("%d faults, want %d:\n%v", len(faults), len(tt.want), err)
			}
			for i, f := range faults {
				if _, ok := errors.AsType[*limiter.RuleError](f); !ok || !strings.Contains(f.Error(), tt.want[i]) {
					t.Errorf("fault %d = %q, want a RuleError with %q", i, f, tt.want[i])
				}
			}
		})
	}
}

func request(t *testing.T, headers ...string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func TestCheck(t *testing.T) {
	m := limiter.NewMemory(nil)
	rules := limiter.Rules{
		{Policy: limiter.PerHour("all", 3), Key: limiter.KeyGlobal},
		{Policy: limiter.PerHour("user", 2), Key: limiter.KeyByHeader("X-User"), Match: func(r *http.Request) bool { return r.Header.Get("X-User") != "root" }},
	}
	check := func(user string) limiter.Decision {
		t.Helper()
		d, err := limiter.Check(t.Context(), m, rules, request(t, "X-User", user))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := check("ann")
	if !d.Allowed || d.Rule != -1 || len(d.Charges) != 2 || d.Charges[1].Key != "ann" || d.Results[1].Remaining != 1 || d.Results[0].Remaining != 2 {
		t.Fatalf("decision = %+v", d)
	}
	if err := d.Refund(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Refund(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("ann")
	check("ann")
	// Refused by its own quota, a caller has not used up the one of all.
	d = check("ann")
	if d.Allowed || d.Rule != 1 || d.Results[0].Remaining != 1 || !d.Results[0].Allowed {
		t.Fatalf("decision = %+v, want a refusal by rule 1 with 1 remaining for all", d)
	}
	d = check("root")
	if !d.Allowed || len(d.Charges) != 1 {
		t.Fatalf("decision = %+v, want one charge", d)
	}
	d = check("ann")
	if d.Allowed || d.Rule != 0 {
		t.Fatalf("decision = %+v, want a refusal by rule 0, the first of both", d)
	}
	// Without a key: an error, and nothing is charged.
	d, err := limiter.Check(t.Context(), m, rules, request(t))
	if e, ok := errors.AsType[*limiter.KeyError](err); !ok || e.Rule != 1 || e.Policy != "user" || !errors.Is(err, limiter.ErrNoKey) || d.Allowed || d.Rule != 1 {
		t.Errorf("Check without a key = %+v, %v", d, err)
	}
	// No rules: everything passes.
	if d, err := limiter.Check(t.Context(), m, nil, request(t)); err != nil || !d.Allowed || d.Rule != -1 {
		t.Errorf("Check without rules = %+v, %v", d, err)
	}
}

func TestCheckFailures(t *testing.T) {
	broken := errors.New("broken")
	rules := limiter.Rules{{Policy: limiter.PerHour("all", 3), Key: limiter.KeyGlobal}}
	d, err := limiter.Check(t.Context(), failing{broken}, rules, request(t))
	if err != broken || d.Err != broken || d.Allowed || d.Rule != -1 || len(d.Results) != 0 {
		t.Errorf("Check = %+v, %v", d, err)
	}
	rules[0].Cost = func(*http.Request) int { return -1 }
	if _, err := limiter.Check(t.Context(), limiter.NewMemory(nil), rules, request(t)); !errors.Is(err, limiter.ErrPolicy) {
		t.Errorf("a negative cost: %v, want ErrPolicy", err)
	}
}

// failing is a Limiter whose backend is gone.
type failing struct{ err error }

func (f failing) Take(context.Context, limiter.Charge) (limiter.Result, error) {
	return limiter.Result{}, f.err
}
func (f failing) TakeAll(context.Context, []limiter.Charge) ([]limiter.Result, error) {
	return nil, f.err
}
func (f failing) Refund(context.Context, limiter.Charge, *limiter.Result) error { return f.err }
func (f failing) Reset(context.Context, limiter.Charge) error                   { return f.err }
