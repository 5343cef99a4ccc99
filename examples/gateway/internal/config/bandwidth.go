package config

import (
	"cmp"
	"fmt"
	"net/http"

	"github.com/goweir/weir/limiter"
)

// Bandwidth bounds the bytes a second of bodies.
type Bandwidth struct {
	Pos
	PerResponse    ByteRate `yaml:"per_response"` // 0: none, as with the others
	PerKey         ByteRate `yaml:"per_key"`
	Key            Key      `yaml:"key" default:"ip"`
	PerRoute       ByteRate `yaml:"per_route"`
	Total          ByteRate `yaml:"total"`
	Free           Size     `yaml:"free"` // of each body, before it is paced
	Bodies         Bodies   `yaml:"bodies" default:"responses"`
	ExemptEvents   bool     `yaml:"exempt_events"`
	ExemptUpgrades bool     `yaml:"exempt_upgrades"`
	Unkeyed        Unkeyed  `yaml:"unkeyed" default:"refuse"` // requests without the key
	Classes        []Class  `yaml:"classes"`
}

// A Class has a share of the total.
type Class struct {
	Name   string   `yaml:"name" required:"true"`
	Weight Count    `yaml:"weight" default:"1"`
	Max    ByteRate `yaml:"max"`
}

// Bodies is what is paced.
type Bodies limiter.Bodies

var bodiesNames = []string{limiter.ResponseBodies: "responses", limiter.RequestBodies: "requests", limiter.AllBodies: "both"}

func (b *Bodies) UnmarshalText(text []byte) error { return fromName(b, bodiesNames, text) }

func (b Bodies) String() string { return bodiesNames[b] }

// Paced reports whether anything asks for it.
func (c *Config) Paced() bool {
	for _, r := range c.Routes {
		if r.Bandwidth > 0 {
			return true
		}
	}
	return c.Bandwidth.Pos != Pos{}
}

// Rates returns the limits as the room takes them.
func (c *Config) Rates() limiter.BandwidthLimits {
	b := c.Bandwidth
	l := limiter.BandwidthLimits{
		PerResponse: int64(b.PerResponse), PerKey: int64(b.PerKey), PerRoute: int64(b.PerRoute), Total: int64(b.Total),
		Routes: map[string]int64{},
	}
	for _, r := range c.Routes {
		if r.Bandwidth > 0 {
			l.Routes[r.Path.Text] = int64(r.Bandwidth)
		}
	}
	for _, class := range b.Classes {
		l.Classes = append(l.Classes, limiter.BandwidthClass{Name: class.Name, Weight: int64(class.Weight), Max: int64(class.Max)})
	}
	return l
}

// ClassOf returns what tells the class of a request: that of its plan, or else
// of its route. Without one it is of the last.
func (c *Config) ClassOf(plan func(*http.Request) (Plan, bool)) func(*http.Request) string {
	routes := map[string]string{}
	for _, r := range c.Routes {
		routes[r.Path.Text] = r.Class
	}
	return func(r *http.Request) string {
		p, _ := plan(r)
		return cmp.Or(p.Class, routes[r.Pattern])
	}
}

func (d *decoder) checkBandwidth(c *Config) {
	if !c.Paced() {
		return
	}
	o := limiter.BandwidthOptions{Limits: c.Rates(), Key: limiter.KeyGlobal}
	if len(c.Bandwidth.Classes) > 0 {
		o.Class = func(*http.Request) string { return "" }
	}
	_, err := limiter.NewBandwidth(o)
	d.verdicts(c.Bandwidth.Pos, "bandwidth", err, "limiter: bandwidth: ")
	if b := c.Bandwidth; b.PerKey > 0 && b.Key.uses("api_key") && len(c.APIKeys.Plans) == 0 {
		d.fault(b.Pos, "bandwidth.key", "api_key: there are no plans in api_keys, so no request has one")
	}
	for i, p := range c.APIKeys.Plans {
		d.checkClass(p.Class, c, p.Pos, fmt.Sprintf("api_keys.plans[%d].class", i))
	}
}

func (d *decoder) checkClass(name string, c *Config, at Pos, field string) {
	for _, class := range c.Bandwidth.Classes {
		if class.Name == name {
			return
		}
	}
	if name != "" {
		d.fault(at, field, "%q is no class of bandwidth.classes", name)
	}
}
