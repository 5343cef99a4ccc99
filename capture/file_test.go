package capture_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/goweir/weir/capture"
)

// Records are written while the file is renamed away and opened again, as
// logrotate does: each is in one of the files, whole.
func TestReopenLosesNothing(t *testing.T) {
	name := filepath.Join(t.TempDir(), "audit.jsonl")
	f := must(capture.OpenFile(name))
	h := exchanges(capture.JSONL(f), capture.NewBudget(10<<20), 5000)
	const workers, each, rotations = 4, 100, 20
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				h.ServeHTTP(new(sinkhole), get("/?x"))
			}
		})
	}
	for i := range rotations {
		if err := os.Rename(name, fmt.Sprint(name, ".", i)); err != nil {
			t.Error(err)
		}
		if err := f.Reopen(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Error(err)
	}
	lines := 0
	for _, file := range must(filepath.Glob(name + "*")) {
		info := must(os.Stat(file))
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %v", file, mode)
		}
		for line := range strings.Lines(string(must(os.ReadFile(file)))) {
			if lines++; !oneValidLine(line) {
				t.Errorf("%s: not one valid line: %.100q", file, line)
			}
		}
	}
	if lines != workers*each {
		t.Errorf("%d lines, want %d", lines, workers*each)
	}
	if err := f.Reopen(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Reopen after Close returned %v", err)
	}
	if err := capture.JSONL(f).Record(t.Context(), new(capture.Exchange)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Record after Close returned %v", err)
	}
}

func TestReopenThatFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	name := filepath.Join(dir, "audit.jsonl")
	if _, err := capture.OpenFile(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("OpenFile returned %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f := must(capture.OpenFile(name))
	defer f.Close()
	sink := capture.JSONL(f)
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	if err := f.Reopen(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Reopen returned %v", err)
	}
	if err := sink.Record(t.Context(), new(capture.Exchange)); err != nil {
		t.Errorf("after a Reopen that failed: %v", err)
	}
	if text := must(os.ReadFile(filepath.Join(dir+".gone", "audit.jsonl"))); !oneValidLine(string(text)) {
		t.Errorf("the old file holds %q", text)
	}
}

// A process that died while it wrote leaves half a line, which spoils no other.
func TestOpenFileAfterACrash(t *testing.T) {
	for _, c := range []struct{ before, want string }{
		{"", ""},
		{"{\"whole\":1}\n", "{\"whole\":1}\n"},
		{"{\"whole\":1}\n{\"ha", "{\"whole\":1}\n{\"ha\n"},
	} {
		name := filepath.Join(t.TempDir(), "audit.jsonl")
		if err := os.WriteFile(name, []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		f := must(capture.OpenFile(name))
		sink := capture.JSONL(f)
		for range 2 {
			if err := sink.Record(t.Context(), new(capture.Exchange)); err != nil {
				t.Error(err)
			}
		}
		f.Close()
		text := string(must(os.ReadFile(name)))
		first, second, _ := strings.Cut(strings.TrimPrefix(text, c.want), "\n")
		if !strings.HasPrefix(text, c.want) || !oneValidLine(first+"\n") || !oneValidLine(second) {
			t.Errorf("after %q the file holds %q", c.before, text)
		}
	}
}

// A disk without room: every record is counted as lost, and no handler waits or
// fails.
func TestFullDisk(t *testing.T) {
	const device = "/dev/full"
	if _, err := os.Stat(device); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	f := must(capture.OpenFile(device))
	defer f.Close()
	for name, sink := range map[string]capture.Sink{
		"JSONL": capture.JSONL(f),
		"Slog":  capture.Slog(slog.New(slog.NewTextHandler(f, nil)).With("a", 1)),
	} {
		o := new(notebook)
		var told error
		q := capture.Async(sink, &capture.AsyncOptions{Observer: o, OnError: func(err error) { told = err }})
		h := exchanges(q, nil, 1000)
		for range 50 {
			h.ServeHTTP(new(sinkhole), get("/?x"))
		}
		if err := q.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := o.count("dropped failed"); n != 50 || !errors.Is(told, syscall.ENOSPC) {
			t.Errorf("%s: %d of 50 records were told to be dropped, the last error is %v", name, n, told)
		}
		if s := q.Stats(); s.Offered != 50 || s.DroppedFailed != 50 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// A file with little room: what was written of the record that did not fit does
// not spoil the next one.
func TestDiskThatIsFullForAWhile(t *testing.T) {
	w := &writes{n: 100, err: syscall.ENOSPC}
	sink := capture.JSONL(w)
	record := func() error {
		var err error
		capture.Middleware(sink, &capture.Options{OnError: func(e error) { err = e }})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "text")
		})).ServeHTTP(new(sinkhole), get("/"))
		return err
	}
	if err := record(); err != syscall.ENOSPC {
		t.Errorf("Record returned %v", err)
	}
	w.n, w.err = 0, nil
	if err := record(); err != nil {
		t.Error(err)
	}
	half, whole, _ := strings.Cut(strings.Join(w.calls, ""), "\n")
	if len(half) != 100 || !oneValidLine(whole) {
		t.Errorf("written %q", w.calls)
	}
}
