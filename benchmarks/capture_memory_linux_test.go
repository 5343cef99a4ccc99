package main_test

import (
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/benchmarks/peer"
)

const mib = 1 << 20

func bodyLoggers() []string {
	names := []string{"bare", "weir"}
	for _, l := range peer.BodyLoggers {
		names = append(names, l.Name)
	}
	return names
}

// TestDownloadMemory has eight clients download at once from each body logger,
// in a process of its own that may have 8 GiB.
func TestDownloadMemory(t *testing.T) {
	size := int64(mib)
	if *measuring {
		size = 128 * mib
	}
	table := tabwriter.NewWriter(t.Output(), 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "8 x %d MiB\tpeak heap, MiB\tpeak RSS, MB\tanswers\t\n", size/mib)
	var bare, weir serverReport
	for _, name := range bodyLoggers() {
		s := startServer(t, serverConfig{Middleware: name, Limit: 8 << 30, Budget: 64 * mib})
		whole := s.transfers(8, "application/octet-stream", 0, size)
		report, err := s.stop()
		if err != nil {
			fmt.Fprintf(table, "%s\tdied: %v\t\t%d\t\n", name, err, whole)
			continue
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t\n", name, report.Heap/mib, report.RSS/1e6, whole)
		switch name {
		case "bare":
			bare = report
		case "weir":
			weir = report
			want := fmt.Sprintf("attachment, size=%d, ok", size)
			if whole != 8 || report.Records[want] != 8 || report.Budget != 0 {
				t.Errorf("weir: %d answers, %d bytes of budget, records %v, want 8 of %q", whole, report.Budget, report.Records, want)
			}
		}
	}
	table.Flush()
	if limit := bare.RSS + bare.RSS/4 + weir.Budget; *measuring && weir.RSS > limit {
		t.Errorf("weir: peak RSS %d, want at most 1.25 times the %d of the bare server", weir.RSS, bare.RSS)
	}
}

// TestOriginalAccident: with bounded memory, the well-known way to log bodies
// (gin-gonic/gin#1363) dies of large downloads, and weir records what they were.
func TestOriginalAccident(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector takes more memory than there is")
	}
	size, limit := int64(512*mib), uint64(1<<30)
	if *measuring {
		size, limit = 1<<30, 2<<30
	}
	s := startServer(t, serverConfig{Middleware: "Gin #1363 snippet", Limit: limit})
	const clients = 4 // of which two at once are too many
	whole := s.transfers(clients, "application/octet-stream", 0, size)
	_, err := s.stop()
	if err == nil || whole == clients || !regexp.MustCompile("out of memory|annot allocate memory|pthread_create failed").MatchString(s.stderr.String()) {
		t.Errorf("the snippet: %d whole downloads, %v, %.200s", whole, err, s.stderr.String())
	}
	t.Logf("the snippet, with %d MiB: %v, %s", limit/mib, err, firstLine(s.stderr.String()))

	s = startServer(t, serverConfig{Middleware: "weir", Limit: limit, Budget: 64 * mib})
	whole = s.transfers(8, "application/octet-stream", 0, size)
	report, err := s.stop()
	if err != nil {
		t.Fatalf("weir: %v\n%s", err, s.stderr.String())
	}
	want := fmt.Sprintf("attachment, size=%d, ok", size)
	if whole != 8 || report.Records[want] != 8 {
		t.Errorf("weir: %d whole downloads, records %v, want 8 of %q", whole, report.Records, want)
	}
	t.Logf("weir, with %d MiB: %d downloads of %d MiB, %q, peak RSS %d MB", limit/mib, whole, size/mib, want, report.RSS/1e6)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// TestCaptureSoak has a hundred clients download and upload at once what is
// labelled as JSON, so that it is captured, with a budget that is too small for
// all of them.
func TestCaptureSoak(t *testing.T) {
	const clients, budget = 100, 4 * mib
	down, up := int64(2*mib), int64(mib)
	if *measuring {
		down, up = 1<<30, 256*mib
	}
	var reports []serverReport
	for _, name := range []string{"bare", "weir"} {
		s := startServer(t, serverConfig{Middleware: name, Budget: budget})
		start := time.Now()
		downloads := s.transfers(clients, "application/json", 0, down)
		uploads := s.transfers(clients, "application/json", up, 2)
		took := time.Since(start)
		r, err := s.stop()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, s.stderr.String())
		}
		if downloads != clients || uploads != clients {
			t.Errorf("%s: %d downloads and %d uploads, want %d each", name, downloads, uploads, clients)
		}
		t.Logf("%s: %d downloads of %d MiB and %d uploads of %d MiB in %v: peak RSS %.1f MB, %.1f MB of budget",
			name, downloads, down/mib, uploads, up/mib, took.Round(time.Millisecond), float64(r.RSS)/1e6, float64(r.Budget)/1e6)
		reports = append(reports, r)
	}
	bare, weir := reports[0], reports[1]
	if weir.Budget == 0 || weir.Budget > budget || *measuring && weir.Budget < budget-8<<10 {
		t.Errorf("%d of %d bytes of budget were used at the peak", weir.Budget, budget)
	}
	if len(weir.Records) == 0 {
		t.Error("no records")
	}
	for what, count := range weir.Records {
		if !strings.HasSuffix(what, fmt.Sprintf("size=%d, ok", down)) && !strings.HasSuffix(what, fmt.Sprintf("size=%d, ok", up)) {
			t.Errorf("%d records of %q", count, what)
		}
	}
	// In short a collection more or less decides, and the race detector multiplies
	// what it does. All of the bodies would be 300 MiB.
	limit := (bare.RSS + budget) * 110 / 100
	if !*measuring {
		limit += 64 * mib
	}
	t.Logf("peak RSS %.2f of that of the bare server with the budget", float64(weir.RSS)/float64(bare.RSS+budget))
	if weir.RSS > limit {
		t.Errorf("peak RSS %d, want at most %d: that of the bare server and the budget, and 10 %%", weir.RSS, limit)
	}
}

// TestCaptureThroughput compares how fast 256 MiB reach each of eight clients
// over the loopback.
func TestCaptureThroughput(t *testing.T) {
	size, turns := int64(mib), 1
	if *measuring {
		size, turns = 256*mib, *rounds
	}
	servers := map[string]*server{}
	for _, name := range bodyLoggers()[:2] {
		servers[name] = startServer(t, serverConfig{Middleware: name, Budget: 64 * mib})
	}
	for _, contentType := range []string{"application/json", "application/octet-stream"} {
		took := map[string][]float64{}
		for round := range turns {
			names := []string{"bare", "weir"}
			if round%2 == 1 {
				slices.Reverse(names)
			}
			for _, name := range names {
				runtime.GC()
				start := time.Now()
				if whole := servers[name].transfers(8, contentType, 0, size); whole != 8 {
					t.Fatalf("%s: %d of 8 downloads", name, whole)
				}
				took[name] = append(took[name], time.Since(start).Seconds())
			}
		}
		speed := pace.Ratio(took["bare"], took["weir"]) // of rates, so the other way round
		t.Logf("%s: 8 x %d MiB at %.0f MiB/s, bare at %.0f: %v of bare", contentType, size/mib,
			8*float64(size/mib)/pace.Median(took["weir"]).Median, 8*float64(size/mib)/pace.Median(took["bare"]).Median, speed)
		if *measuring && speed.Median < 0.9 {
			t.Errorf("%s: %v of bare, want at least 0.9", contentType, speed)
		}
	}
	for name, s := range servers {
		if _, err := s.stop(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
