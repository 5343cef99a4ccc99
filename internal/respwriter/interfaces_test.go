package respwriter_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/internal/respwriter"
)

// interfaces returns the letters of the optional interfaces that w implements.
func interfaces(w http.ResponseWriter) string {
	var b strings.Builder
	add := func(letter byte, ok bool) {
		if ok {
			b.WriteByte(letter)
		}
	}
	_, ok := w.(http.Flusher)
	add('F', ok)
	_, ok = w.(errorFlusher)
	add('E', ok)
	_, ok = w.(http.Hijacker)
	add('H', ok)
	_, ok = w.(io.ReaderFrom)
	add('R', ok)
	_, ok = w.(io.StringWriter)
	add('S', ok)
	_, ok = w.(http.Pusher)
	add('P', ok)
	_, ok = w.(http.CloseNotifier)
	add('C', ok)
	return b.String()
}

// lettersOf returns the letters of a set as only takes it.
func lettersOf(set int) string {
	var b strings.Builder
	for i, letter := range "FEHRSPC" {
		if set&(1<<i) != 0 {
			b.WriteRune(letter)
		}
	}
	return b.String()
}

// Trap 13: never claim an interface that the inner writer lacks, nor lose one.
func TestTrapCapture13_ExactInterfaces(t *testing.T) {
	for set := range 128 {
		name := lettersOf(set)
		t.Run("set="+name, func(t *testing.T) {
			log := new([]string)
			inner := only(set, newFake(log))
			if got := interfaces(inner); got != name {
				t.Fatalf("the fake implements %q, want %q", got, name)
			}
			var rw respwriter.Writer
			w := rw.Wrap(inner, respwriter.NoHooks{})
			if got := interfaces(w); got != name {
				t.Errorf("the wrapper implements %q, the inner writer %q", got, name)
			}
			if got := w.(interface{ Unwrap() http.ResponseWriter }).Unwrap(); got != inner {
				t.Errorf("Unwrap = %v, want the inner writer", got)
			}

			// Each method must arrive at its own counterpart.
			var want []string
			call := func(arrives string, f func()) {
				want = append(want, arrives)
				f()
			}
			call("inner.WriteHeader 200", func() { w.WriteHeader(200) })
			call("inner.Write 1", func() { w.Write([]byte("a")) })
			if x, ok := w.(http.Flusher); ok {
				call("inner.Flush", x.Flush)
			}
			if x, ok := w.(errorFlusher); ok {
				call("inner.FlushError", func() { x.FlushError() })
			}
			if x, ok := w.(io.ReaderFrom); ok {
				call("inner.ReadFrom 2", func() { x.ReadFrom(strings.NewReader("ab")) })
			}
			if x, ok := w.(io.StringWriter); ok {
				call("inner.WriteString 3", func() { x.WriteString("abc") })
			}
			if x, ok := w.(http.Pusher); ok {
				call("inner.Push /p", func() { x.Push("/p", nil) })
			}
			if x, ok := w.(http.CloseNotifier); ok {
				call("inner.CloseNotify", func() { x.CloseNotify() })
			}
			if x, ok := w.(http.Hijacker); ok {
				call("inner.Hijack", func() { x.Hijack() })
			}
			if !slices.Equal(*log, want) {
				t.Errorf("calls = %q, want %q", *log, want)
			}
		})
	}
}

// bare is what many a middleware wraps a writer with.
type bare struct{ http.ResponseWriter }

func (b bare) Unwrap() http.ResponseWriter { return b.ResponseWriter }

// A flush through a writer that can only be unwrapped sends the header, which the
// hooks must not miss; and no hook hears of one that is not possible.
func TestFlushThroughBareWriter(t *testing.T) {
	for _, letters := range []string{"F", "E", "FEHRSPC", ""} {
		for depth := 1; depth <= 2; depth++ {
			log := new([]string)
			set := 0
			for i, letter := range "FEHRSPC" {
				if strings.ContainsRune(letters, letter) {
					set |= 1 << i
				}
			}
			inner := only(set, newFake(log))
			for range depth {
				inner = bare{inner}
			}
			var outer, rw respwriter.Writer
			w := rw.Wrap(outer.Wrap(inner, &spy{log: log}), respwriter.NoHooks{})
			if _, ok := w.(http.Flusher); ok {
				t.Errorf("%q: the wrapper claims to be an http.Flusher", letters)
			}
			err := http.NewResponseController(w).Flush()
			want, status := []string{"Header 200", "Flushing", "inner.FlushError"}, 200
			switch letters {
			case "F":
				want[2] = "inner.Flush"
			case "":
				want, status = nil, 0
			}
			if (err == nil) != (status == 200) || !slices.Equal(*log, want) || outer.Status() != status || rw.Status() != status {
				t.Errorf("%q, %d deep: Flush = %v, calls %q, status %d and %d; want %q", letters, depth, err, *log, outer.Status(), rw.Status(), want)
			}
		}
	}
}

// The writers that handlers really get.
func TestRealWriters(t *testing.T) {
	compare := func(t *testing.T, want string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			inner, outer := interfaces(w), interfaces(new(respwriter.Writer).Wrap(w, respwriter.NoHooks{}))
			if inner != want || outer != want {
				t.Errorf("%T implements %q and wrapped %q, want %q", w, inner, outer, want)
			}
			rw := new(respwriter.Writer)
			rc := http.NewResponseController(rw.Wrap(w, respwriter.NoHooks{}))
			if err, wrapped := http.NewResponseController(w).SetReadDeadline(time.Time{}), rc.SetReadDeadline(time.Time{}); fmt.Sprint(err) != fmt.Sprint(wrapped) {
				t.Errorf("SetReadDeadline = %v, through the wrapper %v", err, wrapped)
			}
			if err, wrapped := http.NewResponseController(w).EnableFullDuplex(), rc.EnableFullDuplex(); fmt.Sprint(err) != fmt.Sprint(wrapped) {
				t.Errorf("EnableFullDuplex = %v, through the wrapper %v", err, wrapped)
			}
		}
	}
	get := func(t *testing.T, ts *httptest.Server, proto string) {
		t.Helper()
		res, err := ts.Client().Get(ts.URL)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.Proto != proto {
			t.Errorf("protocol = %s, want %s", res.Proto, proto)
		}
	}
	t.Run("HTTP/1.1", func(t *testing.T) {
		ts := httptest.NewServer(compare(t, "FEHRSC"))
		defer ts.Close()
		get(t, ts, "HTTP/1.1")
	})
	t.Run("HTTP/2", func(t *testing.T) {
		ts := httptest.NewUnstartedServer(compare(t, "FESPC"))
		ts.EnableHTTP2 = true
		ts.StartTLS()
		defer ts.Close()
		get(t, ts, "HTTP/2.0")
	})
	t.Run("ResponseRecorder", func(t *testing.T) {
		compare(t, "FS")(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	})
	t.Run("TimeoutHandler", func(t *testing.T) {
		ts := httptest.NewServer(http.TimeoutHandler(compare(t, "P"), time.Minute, ""))
		defer ts.Close()
		get(t, ts, "HTTP/1.1")
	})
	t.Run("wrapped twice", func(t *testing.T) {
		once := new(respwriter.Writer).Wrap(newFake(new([]string)), respwriter.NoHooks{})
		compare(t, "FEHRSPC")(once, httptest.NewRequest("GET", "/", nil))
	})
}

// What go generate writes is what is committed.
func TestGenerated(t *testing.T) {
	generator, err := filepath.Abs("gen_combine.go")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "run", generator)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go run gen_combine.go: %v\n%s", err, out)
	}
	for _, name := range []string{"combine.go", "combine_test.go"} {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what gen_combine.go writes: run go generate", name)
		}
	}
}
