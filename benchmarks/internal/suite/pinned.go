package suite

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/goweir/weir/benchmarks/internal/report"
	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/benchmarks/peer"
	"github.com/goweir/weir/benchmarks/proxybench"
	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

// pins are the paths whose allocations may not grow. When one shrinks, its
// number goes down with it.
var pins = []struct {
	name string
	most float64
	make func() func()
}{
	{"limiter: Take in memory", 0, func() func() {
		m, ctx, c := limiter.NewMemory(nil), context.Background(), limiter.Charge{Policy: quotas[peer.Plenty], Key: "ann", Cost: 1}
		return func() { m.Take(ctx, c) }
	}},
	{"limiter: TakeAll of 3 in memory", 1, func() func() {
		m, ctx, cs := limiter.NewMemory(nil), context.Background(), make([]limiter.Charge, 3)
		for i, name := range []string{"client", "route", "everyone"} {
			p := quotas[peer.Plenty]
			p.Name = name
			cs[i] = limiter.Charge{Policy: p, Key: "ann", Cost: 1}
		}
		return func() { m.TakeAll(ctx, cs) }
	}},
	{"limiter: middleware without header fields", 0, func() func() { return once(limitBy(weir+", no header fields", peer.Plenty)(empty)) }},
	{"limiter: middleware, key by header", 2, func() func() { return once(limitBy(weir, peer.Plenty)(empty)) }},
	{"limiter: middleware, key by address", 3, func() func() {
		rules := limiter.Rules{{Policy: quotas[peer.Plenty], Key: limiter.KeyByClientIP}}
		return once(limiter.Middleware(limiter.NewMemory(nil), rules, nil)(empty))
	}},
	{"capture: JSON of 100 bytes", 3, func() func() { return once(keeping(sender("application/json", 100))) }},
	{"capture: JSON of 64 KiB", 3, func() func() { return once(keeping(sender("application/json", 64<<10))) }},
	{"capture: an image, not recorded", 3, func() func() { return once(keeping(sender("image/png", 64<<10))) }},
	{"clientip: address of the connection", 2, func() func() { return once(client(empty)) }},
	{"clientip, capture, limiter", 7, func() func() { return once(client(record(limits(sender("application/json", 100))))) }},
	{"proxy, over a transport in memory", 25, func() func() { return once(proxybench.Weir(answered)) }},
}

// answered is a proxy without a network: its upstream answers at once.
var answered = proxy.Config{
	Upstreams:     []proxy.Upstream{{URL: "http://127.0.0.1:1"}},
	WrapTransport: func(http.RoundTripper) http.RoundTripper { return answerer{} },
}

type answerer struct{}

func (answerer) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"text/plain"}}, Body: http.NoBody, Request: r,
	}, nil
}

// keeping records and masks nothing.
func keeping(h http.Handler) http.Handler {
	return capture.Middleware(capture.SinkFunc(discard), &capture.Options{DangerouslyKeepSecrets: true})(h)
}

func once(h http.Handler) func() {
	serve := requests(h)
	serve(1000) // the first of them are looked at for mistakes
	return func() { serve(1) }
}

// pinned counts the allocations of the pinned paths.
func (r *run) pinned() section {
	s := section{Section: report.Section{
		ID: "pinned", Title: "Pinned allocations", Columns: []string{"allocs", "pinned"},
		Text: "Allocations of one call, over that of the writer and the request, which are used again. The mark is how many there may be: a run that finds more exits with 1.",
	}}
	var rows []string
	for _, p := range pins {
		rows = append(rows, p.name)
	}
	s.groups = []group{{name: "allocations", rows: rows, turns: 1, quick: true, measure: func(rows []string) ([]report.Row, error) {
		var out []report.Row
		for _, p := range pins {
			for _, name := range rows {
				if name != p.name {
					continue
				}
				if !r.step(name) {
					return out, nil
				}
				call := p.make()
				// The least of three: what else the process does may allocate, too.
				least := testing.AllocsPerRun(200, call)
				for range 2 {
					least = min(least, testing.AllocsPerRun(200, call))
				}
				out = append(out, report.Row{Name: name, Metrics: map[string]pace.Spread{"allocs": one(least), "pinned": one(p.most)}})
			}
		}
		return out, nil
	}}}
	return s
}

// Faults returns what is not as it is promised: allocations above their pins,
// and, if check is set, ratios that are missed or were not measured.
func Faults(r *report.Results, check bool) []string {
	var faults []string
	if g := r.Section("pinned").Group("allocations"); g != nil {
		for _, row := range g.Rows {
			if got, most := row.Metrics["allocs"].Median, row.Metrics["pinned"].Median; got > most {
				faults = append(faults, fmt.Sprintf("%s: %v allocations, pinned are %v", row.Name, got, most))
			}
		}
	}
	if check {
		for _, c := range r.Claims {
			switch {
			case !c.Known:
				faults = append(faults, fmt.Sprintf("not measured: %s, %s", c.Text, c.Bound()))
			case !c.Held():
				faults = append(faults, fmt.Sprintf("missed: %s: %s, measured %v", c.Text, c.Bound(), c.Measured))
			}
		}
	}
	return faults
}
