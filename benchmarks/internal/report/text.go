package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Heading returns what there is to know about a run as a whole, a line each.
func (r *Results) Heading() []string {
	m := r.Machine
	lines := []string{
		fmt.Sprintf("%s, %v, `%s`", r.Started.UTC().Format("2006-01-02 15:04 MST"),
			time.Duration(r.Seconds*float64(time.Second)).Round(time.Second), strings.Join(r.Command, " ")),
		fmt.Sprintf("%s, cores: %d, %s, %s, load at the start: %s", m.CPU, m.Cores, m.OS, m.Go, m.Load),
		"Redis: " + m.Redis,
	}
	if r.Partial != "" {
		lines = append(lines, "PARTIAL: "+r.Partial)
	}
	return lines
}

// columns returns the metrics of a section that any row has.
func (s *Section) columns() []Metric {
	var ms []Metric
	for _, id := range s.Columns {
		for _, g := range s.Groups {
			if g.has(id) {
				ms = append(ms, MetricOf(id))
				break
			}
		}
	}
	return ms
}

func (g *Group) has(metric string) bool {
	for _, r := range g.Rows {
		if _, ok := r.Metrics[metric]; ok {
			return true
		}
	}
	return false
}

// Text writes the tables of r for a terminal.
func Text(w io.Writer, r *Results, changes []Change) {
	for _, line := range r.Heading() {
		fmt.Fprintln(w, line)
	}
	for _, s := range r.Sections {
		fmt.Fprintf(w, "\n%s\n", strings.ToUpper(s.Title))
		ms := s.columns()
		for _, g := range s.Groups {
			if len(g.Rows) == 0 {
				continue
			}
			fmt.Fprintf(w, "\n  %s\n", g.Name)
			tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
			fmt.Fprint(tw, "\t")
			for _, m := range ms {
				fmt.Fprint(tw, m.Label, "\t")
			}
			fmt.Fprintln(tw)
			for _, row := range g.Rows {
				fmt.Fprint(tw, row.Name, "\t")
				for _, m := range ms {
					fmt.Fprint(tw, cell(row, m), "\t")
				}
				fmt.Fprintln(tw, note(row))
			}
			tw.Flush()
		}
	}
	if len(r.Claims) > 0 {
		fmt.Fprintln(w, "\nRATIOS THAT THE DOCUMENTATION QUOTES")
		for _, c := range r.Claims {
			fmt.Fprintf(w, "  %-11s %s: %s\n", c.state(), c.Text, c.figures())
		}
	}
	if changes != nil {
		fmt.Fprintln(w, "\nCHANGES (spreads apart only)")
		n := 0
		for _, c := range changes {
			if c.Apart {
				n++
				fmt.Fprintf(w, "  %s / %s / %s: %s %s\n", c.Section, c.Group, c.Row, c.Metric.Label, c.text())
			}
		}
		fmt.Fprintf(w, "  %d of %d figures that differ have spreads apart\n", n, len(changes))
	}
	for i, left := range r.Left {
		if i == 0 {
			fmt.Fprintln(w, "\nLEFT OUT")
		}
		fmt.Fprintf(w, "  %s\n", left)
	}
}

func cell(r Row, m Metric) string {
	s, ok := r.Metrics[m.ID]
	if !ok {
		return "–"
	}
	return m.Format(s)
}

func note(r Row) string {
	if r.Note == "" {
		return ""
	}
	return " " + r.Note
}

func (c Claim) state() string {
	switch {
	case !c.Known:
		return "unmeasured"
	case c.Held():
		return "held"
	}
	return "MISSED"
}

func (c Claim) figures() string {
	if !c.Known {
		return c.Bound()
	}
	if c.Measured.Min == c.Measured.Max {
		return fmt.Sprintf("%s, measured %.2f", c.Bound(), c.Measured.Median)
	}
	return fmt.Sprintf("%s, measured %v", c.Bound(), c.Measured)
}

func (c Change) text() string {
	verdict := "worse"
	if c.Better() {
		verdict = "better"
	}
	if c.Metric.Neutral {
		verdict = "different"
	}
	text := fmt.Sprintf("%s -> %s", c.Metric.Format(c.Old), c.Metric.Format(c.New))
	if c.Ratio > 0 {
		text += fmt.Sprintf(" (%.2f times)", c.Ratio)
	}
	return text + ", " + verdict
}

// Markdown writes r as report.md.
func Markdown(w io.Writer, r *Results, changes []Change) {
	fmt.Fprintf(w, "# weir: benchmarks\n\n")
	for _, line := range r.Heading() {
		fmt.Fprintf(w, "- %s\n", line)
	}
	for _, s := range r.Sections {
		fmt.Fprintf(w, "\n## %s\n\n%s\n", s.Title, s.Text)
		ms := s.columns()
		for _, g := range s.Groups {
			if len(g.Rows) == 0 {
				continue
			}
			fmt.Fprintf(w, "\n### %s\n\n| |", g.Name)
			for _, m := range ms {
				fmt.Fprintf(w, " %s |", m.Label)
			}
			fmt.Fprintf(w, "\n| --- |%s\n", strings.Repeat(" --: |", len(ms)))
			for _, row := range g.Rows {
				fmt.Fprintf(w, "| %s |", escape(strings.TrimSpace(row.Name+note(row))))
				for _, m := range ms {
					text := "–"
					if f, ok := row.Metrics[m.ID]; ok {
						text = m.Full(f)
					}
					fmt.Fprintf(w, " %s |", text)
				}
				fmt.Fprintln(w)
			}
		}
	}
	if len(r.Claims) > 0 {
		fmt.Fprintf(w, "\n## Ratios that the documentation quotes\n\n| | | |\n| --- | --- | --- |\n")
		for _, c := range r.Claims {
			fmt.Fprintf(w, "| %s | %s | %s |\n", escape(c.Text), c.figures(), c.state())
		}
	}
	if changes != nil {
		fmt.Fprintf(w, "\n## Changes\n\n| | | |\n| --- | --- | --- |\n")
		for _, c := range changes {
			if c.Apart {
				fmt.Fprintf(w, "| %s / %s / %s | %s | %s |\n", c.Section, escape(c.Group), escape(c.Row), c.Metric.Label, c.text())
			}
		}
	}
	for i, left := range r.Left {
		if i == 0 {
			fmt.Fprintf(w, "\n## Left out\n\n")
		}
		fmt.Fprintf(w, "- %s\n", left)
	}
}

func escape(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
