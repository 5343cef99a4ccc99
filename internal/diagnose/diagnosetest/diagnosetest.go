// Package diagnosetest lets tests see what package diagnose tells.
package diagnosetest

import (
	"context"
	"log"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/goweir/weir/internal/diagnose"
)

// A Log holds the warnings of a test.
type Log struct {
	mu      sync.Mutex
	records []slog.Record
}

// Record begins anew and takes the place of slog's default logger until the test
// ends. Tests that use it must not run in parallel with others.
func Record(t testing.TB) *Log {
	before, output, flags := slog.Default(), log.Writer(), log.Flags()
	l := new(Log)
	slog.SetDefault(slog.New(l))
	diagnose.Forget()
	t.Cleanup(func() {
		slog.SetDefault(before)
		log.SetOutput(output) // which SetDefault has changed, and does not change back
		log.SetFlags(flags)
		diagnose.Forget()
	})
	return l
}

// Codes returns the codes of the warnings so far, in order, separated by spaces.
func (l *Log) Codes() string {
	var codes []string
	for _, r := range l.all() {
		codes = append(codes, attr(r, "code"))
	}
	return strings.Join(codes, " ")
}

// Text returns all that was said, attributes included.
func (l *Log) Text() string {
	var b strings.Builder
	for _, r := range l.all() {
		b.WriteString(r.Level.String() + " " + r.Message)
		r.Attrs(func(a slog.Attr) bool { b.WriteString(" " + a.String()); return true })
		b.WriteString("\n")
	}
	return b.String()
}

func (l *Log) all() []slog.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]slog.Record(nil), l.records...)
}

func attr(r slog.Record, key string) (value string) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == key {
			value = a.Value.String()
		}
		return true
	})
	return value
}

// Enabled implements [slog.Handler].
func (l *Log) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements [slog.Handler].
func (l *Log) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if attr(r, "code") != "" { // others use the default logger as well
		l.records = append(l.records, r)
	}
	return nil
}

// WithAttrs implements [slog.Handler].
func (l *Log) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements [slog.Handler].
func (l *Log) WithGroup(string) slog.Handler { return l }
