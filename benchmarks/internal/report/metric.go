package report

import (
	"fmt"
	"math"

	"github.com/goweir/weir/benchmarks/pace"
)

// A Metric is something measured.
type Metric struct {
	ID, Label string
	Lower     bool // less is better
	Neutral   bool // neither is
	format    func(float64) string
}

// metrics are all there are.
var metrics = []Metric{
	{ID: "rate", Label: "decisions/s", format: count},
	{ID: "ratio", Label: "× reference", format: fixed(2)},
	{ID: "offered", Label: "offered/s", Neutral: true, format: count},
	{ID: "p50", Label: "p50", Lower: true, format: duration},
	{ID: "p95", Label: "p95", Lower: true, format: duration},
	{ID: "p99", Label: "p99", Lower: true, format: duration},
	{ID: "max", Label: "max", Lower: true, format: duration},
	{ID: "commands", Label: "commands", Lower: true, format: fixed(3)},
	{ID: "reads", Label: "server reads", Lower: true, format: fixed(3)},
	{ID: "trips", Label: "round trips", Lower: true, format: fixed(3)},
	{ID: "cpu", Label: "client CPU s/M", Lower: true, format: fixed(2)},
	{ID: "server_cpu", Label: "server CPU s/M", Lower: true, format: fixed(2)},
	{ID: "wall", Label: "time", Lower: true, format: duration},
	{ID: "cpu_ns", Label: "CPU time", Lower: true, format: duration},
	{ID: "wall_ratio", Label: "time × first", Lower: true, format: fixed(2)},
	{ID: "cpu_ratio", Label: "CPU × first", Lower: true, format: fixed(2)},
	{ID: "allocs", Label: "allocations", Lower: true, format: fixed(1)},
	{ID: "bytes", Label: "allocated", Lower: true, format: bytes},
	{ID: "pinned", Label: "at most", Neutral: true, format: fixed(0)},
	{ID: "key_bytes", Label: "bytes a key", Lower: true, format: fixed(1)},
	{ID: "rss", Label: "peak RSS", Lower: true, format: bytes},
	{ID: "admitted", Label: "admitted", Neutral: true, format: fixed(0)},
	{ID: "bound", Label: "bound", Neutral: true, format: fixed(0)},
	{ID: "asked", Label: "asked", Neutral: true, format: count},
	{ID: "errors", Label: "errors", Lower: true, format: fixed(0)},
}

// MetricOf returns the metric of that ID. An unknown one is shown as it is.
func MetricOf(id string) Metric {
	for _, m := range metrics {
		if m.ID == id {
			return m
		}
	}
	return Metric{ID: id, Label: id, Neutral: true, format: fixed(2)}
}

// Format returns the median of s with its unit.
func (m Metric) Format(s pace.Spread) string { return m.format(s.Median) }

// Full returns the median, the lowest and the highest.
func (m Metric) Full(s pace.Spread) string {
	if s.Min == s.Max {
		return m.format(s.Median)
	}
	return fmt.Sprintf("%s [%s %s]", m.format(s.Median), m.format(s.Min), m.format(s.Max))
}

func fixed(digits int) func(float64) string {
	return func(f float64) string { return fmt.Sprintf("%.*f", digits, f) }
}

func count(f float64) string {
	switch a := math.Abs(f); {
	case a >= 9.995e6:
		return fmt.Sprintf("%.1fM", f/1e6)
	case a >= 999_500:
		return fmt.Sprintf("%.2fM", f/1e6)
	case a >= 9_995:
		return fmt.Sprintf("%.1fk", f/1e3)
	}
	return fmt.Sprintf("%.0f", f)
}

func duration(ns float64) string {
	switch a := math.Abs(ns); {
	case a >= 999.5e6:
		return fmt.Sprintf("%.2f s", ns/1e9)
	case a >= 999.5e3:
		return fmt.Sprintf("%.2f ms", ns/1e6)
	case a >= 999.5:
		return fmt.Sprintf("%.1f µs", ns/1e3)
	}
	return fmt.Sprintf("%.0f ns", ns)
}

func bytes(f float64) string {
	switch a := math.Abs(f); {
	case a >= 1<<20:
		return fmt.Sprintf("%.1f MiB", f/(1<<20))
	case a >= 10<<10:
		return fmt.Sprintf("%.1f KiB", f/(1<<10))
	}
	return fmt.Sprintf("%.0f B", f)
}
