// Command benchmarks compares weir's backends with each other and with what
// there is besides, in one run on one machine, and writes a report with plots.
//
//	go run ./benchmarks          # from the root of the repository, some minutes
//	go run ./benchmarks -quick   # less than one
//	go run ./benchmarks -check   # the ratios that the documentation quotes
//
// README.md beside it says what is measured, and how.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/goweir/weir/benchmarks/internal/report"
	"github.com/goweir/weir/benchmarks/internal/suite"
)

func main() {
	if suite.Child() {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The second Ctrl-C ends the program at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process. It returns what the process exits with: 1 if
// it failed or a ratio or an allocation is not what is promised, 2 if it was
// called wrongly, 130 if it was interrupted.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("benchmarks", flag.ContinueOnError)
	flags.SetOutput(stderr)
	quick := flags.Bool("quick", false, "memory, Redis and coalesced Redis only, at 1 and 64 goroutines, and the pinned allocations: less than a minute")
	check := flags.Bool("check", false, "measure every ratio that the documentation quotes, and exit 1 naming those missed")
	only := flags.String("only", "", "measure only what matches this `regexp`: section/group/row, as in 'backends/hot' or 'peers'")
	redis := flags.String("redis", "", "`URL` of the server, as in redis://127.0.0.1:6379/0 (default: start redis-server if it is installed, else the embedded one)")
	out := flags.String("out", filepath.Join("benchmarks", "report"), "`folder` for report.html, report.md and results.json")
	compare := flags.String("compare", "", "compare with an older results.json, this `file`")
	rounds := flags.Int("rounds", 0, "turns of each row (default 3, with -check 5)")
	slice := flags.Duration("slice", 150*time.Millisecond, "length of a turn")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}

	if *rounds == 0 {
		*rounds = 3
		if *check {
			*rounds = 5
		}
	}
	o := suite.Options{Quick: *quick, Check: *check, Redis: *redis, Rounds: *rounds, Slice: *slice}
	var old *report.Results
	errs := []error{outFolder(*out)}
	if flags.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unknown arguments: %q", flags.Args()))
	}
	if *quick && *check {
		errs = append(errs, errors.New("-quick and -check exclude each other"))
	}
	if *rounds < 1 || *slice < time.Millisecond {
		errs = append(errs, errors.New("-rounds is at least 1, and -slice 1ms"))
	}
	if *only != "" {
		var err error
		if o.Only, err = regexp.Compile(*only); err != nil {
			errs = append(errs, fmt.Errorf("-only: %w", err))
		}
	}
	if *compare != "" {
		var err error
		if old, err = report.Read(*compare); err != nil {
			errs = append(errs, fmt.Errorf("-compare: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}

	p := newProgress(stderr)
	o.Progress = p.show
	results, err := suite.Run(ctx, o)
	p.clear()
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	results.Command = append([]string{"go", "run", "./benchmarks"}, args...)
	var changes []report.Change
	if old != nil {
		changes = append([]report.Change{}, report.Compare(old, results)...)
		if old.Machine.CPU != results.Machine.CPU || old.Machine.Cores != results.Machine.Cores || old.Machine.Redis != results.Machine.Redis {
			results.Left = append(results.Left, "The older run is of another machine or another Redis: "+
				old.Machine.CPU+", "+old.Machine.Redis)
		}
	}
	report.Text(stdout, results, changes)
	if err := write(*out, results, changes); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	fmt.Fprintf(stdout, "\nThe report is in %s.\n", filepath.Join(*out, "report.html"))
	code := 0
	for _, fault := range suite.Faults(results, *check) {
		fmt.Fprintln(stderr, fault)
		code = 1
	}
	if results.Partial != "" {
		fmt.Fprintln(stderr, results.Partial)
		code = 130
	}
	return code
}

// outFolder makes the folder and shows that it can be written to, before
// minutes are spent.
func outFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("-out: %w", err)
	}
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("-out: %w", err)
	}
	f.Close()
	return os.Remove(f.Name())
}

func write(dir string, r *report.Results, changes []report.Change) error {
	page := func(name string, render func(io.Writer, *report.Results, []report.Change)) error {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		render(f, r, changes)
		return f.Close()
	}
	return errors.Join(
		report.Write(filepath.Join(dir, "results.json"), r),
		page("report.md", report.Markdown),
		page("report.html", report.HTML),
	)
}
