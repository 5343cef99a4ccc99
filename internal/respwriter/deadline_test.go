package respwriter_test

import (
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/goweir/weir/internal/respwriter"
)

// deadlineless is a ResponseWriter that has none, as httptest's recorder.
type deadlineless struct{ http.ResponseWriter }

// A write deadline is told and reaches the inner writer, or whichever writer
// below has one, and its error comes back.
func TestWriteDeadline(t *testing.T) {
	w := wrapFake()
	for _, want := range []error{nil, errFake} {
		w.inner.err = want
		if err := http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Unix(7, 0)); err != want {
			t.Errorf("SetWriteDeadline = %v, want %v", err, want)
		}
	}
	if want := []string{"WriteDeadline 7", "inner.SetWriteDeadline 7", "WriteDeadline 7", "inner.SetWriteDeadline 7"}; !slices.Equal(*w.log, want) {
		t.Errorf("log = %q, want %q", *w.log, want)
	}

	log := new([]string)
	outer := new(respwriter.Writer).Wrap(deadlineless{newFake(log)}, &spy{log: log})
	if err := http.NewResponseController(outer).SetWriteDeadline(time.Unix(7, 0)); !errors.Is(err, http.ErrNotSupported) {
		t.Errorf("SetWriteDeadline over a writer without = %v, want http.ErrNotSupported", err)
	}
	if want := []string{"WriteDeadline 7"}; !slices.Equal(*log, want) {
		t.Errorf("log = %q, want %q", *log, want)
	}
}
