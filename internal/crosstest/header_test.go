package crosstest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunglas/httpsfv"
	"pgregory.net/rapid"

	"github.com/goweir/weir/limiter"
)

// A member of one of the two fields, as httpsfv reads it.
type member struct {
	name   string
	params map[string]int64
}

// read parses field lines as a List of RFC 9651 section 4.2 and holds each member
// against draft-ietf-httpapi-ratelimit-headers-10: a String, not a Token; the
// required parameter is there, none but the known ones are, each is an Integer,
// and none is negative. What httpsfv writes for it must be what it has read: the
// fields are in canonical form.
func read(lines []string, required string, known ...string) ([]member, error) {
	list, err := httpsfv.UnmarshalList(lines)
	if err != nil {
		return nil, fmt.Errorf("%q is no List: %w", lines, err)
	}
	var members []member
	for _, m := range list {
		item, ok := m.(httpsfv.Item)
		if !ok {
			return nil, fmt.Errorf("%q: %T where an Item should be", lines, m)
		}
		name, ok := item.Value.(string)
		if !ok {
			return nil, fmt.Errorf("%q: a member is a %T, not a String", lines, item.Value)
		}
		params := map[string]int64{}
		for _, key := range item.Params.Names() {
			value, _ := item.Params.Get(key)
			n, ok := value.(int64)
			if !ok || n < 0 || key != required && !slices.Contains(known, key) {
				return nil, fmt.Errorf("%q: parameter %s is %T %v", lines, key, value, value)
			}
			params[key] = n
		}
		if _, ok := params[required]; !ok {
			return nil, fmt.Errorf("%q: %q has no %s", lines, name, required)
		}
		members = append(members, member{name, params})
	}
	if len(list) > 0 {
		canonical, err := httpsfv.Marshal(list)
		if again := joined(lines); err != nil || canonical != again {
			return nil, fmt.Errorf("%q is written %q, %v", again, canonical, err)
		}
	}
	return members, nil
}

func joined(lines []string) string {
	var b []byte
	for i, line := range lines {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, line...)
	}
	return string(b)
}

func readQuotas(h http.Header) ([]member, error) { return read(h.Values("RateLimit"), "r", "t") }

func readPolicies(h http.Header) ([]member, error) {
	policies, err := read(h.Values("RateLimit-Policy"), "q", "w", "weir-burst")
	for _, p := range policies {
		if w, ok := p.params["w"]; ok && w == 0 {
			return nil, fmt.Errorf("%q: w=0", p.name)
		}
	}
	return policies, err
}

// quotas is a rule for each policy, all with one key; the request costs cost[i]
// units of policy i.
func quotas(policies []limiter.Policy, cost func(i int) int) limiter.Rules {
	var rules limiter.Rules
	for i, p := range policies {
		rules = append(rules, limiter.Rule{
			Policy: p, Key: limiter.KeyGlobal,
			Cost: func(*http.Request) int { return cost(i) },
		})
	}
	return rules
}

func get(h http.Handler) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	return w
}

// The examples of the draft, as far as weir has their parameters, byte for byte
// out of the middleware and the memory limiter, and read back.
func TestDraft10Examples(t *testing.T) {
	const day = 24 * time.Hour
	policy := func(name string, limit int, window time.Duration, burst int) limiter.Policy {
		return limiter.Policy{Name: name, Limit: limit, Window: window, Burst: burst}
	}
	tests := []struct {
		name              string
		policies          []limiter.Policy
		cost              []int
		policy, rateLimit string
		quotas            []member
	}{
		{"two policies", []limiter.Policy{policy("burst", 100, time.Minute, 0), policy("daily", 1000, day, 0)}, []int{0, 1},
			`"burst";q=100;w=60, "daily";q=1000;w=86400`,
			`"burst";r=100, "daily";r=999;t=87`,
			[]member{{"burst", map[string]int64{"r": 100}}, {"daily", map[string]int64{"r": 999, "t": 87}}}},
		{"default", []limiter.Policy{policy("default", 100, 10*time.Second, 0)}, []int{1},
			`"default";q=100;w=10`, `"default";r=99;t=1`,
			[]member{{"default", map[string]int64{"r": 99, "t": 1}}}},
		{"a minute and an hour", []limiter.Policy{policy("permin", 50, time.Minute, 0), policy("perhr", 1000, time.Hour, 0)}, []int{50, 1000},
			`"permin";q=50;w=60, "perhr";q=1000;w=3600`,
			`"permin";r=0;t=2, "perhr";r=0;t=4`,
			[]member{{"permin", map[string]int64{"r": 0, "t": 2}}, {"perhr", map[string]int64{"r": 0, "t": 4}}}},
		{"r and t", []limiter.Policy{policy("default", 100, 3000*time.Second, 0)}, []int{50},
			`"default";q=100;w=3000`, `"default";r=50;t=30`,
			[]member{{"default", map[string]int64{"r": 50, "t": 30}}}},
		{"ten hours", []limiter.Policy{policy("day", 1, 10*time.Hour, 101)}, []int{1},
			`"day";q=1;w=36000;weir-burst=101`, `"day";r=100;t=36000`,
			[]member{{"day", map[string]int64{"r": 100, "t": 36000}}}},

		// Not in the draft: what RFC 9651 asks of a String.
		{"quotes and backslashes", []limiter.Policy{policy(`"a\"\\`, 1, time.Second, 0), policy(`;q=9, "b`, 1, 1500*time.Millisecond, 0)}, []int{1, 1},
			`"\"a\\\"\\\\";q=1;w=1, ";q=9, \"b";q=1`,
			`"\"a\\\"\\\\";r=0;t=1, ";q=9, \"b";r=0;t=2`,
			[]member{{`"a\"\\`, map[string]int64{"r": 0, "t": 1}}, {`;q=9, "b`, map[string]int64{"r": 0, "t": 2}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rules := quotas(tt.policies, func(i int) int { return tt.cost[i] })
				h := limiter.Middleware(limiter.NewMemory(nil), rules, nil)(http.NotFoundHandler())
				header := get(h).Result().Header
				if got := header.Values("RateLimit-Policy"); !slices.Equal(got, []string{tt.policy}) {
					t.Errorf("RateLimit-Policy: %s\nwant %s", got, tt.policy)
				}
				if got := header.Values("RateLimit"); !slices.Equal(got, []string{tt.rateLimit}) {
					t.Errorf("RateLimit: %s\nwant %s", got, tt.rateLimit)
				}
				if _, err := readPolicies(header); err != nil {
					t.Error(err)
				}
				got, err := readQuotas(header)
				if err != nil || fmt.Sprint(got) != fmt.Sprint(tt.quotas) {
					t.Errorf("read back: %v, %v; want %v", got, err, tt.quotas)
				}
			})
		})
	}
}

// The checks above are worth something: two examples of the draft that its own
// text forbids, and other near misses, do not pass them.
func TestReadRefuses(t *testing.T) {
	for _, field := range []string{
		`quota;t=1`, `"quota";t=1`, `"q";r=-1`, `"q";r=1.0`, `"q";r="1"`, `"q";r=1;x=1`, `"q";r`, `("q");r=1`,
		`"q";r=1,`, `"q";r=1 "p";r=1`, `"q" ;r=1`, `"q";r=1;t=1000000000000000`, `"é";r=1`, `"q;r=1`, `"q";r=01`,
	} {
		if got, err := read([]string{field}, "r", "t"); err == nil {
			t.Errorf("%s was read as %v", field, got)
		}
	}
	for _, field := range []string{`quota;q=100;w=1`, `"quota";q=100;w=0`} {
		if got, err := readPolicies(http.Header{"Ratelimit-Policy": {field}}); err == nil {
			t.Errorf("%s was read as %v", field, got)
		}
	}
}

// expected returns what the fields must say about a decision.
func expected(d limiter.Decision) (policies, quotas []member) {
	const most = 999_999_999_999_999
	for i, c := range d.Charges {
		p := c.Policy
		policy := member{p.Name, map[string]int64{"q": int64(min(p.Limit, most))}}
		if p.Window%time.Second == 0 {
			policy.params["w"] = int64(p.Window / time.Second)
		}
		if p.Burst > p.Limit {
			policy.params["weir-burst"] = int64(min(p.Burst, most))
		}
		policies = append(policies, policy)
		quotas = append(quotas, member{p.Name, map[string]int64{"r": int64(min(d.Results[i].Remaining, most))}})
	}
	return policies, quotas
}

// compareMembers reports differences. t is left to the tests of what happens
// after it.
func compareMembers(t *rapid.T, got, want []member) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d members %v, want %d %v", len(got), got, len(want), want)
	}
	for i := range got {
		if got[i].name != want[i].name {
			t.Errorf("member %d is %q, want %q", i, got[i].name, want[i].name)
		}
		for key, n := range got[i].params {
			if key != "t" && n != want[i].params[key] {
				t.Errorf("%q has %s=%d, want %d", got[i].name, key, n, want[i].params[key])
			}
		}
		for key := range want[i].params {
			if _, ok := got[i].params[key]; !ok {
				t.Errorf("%q has no %s, want %d", got[i].name, key, want[i].params[key])
			}
		}
	}
}

// names of policies that are valid, with a liking for what could end a String or
// a member early.
var names = rapid.StringOfN(rapid.OneOf(
	rapid.SampledFrom([]rune(`"\;,=() `)), rapid.RuneFrom([]rune("aB9-_.:%~")), rapid.Map(rapid.IntRange(0x20, 0x7e), func(n int) rune { return rune(n) }),
), 1, 12, -1)

// algorithms returns all there are.
func algorithms() []limiter.Algorithm {
	var all []limiter.Algorithm
	for a := limiter.TokenBucket; (limiter.Policy{Name: "p", Algorithm: a, Window: time.Second}).Validate() == nil; a++ {
		all = append(all, a)
	}
	return all
}

func drawPolicies(t *rapid.T, most int) []limiter.Policy {
	var policies []limiter.Policy
	for _, name := range rapid.SliceOfNDistinct(names, 1, most, rapid.ID).Draw(t, "names") {
		p := limiter.Policy{
			Name:      name,
			Algorithm: rapid.SampledFrom(algorithms()).Draw(t, "algorithm"),
			Limit: rapid.OneOf(rapid.IntRange(1, 5), rapid.IntRange(0, 2000), rapid.SampledFrom([]int{1_000_000, 1 << 50})).
				Draw(t, "limit"),
			Window: rapid.OneOf(
				rapid.SampledFrom([]time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour}),
				rapid.Map(rapid.Int64Range(1000, int64(3*time.Second)), func(n int64) time.Duration { return time.Duration(n) }),
			).Draw(t, "window"),
			Burst: rapid.OneOf(rapid.Just(0), rapid.IntRange(1, 10), rapid.Just(1<<60)).Draw(t, "burst"),
		}
		if p.Validate() != nil {
			p.Burst = 0 // not every algorithm has one
		}
		policies = append(policies, p)
	}
	return policies
}

// fieldsTellTheDecision sends requests through up to three middlewares of up to
// three rules and reads what the client is told.
func fieldsTellTheDecision(t *rapid.T) {
	rapid.SyncTest(t, func(t *rapid.T) {
		var decisions []limiter.Decision
		note := func(_ *http.Request, d limiter.Decision) { decisions = append(decisions, d) }
		var handler http.Handler = http.NotFoundHandler()
		costs := map[string]int{}
		for range rapid.IntRange(1, 3).Draw(t, "middlewares") {
			policies := drawPolicies(t, 3)
			rules := quotas(policies, func(i int) int { return costs[policies[i].Name] })
			handler = limiter.Middleware(limiter.NewMemory(nil), rules, &limiter.Options{OnDecision: note})(handler)
			for _, p := range policies {
				costs[p.Name] = rapid.IntRange(0, 3).Draw(t, "cost")
			}
		}
		for range rapid.IntRange(1, 6).Draw(t, "requests") {
			decisions = nil
			w := get(handler)
			header := w.Result().Header
			if got := len(header.Values("RateLimit")); got != len(decisions) {
				t.Fatalf("%d lines for %d decisions: %q", got, len(decisions), header)
			}
			quotas, err := readQuotas(header)
			if err != nil {
				t.Fatal(err)
			}
			policies, err := readPolicies(header)
			if err != nil {
				t.Fatal(err)
			}
			// The innermost middleware is the first to see the final header.
			var wantPolicies, wantQuotas []member
			for _, d := range slices.Backward(decisions) {
				p, q := expected(d)
				wantPolicies, wantQuotas = append(wantPolicies, p...), append(wantQuotas, q...)
			}
			compareMembers(t, policies, wantPolicies)
			compareMembers(t, quotas, wantQuotas)
			// Other middlewares may have policies of the same names.
			innermost := decisions[len(decisions)-1]
			retryAfterIsNotEarlier(t, w, quotas[:len(innermost.Charges)])
			time.Sleep(time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(t, "sleep")))
		}
	})
}

// retryAfterIsNotEarlier holds Retry-After against the t of the quotas that
// refused, which the body names; the others would admit the request now.
func retryAfterIsNotEarlier(t *rapid.T, w *httptest.ResponseRecorder, quotas []member) {
	t.Helper()
	field := w.Result().Header.Get("Retry-After")
	if w.Code != http.StatusTooManyRequests {
		if field != "" {
			t.Errorf("status %d with Retry-After %s", w.Code, field)
		}
		return
	}
	var body struct {
		Violated []string `json:"violated-policies"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || len(body.Violated) == 0 {
		t.Fatalf("body %s: %v, %q", w.Body, err, body.Violated)
	}
	if field == "" {
		return // never
	}
	after, err := strconv.ParseInt(field, 10, 64)
	if err != nil || after < 1 {
		t.Fatalf("Retry-After: %s", field)
	}
	for _, q := range quotas {
		if slices.Contains(body.Violated, q.name) && after < q.params["t"] {
			t.Errorf("Retry-After %d is earlier than t=%d of %q", after, q.params["t"], q.name)
		}
	}
}

func TestFieldsTellTheDecision(t *testing.T) { rapid.Check(t, fieldsTellTheDecision) }

func FuzzFieldsTellTheDecision(f *testing.F) { f.Fuzz(rapid.MakeFuzz(fieldsTellTheDecision)) }

// fieldsComeTrue does what a client does that believes the fields: after t
// seconds there is more, a second earlier there is not; after Retry-After the
// request is admitted.
func fieldsComeTrue(t *rapid.T) {
	rapid.SyncTest(t, func(t *rapid.T) {
		policies := drawPolicies(t, 3)
		for i := range policies {
			policies[i].Limit = min(policies[i].Limit, 1_000_000)
			policies[i].Burst = min(policies[i].Burst, 1000)
		}
		memory := limiter.NewMemory(nil)
		costs := make([]int, len(policies))
		rules := quotas(policies, func(i int) int { return costs[i] })
		handler := limiter.Middleware(memory, rules, nil)(http.NotFoundHandler())
		remaining := func(i int) int64 {
			r, err := memory.Take(t.Context(), limiter.Charge{Policy: policies[i], Key: "*"})
			if err != nil {
				t.Fatal(err)
			}
			return int64(r.Remaining)
		}
		for range rapid.IntRange(1, 6).Draw(t, "requests") {
			for i := range costs {
				costs[i] = rapid.OneOf(rapid.Just(1), rapid.IntRange(0, 1+burst(policies[i]))).Draw(t, "cost")
			}
			decided := time.Now()
			w := get(handler) // which may be held before it is answered
			quotas, err := readQuotas(w.Result().Header)
			if err != nil {
				t.Fatal(err)
			}
			if after := w.Result().Header.Get("Retry-After"); after != "" && rapid.Bool().Draw(t, "retries") {
				wait, err := strconv.Atoi(after)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Duration(wait) * time.Second)
				if again := get(handler); again.Code == http.StatusTooManyRequests {
					t.Errorf("refused after %s s: %v", after, again.Result().Header)
				}
				continue
			}
			i := rapid.IntRange(0, len(quotas)-1).Draw(t, "waits for")
			q := quotas[i]
			wait, waits := q.params["t"]
			switch {
			case !waits && q.params["r"] != int64(burst(policies[i])) && policies[i].Limit > 0:
				t.Errorf("%q has no t, but is not whole: %v", q.name, q.params)
			case waits && wait == 0:
				t.Errorf("%q has t=0", q.name)
			case waits:
				more := decided.Add(time.Duration(wait) * time.Second)
				if early := time.Until(more) - time.Second; early > 0 {
					time.Sleep(early)
					if remaining(i) != q.params["r"] {
						t.Errorf("%q: %d a second before %v", q.name, remaining(i), q.params)
					}
				}
				time.Sleep(time.Until(more))
				if remaining(i) <= q.params["r"] {
					t.Errorf("%q: still %d after %v", q.name, remaining(i), q.params)
				}
			}
		}
	})
}

func TestFieldsComeTrue(t *testing.T) { rapid.Check(t, fieldsComeTrue) }

// Whatever a name holds, also one that Validate refuses: the fields are Lists,
// and a valid name comes back as it was.
func FuzzNames(f *testing.F) {
	f.Add("client", 10, int64(time.Second), 20, 1)
	f.Add(`"\`, 1<<62, int64(1<<62), 0, 1<<62)
	f.Add("\x00\xff,;=\r\n", 1, int64(1500), 1, 2)
	f.Add("é", 0, int64(time.Hour), 0, 0)
	f.Fuzz(func(t *testing.T, name string, limit int, window int64, burst, cost int) {
		p := limiter.Policy{Name: name, Limit: limit, Window: time.Duration(window), Burst: burst}
		rules := quotas([]limiter.Policy{p, p}, func(int) int { return cost })
		request := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		d, err := limiter.Check(t.Context(), limiter.NewMemory(nil), rules, request)
		if err != nil {
			return // not even countable
		}
		header := http.Header{}
		d.SetHeader(header)
		quotas, err := readQuotas(header)
		if err != nil || len(quotas) != 2 {
			t.Fatalf("%d members: %v", len(quotas), err)
		}
		policies, err := readPolicies(header)
		if err != nil || len(policies) != 2 {
			t.Fatalf("%d members: %v", len(policies), err)
		}
		if p.Validate() == nil && (quotas[0].name != name || policies[1].name != name) {
			t.Errorf("%q and %q, want %q", quotas[0].name, policies[1].name, name)
		}
	})
}
