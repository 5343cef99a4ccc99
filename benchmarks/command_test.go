package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goweir/weir/benchmarks/internal/report"
	"github.com/goweir/weir/benchmarks/internal/suite"
)

// TestMain lets the tests' own binary be the processes that the command starts.
func TestMain(m *testing.M) {
	if suite.Child() {
		return
	}
	os.Exit(m.Run())
}

// command runs the command for as short as it can, and returns what it exits
// with, what it said and what it wrote.
func command(t *testing.T, ctx context.Context, stderr io.Writer, args ...string) (code int, stdout string, r *report.Results) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a", "report")
	var out bytes.Buffer
	code = run(ctx, append([]string{"-rounds", "1", "-slice", "2ms", "-out", dir}, args...), &out, stderr)
	r, err := report.Read(filepath.Join(dir, "results.json"))
	if err != nil {
		return code, out.String(), nil
	}
	for _, name := range []string{"report.md", "report.html"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	return code, out.String(), r
}

func TestMistakes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"no folder", []string{"-out", filepath.Join(file, "report")}, 2, []string{"-out: ", file}},
		{"no such flag", []string{"-fast"}, 2, []string{"-fast", "-quick"}},
		{"all at once", []string{"-quick", "-check", "-only", "(", "-rounds", "-1", "-compare", file, "more"}, 2,
			[]string{"exclude each other", "-only: ", "-rounds", "-compare: " + file, `"more"`}},
		{"no older run", []string{"-compare", file + "2"}, 2, []string{"-compare: ", file + "2"}},
		{"nothing matches", []string{"-only", "^nothing$"}, 1, []string{"no section/group/row matches", "backends/hot key, goroutines: 64"}},
		{"nobody at that address", []string{"-quick", "-redis", "redis://:geheim@127.0.0.1:1/0"}, 1, []string{"no answer from Redis at redis://:xxxxx@127.0.0.1:1/0"}},
		{"no address", []string{"-quick", "-redis", "http://127.0.0.1"}, 1, []string{"http"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stderr bytes.Buffer
			code, stdout, r := command(t, t.Context(), &stderr, tt.args...)
			if code != tt.code || r != nil {
				t.Errorf("exit %d, want %d and no results", code, tt.code)
			}
			for _, want := range tt.want {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("%q lacks %q", stderr.String(), want)
				}
			}
			if strings.Contains(stderr.String()+stdout, "geheim") {
				t.Error("the password is repeated")
			}
		})
	}
}

// TestEmbedded is a run where redis-server is not installed.
func TestEmbedded(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var stderr bytes.Buffer
	code, stdout, r := command(t, t.Context(), &stderr, "-quick", "-slice", "50ms", "-only", "hot key, goroutines: 64")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, stderr.String())
	}
	if !strings.Contains(stdout, "embedded one (miniredis)") || r.Machine.Server != "embedded" {
		t.Errorf("the report does not say which Redis it is about: %s", stdout)
	}
	for _, name := range []string{"memory", "Redis, one by one", "Redis, coalesced"} {
		row := r.Section("backends").Group("hot key, goroutines: 64").Row(name)
		// A busy machine may let some time out.
		if rate, ok := row.Get("rate"); !ok || rate.Median <= 0 {
			t.Errorf("%s: %+v", name, row)
		}
		if _, ok := row.Get("server_cpu"); ok {
			t.Errorf("%s has CPU time of a server that is no process", name)
		}
	}
	// A peer for which it is too little leaves the others.
	const group = "hot key, goroutines: 64"
	code, stdout, r = command(t, t.Context(), &stderr, "-only", "redis-peers/"+group+"/(redis_rate v10$|rueidis)")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, stderr.String())
	}
	if _, ok := r.Section("redis-peers").Group(group).Row("redis_rate v10").Get("rate"); !ok {
		t.Errorf("redis_rate was not measured: %s", stdout)
	}
	if len(r.Left) != 1 || !strings.Contains(r.Left[0], "rueidis") {
		t.Errorf("left out: %q, want rueidis", r.Left)
	}
}

// TestExactness has four processes ask each backend. Memory is one quota in
// each of them; the others share one.
func TestExactness(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a hundred processes")
	}
	var stderr bytes.Buffer
	code, _, r := command(t, t.Context(), &stderr, "-only", "exactness/weir/(memory|Redis, (one|coalesced)|failover)")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, stderr.String())
	}
	rows := r.Section("exactness").Group("weir").Rows
	if len(rows) < 5 {
		t.Errorf("%d rows: %v, left out: %v", len(rows), rows, r.Left)
	}
	for _, row := range rows {
		want := 10.0
		if row.Name == "memory" {
			want = 40
		}
		if got := row.Metrics["admitted"]; r.Machine.Server == "own" && (got.Min != want || got.Max != want || row.Note != "") {
			t.Errorf("%s admitted %v, want %v %s", row.Name, got, want, row.Note)
		}
	}
}

// TestExactnessInOneProcess needs no server. A quota takes 86 s to have one unit
// more.
func TestExactnessInOneProcess(t *testing.T) {
	var stderr bytes.Buffer
	code, _, r := command(t, t.Context(), &stderr, "-only", "exactness/in memory, in one process/(weir|x/time/rate)")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, stderr.String())
	}
	if r.Machine.Redis != "not asked" {
		t.Errorf("asked Redis: %s", r.Machine.Redis)
	}
	rows := r.Section("exactness").Group("in memory, in one process").Rows
	if len(rows) != 3 {
		t.Errorf("%d rows, want weir and two of x/time/rate: %v", len(rows), rows)
	}
	if got := rows[0].Metrics["admitted"]; rows[0].Name != "weir" || got.Min != 1000 || got.Max != 1000 {
		t.Errorf("%s admitted %v, want 1000 each time", rows[0].Name, got)
	}
}

// interrupter cancels when it has been told of so many comparisons.
type interrupter struct {
	bytes.Buffer
	left   int
	cancel func()
}

func (i *interrupter) Write(p []byte) (int, error) {
	if i.left--; i.left == 0 {
		i.cancel()
	}
	return i.Buffer.Write(p)
}

// TestInterrupted: what was measured before Ctrl-C is kept, and says so.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	stderr := &interrupter{left: 3, cancel: cancel}
	code, stdout, r := command(t, ctx, stderr, "-only", "^(memory-peers|middleware|chain)/")
	if code != 130 || r == nil {
		t.Fatalf("exit %d, results %v: %s", code, r, stderr.String())
	}
	if r.Partial == "" || !strings.Contains(stdout, "PARTIAL: interrupted after") {
		t.Errorf("nothing says that the run is partial: %s", stdout)
	}
	if n := len(r.Section("memory-peers").Groups); n < 2 || r.Section("chain") != nil {
		t.Errorf("%d groups, and chain is %v; want those before the interruption only", n, r.Section("chain"))
	}
}

// TestCompareRuns compares a run with an older one that was quicker than
// anything can be.
func TestCompareRuns(t *testing.T) {
	dir := t.TempDir()
	var stderr bytes.Buffer
	args := []string{"-rounds", "2", "-slice", "1ms", "-only", "^chain/", "-out", dir}
	if code := run(t.Context(), args, io.Discard, &stderr); code != 0 {
		t.Fatalf("exit %d: %s", code, stderr.String())
	}
	name := filepath.Join(dir, "results.json")
	old, err := report.Read(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range old.Sections[0].Groups {
		for _, row := range g.Rows {
			row.Metrics["cpu_ns"] = row.Metrics["allocs"]
		}
	}
	old.Machine.CPU = "an abacus"
	if err := report.Write(name, old); err != nil {
		t.Fatal(err)
	}
	code, stdout, r := command(t, t.Context(), &stderr, "-only", "^chain/", "-compare", name)
	if code != 0 {
		t.Fatalf("exit %d: %s", code, stderr.String())
	}
	for _, want := range []string{"chain / links / capture: CPU time", "worse", "another machine"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the comparison lacks %q: %s", want, stdout)
		}
	}
	if len(r.Left) != 1 {
		t.Errorf("left out: %q", r.Left)
	}
}
