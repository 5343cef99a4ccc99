package suite

import (
	"context"
	"runtime"

	"github.com/goweir/weir/benchmarks/internal/report"
	"github.com/goweir/weir/limiter"
)

// memory counts what a key takes.
func (r *run) memory() section {
	s := section{Section: report.Section{
		ID: "memory", Title: "Memory of a key", Columns: []string{"key_bytes"},
		Text: "After one decision about each key: heap of this process over 200,000 keys, table and locks included, and used_memory of the server over 10,000. " +
			"The sliding log takes more with every event that it remembers.",
	}}
	var rows []string
	for a := limiter.TokenBucket; a <= limiter.SlidingLog; a++ {
		rows = append(rows, a.String())
	}
	algorithm := func(name string) (a limiter.Algorithm) {
		for a = limiter.TokenBucket; a.String() != name; a++ {
		}
		return a
	}
	s.groups = []group{
		{name: inMemory, rows: rows, turns: 1, measure: func(rows []string) (out []report.Row, err error) {
			const n = 200_000
			ctx, all := context.Background(), keys(r.id, n)
			for _, name := range rows {
				if !r.step(name) {
					break
				}
				before := heap()
				m, p := limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 256 << 20, LogBytes: 96 << 20}), long(algorithm(name))
				for _, k := range all {
					if _, err := m.Take(ctx, limiter.Charge{Policy: p, Key: k, Cost: 1}); err != nil {
						return out, err
					}
				}
				row := report.Row{Name: name}
				put(&row, "key_bytes", []float64{(heap() - before) / float64(m.Stats().Keys)}, 1)
				out = append(out, row)
				runtime.KeepAlive(m)
			}
			return out, nil
		}},
		{name: "Redis", rows: rows, turns: 1, measure: func(rows []string) (out []report.Row, err error) {
			if r.server.kind == embedded {
				return nil, errNoMemory
			}
			l, closer, err := r.place.open(coalesced)
			if err != nil {
				return nil, err
			}
			defer closer()
			o := &opened{l: l, closer: closer, known: map[string]bool{}}
			for _, name := range rows {
				if !r.step(name) {
					break
				}
				p, all := long(algorithm(name)), keys(r.id+name[:4], 10_000)
				if err := o.fill(r.ctx, p, all[:100]); err != nil { // scripts and connections are no keys
					return out, err
				}
				before := r.server.memory()
				if err := o.fill(r.ctx, p, all[100:]); err != nil {
					return out, err
				}
				row := report.Row{Name: name}
				put(&row, "key_bytes", []float64{(r.server.memory() - before) / float64(len(all)-100)}, 1)
				out = append(out, row)
			}
			return out, nil
		}},
	}
	return s
}

// long is a quota that remembers a charge for hours.
func long(a limiter.Algorithm) limiter.Policy {
	p := limiter.PerDay("client", 10)
	p.Algorithm = a
	return p
}

func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
