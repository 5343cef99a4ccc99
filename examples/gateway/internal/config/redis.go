package config

import (
	"fmt"

	"github.com/goweir/weir/limiter/failover"
)

// Embedded stands for the Redis server inside this program.
const Embedded = "embedded"

// Redis says where limits are counted that several gateways share. Without a
// URL they are counted in memory.
type Redis struct {
	Pos
	URL       string   `yaml:"url" secret:"url"` // or [Embedded]; checked when it is opened
	Prefix    string   `yaml:"prefix" default:"weir"`
	Secret    string   `yaml:"secret" secret:"true"` // makes keys unreadable; the same in all gateways
	WhenDown  WhenDown `yaml:"when_down" default:"local"`
	Instances Count    `yaml:"instances" default:"1"` // that share a quota while Redis is away
	Budget    Duration `yaml:"budget" default:"50ms"` // longest that a decision may take
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
