package capture

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// A File is an [io.Writer] that appends to a file, and can open its name again
// after that was given to another one, as logrotate does: with [File.Reopen],
// which somebody has to call, because a File handles no signals. It must be
// closed, after the [Queue] in front of it. Its methods are safe for concurrent
// use. WARNING: a lock is held while the file is written.
//
// For files that are rotated by size, give [JSONL] a writer that does that.
type File struct {
	name string

	mu     sync.Mutex
	f      *os.File
	lines  lineWriter
	closed bool
}

// OpenFile opens the named file for appending. It creates it if there is none,
// for its owner alone (mode 0600): it will hold what passes.
func OpenFile(name string) (*File, error) {
	f := &File{name: name}
	if err := f.open(); err != nil {
		return nil, err
	}
	return f, nil
}

// Reopen opens the name again and closes the file that was open before. A line
// of [JSONL] is then in the one or in the other, whole. If the name cannot be
// opened, writing goes on as before.
func (f *File) Reopen() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fmt.Errorf("capture: reopen %s: %w", f.name, os.ErrClosed)
	}
	before := f.f
	if err := f.open(); err != nil {
		return err
	}
	return before.Close()
}

func (f *File) open() error {
	file, err := os.OpenFile(f.name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	f.f, f.lines = file, lineWriter{torn: endsInALine(f.name)}
	return nil
}

// endsInALine reports whether the named file does, because a process or a
// machine died while it wrote one.
func endsInALine(name string) bool {
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	file, err := os.Open(name)
	if err != nil {
		return false
	}
	defer file.Close()
	var last [1]byte
	_, err = file.ReadAt(last[:], info.Size()-1)
	return err == nil && last[0] != '\n'
}

// Write appends p to the file.
func (f *File) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.f.Write(p)
}

func (f *File) writeLine(line []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lines.write(f.f, line)
}

// Close closes the file, after its contents are on the disk. A second call does
// nothing.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	err := f.f.Sync()
	if info, serr := f.f.Stat(); serr != nil || !info.Mode().IsRegular() {
		err = nil // pipes and devices cannot be synchronised
	}
	return errors.Join(err, f.f.Close())
}

// A lineWriter writes lines, each with one call of Write, and begins a new one
// after one that was cut.
type lineWriter struct {
	torn bool // the last line was cut
}

// write writes a line, which begins with a '\n' that is left out unless the last
// line was cut.
func (l *lineWriter) write(w io.Writer, line []byte) error {
	if !l.torn {
		line = line[1:]
	}
	n, err := w.Write(line)
	if err == nil && n < len(line) {
		err = io.ErrShortWrite
	}
	if n > 0 {
		l.torn = n < len(line)
	}
	return err
}
