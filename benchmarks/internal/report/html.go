package report

import (
	_ "embed"
	"fmt"
	"html"
	"io"
	"strings"
)

//go:embed style.css
var style string

// HTML writes r as one page that needs nothing else.
func HTML(w io.Writer, r *Results, changes []Change) {
	p := &page{Writer: w}
	p.f(`<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"/><meta name="viewport" content="width=device-width, initial-scale=1"/>`)
	p.f(`<meta name="color-scheme" content="light dark"/><title>weir: benchmarks</title><style>%s</style></head><body>`, style)
	p.f(`<header><h1>weir: benchmarks</h1>`)
	if r.Partial != "" {
		p.f(`<p class="warn">Partial: %s</p>`, html.EscapeString(r.Partial))
	}
	for _, line := range r.Heading()[:3] {
		p.f(`<p class="quiet">%s</p>`, html.EscapeString(strings.ReplaceAll(line, "`", "")))
	}
	if r.Machine.Server == "embedded" {
		p.f(`<p class="warn">Redis is the embedded one: its figures are no server's.</p>`)
	}
	p.f(`<nav>`)
	for _, s := range r.Sections {
		p.f(`<a href="#%s">%s</a> `, s.ID, html.EscapeString(s.Title))
	}
	p.f(`</nav></header><main>`)
	p.claims(r.Claims)
	for i := range r.Sections {
		p.section(&r.Sections[i])
	}
	p.changes(changes)
	if len(r.Left) > 0 {
		p.f(`<section><h2>Left out</h2><ul>`)
		for _, left := range r.Left {
			p.f(`<li>%s</li>`, html.EscapeString(left))
		}
		p.f(`</ul></section>`)
	}
	p.f("</main></body></html>\n")
}

type page struct{ io.Writer }

func (p *page) f(format string, args ...any) { fmt.Fprintf(p, format, args...) }

// figure shows a plot with its title, unless it is empty.
func (p *page) figure(title, svg string) {
	if svg != "" {
		p.f(`<figure><figcaption>%s</figcaption>%s</figure>`, html.EscapeString(title), svg)
	}
}

func (p *page) section(s *Section) {
	p.f(`<section id="%s"><h2>%s</h2><p>%s</p>`, s.ID, html.EscapeString(s.Title), html.EscapeString(s.Text))
	switch s.ID {
	case "backends":
		p.backends(s)
	case "algorithms":
		p.each(s, func(g Group) string { return bars(g.Rows, []string{"rate"}, "", true) })
	case "costs":
		p.each(s, func(g Group) string { return bars(g.Rows, []string{"trips"}, "", false) })
	case "exactness":
		p.each(s, func(g Group) string { return bars(g.Rows, []string{"admitted"}, "bound", false) })
	case "memory":
		p.each(s, func(g Group) string { return bars(g.Rows, []string{"key_bytes"}, "", false) })
	case "redis-peers":
		p.each(s, func(g Group) string { return bars(g.Rows, []string{"rate"}, "", false) })
	case "downloads":
		p.each(s, func(g Group) string { return bars(g.Rows, []string{"rss"}, "", true) })
	case "pinned":
		p.each(s, func(g Group) string { return bars(g.Rows, []string{"allocs"}, "pinned", false) })
	case "chain":
		p.each(s, func(g Group) string { return bars(g.Rows, []string{"wall"}, "", false) })
		p.each(s, func(g Group) string { return bars(g.Rows, []string{"allocs"}, "", false) })
	default:
		p.each(s, func(g Group) string { return bars(g.Rows, []string{"cpu_ns"}, "", false) })
	}
	p.tables(s)
	p.f(`</section>`)
}

// each shows a plot of each group.
func (p *page) each(s *Section, plot func(Group) string) {
	p.f(`<div class="plots">`)
	for _, g := range s.Groups {
		svg := plot(g)
		if svg != "" {
			title := g.Name
			if label := plotted(svg); label != title {
				title += ": " + label
			}
			p.figure(title, svg)
		}
	}
	p.f(`</div>`)
}

// plotted returns what a plot says it shows.
func plotted(svg string) string {
	_, rest, _ := strings.Cut(svg, `aria-label="`)
	label, _, _ := strings.Cut(rest, `"`)
	return html.UnescapeString(label)
}

// few are the backends that the line plots show: more lines than colors are
// none. The tables have all.
func few(groups []Group) []Group {
	out := make([]Group, len(groups))
	for i, g := range groups {
		out[i] = g
		out[i].Rows = nil
		for _, r := range g.Rows {
			if !strings.HasPrefix(r.Name, "failover") && !strings.HasPrefix(r.Name, "(") {
				out[i].Rows = append(out[i].Rows, r)
			}
		}
	}
	return out
}

func (p *page) backends(s *Section) {
	groups := few(s.Groups)
	index := map[string]int{}
	var names []string
	for _, g := range groups {
		for _, r := range g.Rows {
			if _, ok := index[r.Name]; !ok {
				index[r.Name] = len(names)
				names = append(names, r.Name)
			}
		}
	}
	legend := func() {
		p.f(`<ul class="legend">`)
		for i, name := range names {
			p.f(`<li><svg viewBox="0 0 24 12" width="24" height="12" aria-hidden="true"><line x1="0" y1="6" x2="24" y2="6" class="stroke c%d"/>%s</svg> %s</li>`,
				i%colors, marker(i, 12, 6, fmt.Sprintf("c%d", i%colors), name), html.EscapeString(name))
		}
		p.f(`</ul>`)
	}
	p.f(`<h3>Decisions a second</h3><p class="quiet">Both axes are logarithmic: twice as high is not twice as many. Failover is in the tables.</p>`)
	legend()
	p.f(`<div class="plots">`)
	for _, panel := range panels(groups) {
		p.figure(panel[0].Plot, lines(panel, "rate", index))
	}
	p.f(`</div><h3>Time of a decision that is due on a schedule</h3><p class="quiet">p50 (full), p95, p99 and the maximum (open), on a logarithmic axis; the figures are p50 / p99.</p><div class="plots">`)
	for _, g := range s.Groups {
		if g.X == 64 {
			p.figure(g.Name, ranges(g.Rows))
		}
	}
	p.f(`</div><h3>CPU seconds per million decisions</h3><p class="quiet"><span class="key c0"></span> client, driver included <span class="key c1"></span> server</p><div class="plots">`)
	for _, g := range s.Groups {
		if g.X == 64 {
			p.figure(g.Name, bars(g.Rows, []string{"cpu", "server_cpu"}, "", false))
		}
	}
	p.f(`</div>`)
}

func (p *page) tables(s *Section) {
	ms := s.columns()
	p.f(`<details><summary>Figures: medians of the rounds, and where one points, the lowest and the highest</summary>`)
	for _, g := range s.Groups {
		p.f(`<div class="scroll"><table><caption>%s</caption><thead><tr><th></th>`, html.EscapeString(g.Name))
		for _, m := range ms {
			p.f(`<th>%s</th>`, html.EscapeString(m.Label))
		}
		p.f(`</tr></thead><tbody>`)
		for _, r := range g.Rows {
			p.f(`<tr><th>%s`, html.EscapeString(r.Name))
			if r.Note != "" {
				p.f(`<br/><small>%s</small>`, html.EscapeString(r.Note))
			}
			p.f(`</th>`)
			for _, m := range ms {
				if v, ok := r.Metrics[m.ID]; ok {
					p.f(`<td title="%s">%s</td>`, html.EscapeString(m.Full(v)), html.EscapeString(m.Format(v)))
				} else {
					p.f(`<td>–</td>`)
				}
			}
			p.f(`</tr>`)
		}
		p.f(`</tbody></table></div>`)
	}
	p.f(`</details>`)
}

func (p *page) claims(claims []Claim) {
	if len(claims) == 0 {
		return
	}
	p.f(`<section id="claims"><h2>Ratios that the documentation quotes</h2><div class="scroll"><table><tbody>`)
	for _, c := range claims {
		class := map[string]string{"held": "good", "MISSED": "bad"}[c.state()]
		p.f(`<tr><th>%s</th><td>%s</td><td class="%s">%s</td></tr>`, html.EscapeString(c.Text), html.EscapeString(c.figures()), class, c.state())
	}
	p.f(`</tbody></table></div></section>`)
}

func (p *page) changes(changes []Change) {
	if changes == nil {
		return
	}
	apart := 0
	for _, c := range changes {
		if c.Apart {
			apart++
		}
	}
	p.f(`<section id="changes"><h2>Changes against the older run</h2><p>%d of %d figures that differ have spreads that do not touch; the others are within the noise.</p>`, apart, len(changes))
	p.f(`<div class="scroll"><table><tbody>`)
	for _, c := range changes {
		if c.Apart {
			class := "bad"
			switch {
			case c.Metric.Neutral:
				class = ""
			case c.Better():
				class = "good"
			}
			p.f(`<tr><th>%s / %s / %s</th><td>%s</td><td class="%s">%s</td></tr>`, html.EscapeString(c.Section),
				html.EscapeString(c.Group), html.EscapeString(c.Row), html.EscapeString(c.Metric.Label), class, html.EscapeString(c.text()))
		}
	}
	p.f(`</tbody></table></div></section>`)
}
