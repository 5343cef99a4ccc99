package limiter_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

// notebook is an Observer that writes down what it is told.
type notebook struct {
	mu     sync.Mutex
	events []limiter.Event
}

func (n *notebook) Observe(_ context.Context, e limiter.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
}

func (n *notebook) take() []limiter.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.events
	n.events = nil
	return e
}

func TestObserver(t *testing.T) {
	inTime(t, func(t *testing.T) {
		start := time.Now()
		user := limiter.Rule{Policy: limiter.PerHour("user", 1), Key: limiter.KeyByHeader("X-User")}
		all := limiter.Rule{Policy: limiter.PerHour("all", 10), Key: limiter.KeyGlobal, Cost: func(*http.Request) int { return 2 }}
		shadow := limiter.Rule{Policy: limiter.PerHour("shadow", 1), Key: limiter.KeyGlobal, Shadow: true}
		paced := limiter.Rule{Policy: limiter.Policy{Name: "paced", Algorithm: limiter.LeakyBucket, Limit: 1, Window: s, Burst: 5}, Key: limiter.KeyGlobal}
		decision := func(policy string, result limiter.Outcome, n int) limiter.Event {
			e := limiter.Event{Kind: limiter.EventDecision, Policy: policy, Route: "GET /", Result: result, Source: limiter.SourceMemory, Start: start, N: n}
			if result == limiter.OutcomeUnkeyed || result == limiter.OutcomeFailed {
				e.Source = 0
			}
			return e
		}
		hold := func(result limiter.Outcome, d time.Duration) limiter.Event {
			return limiter.Event{Kind: limiter.EventHold, Policy: "paced", Route: "GET /", Result: result, Source: limiter.SourceMemory, Start: start, Duration: d, N: 1}
		}
		tests := []struct {
			name  string
			rules limiter.Rules
			l     limiter.Limiter
			unkey limiter.Unkeyed
			leave time.Duration // 0: stays
			calls int           // the last is observed
			want  []limiter.Event
		}{
			{"allowed", limiter.Rules{all}, nil, 0, 0, 1, []limiter.Event{decision("all", limiter.OutcomeAllowed, 2)}},
			{"denied, and spared", limiter.Rules{all, user}, nil, 0, 0, 2,
				[]limiter.Event{decision("all", limiter.OutcomeSpared, 2), decision("user", limiter.OutcomeDenied, 1)}},
			{"shadow", limiter.Rules{all, shadow}, nil, 0, 0, 2,
				[]limiter.Event{decision("all", limiter.OutcomeAllowed, 2), decision("shadow", limiter.OutcomeShadow, 1)}},
			{"shadow not asked", limiter.Rules{shadow, user}, nil, 0, 0, 2, []limiter.Event{decision("user", limiter.OutcomeDenied, 1)}},
			{"unkeyed", limiter.Rules{all, {Policy: limiter.PerHour("other", 1), Key: limiter.KeyByHeader("X-Other")}}, nil, 0, 0, 1,
				[]limiter.Event{decision("other", limiter.OutcomeUnkeyed, 0)}},
			{"left out", limiter.Rules{{Policy: limiter.PerHour("other", 1), Key: limiter.KeyByHeader("X-Other")}}, nil, limiter.SkipUnkeyed, 0, 1, nil},
			{"failed", limiter.Rules{user}, failing{errors.New("broken")}, 0, 0, 1, []limiter.Event{decision("user", limiter.OutcomeFailed, 1)}},
			{"held", limiter.Rules{all, paced}, nil, 0, 0, 2,
				[]limiter.Event{decision("all", limiter.OutcomeAllowed, 2), decision("paced", limiter.OutcomeAllowed, 1), hold(limiter.OutcomeAllowed, s)}},
			{"left", limiter.Rules{paced}, nil, 0, 300 * ms, 2,
				[]limiter.Event{decision("paced", limiter.OutcomeAllowed, 1), hold(limiter.OutcomeLeft, 300*ms)}},
		}
		for _, tt := range tests {
			var n notebook
			l := tt.l
			if l == nil {
				l = limiter.NewMemory(nil)
			}
			h := limiter.Middleware(l, tt.rules, &limiter.Options{Headers: limiter.NoHeaders, Unkeyed: tt.unkey, Observer: &n})(hello)
			for range tt.calls {
				start = time.Now()
				n.take()
				ctx, cancel := context.WithCancel(t.Context())
				if tt.leave > 0 {
					time.AfterFunc(tt.leave, cancel)
				}
				r := request(t).WithContext(ctx)
				r.Header.Set("X-User", "ann")
				r.Pattern = "GET /"
				h.ServeHTTP(httptest.NewRecorder(), r)
				cancel()
			}
			for i := range tt.want {
				tt.want[i].Start = start
			}
			if got := n.take(); !slices.Equal(got, tt.want) {
				t.Errorf("%s:\n got %+v\nwant %+v", tt.name, got, tt.want)
			}
		}
	})
}

// Whether a request passed although the Limiter failed is part of the event.
func TestObserverOfFailures(t *testing.T) {
	for admit, want := range map[bool]limiter.Outcome{false: limiter.OutcomeFailed, true: limiter.OutcomeWaved} {
		var n notebook
		h := limiter.Middleware(failing{errors.New("broken")}, limiter.Rules{{Policy: limiter.PerHour("p", 1), Key: limiter.KeyGlobal}},
			&limiter.Options{Observer: &n, OnError: func(*http.Request, error) bool { return admit }})(hello)
		h.ServeHTTP(httptest.NewRecorder(), request(t))
		if e := n.take(); len(e) != 1 || e[0].Result != want || e[0].Policy != "p" || e[0].N != 1 {
			t.Errorf("OnError says %v: observed %+v, want one event with %v", admit, e, want)
		}
	}
}

// A Memory tells of every eviction and every refusal that it counts, and which
// policy needed the room.
func TestObserverOfMemory(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		for _, a := range algorithms {
			inTime(t, func(t *testing.T) {
				var n notebook
				m := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 32 << 10, RefuseNew: refuse, Observer: &n})
				p := windows(time.Hour, 1, a)
				fill(t, m, p, "a", 2000)
				other := p
				other.Name = "other"
				for i := range 500 {
					c, d := of(p, 1), of(other, 1)
					c.Key, d.Key = "b"+number(i), "c"+number(i)
					takeAll(t, m, c, d)
				}
				var evicted, refused uint64
				names := map[string]int{}
				for _, e := range n.take() {
					switch e.Kind {
					case limiter.EventEviction:
						evicted += uint64(e.N)
					case limiter.EventNoRoom:
						refused += uint64(e.N)
					}
					names[e.Policy]++
					if e.Source != limiter.SourceMemory || !e.Start.Equal(time.Now()) || e.N < 1 {
						t.Fatalf("%v: %+v", a, e)
					}
				}
				st := m.Stats()
				if st.Evicted != evicted || st.Refused != refused || (refused > 0) != refuse || (evicted > 0) == refuse {
					t.Errorf("%v: told of %d evicted and %d refused, stats %+v", a, evicted, refused, st)
				}
				if len(names) != 2 && !refuse {
					t.Errorf("%v: told of %v, want both policies", a, names)
				}
			})
		}
	}
}

func TestObserverStrings(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{limiter.EventKind(0).String(), "none"}, {limiter.EventDecision.String(), "decision"}, {limiter.EventHold.String(), "hold"},
		{limiter.EventEviction.String(), "eviction"}, {limiter.EventNoRoom.String(), "no room"},
		{limiter.EventFailure.String(), "failure"}, {limiter.EventBreakerOpen.String(), "breaker open"},
		{limiter.EventBreakerHalfOpen.String(), "breaker half-open"}, {limiter.EventBreakerClosed.String(), "breaker closed"},
		{limiter.EventSent.String(), "sent"}, {limiter.EventReceived.String(), "received"}, {limiter.EventLapse.String(), "lapse"}, {limiter.EventKind(99).String(), "EventKind(99)"},
		{limiter.OutcomeAllowed.String(), "allowed"}, {limiter.OutcomeDenied.String(), "denied"}, {limiter.OutcomeSpared.String(), "spared"},
		{limiter.OutcomeShadow.String(), "shadow"}, {limiter.OutcomeUnkeyed.String(), "unkeyed"}, {limiter.OutcomeFailed.String(), "failed"},
		{limiter.OutcomeLeft.String(), "left"}, {limiter.OutcomeWaved.String(), "waved"}, {limiter.Outcome(99).String(), "Outcome(99)"},
	} {
		if tt.got != tt.want {
			t.Errorf("String() = %q, want %q", tt.got, tt.want)
		}
	}
}
