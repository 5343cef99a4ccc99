package report

import "github.com/goweir/weir/benchmarks/pace"

// A Change is how a figure of this run differs from an older one's.
type Change struct {
	Section, Group, Row string
	Metric              Metric
	Old, New            pace.Spread
	Ratio               float64 // new to old, by the medians; 0 if the old one is 0

	// Apart says that the spreads of the two do not touch. Whatever else is
	// within the noise of the two runs.
	Apart bool
}

// Better reports whether the change is for the better.
func (c Change) Better() bool { return c.Metric.Lower == (c.New.Median < c.Old.Median) }

// compared are the metrics that Compare looks at: the others are parts of these,
// or say what was asked for.
var compared = map[string]bool{
	"rate": true, "p50": true, "p99": true, "commands": true, "trips": true, "cpu": true, "server_cpu": true,
	"cpu_ns": true, "allocs": true, "key_bytes": true, "rss": true, "admitted": true,
}

// Compare returns how the figures of both runs differ, in the order of the new
// one. What only one of them has is left out, and what reads the same in both.
func Compare(old, now *Results) []Change {
	var changes []Change
	for _, s := range now.Sections {
		was := old.Section(s.ID)
		for _, g := range s.Groups {
			for _, r := range g.Rows {
				before := was.Group(g.Name).Row(r.Name)
				for _, id := range s.Columns {
					o, ok := before.Get(id)
					n, known := r.Get(id)
					m := MetricOf(id)
					if !ok || !known || !compared[id] || m.Format(o) == m.Format(n) {
						continue
					}
					c := Change{Section: s.ID, Group: g.Name, Row: r.Name, Metric: m, Old: o, New: n}
					if o.Median != 0 {
						c.Ratio = n.Median / o.Median
					}
					c.Apart = o.Max < n.Min || n.Max < o.Min
					changes = append(changes, c)
				}
			}
		}
	}
	return changes
}
