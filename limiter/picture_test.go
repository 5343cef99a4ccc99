package limiter_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

// The picture in docs/limits.md is drawn by what it is a picture of:
//
//	go test -run Picture ./limiter -update
var update = flag.Bool("update", false, "rewrite docs/limits.svg")

// pictured is what is drawn, in order, with what should be seen.
var pictured = []struct {
	algorithm limiter.Algorithm
	name      string
	sees      string
}{
	{limiter.TokenBucket, "TokenBucket", "the whole burst after a pause, then what comes back: one a second"},
	{limiter.LeakyBucket, "LeakyBucket", "one a second, never faster; up to ten are held until their turn"},
	{limiter.FixedWindow, "FixedWindow", "ten in each window of the clock, so up to twenty around its edge"},
	{limiter.SlidingWindow, "SlidingWindow", "ten, and of the window before what would lie within 10 s had it come evenly"},
	{limiter.SlidingLog, "SlidingLog", "ten within any 10 s"},
}

const (
	pictureLimit  = 10
	pictureWindow = 10 * time.Second
	pictureTime   = 60 * time.Second
)

// traffic is when requests arrive: few, then two bursts around the edge of a
// window, a pause, four times the limit for 14 s, and a small burst at the end.
func traffic() []time.Duration {
	var at []time.Duration
	every := func(from, to, step time.Duration) {
		for t := from; t < to; t += step {
			at = append(at, t)
		}
	}
	burst := func(t time.Duration, n int) {
		for range n {
			at = append(at, t)
		}
	}
	every(1100*ms, 8*s, 2*s)
	burst(9100*ms, 12)
	burst(10600*ms, 12)
	every(22100*ms, 36*s, 250*ms)
	burst(52100*ms, 6)
	return at
}

// An outcome is what became of the traffic.
type outcome struct {
	passed  []time.Duration // when requests went on, in order
	delayed []bool          // which of them later than they came
	refused []time.Duration
}

func (o *outcome) pass(at time.Duration, delayed bool) {
	i, _ := slices.BinarySearch(o.passed, at+1)
	o.passed = slices.Insert(o.passed, i, at)
	o.delayed = slices.Insert(o.delayed, i, delayed)
}

// within returns how many went on in the window that ends at t, t included.
func (o *outcome) within(t time.Duration) int {
	first, _ := slices.BinarySearch(o.passed, t-pictureWindow+1)
	last, _ := slices.BinarySearch(o.passed, t+1)
	return last - first
}

// most returns how many went on in the fullest window, wherever it begins.
func (o *outcome) most() int {
	n := 0
	for _, t := range o.passed {
		n = max(n, o.within(t))
	}
	return n
}

// observe sends the traffic through the real thing.
func observe(t *testing.T, a limiter.Algorithm) *outcome {
	var o outcome
	inTime(t, func(t *testing.T) {
		m, start := limiter.NewMemory(nil), time.Now()
		c := of(limiter.Policy{Name: "p", Algorithm: a, Limit: pictureLimit, Window: pictureWindow}, 1)
		for _, at := range traffic() {
			time.Sleep(time.Until(start.Add(at)))
			if r := take(t, m, c); r.Allowed {
				o.pass(at+r.Delay, r.Delay > 0)
			} else {
				o.refused = append(o.refused, at)
			}
		}
	})
	return &o
}

// Of the drawing, in pixels. A request is a brick, as wide as half a second;
// bricks of the same half second are piled up.
const (
	brick  = 7  // with its gap
	course = 5  // height of a brick with its gap
	left   = 44 // margins
	right  = 20
	piles  = 72 // height of the piles
	curve  = 44 // height of the curve below them
	panel  = 40 + piles + curve + 14
	width  = left + int(pictureTime/(500*ms))*brick + right
)

// pictureStyle names each colour where it is used: not every program that shows
// SVG knows custom properties. The picture has a ground of its own, because the
// page around it may be dark where the system is light.
const pictureStyle = `
text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1f2328; }
.name { font: bold 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.bold { font-weight: bold; }
.faint { fill: #59636e; }
.axis { fill: #59636e; font-size: 10px; }
.ground { fill: #ffffff; }
.grid { stroke: #d8dee4; fill: none; }
.limit { stroke: #59636e; stroke-dasharray: 4 3; fill: none; }
.offered { fill: #8c959f; }
.passed { fill: #0a6b58; }
.delayed { fill: #e3a42c; }
.refused { fill: none; stroke: #c4322a; }
.curve { fill: none; stroke: #0a6b58; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.faint, .axis { fill: #9198a1; }
.ground { fill: #0d1117; }
.grid { stroke: #30363d; }
.limit { stroke: #9198a1; }
.offered { fill: #7d8590; }
.passed { fill: #2ea486; }
.delayed { fill: #f2cc60; }
.refused { stroke: #ff7b72; }
.curve { stroke: #2ea486; }
}
`

// x returns where an instant is drawn.
func x(t time.Duration) float64 {
	return left + float64(t.Round(50*ms))/float64(500*ms)*brick
}

// A drawing is an SVG in the making.
type drawing struct {
	bytes.Buffer
	height map[int]int // of the piles of the panel, in bricks
}

func (d *drawing) line(format string, args ...any) { fmt.Fprintf(d, format+"\n", args...) }

func (d *drawing) brick(class string, t time.Duration, ground int) {
	i := int(t / (500 * ms))
	d.height[i]++
	top := ground - d.height[i]*course
	if class == "refused" { // the stroke stands half outside
		d.line(`<rect class="refused" x="%g" y="%g" width="5" height="3"/>`, float64(left+i*brick)+1.5, float64(top)+0.5)
		return
	}
	d.line(`<rect class="%s" x="%d" y="%d" width="6" height="4"/>`, class, left+i*brick+1, top)
}

// grid draws the time axis of a panel.
func (d *drawing) grid(top, ground int) {
	d.height = map[int]int{}
	for t := time.Duration(0); t <= pictureTime; t += 10 * s {
		d.line(`<path class="grid" d="M%g %dV%d"/>`, x(t), top, ground)
	}
	d.line(`<path class="grid" d="M%d %dH%g"/>`, left, ground, x(pictureTime))
}

func (d *drawing) algorithm(top int, name, sees string, o *outcome) {
	d.line(`<text class="name" x="%d" y="%d">%s</text>`, left, top+14, name)
	d.line(`<text x="%d" y="%d" text-anchor="end">%d of %d passed, at most %d within 10 s</text>`,
		width-right, top+14, len(o.passed), len(o.passed)+len(o.refused), o.most())
	d.line(`<text class="faint" x="%d" y="%d">%s</text>`, left, top+30, sees)
	ground := top + 40 + piles
	d.grid(top+40, ground+6+curve)
	d.line(`<path class="grid" d="M%d %dH%g"/>`, left, ground+6+curve, x(pictureTime))
	for i, t := range o.passed {
		class := "passed"
		if o.delayed[i] {
			class = "delayed"
		}
		d.brick(class, t, ground)
	}
	for _, t := range o.refused {
		d.brick("refused", t, ground)
	}
	// What passed within the last 10 s, on a scale of twice the Limit.
	level := func(n int) float64 { return float64(ground+6+curve) - float64(n)*curve/(2*pictureLimit) }
	d.line(`<path class="limit" d="M%d %gH%g"/>`, left, level(pictureLimit), x(pictureTime))
	for _, n := range []int{pictureLimit, 2 * pictureLimit} {
		d.line(`<text class="axis" x="%d" y="%g" text-anchor="end">%d</text>`, left-6, level(n)+3.5, n)
	}
	fmt.Fprintf(d, `<path class="curve" d="M%d %g`, left, level(0))
	steps := slices.Clone(o.passed)
	for _, t := range o.passed {
		steps = append(steps, t+pictureWindow)
	}
	slices.Sort(steps)
	for _, t := range slices.Compact(steps) {
		if t < pictureTime {
			fmt.Fprintf(d, "H%gV%g", x(t), level(o.within(t)))
		}
	}
	d.line(`H%g"/>`, x(pictureTime))
}

func draw(outcomes []*outcome) []byte {
	const offered = 58 + piles
	var d drawing
	height := offered + len(pictured)*panel + 44
	d.line(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-labelledby="title desc">`,
		width, height, width, height)
	d.line(`<title id="title">Each algorithm under the same traffic</title>`)
	d.line(`<desc id="desc">Requests over a minute against a limit of 10 in 10 seconds: which of them pass, when, and which are refused.</desc>`)
	d.line(`<style>%s</style>`, pictureStyle)
	d.line(`<rect class="ground" width="%d" height="%d"/>`, width, height)

	d.line(`<text x="%d" y="24"><tspan class="bold">Offered</tspan> to a limit of 10 in 10 s: few, two bursts around the 10th second, four times the limit, a small burst</text>`, left)
	d.grid(36, 46+piles)
	for _, t := range traffic() {
		d.brick("offered", t, 46+piles)
	}
	for i, p := range pictured {
		d.algorithm(offered+i*panel, p.name, p.sees, outcomes[i])
	}

	y := height - 38
	for t := time.Duration(0); t <= pictureTime; t += 10 * s {
		d.line(`<text class="axis" x="%g" y="%d" text-anchor="middle">%d s</text>`, x(t), y, t/s)
	}
	y = height - 14
	at := left
	for _, l := range []struct {
		class, text string
		width       int
	}{
		{"passed", "passed as it came", 140}, {"delayed", "passed later", 108}, {"refused", "refused", 80},
	} {
		if !bytes.Contains(d.Bytes(), []byte(`"`+l.class+`"`)) {
			continue
		}
		d.line(`<rect class="%s" x="%d.5" y="%d.5" width="6" height="4"/>`, l.class, at, y-6)
		d.line(`<text x="%d" y="%d">%s</text>`, at+14, y, l.text)
		at += l.width
	}
	d.line(`<path class="curve" d="M%d %dh16"/>`, at, y-4)
	d.line(`<text x="%d" y="%d">passed within the last 10 s</text>`, at+22, y)
	d.line(`<path class="limit" d="M%d %dh16"/>`, at+194, y-4)
	d.line(`<text x="%d" y="%d">Limit</text>`, at+216, y)
	d.line(`</svg>`)
	return d.Bytes()
}

// TestPicture draws every algorithm under the same traffic and compares the
// picture, and what docs/limits.md says about it, with the files.
func TestPicture(t *testing.T) {
	for a := range limiter.Algorithm(len(pictured) + 1) {
		known := !strings.HasPrefix(a.String(), "Algorithm(")
		if drawn := int(a) < len(pictured) && pictured[a].algorithm == a; known != drawn {
			t.Errorf("algorithm %d (%v): known %v, drawn %v", a, a, known, drawn)
		}
	}
	text, err := os.ReadFile("../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	var outcomes []*outcome
	for _, p := range pictured {
		o := observe(t, p.algorithm)
		outcomes = append(outcomes, o)
		if row := fmt.Sprintf("| `%s` | %d | %d |", p.name, len(o.passed), o.most()); !bytes.Contains(text, []byte(row)) {
			t.Errorf("docs/limits.md does not have the row %s", row)
		}
	}
	got := draw(outcomes)
	const file = "../docs/limits.svg"
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("docs/limits.svg shows something else than the limiter does (%v); if that is meant: go test -run Picture ./limiter -update", err)
	}
}
