package main

import (
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/goweir/weir/limiter"
)

// A pacer is a Bandwidth that outlives configurations, whose keys and classes
// are those of the latest.
type pacer struct {
	*limiter.Bandwidth
	key   atomic.Pointer[limiter.KeyFunc]
	class atomic.Pointer[func(*http.Request) string]
}

// pace returns what paces bodies, nil if nothing does.
func (b *builder) pace() (*limiter.Bandwidth, error) {
	if !b.Paced() {
		return nil, nil
	}
	conf, limits := b.Bandwidth, b.Rates()
	key := conf.Key.Func(b.apiKey)
	class := b.ClassOf(b.plan)
	var names []string
	for _, c := range conf.Classes {
		names = append(names, c.Name)
	}
	id := fmt.Sprintf("%v %v %v %v %v %q", conf.Bodies, conf.Free, conf.ExemptEvents, conf.ExemptUpgrades, conf.Unkeyed, names)
	p, kept, err := reuse(b, "bandwidth", id, func() (*pacer, func(), error) {
		p := new(pacer)
		p.key.Store(&key)
		p.class.Store(&class)
		o := limiter.BandwidthOptions{
			Limits:         limits,
			Key:            func(r *http.Request) (string, error) { return (*p.key.Load())(r) },
			Bodies:         limiter.Bodies(conf.Bodies),
			Free:           int64(conf.Free),
			ExemptEvents:   conf.ExemptEvents,
			ExemptUpgrades: conf.ExemptUpgrades,
			Unkeyed:        limiter.Unkeyed(conf.Unkeyed),
			Observer:       b.observe.limiter,
		}
		if len(conf.Classes) > 0 {
			o.Class = func(r *http.Request) string { return (*p.class.Load())(r) }
		}
		var err error
		p.Bandwidth, err = limiter.NewBandwidth(o)
		return p, nil, err
	})
	if err != nil {
		return nil, b.At(conf.Pos, "bandwidth", err)
	}
	if kept {
		b.commit = append(b.commit, func() error {
			p.key.Store(&key)
			p.class.Store(&class)
			return p.SetLimits(limits)
		})
	}
	return p.Bandwidth, nil
}
