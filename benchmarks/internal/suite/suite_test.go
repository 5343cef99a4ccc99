package suite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/goweir/weir/benchmarks/internal/report"
	"github.com/goweir/weir/benchmarks/pace"
)

// TestQuotes holds README.md against the table of quotes: what one of them has,
// both have.
func TestQuotes(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "| at least ") || strings.Contains(line, "| at most ") {
			rows++
		}
	}
	for _, q := range quotes {
		c := report.Claim{Text: q.text, AtLeast: q.atLeast, AtMost: q.atMost}
		if row := fmt.Sprintf("| %s | %s |", q.text, c.Bound()); !strings.Contains(string(b), row) {
			t.Errorf("README.md has no row %q", row)
		}
	}
	if rows != len(quotes) {
		t.Errorf("README.md quotes %d ratios, %d are checked", rows, len(quotes))
	}
}

// TestRootREADME holds the sentence of the repository's README against the same
// table.
func TestRootREADME(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(b)), " ")
	for _, tt := range []struct {
		quote, sentence string
		bound           float64
	}{
		{"Redis, one hot key, 256 goroutines: decisions a second, times redis_rate's", "on one hot key and 256 goroutines at least 5 times redis_rate's decisions a second", 5},
		{"Redis, 10,000 keys, 64 goroutines: decisions a second, times redis_rate's", "with 10,000 keys and 64 goroutines at least twice", 2},
		{"Redis, 10,000 keys, 64 goroutines: the server's CPU time a decision, of redis_rate's", "at most 0.4 of its server time", 0.4},
	} {
		if !strings.Contains(text, tt.sentence) {
			t.Errorf("README.md does not say %q", tt.sentence)
		}
		found := false
		for _, q := range quotes {
			found = found || q.text == tt.quote && max(q.atLeast, q.atMost) == tt.bound
		}
		if !found {
			t.Errorf("no such ratio is checked: %s, %v", tt.quote, tt.bound)
		}
	}
	if n := strings.Count(text, "redis_rate"); n != 1 {
		t.Errorf("README.md compares with redis_rate %d times, 1 is known here", n)
	}
}

// TestCheckMeasuresQuotes shows that each quote is about groups and rows that
// -check measures: a mistake in their names would leave it unmeasured for ever.
func TestCheckMeasuresQuotes(t *testing.T) {
	r := &run{Options: Options{Check: true, Rounds: 1}, stage: new(stage)}
	results := &report.Results{}
	for _, s := range r.plan() {
		out := s.Section
		for _, g := range s.groups {
			var rows []report.Row
			for _, name := range r.wanted(s.ID, g) {
				row := report.Row{Name: name, Metrics: map[string]pace.Spread{}}
				for _, id := range s.Columns {
					row.Metrics[id] = one(1)
				}
				rows = append(rows, row)
			}
			if len(rows) > 0 {
				out.Groups = append(out.Groups, report.Group{Name: g.name, Rows: rows})
			}
		}
		results.Sections = append(results.Sections, out)
	}
	for _, c := range claim(results) {
		if !c.Known {
			t.Errorf("not measured by -check: %s", c.Text)
		}
	}
	results.Claims = claim(results)
	missed := 0
	for _, c := range results.Claims {
		if !c.Held() {
			missed++
		}
	}
	if got := len(Faults(results, true)); got != missed || missed == 0 {
		t.Errorf("%d faults for %d ratios missed", got, missed)
	}
	if got := Faults(results, false); len(got) != 0 {
		t.Errorf("without -check ratios are faults: %q", got)
	}
}

// TestExactnessIsNoMedian: one round with one too many misses the ratio, in
// whichever row; what memory admits is of four quotas.
func TestExactnessIsNoMedian(t *testing.T) {
	admitted := func(highest float64) report.Row {
		return report.Row{Name: oneByOne, Metrics: map[string]pace.Spread{"admitted": {Median: 10, Min: 10, Max: highest}, "bound": one(10)}}
	}
	memory := report.Row{Name: inMemory, Metrics: map[string]pace.Spread{"admitted": one(40), "bound": one(10)}}
	exact := admitted(10)
	exact.Name = coalesced
	none := report.Row{Name: denyCache, Metrics: map[string]pace.Spread{"admitted": one(0), "bound": one(10)}}
	left := report.Row{Name: onCluster, Note: "no cluster"}
	for _, tt := range []struct {
		name  string
		rows  []report.Row
		known bool
		held  bool
	}{
		{"exact", []report.Row{memory, admitted(10), exact, left}, true, true},
		{"one too many once", []report.Row{memory, admitted(11), exact, left}, true, false},
		{"nobody admitted", []report.Row{memory, exact, none}, false, false},
		{"memory only", []report.Row{memory, left}, false, false},
	} {
		r := &report.Results{Sections: []report.Section{{ID: "exactness", Groups: []report.Group{{Name: "weir", Rows: tt.rows}}}}}
		found := false
		for _, c := range claim(r) {
			if strings.Contains(c.Text, "four processes") {
				found = true
				if c.Known != tt.known || c.Held() != tt.held {
					t.Errorf("%s: measured %v, held %v; want %v, %v", tt.name, c.Known, c.Held(), tt.known, tt.held)
				}
			}
		}
		if !found {
			t.Fatal("no such ratio")
		}
	}
}

// TestPinsFail shows that a path with more allocations than are pinned is a
// fault, and that those there are hold.
func TestPinsFail(t *testing.T) {
	r := &report.Results{Sections: []report.Section{{ID: "pinned", Groups: []report.Group{{Name: "allocations", Rows: []report.Row{
		{Name: "grown", Metrics: map[string]pace.Spread{"allocs": one(2), "pinned": one(1)}},
		{Name: "shrunk", Metrics: map[string]pace.Spread{"allocs": one(0), "pinned": one(1)}},
	}}}}}}
	if got := Faults(r, false); len(got) != 1 || got[0] != "grown: 2 allocations, pinned are 1" {
		t.Errorf("faults are %q", got)
	}
}

// TestTry: what is fatal to a stage ends what it was fatal for, and errors that
// peers panic with do too, but not other panics.
func TestTry(t *testing.T) {
	s := new(stage)
	if err := try(func() { s.Fatalf("no %s", "port") }); err == nil || err.Error() != "no port" {
		t.Errorf("fatal: %v", err)
	}
	want := errors.New("refused")
	if err := try(func() { panic(want) }); err != want {
		t.Errorf("an error: %v", err)
	}
	if err := try(func() {}); err != nil {
		t.Errorf("nothing: %v", err)
	}
	defer func() {
		if got := recover(); got != "bug" {
			t.Errorf("another panic became %v", got)
		}
	}()
	try(func() { panic("bug") })
}

// TestCleanups: the last first, and each once.
func TestCleanups(t *testing.T) {
	s := new(stage)
	var order []int
	for i := range 3 {
		s.Cleanup(func() { order = append(order, i) })
	}
	dir := s.TempDir()
	s.clear()
	if fmt.Sprint(order) != "[2 1 0]" {
		t.Errorf("cleaned up in the order %v", order)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	s.clear()
	if len(order) != 3 {
		t.Error("cleaned up twice")
	}
}

func TestPrinted(t *testing.T) {
	rows := printed(`=== RUN   TestRequests
    load_linux_test.go:117: weir                   22345 requests/s,  30.1 us of CPU time; weir: 1.00 [1.00 1.00] times
    memory_linux_test.go:44: ReverseProxy: 2477 connections to the upstream for 3200 requests by 32 workers
--- PASS: TestRequests (1.00s)
PASS
`)
	want := []report.Row{
		{Name: "weir", Note: "22345 requests/s, 30.1 us of CPU time; weir: 1.00 [1.00 1.00] times"},
		{Name: "ReverseProxy", Note: "2477 connections to the upstream for 3200 requests by 32 workers"},
	}
	if !reflect.DeepEqual(rows, want) {
		t.Errorf("%+v", rows)
	}
}
