package config

import (
	"cmp"
	"net/http"
	"strconv"
	"time"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
	"github.com/goweir/weir/limiter/redislimiter"
)

// InFlight bounds the requests under way at the same time.
type InFlight struct {
	Pos
	Name     string   `yaml:"name"`    // "in-flight", and the path of the route
	Max      Count    `yaml:"max"`     // 0: none
	PerKey   Count    `yaml:"per_key"` // 0: none
	Key      Key      `yaml:"key" default:"ip"`
	Queue    Count    `yaml:"queue"`
	PerQueue Count    `yaml:"queue_per_key"` // 0: half of queue
	Wait     Duration `yaml:"wait" default:"1s"`
	Adaptive Adaptive `yaml:"adaptive" block:"true"`
	Load     bool     `yaml:"overload"` // refuse when the process is short of memory or processors
	Shared   bool     `yaml:"shared"`   // among all gateways with the same Redis server
	Lease    Duration `yaml:"lease" default:"10s"`
	Status   Count    `yaml:"status" default:"503"`
}

// Adaptive makes the cap follow the latency.
type Adaptive struct {
	Pos
	Min       Count  `yaml:"min"`
	Tolerance Factor `yaml:"tolerance" default:"1.5"`
}

// A Factor is a number from 1 to 10.
type Factor float64

func (f *Factor) UnmarshalText(text []byte) error {
	v, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(v >= 1 && v <= 10) {
		return errFactor(text)
	}
	*f = Factor(v)
	return nil
}

// Set reports whether the file asks for it.
func (f *InFlight) Set() bool { return f.Pos != Pos{} }

// Options returns the options of the room, but for Overloaded. classes is how
// many priorities there are.
func (f *InFlight) Options(classes int) limiter.InFlightOptions {
	o := limiter.InFlightOptions{
		Name: f.Name, Max: int(f.Max), MaxPerKey: int(f.PerKey), Classes: classes,
		Queue: int(f.Queue), QueuePerKey: int(f.PerQueue), MaxWait: time.Duration(f.Wait),
	}
	if f.Adaptive.Pos != (Pos{}) {
		o.Adaptive = &limiter.AdaptiveOptions{Min: int(f.Adaptive.Min), Tolerance: float64(f.Adaptive.Tolerance)}
	}
	return o
}

// SharedOptions returns those of the room that shares slots through Redis.
func (f *InFlight) SharedOptions(classes int, r Redis) redislimiter.InFlightOptions {
	return redislimiter.InFlightOptions{
		InFlightOptions: f.Options(classes),
		Lease:           time.Duration(f.Lease),
		WhenDown:        failover.Mode(r.WhenDown),
		Failover:        r.Failover(),
	}
}

// maxPriority is as many classes as the room has.
const maxPriority = 16

// Priorities is how many the routes and plans name. Without any there is one.
func (c *Config) Priorities() int {
	most := Count(1)
	for _, r := range c.Routes {
		most = max(most, r.Priority)
	}
	for _, p := range c.APIKeys.Plans {
		most = max(most, p.Priority)
	}
	return int(most)
}

// SlotOf returns what tells what a request of a route asks of a limit on
// requests in flight, but for its key: the priority of its plan, or else that of
// the route.
func (r *Route) SlotOf(plan func(*http.Request) (Plan, bool)) func(*http.Request) limiter.Slot {
	own, weight := r.Priority, int(r.Weight)
	return func(req *http.Request) limiter.Slot {
		p, _ := plan(req)
		return limiter.Slot{Weight: weight, Class: int(cmp.Or(p.Priority, own, 1)) - 1}
	}
}

// checkSlot looks for what a route asks of a limit that is not there.
func (d *decoder) checkSlot(r *Route, c *Config, field string) {
	d.checkPriority(r.Priority, r.Pos, field+".priority")
	if (r.Priority > 0 || r.Weight > 0) && !r.InFlight.Set() && !c.InFlight.Set() {
		d.fault(r.Pos, field, "priority and weight are about in_flight, of which there is none")
	}
}

func (d *decoder) checkPriority(p Count, at Pos, field string) {
	if p > maxPriority {
		d.fault(at, field, "is %d; want 1, which is served first, to %d", p, maxPriority)
	}
}

// checkInFlight gives f a name that tells it from the others, if it has none.
func (d *decoder) checkInFlight(f *InFlight, c *Config, names map[string]Pos, route, field string) {
	if !f.Set() {
		return
	}
	if f.Name == "" {
		f.Name = "in-flight"
		if quoted := strconv.QuoteToASCII(route); route != "" {
			f.Name += " " + quoted[1:len(quoted)-1]
		}
	}
	if first, ok := names[f.Name]; ok {
		d.fault(f.Pos, field+".name", "%q is there already, at %v", f.Name, first)
	}
	names[f.Name] = f.Pos
	if f.Status != 503 && f.Status != 429 && f.Status != 504 {
		d.fault(f.Pos, field+".status", "is %d; want 503, 429 or 504", f.Status)
	}
	_, err := limiter.NewInFlight(f.Options(min(c.Priorities(), maxPriority)))
	d.verdicts(f.Pos, field, err, "limiter: ")
	switch {
	case f.Shared && c.Redis.URL == "":
		d.fault(f.Pos, field+".shared", "there is no redis.url to share it through")
	case f.Shared && f.Adaptive.Pos != (Pos{}):
		d.fault(f.Pos, field+".adaptive", "is not for what is shared")
	}
	if f.Key.uses("api_key") && f.PerKey > 0 && len(c.APIKeys.Plans) == 0 {
		d.fault(f.Pos, field+".key", "api_key: there are no plans in api_keys, so no request has one")
	}
}
