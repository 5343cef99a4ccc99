package report_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/benchmarks/internal/report"
	"github.com/goweir/weir/benchmarks/pace"
)

func one(f float64) pace.Spread { return pace.Spread{Median: f, Min: f * 0.9, Max: f * 1.1} }

// example has every kind of section, names that HTML and Markdown would take for
// their own, figures of nothing, and rows without figures.
func example() *report.Results {
	r := &report.Results{
		Schema: report.Schema, Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Seconds: 61, Command: []string{"go", "run", "./benchmarks"},
		Partial: "interrupted <early>", Machine: report.Machine{CPU: "a & b", Cores: 2, Redis: "none", Server: "embedded"},
		Claims: []report.Claim{
			{Text: "held", AtLeast: 2, Measured: one(3), Known: true}, {Text: "missed", AtMost: 2, Measured: one(3), Known: true}, {Text: "unknown", AtLeast: 1},
		},
		Left: []string{"cluster: <none>"},
	}
	for _, id := range []string{"backends", "algorithms", "costs", "exactness", "memory", "redis-peers", "memory-peers", "chain", "downloads", "pinned"} {
		s := report.Section{ID: id, Title: "The " + id, Text: "a < b", Columns: []string{
			"rate", "ratio", "offered", "p50", "p95", "p99", "max", "commands", "trips", "cpu", "server_cpu", "wall", "cpu_ns", "allocs", "pinned", "key_bytes", "rss", "admitted", "bound"}}
		for _, x := range []int{1, 64} {
			g := report.Group{Name: fmt.Sprintf("keys <many>, goroutines: %d", x), X: x, Plot: "keys <many>"}
			for i, name := range []string{"memory", `a "name" & <b> | c`, "third"} {
				row := report.Row{Name: name, Metrics: map[string]pace.Spread{}}
				for k, id := range s.Columns {
					row.Metrics[id] = one(float64((i + 1) * (k + 1) * x))
				}
				g.Rows = append(g.Rows, row)
			}
			g.Rows = append(g.Rows, report.Row{Name: "failed", Note: "no answer <at all>"},
				report.Row{Name: "zeros", Metrics: map[string]pace.Spread{"rate": {}, "p50": {}, "p95": {}, "p99": {}, "max": {}, "allocs": {}, "cpu": {}}})
			s.Groups = append(s.Groups, g)
		}
		r.Sections = append(r.Sections, s)
	}
	return r
}

func TestResultsSurviveJSON(t *testing.T) {
	name := filepath.Join(t.TempDir(), "results.json")
	want := example()
	if err := report.Write(name, want); err != nil {
		t.Fatal(err)
	}
	got, err := report.Read(name)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read back %+v, want %+v", got, want)
	}
	if changes := report.Compare(got, want); len(changes) > 0 {
		t.Errorf("a run differs from itself: %+v", changes)
	}
}

func TestReadRefuses(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"":                "unexpected end",
		`{"schema":99}`:   "schema 99, want 1",
		`{"schema":"one"`: "unexpected end",
	} {
		name := filepath.Join(dir, "results.json")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := report.Read(name); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %v, want the file's name and %q", text, err, want)
		}
	}
	if _, err := report.Read(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestCompare(t *testing.T) {
	was, now := example(), example()
	rows := now.Sections[0].Groups[0].Rows
	rows[0].Metrics["rate"] = pace.Spread{Median: 2, Min: 1.8, Max: 2.2}    // from 1: faster
	rows[1].Metrics["p50"] = pace.Spread{Median: 80, Min: 79, Max: 81}      // from 8: slower
	rows[2].Metrics["rate"] = pace.Spread{Median: 3.6, Min: 2.7, Max: 3.9}  // from 3: within the noise
	rows[0].Metrics["commands"] = pace.Spread{Median: 8.0001}               // from 8: reads the same
	rows[2].Metrics["offered"] = pace.Spread{Median: 999}                   // nobody's merit
	now.Sections[0].Groups[1].Rows[0].Name = "another"                      // in one of them only
	now.Sections[1].Groups[0].Rows[0].Metrics["allocs"] = pace.Spread{}     // from some to none
	was.Sections[1].Groups[0].Rows[4].Metrics["allocs"] = pace.Spread{}     // equal: 0
	now.Sections[1].Groups[0].Rows[1].Metrics = map[string]pace.Spread(nil) // no longer measured
	was.Sections[2].Groups[0].Rows[0].Metrics["allocs"] = pace.Spread{}     // from none to some
	var got []string
	for _, c := range report.Compare(was, now) {
		got = append(got, fmt.Sprintf("%s %s apart=%v better=%v", c.Row, c.Metric.ID, c.Apart, c.Better()))
	}
	want := []string{
		"memory rate apart=true better=true",
		`a "name" & <b> | c p50 apart=true better=false`,
		"third rate apart=false better=true",
		"memory allocs apart=true better=true",
		"memory allocs apart=true better=false",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("changes\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestClaims(t *testing.T) {
	claims := example().Claims
	for i, want := range []bool{true, false, false} {
		if got := claims[i].Held(); got != want {
			t.Errorf("%s: held is %v, want %v", claims[i].Text, got, want)
		}
	}
}

// TestHTMLIsWellFormed parses the page as XML, plots included, and looks for
// what would load something, and for figures that are none.
func TestHTMLIsWellFormed(t *testing.T) {
	empty := &report.Results{Schema: report.Schema}
	for name, r := range map[string]*report.Results{"full": example(), "empty": empty} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			report.HTML(&b, r, report.Compare(example(), r))
			page := b.String()
			d := xml.NewDecoder(strings.NewReader(page))
			d.Entity = xml.HTMLEntity
			plots := 0
			ids := map[string]bool{}
			for {
				token, err := d.Token()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatalf("not well-formed: %v", err)
				}
				e, ok := token.(xml.StartElement)
				if !ok {
					continue
				}
				if e.Name.Local == "svg" {
					plots++
				}
				for _, a := range e.Attr {
					if a.Name.Local == "src" || a.Name.Local == "href" && !strings.HasPrefix(a.Value, "#") {
						t.Errorf("<%s %s=%q> loads something", e.Name.Local, a.Name.Local, a.Value)
					}
					if a.Name.Local == "id" && ids[a.Value] {
						t.Errorf("two elements have the id %q", a.Value)
					}
					if a.Name.Local == "id" {
						ids[a.Value] = true
					}
				}
			}
			if name == "full" && plots < 20 {
				t.Errorf("%d plots, want at least one of every group", plots)
			}
			for _, bad := range []string{"NaN", "Inf", "%!", "<b>"} {
				if strings.Contains(page, bad) {
					t.Errorf("the page has %q in it: %q", bad, around(page, bad))
				}
			}
			if name == "full" && !strings.Contains(page, "Partial: interrupted &lt;early&gt;") {
				t.Error("the page does not say that the run is partial")
			}
		})
	}
}

func around(s, sub string) string {
	i := strings.Index(s, sub)
	return s[max(0, i-80):min(len(s), i+80)]
}

// TestTables shows that each figure of each row is in both texts, with its unit.
func TestTables(t *testing.T) {
	r := example()
	var text, markdown bytes.Buffer
	report.Text(&text, r, append([]report.Change{}, report.Compare(r, r)...))
	report.Markdown(&markdown, r, nil)
	for _, want := range []string{"PARTIAL: interrupted", "held", "MISSED", "unmeasured", "no answer <at all>", "0 of 0 figures", "cluster: <none>"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text lacks %q", want)
		}
	}
	for _, want := range []string{"PARTIAL: interrupted", `a "name" & <b> \| c`, "at least 2, measured 3.00 [2.70 3.30]"} {
		if !strings.Contains(markdown.String(), want) {
			t.Errorf("the Markdown lacks %q", want)
		}
	}
	for line := range strings.Lines(markdown.String()) {
		if strings.HasPrefix(line, "| a ") && strings.Count(line, "|") != 20+1+1 { // name, 19 figures, the last, and one that is escaped
			t.Errorf("%d bars in %q", strings.Count(line, "|"), line)
		}
	}
}

func TestFormats(t *testing.T) {
	for _, tt := range []struct {
		metric string
		value  float64
		want   string
	}{
		{"rate", 0, "0"}, {"rate", 9_994, "9994"}, {"rate", 10_000, "10.0k"}, {"rate", 999_600, "1.00M"}, {"rate", 12_345_678, "12.3M"},
		{"p50", 999, "999 ns"}, {"p50", 1_000, "1.0 µs"}, {"p50", 1_500_000, "1.50 ms"}, {"p50", 2e9, "2.00 s"},
		{"rss", 100, "100 B"}, {"rss", 64 << 10, "64.0 KiB"}, {"rss", 1 << 30, "1024.0 MiB"},
		{"unheard of", 1.5, "1.50"},
	} {
		if got := report.MetricOf(tt.metric).Format(pace.Spread{Median: tt.value}); got != tt.want {
			t.Errorf("%s of %v is %q, want %q", tt.metric, tt.value, got, tt.want)
		}
	}
}
