package limiter_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

// decide returns a Decision in which each policy has the result given for it.
func decide(t *testing.T, policies []limiter.Policy, results []limiter.Result) limiter.Decision {
	t.Helper()
	var rules limiter.Rules
	for _, p := range policies {
		rules = append(rules, limiter.Rule{Policy: p, Key: limiter.KeyGlobal})
	}
	d, err := limiter.Check(t.Context(), fixed(results), rules, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// fixed is a Limiter with known results.
type fixed []limiter.Result

func (f fixed) Take(context.Context, limiter.Charge) (limiter.Result, error) { return f[0], nil }
func (f fixed) TakeAll(context.Context, []limiter.Charge) ([]limiter.Result, error) {
	return append([]limiter.Result(nil), f...), nil
}
func (fixed) Refund(context.Context, limiter.Charge, *limiter.Result) error { return nil }
func (fixed) Reset(context.Context, limiter.Charge) error                   { return nil }

func named(name string, limit int, window time.Duration, burst int) limiter.Policy {
	return limiter.Policy{Name: name, Limit: limit, Window: window, Burst: burst}
}

// The examples of draft-ietf-httpapi-ratelimit-headers-10 as far as weir has
// their parameters, in the canonical form of RFC 9651 section 4.1.1, and what
// the draft leaves to the server.
func TestDraft10(t *testing.T) {
	const day = 24 * time.Hour
	ok := limiter.Result{Allowed: true, Source: limiter.SourceMemory}
	with := func(remaining int, reset time.Duration) limiter.Result {
		r := ok
		r.Remaining, r.ResetAfter = remaining, reset
		return r
	}
	tests := []struct {
		name              string
		policies          []limiter.Policy
		results           []limiter.Result
		policy, rateLimit string
	}{
		{"default", []limiter.Policy{named("default", 100, 10*s, 0)}, []limiter.Result{with(100, 0)},
			`"default";q=100;w=10`, `"default";r=100`},
		{"two", []limiter.Policy{named("burst", 100, time.Minute, 0), named("daily", 1000, day, 0)},
			[]limiter.Result{with(99, 600*ms), with(999, 86400*ms)},
			`"burst";q=100;w=60, "daily";q=1000;w=86400`, `"burst";r=99;t=1, "daily";r=999;t=87`},
		{"permin perhr", []limiter.Policy{named("permin", 50, time.Minute, 0), named("perhr", 1000, time.Hour, 0)},
			[]limiter.Result{with(0, time.Minute), with(1000, 0)},
			`"permin";q=50;w=60, "perhr";q=1000;w=3600`, `"permin";r=0;t=2, "perhr";r=1000`},
		{"r=50;t=30", []limiter.Policy{named("default", 120, time.Hour, 0)}, []limiter.Result{with(50, 70*30*s)},
			`"default";q=120;w=3600`, `"default";r=50;t=30`},
		{"r=100;t=36000", []limiter.Policy{named("day", 5000, 5000*36000*s, 0)}, []limiter.Result{with(100, 4900*36000*s)},
			`"day";q=5000;w=180000000`, `"day";r=100;t=36000`},
		{"burst", []limiter.Policy{named("b", 10, s, 20)}, []limiter.Result{with(19, 100*ms)},
			`"b";q=10;w=1;weir-burst=20`, `"b";r=19;t=1`},
		{"burst below the limit", []limiter.Policy{named("b", 10, s, 5)}, []limiter.Result{with(5, 0)},
			`"b";q=10;w=1`, `"b";r=5`},
		{"window of no whole seconds", []limiter.Policy{named("w", 10, 1500*ms, 0)}, []limiter.Result{with(10, 0)},
			`"w";q=10`, `"w";r=10`},
		{"window below a second", []limiter.Policy{named("w", 10, 500*ms, 0)}, []limiter.Result{with(9, 50*ms)},
			`"w";q=10`, `"w";r=9;t=1`},
		{"quotes", []limiter.Policy{named(`a"b\c`, 1, s, 0)}, []limiter.Result{with(1, 0)},
			`"a\"b\\c";q=1;w=1`, `"a\"b\\c";r=1`},
		{"out of the alphabet", []limiter.Policy{named("é\r\nX: y", 1, s, 0)}, []limiter.Result{with(1, 0)},
			`"%C3%A9%0D%0AX: y";q=1;w=1`, `"%C3%A9%0D%0AX: y";r=1`},
		{"out of the range of integers", []limiter.Policy{named("n", 1<<62, s, 0)}, []limiter.Result{with(1<<62, 0)},
			`"n";q=999999999999999;w=1`, `"n";r=999999999999999`},
		{"one that nobody counted", []limiter.Policy{named("a", 1, s, 0), named("b", 1, s, 0)}, []limiter.Result{with(-1, 0), with(1, 0)},
			`"b";q=1;w=1`, `"b";r=1`},
		{"nobody counted", []limiter.Policy{named("a", 1, s, 0)}, []limiter.Result{with(-1, 0)}, "", ""},
		{"nothing", nil, nil, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			decide(t, tt.policies, tt.results).SetHeader(h)
			if got := h.Get("RateLimit-Policy"); got != tt.policy {
				t.Errorf("RateLimit-Policy: %s\nwant %s", got, tt.policy)
			}
			if got := h.Get("RateLimit"); got != tt.rateLimit {
				t.Errorf("RateLimit: %s\nwant %s", got, tt.rateLimit)
			}
			if want := min(2, 2*len(tt.policy)); len(h) != want {
				t.Errorf("header %v, want %d fields", h, want)
			}
		})
	}
}

func TestRetryAfterField(t *testing.T) {
	no := func(after time.Duration) limiter.Result {
		return limiter.Result{RetryAfter: after, ResetAfter: after}
	}
	tests := []struct {
		results []limiter.Result
		want    string
	}{
		{[]limiter.Result{{Allowed: true}}, ""},
		{[]limiter.Result{{Allowed: true, RetryAfter: time.Hour}}, ""}, // a look
		{[]limiter.Result{no(1)}, "1"},
		{[]limiter.Result{no(time.Second)}, "1"},
		{[]limiter.Result{no(time.Second + 1)}, "2"},
		{[]limiter.Result{no(limiter.Never - 1)}, "9223372037"},
		{[]limiter.Result{no(limiter.Never)}, ""},
		{[]limiter.Result{no(time.Second), {Allowed: true}, no(time.Hour)}, "3600"}, // until none refuses
		{[]limiter.Result{no(time.Second), no(limiter.Never)}, ""},
	}
	for _, tt := range tests {
		policies := make([]limiter.Policy, len(tt.results))
		for i := range policies {
			policies[i] = named(strconv.Itoa(i), 1, time.Hour, 0)
		}
		h := http.Header{}
		d := decide(t, policies, tt.results)
		d.SetHeader(h)
		if got := h.Get("Retry-After"); got != tt.want {
			t.Errorf("%+v: Retry-After %q, want %q", tt.results, got, tt.want)
		}
		// The draft: Retry-After should not be earlier than t.
		if _, param, ok := strings.Cut(h.Get("RateLimit"), ";t="); ok && tt.want != "" && len(tt.results) == 1 {
			more, _ := strconv.Atoi(param)
			if after, _ := strconv.Atoi(tt.want); more < 1 || more > after {
				t.Errorf("%+v: t=%s is later than Retry-After %s", tt.results, param, tt.want)
			}
		}
	}
}

// members splits a List of Items with a String and Integer parameters, as RFC
// 9651 section 4.2 reads it, and fails for anything else.
func members(t *testing.T, s string) (names []string, params []map[string]int64) {
	t.Helper()
	for s != "" {
		if s[0] != '"' {
			t.Fatalf("no String at %q", s)
		}
		var name []byte
		i := 1
		for ; i < len(s) && s[i] != '"'; i++ {
			if s[i] < 0x20 || s[i] > 0x7e {
				t.Fatalf("byte %#x in a String", s[i])
			}
			if s[i] == '\\' {
				if i++; i == len(s) || s[i] != '"' && s[i] != '\\' {
					t.Fatalf("bad escape in %q", s)
				}
			}
			name = append(name, s[i])
		}
		if i == len(s) {
			t.Fatalf("no end of String in %q", s)
		}
		s = s[i+1:]
		p := map[string]int64{}
		for strings.HasPrefix(s, ";") {
			eq := strings.IndexByte(s, '=')
			end := eq + 1
			for end < len(s) && s[end] >= '0' && s[end] <= '9' {
				end++
			}
			n, err := strconv.ParseInt(s[eq+1:end], 10, 64)
			if err != nil || end-eq-1 > 15 {
				t.Fatalf("no Integer at %q", s)
			}
			p[s[1:eq]] = n
			s = s[end:]
		}
		names, params = append(names, string(name)), append(params, p)
		if s != "" {
			if s = strings.TrimPrefix(s, ", "); s == "" {
				t.Fatal("a comma at the end")
			}
		}
	}
	return names, params
}

func FuzzDraft10(f *testing.F) {
	f.Add("client", 10, int64(time.Second), 20, 19, int64(time.Second), true)
	f.Add(`"\`, 1<<62, int64(1<<62), 0, 1<<62, int64(1<<62), false)
	f.Add("\x00\xff,;=", 1, int64(1500), 1, 0, int64(1), false)
	f.Fuzz(func(t *testing.T, name string, limit int, window int64, burst, remaining int, reset int64, ok bool) {
		p := named(name, limit, time.Duration(window), burst)
		if limit < 0 || window < 1000 || burst < 0 || remaining < 0 || reset < 0 || name == "" {
			return
		}
		r := limiter.Result{Allowed: ok, Remaining: remaining, ResetAfter: time.Duration(reset), RetryAfter: time.Duration(reset)}
		h := http.Header{}
		decide(t, []limiter.Policy{p, p}, []limiter.Result{r, r}).SetHeader(h)
		policyNames, policies := members(t, h.Get("RateLimit-Policy"))
		names, quotas := members(t, h.Get("RateLimit"))
		if len(names) != 2 || len(policyNames) != 2 {
			t.Fatalf("%v: want two members in each", h)
		}
		const most = 999_999_999_999_999
		for i := range names {
			if p.Validate() == nil && (names[i] != name || policyNames[i] != name) {
				t.Errorf("names %q and %q, want %q", names[i], policyNames[i], name)
			}
			if q, got := int64(min(limit, most)), policies[i]["q"]; got != q {
				t.Errorf("q=%d, want %d", got, q)
			}
			if w, got := policies[i]["w"]; got && (w == 0 || window%int64(time.Second) != 0) {
				t.Errorf("w=%d for %v", w, p.Window)
			}
			if got, want := quotas[i]["r"], int64(min(remaining, most)); got != want {
				t.Errorf("r=%d, want %d", got, want)
			}
			if sec, got := quotas[i]["t"]; got && (sec < 1 || sec > reset/int64(time.Second)+1) {
				t.Errorf("t=%d, whole after %v", sec, r.ResetAfter)
			}
		}
	})
}
