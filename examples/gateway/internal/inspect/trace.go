package inspect

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

// traceName is the attribute under which a trace travels with its record.
const traceName = "weir.inspect"

// Bounds of what is noted of one request.
const (
	maxAttempts  = 16
	maxDecisions = 32
)

// A trace is what the parts of the chain tell of one request.
type trace struct {
	mu sync.Mutex

	Limiter   time.Duration `json:"limiter,omitempty"` // deciding
	Waiting   time.Duration `json:"waiting,omitempty"` // for a turn, a slot or a place
	Decisions []decision    `json:"decisions,omitempty"`
	Attempts  []attempt     `json:"attempts,omitempty"`
	Fallback  string        `json:"fallback,omitempty"` // why it answered
	Failed    string        `json:"failed,omitempty"`   // why no upstream did, nor a fallback
}

// A decision is what became of one charge.
type decision struct {
	Policy    string        `json:"policy"`
	Algorithm string        `json:"algorithm,omitempty"`
	Limit     int           `json:"limit,omitempty"`
	Window    time.Duration `json:"window,omitempty"`
	Capacity  int           `json:"capacity,omitempty"`
	Key       string        `json:"key,omitempty"` // hashed
	Cost      int           `json:"cost,omitempty"`
	Verdict   string        `json:"verdict"` // allowed, refused, shadow, spared or failed
	Remaining int           `json:"remaining"`
	Level     float64       `json:"level"`            // of the bucket afterwards, in units
	Fading    float64       `json:"fading,omitempty"` // units that the window before a sliding one still takes
	Retry     time.Duration `json:"retry,omitempty"`
	Reset     time.Duration `json:"reset,omitempty"`
	Delay     time.Duration `json:"delay,omitempty"`
	Source    string        `json:"source,omitempty"`
	Reason    string        `json:"reason,omitempty"`
	At        time.Time     `json:"at"`
}

// An attempt is one try to get an answer from an upstream.
type attempt struct {
	Upstream string        `json:"upstream"`
	Trigger  string        `json:"trigger,omitempty"`
	Status   int           `json:"status,omitempty"`
	Side     string        `json:"side,omitempty"`
	Phase    string        `json:"phase,omitempty"`
	Start    time.Time     `json:"start"`
	Duration time.Duration `json:"duration"`
}

type traceKey struct{}

func traceFrom(ctx context.Context) *trace {
	t, _ := ctx.Value(traceKey{}).(*trace)
	return t
}

// Middleware prepares requests for being explained. It must stand outside of
// capture, whose sink finds in the context what it has prepared.
func (in *Inspector) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), traceKey{}, new(trace))))
	})
}

// Sink keeps records, with what is known of how they came about. It belongs
// behind [capture.Async], beside the audit.
func (in *Inspector) Sink() capture.Sink {
	return capture.SinkFunc(func(ctx context.Context, x *capture.Exchange) error {
		y := *x // the record is shared
		if t := traceFrom(ctx); t != nil {
			t.mu.Lock()
			text, err := json.Marshal(t)
			t.mu.Unlock()
			if err == nil {
				y.Attributes = append(slices.Clip(x.Attributes), capture.Field{Name: traceName, Value: string(text)})
			}
		}
		return in.ring.Record(ctx, &y)
	})
}

// take returns the trace of x, empty if it has none, and x without it.
func take(x *capture.Exchange) (*trace, *capture.Exchange) {
	t := new(trace)
	i := slices.IndexFunc(x.Attributes, func(f capture.Field) bool { return f.Name == traceName })
	if i < 0 {
		return t, x
	}
	_ = json.Unmarshal([]byte(x.Attributes[i].Value), t) // it was made here
	y := *x
	y.Attributes = slices.Delete(slices.Clone(x.Attributes), i, i+1)
	return t, &y
}

// CaptureObserver counts exchanges, those of which there is no record included.
func (in *Inspector) CaptureObserver() capture.Observer { return captureObserver{in} }

// LimiterObserver notes how long decisions and waits took.
func (in *Inspector) LimiterObserver() limiter.Observer { return limiterObserver{} }

// ProxyObserver notes which upstreams were asked, and when they answered.
func (in *Inspector) ProxyObserver() proxy.Observer { return proxyObserver{} }

type captureObserver struct{ in *Inspector }

func (o captureObserver) Observe(_ context.Context, e capture.Event) {
	switch e.Kind {
	case capture.EventOffered, capture.EventThinned, capture.EventSampledOut:
		o.in.rates.count(time.Now(), e.Status, e.Kind == capture.EventThinned)
	}
}

type limiterObserver struct{}

func (limiterObserver) Observe(ctx context.Context, e limiter.Event) {
	t := traceFrom(ctx)
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e.Kind {
	case limiter.EventDecision: // each has the duration of all
		t.Limiter = max(t.Limiter, e.Duration)
	case limiter.EventHold, limiter.EventSlot:
		t.Waiting += e.Duration
	}
}

type proxyObserver struct{}

func (proxyObserver) Observe(ctx context.Context, e proxy.Event) {
	t := traceFrom(ctx)
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e.Kind {
	case proxy.EventAttempt:
		if len(t.Attempts) < maxAttempts {
			t.Attempts = append(t.Attempts, attempt{
				Upstream: e.Upstream, Trigger: string(e.Trigger), Status: e.Status,
				Side: string(e.Side), Phase: string(e.Phase), Start: e.Start, Duration: e.Duration,
			})
		}
	case proxy.EventWait:
		t.Waiting += e.Duration
	case proxy.EventFallback:
		t.Fallback = e.Reason.String()
	case proxy.EventRequest:
		if e.Reason != 0 && e.Result != proxy.OutcomeFallback {
			t.Failed = e.Reason.String()
		}
	}
}
