package config

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/goweir/weir/limiter"
)

// A Limit is a quota and what it is counted by.
type Limit struct {
	Pos
	Name      string    `yaml:"name" required:"true"`
	Key       Key       `yaml:"key" required:"true"`
	Rate      Rate      `yaml:"rate" required:"true"`
	Burst     Count     `yaml:"burst"` // 0: as much as the rate allows in one window
	Algorithm Algorithm `yaml:"algorithm" default:"token_bucket"`
	Cost      Count     `yaml:"cost" default:"1"`
	Shadow    bool      `yaml:"shadow"`
	Match     Match     `yaml:"match"`
	RefundIf  []Status  `yaml:"refund_if"`
	Plans     []Quota   `yaml:"plans"`
	Lease     Count     `yaml:"lease"` // units taken from Redis in advance; 0: none
}

// A Match says which requests a limit is about: those with one of the methods,
// and one of the paths. A path that ends with a slash means all below it.
type Match struct {
	Methods []string `yaml:"methods"`
	Paths   []string `yaml:"paths"`
}

// Func returns what the room asks, nil if it is about every request.
func (m Match) Func() func(*http.Request) bool {
	if len(m.Methods) == 0 && len(m.Paths) == 0 {
		return nil
	}
	return func(r *http.Request) bool {
		return (len(m.Methods) == 0 || slices.Contains(m.Methods, r.Method)) &&
			(len(m.Paths) == 0 || slices.ContainsFunc(m.Paths, func(p string) bool {
				return r.URL.Path == p || strings.HasSuffix(p, "/") && strings.HasPrefix(r.URL.Path, p)
			}))
	}
}

// A Quota is what a plan has in place of the limit's rate and burst.
type Quota struct {
	Pos
	Plan  string `yaml:"plan" required:"true"`
	Rate  Rate   `yaml:"rate" required:"true"`
	Burst Count  `yaml:"burst"`
}

// Unkeyed is what becomes of requests without the key of a limit.
type Unkeyed limiter.Unkeyed

var unkeyedNames = []string{limiter.RefuseUnkeyed: "refuse", limiter.SkipUnkeyed: "skip"}

func (u *Unkeyed) UnmarshalText(text []byte) error { return fromName(u, unkeyedNames, text) }

func (u Unkeyed) String() string { return unkeyedNames[u] }

// A HeaderForm is how clients are told about limits.
type HeaderForm limiter.HeaderForm

var headerForms = []string{limiter.Draft10: "draft10", limiter.XRateLimit: "x_ratelimit", limiter.NoHeaders: "none"}

func (h *HeaderForm) UnmarshalText(text []byte) error { return fromName(h, headerForms, text) }

func (h HeaderForm) String() string { return headerForms[h] }

// Policy returns the quota.
func (l *Limit) Policy() limiter.Policy {
	return limiter.Policy{
		Name: l.Name, Algorithm: limiter.Algorithm(l.Algorithm),
		Limit: l.Rate.Limit, Window: l.Rate.Window, Burst: int(l.Burst),
	}
}

// Leases returns how many units of each quota are taken from Redis in advance, by
// its name.
func (c *Config) Leases() map[string]int {
	leases := map[string]int{}
	for _, r := range c.Routes {
		for _, l := range r.Limits {
			if l.Lease > 0 {
				leases[l.Name] = int(l.Lease)
			}
		}
	}
	return leases
}

func (d *decoder) checkLease(l *Limit, c *Config, field string) {
	switch a := limiter.Algorithm(l.Algorithm); {
	case l.Lease == 0:
	case c.Redis.URL == "":
		d.fault(l.Pos, field+".lease", "there is no redis.url to take it from")
	case a != limiter.TokenBucket && a != limiter.FixedWindow:
		d.fault(l.Pos, field+".lease", "is for token_bucket and fixed_window")
	}
}

// PolicyOf returns the quota of a plan, and whether it has one of its own.
func (l *Limit) PolicyOf(plan string) (limiter.Policy, bool) {
	for _, q := range l.Plans {
		if q.Plan == plan {
			p := l.Policy()
			p.Limit, p.Window, p.Burst = q.Rate.Limit, q.Rate.Window, int(q.Burst)
			return p, true
		}
	}
	return limiter.Policy{}, false
}

// String returns the limit for people, without its name.
func (l *Limit) String() string {
	s := fmt.Sprintf("%s by %v", limiter.FormatRate(l.Rate.Limit, l.Rate.Window), l.Key)
	if l.Burst > 0 {
		s += fmt.Sprintf(", burst %d", l.Burst)
	}
	if a := limiter.Algorithm(l.Algorithm); a != limiter.TokenBucket {
		s += fmt.Sprintf(" (%v)", a)
	}
	if l.Shadow {
		s += ", shadow"
	}
	return s
}

// A Rate is a number of requests in a window of time.
type Rate struct {
	Limit  int
	Window time.Duration
}

func (r *Rate) UnmarshalText(text []byte) (err error) {
	r.Limit, r.Window, err = limiter.ParseRate(string(text))
	return verdict(err, "limiter: rate ")
}

func (r Rate) String() string { return limiter.FormatRate(r.Limit, r.Window) }

// An Algorithm is a way of counting.
type Algorithm limiter.Algorithm

func (a *Algorithm) UnmarshalText(text []byte) error {
	for i := limiter.TokenBucket; i <= limiter.SlidingLog; i++ {
		if algorithmName(i) == string(text) {
			*a = Algorithm(i)
			return nil
		}
	}
	return fmt.Errorf("%.60q is no algorithm: want token_bucket, leaky_bucket, fixed_window, sliding_window or sliding_log", text)
}

func (a Algorithm) String() string { return algorithmName(limiter.Algorithm(a)) }

func algorithmName(a limiter.Algorithm) string { return strings.ReplaceAll(a.String(), " ", "_") }

// checkLimits notes the limits of a route by name in all. The same name is the
// same quota wherever it stands, so it must say the same.
func (d *decoder) checkLimits(limits []Limit, all map[string]*Limit, c *Config, field string) {
	here := map[string]bool{}
	for i := range limits {
		l := &limits[i]
		item := fmt.Sprintf("%s[%d]", field, i)
		d.checkMatch(l, item)
		d.checkPlans(l, c.APIKeys.Plans, item)
		d.checkLease(l, c, item)
		if l.Name == "" || l.Key == "" || l.Rate.Window == 0 {
			continue
		}
		if err := l.Policy().Validate(); err != nil {
			d.verdicts(l.Pos, item, err, "limiter: ")
			continue
		}
		if here[l.Name] {
			d.fault(l.Pos, item, "limit %q is listed twice for this route", l.Name)
			continue
		}
		here[l.Name] = true
		first, ok := all[l.Name]
		if !ok {
			all[l.Name] = l
			continue
		}
		if first.Policy() != l.Policy() || first.Key != l.Key || first.Lease != l.Lease {
			d.fault(l.Pos, item, "limit %q says something else at %v: one name is one quota, with one key, rate, burst, algorithm and lease",
				l.Name, first.Pos)
		}
	}
}

// checkPlans looks for plans that nobody has, and quotas that cannot be.
func (d *decoder) checkPlans(l *Limit, plans []Plan, field string) {
	if l.Key.uses("api_key") && len(plans) == 0 {
		d.fault(l.Pos, field+".key", "api_key: there are no plans in api_keys, so no request has one")
	}
	for i, q := range l.Plans {
		item := fmt.Sprintf("%s.plans[%d]", field, i)
		if !slices.ContainsFunc(plans, func(p Plan) bool { return p.Name == q.Plan }) && q.Plan != "" {
			d.fault(q.Pos, item+".plan", "%q is no plan of api_keys", q.Plan)
		}
		if slices.ContainsFunc(l.Plans[:i], func(p Quota) bool { return p.Plan == q.Plan }) {
			d.fault(q.Pos, item+".plan", "%q is listed twice", q.Plan)
			continue
		}
		if p, _ := l.PolicyOf(q.Plan); q.Rate.Window != 0 && l.Name != "" && l.Rate.Window != 0 {
			d.verdicts(q.Pos, item, p.Validate(), "limiter: ")
		}
	}
}

func (d *decoder) checkMatch(l *Limit, field string) {
	for i, p := range l.Match.Paths {
		if p != "" && p[0] != '/' {
			d.fault(l.Pos, fmt.Sprintf("%s.match.paths[%d]", field, i), "%q does not begin with a slash", p)
		}
	}
	for i, m := range l.Match.Methods {
		if m != "" && !isToken(m) || m != strings.ToUpper(m) {
			d.fault(l.Pos, fmt.Sprintf("%s.match.methods[%d]", field, i), "%q is no method: want GET, POST or the like", m)
		}
	}
}
