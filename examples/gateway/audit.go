package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/capture"
)

// flushTime is how long records may take to be written when the gateway ends.
const flushTime = 5 * time.Second

// An audit is where exchanges are recorded. A slow disk delays no answer:
// records wait in a bounded queue, and what does not fit is counted.
type audit struct {
	queue *capture.Queue
	file  *os.File // nil for standard output
	log   *slog.Logger
	last  atomic.Int64 // when an error was logged
}

// openAudit appends to the named file, which only its owner may read: it holds
// what passes. "-" is stdout.
func openAudit(name string, stdout io.Writer, log *slog.Logger) (*audit, error) {
	a := &audit{log: log}
	if name != "-" {
		f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("cannot record exchanges: %w", err)
		}
		a.file, stdout = f, f
	}
	a.queue = capture.Async(capture.JSONL(stdout), &capture.AsyncOptions{OnError: a.failed})
	return a, nil
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

// close writes what waits. An error means that records were lost.
func (a *audit) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	err := a.queue.Close(ctx)
	if a.file != nil {
		if serr := a.file.Sync(); err == nil {
			err = serr
		}
		if cerr := a.file.Close(); err == nil {
			err = cerr
		}
	}
	if lost := a.queue.Stats().Dropped(); err == nil && lost > 0 {
		return fmt.Errorf("%d exchanges were not recorded", lost)
	}
	return err
}
