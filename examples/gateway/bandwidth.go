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
	id := fmt.Sprint(conf.Bodies, conf.Free, conf.ExemptEvents, conf.ExemptUpgrades)
	for _, c := range conf.Classes {
		id += fmt.Sprintf(" %q", c.Name)
	}
	p, kept, err := reuse(b, "bandwidth", id, func() (*pacer, func(), error) {
		p := new(pacer)
		p.key.Store(&key)
		p.class.Store(&class)
		var err error
		p.Bandwidth, err = limiter.NewBandwidth(limiter.BandwidthOptions{
			Limits:         limits,
			Key:            func(r *http.Request) (string, error) { return (*p.key.Load())(r) },
			Class:          func(r *http.Request) string { return (*p.class.Load())(r) },
			Bodies:         limiter.Bodies(conf.Bodies),
			Free:           int64(conf.Free),
			ExemptEvents:   conf.ExemptEvents,
			ExemptUpgrades: conf.ExemptUpgrades,
			Observer:       b.observe.limiter,
		})
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
