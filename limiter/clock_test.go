package limiter

import (
	"testing"
	"testing/synctest"
	"time"
)

// Two callers whose readings are a second apart, one after the other, get no
// more than the later one alone.
func TestTrapLimiter01_LateReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(nil)
		p := Policy{Name: "p", Limit: 10, Window: time.Second, Burst: 20}
		admitted, start := 0, m.start
		for i := range 2000 {
			m.start = start.Add(time.Duration(-(i & 1)) * time.Second)
			if r, _ := m.Take(t.Context(), Charge{Policy: p, Key: "k", Cost: 1}); r.Allowed {
				admitted++
			}
		}
		if admitted != 1+20 {
			t.Errorf("admitted %d of 2000, want 21: the first, and a second later a whole burst", admitted)
		}
	})
}

// When readings jump back, nothing is minted and nobody waits longer for it.
func TestJumpBackwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(nil)
		start := m.start
		p := Policy{Name: "p", Limit: 10, Window: time.Second, Burst: 3}
		steps := []struct {
			at time.Duration // in 100 ms
			ok bool
		}{
			{1, true}, {0, true}, {0, true}, {0, false}, {0, false},
			{1, false}, {1, false}, // elsewhere the first of these was minted by the jump
			{2, true}, {2, false}, {0, false}, {2, false}, {3, true}, {0, false}, {-9, false}, {3, false},
		}
		for i, st := range steps {
			m.start = start.Add(-st.at * 100 * time.Millisecond)
			r, err := m.Take(t.Context(), Charge{Policy: p, Key: "k", Cost: 1})
			if err != nil || r.Allowed != st.ok || r.RetryAfter > 100*time.Millisecond {
				t.Errorf("step %d, at %v: %+v, %v; want Allowed %v and a retry within 100ms", i, st.at*100*time.Millisecond, r, err, st.ok)
			}
		}
	})
}
