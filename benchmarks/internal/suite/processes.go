package suite

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"regexp"
	"strings"

	"github.com/goweir/weir/benchmarks/internal/report"
)

// processTests are the tests of proxybench that a run has, and what of them.
var processTests = []struct{ name, test, about string }{
	{"requests a second", "TestRequests", "1 KiB to 32 connections of wrk"},
	{"megabytes a second", "TestBulk", "downloads of known length, and chunked"},
	{"memory of idle streams", "TestIdleEvents", "streams of events in which nothing happens"},
	{"connections to the upstream", "TestConnections", "3,200 requests by 32 workers"},
}

// processes compares proxies of which each is a process, as is the upstream. It
// runs the tests that measure them, because these know how.
func (r *run) processes() section {
	s := section{Section: report.Section{
		ID: "proxies", Title: "Proxies, each a process of its own",
		Text: "What `go test -v -run TEST ./benchmarks/proxybench -measure` prints. It needs Linux, the go command, and for requests a second wrk (apt-get install wrk). " +
			"nginx, HAProxy and Caddy take part if they are installed.",
	}}
	for _, p := range processTests {
		s.groups = append(s.groups, group{
			name: p.name, rows: []string{p.test}, turns: 1,
			measure: func([]string) ([]report.Row, error) {
				r.step(p.about)
				out, err := r.processTest(p.test)
				rows := printed(out)
				switch {
				case r.ctx.Err() != nil:
					return rows, nil
				case err != nil:
					return append(rows, report.Row{Name: p.test, Note: "failed: " + lastLine(out)}), nil
				case len(rows) == 0:
					return []report.Row{{Name: p.test, Note: "not here: it needs Linux"}}, nil
				}
				return rows, nil
			},
		})
	}
	return s
}

func (r *run) processTest(test string) (string, error) {
	if test == "TestRequests" {
		if _, err := exec.LookPath("wrk"); err != nil {
			return "wrk is not installed", err
		}
	}
	cmd := exec.CommandContext(r.ctx, "go", "test", "-v", "-count=1", "-run", "^"+test+"$",
		"github.com/goweir/weir/benchmarks/proxybench", "-measure", "-caddy=false", "-rounds", fmt.Sprint(r.cases().Rounds))
	endTogether(cmd) // what the test has started goes with it
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// logged is a line that a test has logged about somebody.
var logged = regexp.MustCompile(`^\s+\w+\.go:\d+: (\S.*?)(?:: |  +)(.*)$`)

// printed makes what a test has logged into rows: who, and what of him.
func printed(out string) (rows []report.Row) {
	for s := bufio.NewScanner(strings.NewReader(out)); s.Scan(); {
		if m := logged.FindStringSubmatch(s.Text()); m != nil {
			rows = append(rows, report.Row{Name: m[1], Note: strings.Join(strings.Fields(m[2]), " ")})
		}
	}
	return rows
}

func lastLine(out string) string {
	lines := bytes.Split(bytes.TrimSpace([]byte(out)), []byte("\n"))
	return string(bytes.TrimSpace(lines[len(lines)-1]))
}
