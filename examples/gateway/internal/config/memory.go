package config

import "github.com/goweir/weir/limiter"

// Memory bounds the quotas of this process, where no Redis server counts them.
type Memory struct {
	Pos
	Max       Size `yaml:"max" default:"64MiB"`
	Logs      Size `yaml:"logs" default:"3MiB"` // of it for the events of sliding_log
	RefuseNew bool `yaml:"refuse_new"`          // when it is full, in place of forgetting
}

// Options returns the options of the room.
func (m Memory) Options() limiter.MemoryOptions {
	return limiter.MemoryOptions{MaxBytes: int64(m.Max), LogBytes: int64(m.Logs), RefuseNew: m.RefuseNew}
}

func (d *decoder) checkMemory(m *Memory) {
	if m.Max < 1<<20 {
		d.fault(m.Pos, "memory.max", "is %v; want 1MiB or more", m.Max)
	}
	if m.Logs > m.Max/2 {
		d.fault(m.Pos, "memory.logs", "is %v; want at most half of max, %v", m.Logs, m.Max)
	}
}
