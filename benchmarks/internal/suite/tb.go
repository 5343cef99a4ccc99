package suite

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
)

// A stage stands in for a test, so that the servers and networks that are there
// for tests serve a program as well. What is fatal panics with a [failure].
type stage struct {
	testing.TB // nil: what is not below is not used

	mu       sync.Mutex
	cleanups []func()
}

// A failure is what a fatal call of a stage panics with.
type failure struct{ error }

func (s *stage) Helper()                           {}
func (s *stage) Failed() bool                      { return false }
func (s *stage) Logf(string, ...any)               {}
func (s *stage) Fatal(args ...any)                 { panic(failure{errors.New(fmt.Sprint(args...))}) }
func (s *stage) Fatalf(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }
func (s *stage) Errorf(format string, args ...any) { s.Fatalf(format, args...) }
func (s *stage) Skip(args ...any)                  { s.Fatal(args...) }

func (s *stage) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}

func (s *stage) TempDir() string {
	dir, err := os.MkdirTemp("", "weir-benchmarks")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// clear calls what Cleanup was given, the last first.
func (s *stage) clear() {
	s.mu.Lock()
	cleanups := s.cleanups
	s.cleanups = nil
	s.mu.Unlock()
	for i := len(cleanups) - 1; i >= 0; i-- {
		cleanups[i]()
	}
}

// try calls f and returns what was fatal in it. Other panics pass: peers panic
// with errors of their own, and those are failures too.
func try(f func()) (err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case failure:
			err = v.error
		case error:
			err = v
		default:
			panic(v)
		}
	}()
	f()
	return nil
}
