package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/DeRuina/timberjack"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/capture/decoders"
	"github.com/goweir/weir/examples/gateway/internal/config"
)

// flushTime is how long records may take to be written when the gateway ends.
const flushTime = 5 * time.Second

// An audit is where exchanges are recorded. A slow disk delays no answer:
// records wait in a bounded queue, and what does not fit is counted.
type audit struct {
	queue *capture.Queue
	file  *auditFile // nil for standard output
	har   *capture.HAR
	log   *slog.Logger
	last  atomic.Int64 // when an error was logged
	lost  atomic.Pointer[error]
}

// records returns the audit of the configuration, that of before unless it is
// kept elsewhere now.
func (b *builder) records() (*audit, error) {
	where := config.Audit{
		File: b.Audit.File, MaxSize: b.Audit.MaxSize, Keep: b.Audit.Keep,
		HAR: b.Audit.HAR, Log: b.Audit.Log, Full: b.Audit.Full,
	}
	a, _, err := reuse(b, "audit", config.Identity(where), func() (*audit, func(), error) {
		a, err := openAudit(b.Audit, b.stdout, b.log, b.sinks, b.observe.capture)
		if err != nil {
			return nil, nil, err
		}
		return a, a.end, nil
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// captureOptions says how much of bodies is recorded, and of which routes none.
func (b *builder) captureOptions(bodiless map[string]bool) *capture.Options {
	budget, _, _ := reuse(b, "budget", fmt.Sprint(int64(b.Audit.Budget)), func() (*capture.Budget, func(), error) {
		return capture.NewBudget(int64(b.Audit.Budget)), nil, nil
	})
	o := b.Audit.Options(b.APIKeys.Header)
	o.Budget = budget
	o.OnError = b.chain.audit.failed
	o.Observer = b.observe.capture
	if tell := b.exchange; tell != nil {
		keep := o.Keep
		o.Keep = func(x *capture.Exchange) bool { // asked about every exchange, refusals beyond those recorded among them
			tell(x)
			return keep == nil || keep(x)
		}
	}
	o.Decoders = decoders.All()
	o.RequestBody = func(r *http.Request, skip capture.SkipReason) capture.SkipReason {
		return cmp.Or(skip, sampledOut(bodiless[r.Pattern]))
	}
	o.ResponseBody = func(r *http.Request, _ int, _ http.Header, skip capture.SkipReason) capture.SkipReason {
		return cmp.Or(skip, sampledOut(bodiless[r.Pattern]))
	}
	return o
}

func sampledOut(yes bool) capture.SkipReason {
	if yes {
		return capture.SkipSampledOut
	}
	return ""
}

// openAudit appends to the file of c, which only its owner may read: it holds
// what passes. "-" is stdout.
func openAudit(c config.Audit, stdout io.Writer, log *slog.Logger, more []capture.Sink, o capture.Observer) (*audit, error) {
	a := &audit{log: log}
	if c.File != "-" {
		f, err := openAuditFile(c)
		if err != nil {
			return nil, fmt.Errorf("cannot record exchanges: %w", err)
		}
		a.file, stdout = f, f
	}
	sinks := []capture.Sink{capture.JSONL(stdout)}
	if c.HAR != "" {
		har, err := capture.OpenHAR(c.HAR)
		if err != nil {
			a.closeFiles()
			return nil, fmt.Errorf("cannot record exchanges: %w", err)
		}
		a.har = har
		sinks = append(sinks, har)
	}
	if c.Log {
		sinks = append(sinks, capture.Slog(log))
	}
	a.queue = capture.Async(all(append(sinks, more...)), &capture.AsyncOptions{
		Full: capture.FullPolicy(c.Full), OnError: a.failed, Observer: o,
	})
	return a, nil
}

// all is a sink that hands records to several.
func all(sinks []capture.Sink) capture.Sink {
	if len(sinks) == 1 {
		return sinks[0]
	}
	return capture.SinkFunc(func(ctx context.Context, x *capture.Exchange) error {
		var errs []error
		for _, s := range sinks {
			if err := s.Record(ctx, x); err != nil {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
}

// An auditFile can be opened anew under its name, when somebody has moved it
// away.
type auditFile struct {
	open func() (io.WriteCloser, error)
	mu   sync.Mutex
	w    io.WriteCloser
}

func openAuditFile(c config.Audit) (*auditFile, error) {
	f := &auditFile{open: func() (io.WriteCloser, error) {
		f, err := capture.OpenFile(c.File)
		if err != nil || c.MaxSize == 0 {
			return f, err
		}
		// It exists now, for its owner alone, and can be written.
		if err := f.Close(); err != nil {
			return nil, err
		}
		return &timberjack.Logger{
			Filename:   c.File,
			MaxSize:    int(c.MaxSize >> 20),
			MaxBackups: int(c.Keep),
			FileMode:   0o600,
		}, nil
	}}
	var err error
	f.w, err = f.open()
	return f, err
}

func (f *auditFile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.w.Write(p)
}

// reopen goes on with the file that has the name now. If there can be none it
// goes on with the one that it has.
func (f *auditFile) reopen() error {
	w, err := f.open()
	if err != nil {
		return err
	}
	f.mu.Lock()
	before := f.w
	f.w = w
	f.mu.Unlock()
	return before.Close()
}

func (f *auditFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.w.Close()
}

func (a *audit) reopen() {
	if a.file == nil {
		return
	}
	if err := a.file.reopen(); err != nil {
		a.log.Error("the audit file cannot be opened anew: going on with the one there is", "error", err)
	}
}

// failed logs that a record was lost, at most once a second: a full disk fails
// for every request.
func (a *audit) failed(err error) {
	now := time.Now().UnixNano()
	if last := a.last.Load(); now-last < int64(time.Second) || !a.last.CompareAndSwap(last, now) {
		return
	}
	a.log.Error("exchange not recorded", "error", err, "lost_so_far", a.queue.Stats().Dropped())
}

// probe says for a minute that records were lost.
func (a *audit) probe() probe {
	return probe{"audit", func() string {
		if last := a.last.Load(); last == 0 || time.Since(time.Unix(0, last)) > time.Minute {
			return ""
		}
		return fmt.Sprintf("exchanges are not recorded: %d so far", a.queue.Stats().Dropped())
	}}
}

// end writes what waits, and keeps what went wrong for the exit code.
func (a *audit) end() {
	if err := a.close(); err != nil {
		a.lost.Store(&err)
		a.log.Error("the audit is not complete", "error", err)
	}
}

// result returns what went wrong, once the audit has ended.
func (a *audit) result() error {
	if err := a.lost.Load(); err != nil {
		return *err
	}
	return nil
}

// close writes what waits. An error means that records were lost.
func (a *audit) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	err := a.queue.Close(ctx)
	if cerr := a.closeFiles(); err == nil {
		err = cerr
	}
	if lost := a.queue.Stats().Dropped(); err == nil && lost > 0 {
		return fmt.Errorf("%d exchanges were not recorded", lost)
	}
	return err
}

func (a *audit) closeFiles() error {
	var errs []error
	if a.file != nil {
		errs = append(errs, a.file.Close())
	}
	if a.har != nil {
		errs = append(errs, a.har.Close())
	}
	return errors.Join(errs...)
}
