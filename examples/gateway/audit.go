package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/DeRuina/timberjack"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/examples/gateway/internal/config"
)

// flushTime is how long records may take to be written when the gateway ends.
const flushTime = 5 * time.Second

// An audit is where exchanges are recorded. A slow disk delays no answer:
// records wait in a bounded queue, and what does not fit is counted.
type audit struct {
	queue *capture.Queue
	file  io.Closer // nil for standard output
	log   *slog.Logger
	last  atomic.Int64 // when an error was logged
}

// openAudit appends to the file of c, which only its owner may read: it holds
// what passes. "-" is stdout. live, if not nil, gets the records first.
func openAudit(c config.Audit, stdout io.Writer, live capture.Sink, observer capture.Observer, log *slog.Logger) (*audit, error) {
	a := &audit{log: log}
	if c.File != "-" {
		f, err := openAuditFile(c)
		if err != nil {
			return nil, fmt.Errorf("cannot record exchanges: %w", err)
		}
		a.file, stdout = f, f
	}
	sink := capture.JSONL(stdout)
	if live != nil {
		file := sink
		sink = capture.SinkFunc(func(ctx context.Context, x *capture.Exchange) error {
			_ = live.Record(ctx, x) // what is too large for it is in the file
			return file.Record(ctx, x)
		})
	}
	a.queue = capture.Async(sink, &capture.AsyncOptions{OnError: a.failed, Observer: observer})
	return a, nil
}

func openAuditFile(c config.Audit) (io.WriteCloser, error) {
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

// check says for a minute that records were lost.
func (a *audit) check() check {
	return check{"audit", func() string {
		if last := a.last.Load(); last == 0 || time.Since(time.Unix(0, last)) > time.Minute {
			return ""
		}
		return fmt.Sprintf("exchanges are not recorded: %d so far", a.queue.Stats().Dropped())
	}}
}

// close writes what waits. An error means that records were lost.
func (a *audit) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	err := a.queue.Close(ctx)
	if a.file != nil {
		if cerr := a.file.Close(); err == nil {
			err = cerr
		}
	}
	if lost := a.queue.Stats().Dropped(); err == nil && lost > 0 {
		return fmt.Errorf("%d exchanges were not recorded", lost)
	}
	return err
}
