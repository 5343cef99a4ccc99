// Package inspect is a live page that explains what the gateway decides: each
// exchange as it ends, how its time was spent, the quotas it was charged to,
// and the state of rules and upstreams. All that the page shows is JSON under
// the same token:
//
//	GET  /api/feed            server-sent events: rows as they come, the state once a second
//	GET  /api/exchanges       the rows that are kept, the newest last
//	GET  /api/exchanges/{n}   one exchange with its decisions and the curve of its bucket
//	GET  /api/state           routes, rules, upstreams, keys
//	GET  /api/har             what is kept, as an HTTP Archive; ?n=1,2 only these
//	POST /api/reset, /api/shadow, /api/degrade
//
// It shows what package capture records, so secrets are masked before they
// come here. Keys of quotas appear as hashes that are worthless in the next run.
package inspect

import (
	"embed"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

//go:embed page
var page embed.FS

// maxStreams is how many pages can be open at one time.
const maxStreams = 16

// Options says what an Inspector may do.
type Options struct {
	// Token is what every request for data must bring. Required.
	Token string

	// Actions allows what changes something. False: the page only looks.
	Actions bool

	// Ring bounds what is kept. The zero value is 500 records and 32 MiB.
	Ring capture.RingOptions

	// Lost returns how many records the audit has lost. nil: it is not shown.
	Lost func() int64

	// Log gets every action. Required.
	Log *slog.Logger
}

// A Route is what is shown of a route, and may be changed there.
type Route struct {
	Pattern   string
	Limits    *Limits              // nil: none
	InFlight  []limiter.Acquirer   // limits on requests in flight
	Bandwidth []*limiter.Bandwidth // limits on bytes per second
	Proxy     *proxy.Proxy         // nil: it is answered here
}

// An Inspector is an http.Handler for the page and what it shows. It is safe for
// concurrent use; there is nothing to close.
//
// It learns of exchanges from its parts in the chain: [Inspector.Middleware]
// outside of capture, [Inspector.Sink] as its sink, the observers, and
// [Inspector.Limits] in place of the limiter's middleware.
type Inspector struct {
	opts    Options
	ring    *capture.Ring
	keys    *keys
	rates   rates
	routes  atomic.Pointer[[]Route]
	streams chan struct{} // one for each open feed
	started time.Time
	handler http.Handler

	mu       sync.Mutex
	counted  map[ruleID]*counters
	switched map[ruleID]switched
}

// New returns an Inspector. The error joins every fault of o.
func New(o Options) (*Inspector, error) {
	var faults []error
	if o.Token == "" {
		faults = append(faults, errors.New("inspect: Token is empty"))
	}
	if o.Log == nil {
		faults = append(faults, errors.New("inspect: Log is nil"))
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	in := &Inspector{
		opts: o, ring: capture.NewRing(&o.Ring), keys: newKeys(),
		streams: make(chan struct{}, maxStreams), started: time.Now(),
		counted: map[ruleID]*counters{}, switched: map[ruleID]switched{},
	}
	in.routes.Store(new([]Route))
	files, err := fs.Sub(page, "page")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /api/feed", in.feed)
	mux.HandleFunc("GET /api/exchanges", in.list)
	mux.HandleFunc("GET /api/exchanges/{n}", in.detail)
	mux.HandleFunc("GET /api/state", func(w http.ResponseWriter, _ *http.Request) { answer(w, in.state(time.Now())) })
	mux.HandleFunc("GET /api/har", in.har)
	mux.HandleFunc("POST /api/reset", in.action(in.reset))
	mux.HandleFunc("POST /api/shadow", in.action(in.shadow))
	mux.HandleFunc("POST /api/degrade", in.action(in.degrade))
	in.handler = guard(o.Token, mux)
	return in, nil
}

// ServeHTTP serves the page and its data.
func (in *Inspector) ServeHTTP(w http.ResponseWriter, r *http.Request) { in.handler.ServeHTTP(w, r) }

// Show replaces the routes that are shown, after a configuration was loaded.
// They must not be changed afterwards.
func (in *Inspector) Show(routes []Route) {
	in.routes.Store(&routes)
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, r := range routes {
		if r.Limits == nil {
			continue
		}
		for i, rule := range r.Limits.rules.Load().rules {
			id := ruleID{r.Pattern, rule.Policy.Name}
			if hand, ok := in.switched[id]; ok && hand.from != r.Limits.shadow[i] {
				delete(in.switched, id) // the configuration has the last word
			}
		}
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, status int, why string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": why})
}
