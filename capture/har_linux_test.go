package capture_test

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goweir/weir/capture"
)

// A disk that is full in the middle of a record, for a while: the archive stays
// a valid document without it, and goes on when there is room again.
func TestHAROnAFullDisk(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.har")
	h := must(capture.OpenHAR(name))
	q := capture.Async(h, nil)
	small, large := exchanges(q, nil, 10), exchanges(q, nil, 50_000)
	small.ServeHTTP(new(sinkhole), get("/?x"))
	awaitIdle(t, q)

	withFileLimit(t, 8<<10, func() {
		large.ServeHTTP(new(sinkhole), get("/?x"))
		awaitIdle(t, q)
		if got := len(parseHAR(t, must(os.ReadFile(name)))); got != 1 {
			t.Errorf("%d entries while the disk is full, want 1", got)
		}
		small.ServeHTTP(new(sinkhole), get("/?x")) // for which there is room
		awaitIdle(t, q)
	})
	large.ServeHTTP(new(sinkhole), get("/?x"))
	if err := q.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := q.Stats(); s.Delivered != 3 || s.DroppedFailed != 1 {
		t.Errorf("%+v", s)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if got := len(parseHAR(t, must(os.ReadFile(name)))); got != 3 {
		t.Errorf("%d entries, want 3", got)
	}
}

// awaitIdle waits until q has handed on all it was given.
func awaitIdle(t *testing.T, q *capture.Queue) {
	t.Helper()
	for range 10_000 {
		if q.Stats().Waiting == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("the queue is not idle")
}

// withFileLimit runs f while no file may grow beyond so many bytes.
func withFileLimit(t *testing.T, bytes uint64, f func()) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: bytes, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
			t.Error(err)
		}
	}()
	f()
}

func TestJSONLBeyondTheFileLimit(t *testing.T) {
	name := filepath.Join(t.TempDir(), "audit.jsonl")
	f := must(capture.OpenFile(name))
	defer f.Close()
	sink := capture.JSONL(f)
	record := func() error { return sink.Record(t.Context(), &capture.Exchange{Path: "/some/path"}) }
	withFileLimit(t, 300, func() {
		var err error
		for range 5 {
			err = record()
		}
		if !errors.Is(err, syscall.EFBIG) {
			t.Errorf("Record returned %v", err)
		}
	})
	if err := record(); err != nil {
		t.Error(err)
	}
	good, bad := 0, 0
	for line := range strings.Lines(string(must(os.ReadFile(name)))) {
		if oneValidLine(line) {
			good++
		} else {
			bad++
		}
	}
	if good < 2 || bad != 1 {
		t.Errorf("%d whole lines and %d cut ones", good, bad)
	}
}
