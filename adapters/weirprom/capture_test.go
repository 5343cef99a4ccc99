package weirprom_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/adapters/weirprom"
	"github.com/goweir/weir/capture"
)

func TestCapture(t *testing.T) {
	m := weirprom.New(nil)
	budget := capture.NewBudget(1 << 20)
	release := make(chan struct{})
	sink := capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		<-release
		if x.Path == "/users/fails" {
			return errors.New("disk full")
		}
		return nil
	})
	q := capture.Async(sink, &capture.AsyncOptions{Records: 3, Observer: m.Capture()})
	reg := registered(t, m, weirprom.Budget("audit", budget), weirprom.Queue("audit", q))
	record := capture.Middleware(q, &capture.Options{
		Observer: m.Capture(), Budget: budget, ResponseCap: 4, RefusalsPerSecond: -1,
		Keep: func(x *capture.Exchange) bool { return x.Path != "/users/sampled" },
		ResponseBody: func(_ *http.Request, _ int, _ http.Header, skip capture.SkipReason) capture.SkipReason {
			if skip == capture.SkipContentType {
				return "picture"
			}
			return skip
		},
	})
	s := serve(t, routed([]string{"/users/{what}"}, record(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/users/refused":
			capture.From(r.Context()).Refused("limit")
			w.WriteHeader(429)
		case "/users/picture":
			w.Header().Set("Content-Type", "image/png")
			io.WriteString(w, "png")
		case "/users/long":
			io.WriteString(w, strings.Repeat("longer than the cap", 100))
		default:
			io.WriteString(w, "ok")
		}
	}))))
	get(t, s.URL+"/users/first")
	until(t, func() bool { st := q.Stats(); return st.Waiting == 1 && st.WaitingBytes == 0 }) // it is being delivered
	for _, path := range []string{"fails", "picture", "long", "toomany", "sampled", "refused"} {
		get(t, s.URL+"/users/"+path)
	}
	until(t, func() bool { return gathered(t, reg)[`weir_capture_outcomes_total{outcome="ok"}`] == 7 })
	shows(t, reg, map[string]float64{
		`weir_capture_exchanges_total{result="dropped",route="/users/{what}"}`:     1,
		`weir_capture_exchanges_total{result="sampled_out",route="/users/{what}"}`: 1,
		`weir_capture_exchanges_total{result="thinned",route="/users/{what}"}`:     1,
		`weir_capture_outcomes_total{outcome="ok"}`:                                7,
		`weir_capture_dropped_total{reason="full"}`:                                1,
		`weir_capture_skipped_total{part="request",reason="no_body"}`:              7,
		`weir_capture_skipped_total{part="response",reason="picture"}`:             1,
		`weir_capture_skipped_total{part="response",reason="status"}`:              1,
		`weir_capture_truncated_total{part="response",reason="cap"}`:               1,
		`weir_capture_sink_duration_seconds`:                                       0,
		`weir_capture_budget_in_use_bytes{budget="audit"}`:                         -1,
		`weir_capture_queue_records{queue="audit"}`:                                4,
		`weir_capture_queue_bytes{queue="audit"}`:                                  -1,
	})
	close(release)
	if err := q.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := gathered(t, reg)
	for name, want := range map[string]float64{
		`weir_capture_exchanges_total{result="delivered",route="/users/{what}"}`: 3,
		`weir_capture_exchanges_total{result="dropped",route="/users/{what}"}`:   2,
		`weir_capture_dropped_total{reason="failed"}`:                            1,
		`weir_capture_sink_duration_seconds`:                                     4,
		`weir_capture_budget_in_use_bytes{budget="audit"}`:                       0,
		`weir_capture_queue_records{queue="audit"}`:                              0,
		`weir_capture_queue_bytes{queue="audit"}`:                                0,
	} {
		if got[name] != want {
			t.Errorf("in the end %s = %v, want %v", name, got[name], want)
		}
	}
}

// until waits for what another goroutine does.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing came of it within 10 s")
		}
	}
}
