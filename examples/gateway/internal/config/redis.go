package config

import (
	"fmt"
	"time"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
	"github.com/goweir/weir/limiter/redislimiter"
)

// Embedded stands for the Redis server inside this program.
const Embedded = "embedded"

// Redis says where limits are counted that several gateways share. Without a
// URL they are counted in memory.
type Redis struct {
	Pos
	URL       string   `yaml:"url" secret:"url"` // or [Embedded]
	Prefix    string   `yaml:"prefix" default:"weir"`
	Secret    string   `yaml:"secret" secret:"true"` // makes keys unreadable; the same in all gateways
	WhenDown  WhenDown `yaml:"when_down" default:"local"`
	Instances Count    `yaml:"instances" default:"1"` // that share a quota while Redis is away
	Budget    Duration `yaml:"budget" default:"50ms"` // longest that a decision may take
	Failures  Count    `yaml:"failures" default:"5"`  // in a row, after which it is asked once a second only
	Slot      string   `yaml:"slot"`                  // of a cluster, for all quotas
	OwnClock  bool     `yaml:"client_clock"`          // instead of the server's
}

// Options returns the options of the room. lease says how many units of a quota
// are taken in advance.
func (r Redis) Options(lease func(limiter.Policy) int) *redislimiter.Options {
	// No Secret is an empty one.
	return &redislimiter.Options{Prefix: r.Prefix, Secret: []byte(r.Secret), Slot: r.Slot, ClientClock: r.OwnClock, Lease: lease}
}

// Failover returns the bounds of what is asked there.
func (r Redis) Failover() failover.Options {
	return failover.Options{Budget: time.Duration(r.Budget), Instances: int(r.Instances), Failures: int(r.Failures)}
}

// checkRedis has the room judge what leads to the server, which it does not ask.
func (d *decoder) checkRedis(r *Redis) {
	if r.URL == "" || r.URL == Embedded {
		return
	}
	client, err := redislimiter.Open(r.URL)
	if err != nil {
		d.fault(r.Pos, "redis.url", "%v", verdict(err, "redislimiter: Open: "))
		return
	}
	defer client.Close()
	_, err = redislimiter.New(client, r.Options(nil))
	d.verdicts(r.Pos, "redis", err, "redislimiter: New: ")
}

// WhenDown is who decides while Redis is away.
type WhenDown failover.Mode

func (w *WhenDown) UnmarshalText(text []byte) error {
	for m := failover.Closed; m <= failover.Local; m++ {
		if m.String() == string(text) {
			*w = WhenDown(m)
			return nil
		}
	}
	return fmt.Errorf("%.60q is no way to go on without Redis: want local (each gateway holds its share), open (no limits) or closed (503)", text)
}

func (w WhenDown) String() string { return failover.Mode(w).String() }
