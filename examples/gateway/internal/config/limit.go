package config

import (
	"fmt"
	"strings"
	"time"
)

// A Limit is a quota and what it is counted by.
type Limit struct {
	Pos
	Name  string `yaml:"name" required:"true"`
	Key   Key    `yaml:"key" required:"true"`
	Rate  Rate   `yaml:"rate" required:"true"`
	Burst Count  `yaml:"burst"` // 0: as much as the rate allows in one window
}

// A Rate is a number of requests in a window of time.
type Rate struct {
	Limit  int
	Window time.Duration
}

func (r *Rate) UnmarshalText(text []byte) (err error) {
	if r.Limit, r.Window, err = parseRate(string(text)); err != nil {
		return fmt.Errorf("%.60q is no rate: want a number, a slash and a span of time, such as 10/s, 100/5m or 10/500ms", text)
	}
	return nil
}

// A Key is what a quota is counted by.
type Key struct {
	Kind string // one of keyKinds
	Name string // of the header or cookie
}

var keyKinds = map[string]bool{ // whether a name follows
	"global": false, "ip": false, "route": false, "path": false, "header": true, "cookie": true,
}

func (k *Key) UnmarshalText(text []byte) error {
	kind, name, named := strings.Cut(string(text), ":")
	wantName, known := keyKinds[kind]
	if !known || named != wantName || named && !isToken(name) {
		return fmt.Errorf("%.60q is no key: want global, ip, route, path, header:NAME or cookie:NAME", text)
	}
	*k = Key{kind, name}
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
		if first.Rate != l.Rate || first.Burst != l.Burst || first.Key != l.Key {
			d.fault(l.Pos, item, "limit %q says something else at %v: one name is one quota, with one key, rate and burst",
				l.Name, first.Pos)
		}
	}
}
