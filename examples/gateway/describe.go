package main

import (
	"fmt"
	"strings"

	"github.com/goweir/weir/examples/gateway/internal/config"
)

// aboutSlots says for people what a limit on requests in flight is, and what
// those of a route ask of it.
func aboutSlots(f *config.InFlight, r *config.Route) string {
	var about []string
	if f.Max > 0 {
		about = append(about, fmt.Sprintf("%d", f.Max))
	}
	if f.PerKey > 0 {
		about = append(about, fmt.Sprintf("%d by %v", f.PerKey, f.Key))
	}
	if f.Queue > 0 {
		about = append(about, fmt.Sprintf("queue of %d for %v", f.Queue, f.Wait))
	}
	if f.Adaptive.Pos != (config.Pos{}) {
		about = append(about, "adaptive")
	}
	if f.Load {
		about = append(about, "none under overload")
	}
	if f.Shared {
		about = append(about, "shared through Redis")
	}
	if r.Weight > 1 {
		about = append(about, fmt.Sprintf("%d a request", r.Weight))
	}
	if r.Priority > 1 {
		about = append(about, fmt.Sprintf("priority %d", r.Priority))
	}
	return f.Name + ", " + strings.Join(about, ", ")
}

// aboutPool says what helps the upstreams of a route.
func aboutPool(r *config.Route) string {
	var about strings.Builder
	p := &r.Pool
	for _, help := range []struct {
		on   bool
		what string
	}{
		{p.InFlight.Max > 0, fmt.Sprintf("%d in flight each", p.InFlight.Max)},
		{p.Health.Path != "", "health by " + p.Health.Path},
		{p.Ejection.Failures > 0, fmt.Sprintf("ejection after %d failures", p.Ejection.Failures)},
		{p.Breaker.FailureRatio > 0, fmt.Sprintf("breaker at %v", p.Breaker.FailureRatio)},
		{p.Retries.Max > 0, fmt.Sprintf("%d retries", p.Retries.Max)},
		{p.Retries.Hedge > 0, fmt.Sprintf("hedge after %v", p.Retries.Hedge)},
		{r.Fallback.File != "", "else " + r.Fallback.File},
		{r.Fallback.JSON != "", "else fixed JSON"},
		{len(r.Fallback.Upstreams) > 0, "else " + upstreamNames(r.Fallback.Upstreams)},
		{r.Fallback.Stale.Set(), "else what was answered before"},
		{r.Fallback.Forced, "forced to the fallback"},
	} {
		if help.on {
			about.WriteString("; " + help.what)
		}
	}
	return about.String()
}
