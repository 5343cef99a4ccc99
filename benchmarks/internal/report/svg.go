package report

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// Plots are drawn at the width of a phone, so that their text is never smaller
// than it was meant; wider pages show several side by side.
const plotWidth = 360

// colors is how many there are in the style of the page, c0 and on.
const colors = 8

// A svg is a drawing in the making.
type svg struct {
	strings.Builder
	width, height float64
}

func newSVG(height float64, label string) *svg {
	s := &svg{width: plotWidth, height: height}
	fmt.Fprintf(s, `<svg viewBox="0 0 %d %.0f" role="img" aria-label="%s" xmlns="http://www.w3.org/2000/svg">`,
		plotWidth, height, html.EscapeString(label))
	return s
}

func (s *svg) text(x, y float64, class, text string) {
	fmt.Fprintf(s, `<text x="%.1f" y="%.1f" class="%s">%s</text>`, x, y, class, html.EscapeString(text))
}

func (s *svg) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(s, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`, x1, y1, x2, y2, class)
}

// rect draws a bar with a text that shows when it is pointed at.
func (s *svg) rect(x, y, w, h float64, class, title string) {
	fmt.Fprintf(s, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="2" class="%s"><title>%s</title></rect>`,
		x, y, max(w, 1), h, class, html.EscapeString(title))
}

func (s *svg) dot(x, y, r float64, class, title string) {
	fmt.Fprintf(s, `<circle cx="%.1f" cy="%.1f" r="%.1f" class="%s"><title>%s</title></circle>`,
		x, y, r, class, html.EscapeString(title))
}

func (s *svg) end() string { return s.String() + "</svg>" }

// A scale places values on an axis.
type scale struct {
	low, high, from, to float64
	log                 bool
}

func (s scale) at(v float64) float64 {
	if s.log {
		v = math.Log(max(v, s.low)) - math.Log(s.low)
		return s.from + v/(math.Log(s.high)-math.Log(s.low))*(s.to-s.from)
	}
	return s.from + (v-s.low)/(s.high-s.low)*(s.to-s.from)
}

// ticks returns round values within the scale.
func (s scale) ticks() []float64 {
	var ticks []float64
	if s.log {
		steps := []float64{1}
		if s.high/s.low < 1000 {
			steps = []float64{1, 3}
		}
		for decade := math.Pow(10, math.Floor(math.Log10(s.low))); decade <= s.high; decade *= 10 {
			for _, step := range steps {
				if v := decade * step; v >= s.low*0.999 && v <= s.high*1.001 {
					ticks = append(ticks, v)
				}
			}
		}
		for len(ticks) > 7 {
			ticks = every(ticks, 2)
		}
		return ticks
	}
	step := math.Pow(10, math.Floor(math.Log10((s.high-s.low)/2)))
	for (s.high-s.low)/step > 5 {
		step *= 2
	}
	for v := math.Ceil(s.low/step) * step; v <= s.high*1.001; v += step {
		ticks = append(ticks, v)
	}
	return ticks
}

func every(vs []float64, n int) []float64 {
	var some []float64
	for i := 0; i < len(vs); i += n {
		some = append(some, vs[i])
	}
	return some
}

// axis returns a scale around the values, from a round one to a round one. A
// logarithmic one leaves out what is not positive.
func axis(values []float64, log bool, from, to float64) scale {
	s := scale{log: log, from: from, to: to}
	if log {
		values = slices.DeleteFunc(slices.Clone(values), func(v float64) bool { return v <= 0 })
	}
	if len(values) == 0 {
		values = []float64{1}
	}
	low, high := slices.Min(values), slices.Max(values)
	if log {
		s.low, s.high = round(low, false), round(high, true)
		if s.low == s.high {
			s.high *= 10
		}
		return s
	}
	s.low, s.high = min(0, low), high*1.02
	if s.high <= s.low {
		s.high = s.low + 1
	}
	return s
}

// round returns the next of 1, 2 and 5 times a power of ten.
func round(v float64, up bool) float64 {
	decade := math.Pow(10, math.Floor(math.Log10(v)))
	steps := []float64{1, 2, 5, 10}
	if up {
		for _, step := range steps {
			if decade*step >= v*0.9999 {
				return decade * step
			}
		}
	}
	best := decade
	for _, step := range steps {
		if decade*step <= v*1.0001 {
			best = decade * step
		}
	}
	return best
}

// lines draws a metric over the X of groups, a line for each row, on
// logarithmic axes. index gives each row its color.
func lines(groups []Group, metric string, index map[string]int) string {
	m := MetricOf(metric)
	const left, right, top, bottom = 48, 12, 10, 34
	const height = 250
	s := newSVG(height, m.Label+" over the number of goroutines")
	var xs, ys []float64
	var names []string
	for _, g := range groups {
		xs = append(xs, float64(g.X))
		for _, r := range g.Rows {
			if v, ok := r.Metrics[metric]; ok {
				ys = append(ys, v.Median)
				if !slices.Contains(names, r.Name) {
					names = append(names, r.Name)
				}
			}
		}
	}
	x := axis(xs, true, left+8, plotWidth-right-8)
	x.low, x.high = slices.Min(xs), max(slices.Max(xs), slices.Min(xs)*2)
	y := axis(ys, true, height-bottom, top)
	for _, v := range y.ticks() {
		s.line(left, y.at(v), plotWidth-right, y.at(v), "grid")
		s.text(left-5, y.at(v)+4, "end", short(m, v))
	}
	for i, v := range xs {
		if !slices.Contains(xs[:i], v) {
			s.text(x.at(v), height-bottom+16, "mid", fmt.Sprintf("%.0f", v))
		}
	}
	s.text((left+plotWidth-right)/2, height-3, "mid quiet", "goroutines")
	for _, name := range names {
		var points []string
		var dots strings.Builder
		class := fmt.Sprintf("c%d", index[name]%colors)
		for _, g := range groups {
			if v, ok := g.Row(name).Get(metric); ok {
				px, py := x.at(float64(g.X)), y.at(v.Median)
				points = append(points, fmt.Sprintf("%.1f,%.1f", px, py))
				dots.WriteString(marker(index[name], px, py, class, fmt.Sprintf("%s, goroutines: %d: %s", name, g.X, m.Full(v))))
			}
		}
		fmt.Fprintf(s, `<polyline points="%s" class="stroke %s"/>%s`, strings.Join(points, " "), class, dots.String())
	}
	return s.end()
}

// marker draws a point in a form of its own, for who cannot tell the colors.
func marker(i int, x, y float64, class, title string) string {
	var shape string
	switch i % 4 {
	case 0:
		shape = fmt.Sprintf(`<circle cx="%.1f" cy="%.1f" r="4"`, x, y)
	case 1:
		shape = fmt.Sprintf(`<rect x="%.1f" y="%.1f" width="7" height="7"`, x-3.5, y-3.5)
	case 2:
		shape = fmt.Sprintf(`<path d="M%.1f %.1fl4.6 8h-9.2z"`, x, y-5)
	default:
		shape = fmt.Sprintf(`<path d="M%.1f %.1fl5 5-5 5-5-5z"`, x, y-5)
	}
	end := strings.TrimPrefix(strings.SplitN(shape, " ", 2)[0], "<")
	return fmt.Sprintf(`%s class="%s"><title>%s</title></%s>`, shape, class, html.EscapeString(title), end)
}

// short returns v as short as an axis wants it.
func short(m Metric, v float64) string {
	switch m.ID {
	case "rate", "offered", "asked":
		switch {
		case v >= 1e6:
			return fmt.Sprintf("%gM", v/1e6)
		case v >= 1e3:
			return fmt.Sprintf("%gk", v/1e3)
		}
		return fmt.Sprintf("%g", v)
	case "p50", "p95", "p99", "max", "wall", "cpu_ns":
		switch {
		case v >= 1e9:
			return fmt.Sprintf("%g s", v/1e9)
		case v >= 1e6:
			return fmt.Sprintf("%g ms", v/1e6)
		case v >= 1e3:
			return fmt.Sprintf("%g µs", v/1e3)
		}
		return fmt.Sprintf("%g ns", v)
	case "rss", "bytes":
		return bytes(v)
	}
	return fmt.Sprintf("%g", v)
}

const (
	rowHeight = 34
	nameSize  = 13
)

// frame begins a plot of one row each, with its name above, and its axis below.
func frame(rows []Row, label string, m Metric, sc scale) *svg {
	height := float64(len(rows)*rowHeight + 26)
	s := newSVG(height, label)
	bottom := height - 22
	for _, v := range sc.ticks() {
		if v == 0 {
			s.text(sc.at(v), height-7, "start", "0")
			continue // the bars stand there, and their names
		}
		s.line(sc.at(v), 4, sc.at(v), bottom, "grid")
		class := "mid"
		if sc.at(v) > plotWidth-20 {
			class = "end"
		} else if sc.at(v) < 20 {
			class = "start"
		}
		s.text(sc.at(v), height-7, class, short(m, v))
	}
	return s
}

// bars draws stacked bars, one for each row that has the first of the metrics.
// A mark is drawn where another metric says, such as a bound.
func bars(rows []Row, ids []string, mark string, log bool) string {
	rows = with(rows, ids[0])
	if len(rows) == 0 {
		return ""
	}
	m := MetricOf(ids[0])
	var values []float64
	for _, r := range rows {
		sum := 0.0
		for _, id := range ids {
			sum += r.Metrics[id].Median
		}
		values = append(values, sum)
		if v, ok := r.Metrics[mark]; ok {
			values = append(values, v.Median)
		}
	}
	sc := axis(values, log, 4, plotWidth-58)
	if log {
		sc.low = round(sc.low/1.5, false) // the shortest bar has a length
	}
	s := frame(rows, m.Label, m, sc)
	for i, r := range rows {
		y := float64(i*rowHeight + 4)
		s.text(4, y+nameSize-2, "start", r.Name)
		at, sum := sc.from, 0.0
		var texts []string
		for k, id := range ids {
			v, ok := r.Metrics[id]
			if !ok {
				continue
			}
			sum += v.Median
			to := sc.at(sum)
			if k > 0 {
				at++ // a gap between the parts
			}
			mk := MetricOf(id)
			s.rect(at, y+nameSize+3, to-at, 11, fmt.Sprintf("c%d", k), fmt.Sprintf("%s, %s: %s", r.Name, mk.Label, mk.Full(v)))
			at = to
			texts = append(texts, mk.Format(v))
		}
		if v, ok := r.Metrics[mark]; ok {
			s.line(sc.at(v.Median), y+nameSize, sc.at(v.Median), y+nameSize+17, "mark")
		}
		text := strings.Join(texts, " + ")
		if x := at + 4; x+float64(len([]rune(text)))*6.2 < plotWidth {
			s.text(x, y+nameSize+13, "start value", text)
		} else {
			s.text(plotWidth-2, y+nameSize-2, "end value", text)
		}
	}
	return s.end()
}

// ranges draws p50, p95, p99 and the maximum of each row on a logarithmic axis.
func ranges(rows []Row) string {
	rows = with(rows, "p50")
	if len(rows) == 0 {
		return ""
	}
	ids := []string{"p50", "p95", "p99", "max"}
	var values []float64
	for _, r := range rows {
		for _, id := range ids {
			values = append(values, r.Metrics[id].Median)
		}
	}
	m := MetricOf("p50")
	sc := axis(values, true, 12, plotWidth-12)
	s := frame(rows, "p50, p95, p99 and maximum", m, sc)
	for i, r := range rows {
		y := float64(i*rowHeight + 4)
		s.text(4, y+nameSize-2, "start", r.Name)
		s.text(plotWidth-2, y+nameSize-2, "end value", m.Format(r.Metrics["p50"])+" / "+m.Format(r.Metrics["p99"]))
		y += nameSize + 9
		s.line(sc.at(r.Metrics["p50"].Median), y, sc.at(r.Metrics["max"].Median), y, "thread")
		for k, id := range ids {
			v := r.Metrics[id]
			s.dot(sc.at(v.Median), y, []float64{5, 4, 4, 3}[k], fmt.Sprintf("q%d", k), fmt.Sprintf("%s, %s: %s", r.Name, id, m.Full(v)))
		}
	}
	return s.end()
}

func with(rows []Row, metric string) []Row {
	return slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { _, ok := r.Metrics[metric]; return !ok })
}

// panels returns the groups of a line plot by their panels, in order.
func panels(groups []Group) [][]Group {
	var all [][]Group
	for _, g := range groups {
		if g.Plot == "" {
			continue
		}
		i := slices.IndexFunc(all, func(p []Group) bool { return p[0].Plot == g.Plot })
		if i < 0 {
			all = append(all, nil)
			i = len(all) - 1
		}
		all[i] = append(all[i], g)
	}
	for _, p := range all {
		slices.SortFunc(p, func(a, b Group) int { return cmp.Compare(a.X, b.X) })
	}
	return all
}
