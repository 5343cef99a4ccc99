package inspect

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/goweir/weir/capture"
)

const (
	feedEvery    = 100 * time.Millisecond
	stateEvery   = 10               // times feedEvery
	feedDeadline = 10 * time.Second // for a browser that does not read
)

// A row is an exchange in the list. Times are in milliseconds.
type row struct {
	N        int64   `json:"n"`
	At       int64   `json:"at"` // since the epoch
	Method   string  `json:"method"`
	Path     string  `json:"path"`
	Query    string  `json:"query,omitempty"`
	Route    string  `json:"route,omitempty"`
	Client   string  `json:"client,omitempty"`
	Status   int     `json:"status"`
	Size     int64   `json:"size"` // of the answer's body
	MS       float64 `json:"ms"`
	Waiting  float64 `json:"waiting_ms"`
	Limiter  float64 `json:"limiter_ms"`
	Upstream float64 `json:"upstream_ms"` // until its first byte
	Body     float64 `json:"body_ms"`
	Outcome  string  `json:"outcome"`

	Policy    string  `json:"policy,omitempty"` // that decided
	Verdict   string  `json:"verdict,omitempty"`
	Remaining *int    `json:"remaining,omitempty"`
	Capacity  int     `json:"capacity,omitempty"`
	RetryMS   float64 `json:"retry_ms,omitempty"`
	Asked     string  `json:"upstream,omitempty"`
	Attempts  int     `json:"attempts,omitempty"`
	Fallback  string  `json:"fallback,omitempty"` // why it answered
	Failed    string  `json:"failed,omitempty"`   // why no upstream did, nor a fallback
	RefusedBy string  `json:"refused_by,omitempty"`
}

func rowOf(n int64, x *capture.Exchange, t *trace) row {
	r := row{
		N: n, At: x.Start.UnixMilli(), Method: brief(x.Method), Path: brief(x.Path), Query: brief(x.Query), Route: x.Route,
		Status: x.Status, Size: x.Response.Body.Size, MS: millis(x.Duration), Outcome: string(x.Outcome),
		Attempts: len(t.Attempts), Fallback: t.Fallback, Failed: t.Failed, RefusedBy: x.RefusedBy,
	}
	if x.Client.IsValid() {
		r.Client = x.Client.WithZone("").String() // a zone may be any text
	}
	first := x.FirstByte
	if first == 0 {
		first = x.Duration
	}
	r.Waiting, r.Limiter = millis(t.Waiting), millis(t.Limiter)
	r.Body = millis(max(0, x.Duration-first))
	switch rest := millis(max(0, first-t.Waiting-t.Limiter)); {
	case len(t.Attempts) > 0:
		r.Upstream = rest
	case len(t.Decisions) > 0: // the refusal was all there was to do
		r.Limiter += rest
	default:
		r.Body += rest
	}
	if n := len(t.Attempts); n > 0 {
		r.Asked = t.Attempts[n-1].Upstream
	}
	if d := t.deciding(); d != nil {
		r.Policy, r.Verdict, r.Capacity = d.Policy, d.Verdict, d.Capacity
		if d.Capacity > 0 && d.Remaining >= 0 && d.Verdict != "failed" {
			r.Remaining = &d.Remaining
		}
		if d.Retry < 1<<62 {
			r.RetryMS = millis(d.Retry)
		}
	}
	return r
}

// brief cuts what a stranger may have made long. The detail has it whole.
func brief(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// deciding returns the decision that mattered: the refusal, else the shadow that
// would have refused, else the quota that is nearest to its end.
func (t *trace) deciding() *decision {
	rank := map[string]int{"failed": 4, "refused": 3, "shadow": 2, "allowed": 1}
	var best *decision
	for i := range t.Decisions {
		d := &t.Decisions[i]
		switch {
		case rank[d.Verdict] == 0:
		case best == nil || rank[d.Verdict] > rank[best.Verdict]:
			best = d
		case rank[d.Verdict] == rank[best.Verdict] && d.Verdict == "allowed" &&
			d.Remaining*best.Capacity < best.Remaining*d.Capacity:
			best = d
		}
	}
	return best
}

// since returns up to n rows that are kept after the one with this number, the
// number of the last, and how many were forgotten in between.
func (in *Inspector) since(ctx context.Context, after int64, n int) (rows []row, last, lost int64) {
	for after < in.ring.Last() && len(rows) < n {
		x, at, err := in.ring.Next(ctx, after)
		if err != nil {
			break
		}
		lost += at - after - 1
		t, x := take(x)
		rows = append(rows, rowOf(at, x, t))
		after = at
	}
	return rows, after, lost
}

// feed streams rows as they come. It reads from the ring at the browser's pace:
// one that is slow finds rows gone and is told how many, and nobody waits for it.
func (in *Inspector) feed(w http.ResponseWriter, r *http.Request) {
	select {
	case in.streams <- struct{}{}:
		defer func() { <-in.streams }()
	default:
		refuse(w, http.StatusServiceUnavailable, "too many pages are open")
		return
	}
	after := in.after(r)
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	ticker := time.NewTicker(feedEvery)
	defer ticker.Stop()
	for i := 0; ; i++ {
		_ = rc.SetWriteDeadline(time.Now().Add(feedDeadline))
		// The state first: by it a page sees that its rows are another gateway's.
		if i%stateEvery == 0 && !event(w, "state", in.state(time.Now())) {
			return
		}
		rows, last, lost := in.since(r.Context(), after, 500)
		after = last
		if len(rows) > 0 && !event(w, "rows", map[string]any{"rows": rows, "lost": lost}) {
			return
		}
		if rc.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
	}
}

func event(w http.ResponseWriter, name string, v any) bool {
	data, err := json.Marshal(v)
	if err != nil {
		return false
	}
	_, err = w.Write([]byte("event: " + name + "\ndata: " + string(data) + "\n\n"))
	return err == nil
}

// after returns the number behind which a reader wants to begin: all that is
// kept, unless the query says otherwise. A number that was given by a gateway
// that was started at another time says nothing.
func (in *Inspector) after(r *http.Request) int64 {
	started := r.FormValue("started")
	n, err := strconv.ParseInt(r.FormValue("after"), 10, 64)
	if err == nil && n >= 0 && (started == "" || started == strconv.FormatInt(in.started.UnixMilli(), 10)) {
		return min(n, in.ring.Last())
	}
	_, first, err := in.ring.Next(ended, 0)
	if err != nil {
		return in.ring.Last()
	}
	return first - 1
}

// ended is for asking the ring without waiting.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

func (in *Inspector) list(w http.ResponseWriter, r *http.Request) {
	rows, last, lost := in.since(r.Context(), in.after(r), 1<<20)
	answer(w, map[string]any{"rows": rows, "last": last, "lost": lost})
}
