package limiter_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

func TestPolicyValidate(t *testing.T) {
	tests := []struct {
		name   string
		policy limiter.Policy
		fields []string // the faulty ones
	}{
		{"per second", limiter.PerSecond("p", 1), nil},
		{"per minute", limiter.PerMinute("p", 60), nil},
		{"per hour", limiter.PerHour("p", 60), nil},
		{"per day", limiter.PerDay("p", 1<<62), nil},
		{"limit 0", limiter.PerDay("p", 0), nil},
		{"burst", limiter.Policy{Name: "p", Limit: 1, Window: time.Second, Burst: 9}, nil},
		{"shortest window", limiter.Policy{Name: "p", Limit: 1, Window: time.Microsecond}, nil},
		{"odd but printable name", limiter.PerDay(`a "b" \ c;d=e`, 1), nil},
		{"leaky bucket", limiter.Policy{Name: "p", Algorithm: limiter.LeakyBucket, Limit: 1, Window: time.Second, Burst: 9}, nil},
		{"fixed window", limiter.Policy{Name: "p", Algorithm: limiter.FixedWindow, Limit: 1, Window: time.Second}, nil},
		{"sliding window", limiter.Policy{Name: "p", Algorithm: limiter.SlidingWindow, Limit: 1 << 62, Window: time.Second}, nil},
		{"sliding log", limiter.Policy{Name: "p", Algorithm: limiter.SlidingLog, Limit: 0, Window: time.Second}, nil},
		{"sliding log with a burst", limiter.Policy{Name: "p", Algorithm: limiter.SlidingLog, Limit: 1, Window: time.Second, Burst: 1}, []string{"Burst"}},
		{"zero", limiter.Policy{}, []string{"Name", "Window"}},
		{"everything", limiter.Policy{Name: "é", Algorithm: 9, Limit: -1, Window: -1, Burst: -1}, []string{"Name", "Algorithm", "Limit", "Window", "Burst"}},
		{"newline", limiter.PerDay("a\nb", 1), []string{"Name"}},
		{"window below 1 µs", limiter.Policy{Name: "p", Limit: 1, Window: 999}, []string{"Window"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.policy.Validate()
			if got := err != nil; got != (len(tt.fields) > 0) {
				t.Fatalf("Validate(%+v) = %v, want faults in %v", tt.policy, err, tt.fields)
			}
			if err == nil {
				return
			}
			if !errors.Is(err, limiter.ErrPolicy) {
				t.Errorf("%v does not match ErrPolicy", err)
			}
			faults := err.(interface{ Unwrap() []error }).Unwrap()
			if len(faults) != len(tt.fields) {
				t.Fatalf("Validate(%+v) = %v, want faults in %v", tt.policy, err, tt.fields)
			}
			for i, f := range faults {
				e, ok := errors.AsType[*limiter.PolicyError](f)
				if !ok || e.Field != tt.fields[i] || e.Policy != tt.policy.Name {
					t.Errorf("fault %d = %v, want a PolicyError about %s", i, f, tt.fields[i])
				}
				if msg := f.Error(); !strings.HasPrefix(msg, "limiter: policy ") {
					t.Errorf("message %q has no prefix", msg)
				}
			}
		})
	}
}

// Whatever Take may not count it refuses with ErrPolicy, before any state is
// touched.
func TestTakeRefusesInvalidCharges(t *testing.T) {
	good := limiter.PerSecond("p", 1)
	bad := []limiter.Charge{
		{Policy: limiter.PerSecond("", 1), Cost: 1},
		{Policy: limiter.PerSecond("p", -1), Cost: 1},
		{Policy: limiter.Policy{Name: "p", Limit: 1}, Cost: 1},
		{Policy: limiter.Policy{Name: "p", Limit: 1, Window: time.Second, Burst: -1}, Cost: 1},
		{Policy: limiter.Policy{Name: "p", Limit: 1, Window: time.Second, Algorithm: 77}, Cost: 1},
		{Policy: limiter.Policy{Name: "p", Limit: 1, Window: time.Second, Algorithm: limiter.FixedWindow, Burst: 1}, Cost: 1},
		{Policy: good, Cost: -1},
		{Policy: good, Cost: 1, MaxDelay: -1},
	}
	m := limiter.NewMemory(nil)
	for _, c := range bad {
		if r, err := m.Take(t.Context(), c); !errors.Is(err, limiter.ErrPolicy) || r != (limiter.Result{}) {
			t.Errorf("Take(%+v) = %+v, %v; want ErrPolicy", c, r, err)
		}
		rs, err := m.TakeAll(t.Context(), []limiter.Charge{{Policy: good, Key: "k", Cost: 1}, c})
		if !errors.Is(err, limiter.ErrPolicy) || rs != nil {
			t.Errorf("TakeAll with %+v = %+v, %v; want ErrPolicy", c, rs, err)
		}
		if err := limiter.Wait(t.Context(), m, c); c.MaxDelay >= 0 && !errors.Is(err, limiter.ErrPolicy) {
			t.Errorf("Wait(%+v) = %v; want ErrPolicy", c, err)
		}
	}
	remaining(t, m, of(good, 0), 1)
}

func TestLimitZeroDeniesEverything(t *testing.T) {
	m := limiter.NewMemory(nil)
	for _, p := range []limiter.Policy{limiter.PerSecond("p", 0), per(time.Second, 0, 5), windows(time.Second, 0, limiter.FixedWindow),
		windows(time.Second, 0, limiter.SlidingWindow), windows(time.Second, 0, limiter.SlidingLog)} {
		for cost := range 3 {
			r := denied(t, m, of(p, cost))
			if r.RetryAfter != limiter.Never || r.Remaining != 0 || r.ResetAfter != 0 {
				t.Errorf("cost %d: %+v, want Never and nothing remaining", cost, r)
			}
		}
	}
	if st := m.Stats(); st.Keys != 0 {
		t.Errorf("%d keys are held for quotas that hold nothing", st.Keys)
	}
}

func TestStrings(t *testing.T) {
	tests := []struct{ got, want string }{
		{limiter.TokenBucket.String(), "token bucket"},
		{limiter.LeakyBucket.String(), "leaky bucket"},
		{limiter.FixedWindow.String(), "fixed window"},
		{limiter.SlidingWindow.String(), "sliding window"},
		{limiter.SlidingLog.String(), "sliding log"},
		{limiter.Algorithm(200).String(), "Algorithm(200)"},
		{limiter.Source(0).String(), "none"},
		{limiter.SourceMemory.String(), "memory"},
		{limiter.SourceRedis.String(), "redis"},
		{limiter.SourceLease.String(), "lease"},
		{limiter.SourceDenyCache.String(), "deny cache"},
		{limiter.SourceFallback.String(), "fallback"},
		{limiter.Source(77).String(), "Source(77)"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("String() = %q, want %q", tt.got, tt.want)
		}
	}
}
