package inspect

import (
	"time"

	"github.com/goweir/weir/limiter"
)

// topKeys is how many of the busiest keys are shown.
const topKeys = 12

// A state is what the page shows beside the list. Times are in milliseconds.
type state struct {
	Now     int64          `json:"now"` // since the epoch
	Started int64          `json:"started"`
	Actions bool           `json:"actions"`
	Total   int64          `json:"total"`   // exchanges
	Thinned int64          `json:"thinned"` // of them, refusals that were only counted
	Lost    int64          `json:"lost"`    // records that the audit has lost
	Last    int64          `json:"last"`    // number of the newest row
	Seconds [][classes]int `json:"seconds"` // each: below 400, 4xx, 429, 5xx
	Routes  []routeState   `json:"routes"`
	Keys    []keyView      `json:"keys"`
}

type routeState struct {
	Pattern   string           `json:"pattern"`
	Degraded  bool             `json:"degraded"` // to the fallback, by hand
	Tunnels   int              `json:"tunnels"`
	Rules     []ruleState      `json:"rules"`
	InFlight  []inFlightState  `json:"in_flight"`
	Bandwidth []bandwidthState `json:"bandwidth"`
	Upstreams []upstreamState  `json:"upstreams"`
	CanChange bool             `json:"can_degrade"` // there is a proxy
}

type ruleState struct {
	Policy    string `json:"policy"`
	Rate      string `json:"rate"`
	Burst     int    `json:"burst,omitempty"`
	Algorithm string `json:"algorithm"`
	By        string `json:"by"`
	Shadow    bool   `json:"shadow"`
	Allowed   int64  `json:"allowed"`
	Refused   int64  `json:"refused"`
	Shadowed  int64  `json:"shadow_hits"` // would have been refused
	Spared    int64  `json:"spared"`      // another rule refused
	Failed    int64  `json:"failed"`      // no key
}

type inFlightState struct {
	Name    string `json:"name"`
	Limit   int    `json:"limit"`
	Max     int    `json:"max"`
	InUse   int    `json:"in_use"`
	Waiting int    `json:"waiting"`
	Keys    int    `json:"keys"`
}

type bandwidthState struct {
	Class   string  `json:"class,omitempty"`
	Limit   string  `json:"limit"`
	Bodies  int     `json:"bodies"`
	Waiting int     `json:"waiting"`
	Bytes   int64   `json:"bytes"`
	Waited  float64 `json:"waited_ms"`
}

type upstreamState struct {
	Name      string  `json:"name"`
	Weight    int     `json:"weight"`
	InFlight  int     `json:"in_flight"`
	Waiting   int     `json:"waiting"`
	Down      bool    `json:"down"`
	EjectedMS float64 `json:"ejected_ms"`
	Breaker   string  `json:"breaker"`
}

func (in *Inspector) state(now time.Time) state {
	s := state{
		Now: now.UnixMilli(), Started: in.started.UnixMilli(), Actions: in.opts.Actions,
		Last: in.ring.Last(), Routes: []routeState{}, Keys: in.keys.top(topKeys, now),
	}
	s.Seconds, s.Total, s.Thinned = in.rates.past(now)
	if in.opts.Lost != nil {
		s.Lost = in.opts.Lost()
	}
	for _, r := range *in.routes.Load() {
		s.Routes = append(s.Routes, r.state())
	}
	return s
}

func (r *Route) state() routeState {
	s := routeState{
		Pattern: r.Pattern, Rules: []ruleState{}, InFlight: []inFlightState{},
		Bandwidth: []bandwidthState{}, Upstreams: []upstreamState{},
	}
	if r.Limits != nil {
		s.Rules = r.Limits.state()
	}
	for _, a := range r.InFlight {
		f := a.Snapshot()
		s.InFlight = append(s.InFlight, inFlightState{f.Name, f.Limit, f.Max, f.InUse, f.Waiting, f.Keys})
	}
	for _, b := range r.Bandwidth {
		total := ""
		if n := b.Limits().Total; n > 0 {
			total = limiter.FormatByteRate(n)
		}
		for _, c := range b.Stats().Classes {
			s.Bandwidth = append(s.Bandwidth, bandwidthState{c.Name, total, c.Bodies, c.Waiting, c.Bytes, millis(c.Waited)})
		}
	}
	if r.Proxy != nil {
		s.CanChange = true
		s.Degraded, s.Tunnels = r.Proxy.FallbackForced(), r.Proxy.Tunnels()
		for _, u := range r.Proxy.Upstreams() {
			s.Upstreams = append(s.Upstreams, upstreamState{
				u.Name, u.Weight, u.InFlight, u.Waiting, u.Down, millis(u.EjectedFor), u.Breaker.String(),
			})
		}
	}
	return s
}

func (s *Limits) state() []ruleState {
	var states []ruleState
	for i, r := range s.rules.Load().rules {
		c := s.counted[i]
		states = append(states, ruleState{
			Policy: r.Policy.Name, Rate: limiter.FormatRate(r.Policy.Limit, r.Policy.Window), Burst: r.Policy.Burst,
			Algorithm: r.Policy.Algorithm.String(), By: s.by[i], Shadow: r.Shadow,
			Allowed: c.allowed.Load(), Refused: c.refused.Load(), Shadowed: c.shadow.Load(),
			Spared: c.spared.Load(), Failed: c.failed.Load(),
		})
	}
	return states
}
