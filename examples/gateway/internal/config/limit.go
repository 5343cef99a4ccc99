package config

import (
	"fmt"
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
}

// Policy returns the quota.
func (l *Limit) Policy() limiter.Policy {
	return limiter.Policy{
		Name: l.Name, Algorithm: limiter.Algorithm(l.Algorithm),
		Limit: l.Rate.Limit, Window: l.Rate.Window, Burst: int(l.Burst),
	}
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

func algorithmName(a limiter.Algorithm) string { return strings.ReplaceAll(a.String(), " ", "_") }

// A Key is what a quota is counted by.
type Key struct {
	Kind string // such as "ip"
	Name string // of the header or cookie
}

func (k *Key) UnmarshalText(text []byte) error {
	kind, name, named := strings.Cut(string(text), ":")
	*k = Key{kind, name}
	if k.Func() == nil || named && !isToken(name) || named != (kind == "header" || kind == "cookie") {
		return fmt.Errorf("%.60q is no key: want global, ip, route, path, header:NAME or cookie:NAME", text)
	}
	return nil
}

// Func returns what reads the key from a request, nil if k is none.
func (k Key) Func() limiter.KeyFunc {
	switch {
	case k.Kind == "global":
		return limiter.KeyGlobal
	case k.Kind == "ip":
		return limiter.KeyByClientIP
	case k.Kind == "route":
		return limiter.KeyByRoute
	case k.Kind == "path":
		return limiter.KeyByPath
	case k.Kind == "header" && k.Name != "":
		return limiter.KeyByHeader(k.Name)
	case k.Kind == "cookie" && k.Name != "":
		return limiter.KeyByCookie(k.Name)
	}
	return nil
}

func (k Key) String() string {
	if k.Name == "" {
		return k.Kind
	}
	return k.Kind + ":" + k.Name
}

// isToken says whether s may be the name of a header or cookie (RFC 9110,
// section 5.6.2).
func isToken(s string) bool {
	return s != "" && strings.Trim(s, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// checkLimits notes the limits of a route by name in all. The same name is the
// same quota wherever it stands, so it must say the same.
func (d *decoder) checkLimits(limits []Limit, all map[string]*Limit, field string) {
	here := map[string]bool{}
	for i := range limits {
		l := &limits[i]
		item := fmt.Sprintf("%s[%d]", field, i)
		if l.Name == "" || l.Key.Kind == "" || l.Rate.Window == 0 {
			continue
		}
		if err := l.Policy().Validate(); err != nil {
			d.fault(l.Pos, item, "%v", verdict(err, "limiter: "))
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
		if first.Policy() != l.Policy() || first.Key != l.Key {
			d.fault(l.Pos, item, "limit %q says something else at %v: one name is one quota, with one key, rate, burst and algorithm",
				l.Name, first.Pos)
		}
	}
}
