package capture_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/goweir/weir/capture"
)

// What masking leaves out is told when it is known, by whoever finishes the
// record, before the record is delivered.
func TestObserverHearsOfWhatMaskingLeftOut(t *testing.T) {
	for _, queued := range []bool{false, true} {
		o := new(notebook)
		q := capture.Async(newShelf(), &capture.AsyncOptions{Observer: o})
		var s capture.Sink = newShelf()
		if queued {
			s = q
		}
		capture.Middleware(s, &capture.Options{Observer: o})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, "<no JSON>")
		})).ServeHTTP(new(sinkhole), get("/"))
		if err := q.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		last := len(o.events) - 1
		if o.count("skipped response") != 1 || o.count("skipped response redaction_failed") != 1 ||
			o.count("delivered") != 1 || o.events[last].Kind != capture.EventDelivered {
			t.Errorf("queued %v: observed %v, the last %v", queued, o.counts, o.events[last].Kind)
		}
	}
}
