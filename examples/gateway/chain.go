package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/examples/gateway/internal/config"
	"github.com/goweir/weir/examples/gateway/internal/inspect"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/redislimiter"
	"github.com/goweir/weir/proxy"
)

// An outside is what chains are built with that no configuration changes: the
// demo upstream, the log, and what looks on.
type outside struct {
	demo    string // URL
	stdout  io.Writer
	log     *slog.Logger
	dry     bool           // nothing is asked or written: the chain serves nobody
	sinks   []capture.Sink // further ones, such as a ring for a live view
	observe observers

	inspector *inspect.Inspector        // nil: none
	exchange  func(x *capture.Exchange) // told of every exchange that has ended; nil: nobody
	swapped   func(c *chain)            // told which chain answers from now on; nil: nobody
	refused   func(err error)           // told why a configuration was not taken; nil: nobody
}

// observers are told what happens in the rooms; each may be nil.
type observers struct {
	limiter  limiter.Observer
	failover func(backend string) limiter.Observer
	proxy    proxy.Observer
	capture  capture.Observer
}

// A chain is what a configuration is made into: the handler, and the parts that
// one may look at. It is built by [build] and ended by retire.
type chain struct {
	http.Handler
	config    *config.Config
	loaded    time.Time
	sum       string // of the configuration
	resolver  *clientip.Resolver
	mux       *http.ServeMux
	cert      *tls.Certificate // nil: plain HTTP
	store     *store           // the quotas
	audit     *audit
	inFlight  []limiter.Acquirer
	bandwidth *limiter.Bandwidth // nil: nothing is paced
	routes    []*route

	parts    parts
	requests atomic.Int64
	retired  atomic.Bool
	end      sync.Once
	ended    chan struct{} // closed when its parts are released
}

// A route is what answers the requests that match one pattern.
type route struct {
	http.Handler
	config   config.Route
	rules    limiter.Rules
	shown    *inspect.Limits    // nil: no limits, or no inspector
	inFlight []limiter.Acquirer // its own, and that of all routes
	proxies  []*proxy.Proxy     // its own, and behind it that of the fallback
	steps    []string           // for people, in order
}

// A builder builds a chain, and notes what must be done to the parts that are
// kept once it is certain that the whole is well.
type builder struct {
	*config.Config
	outside
	chain  *chain
	before parts
	parts  parts
	commit []func() error

	plan   func(*http.Request) (config.Plan, bool)
	apiKey limiter.KeyFunc
	global limiter.Acquirer
}

// build makes a configuration into a chain:
//
//	clientip -> match -> inspector -> capture -> noteCut -> refuseOdd -> mux -> route
//
// Matching comes before capture, so that the record of every request has its
// route, and capture before the limits, so that refusals and requests for which
// there is no route are recorded too. What has not changed since before, if that
// is not nil, is kept with all it knows. An error says every fault, and then
// nothing has changed.
func build(c *config.Config, o outside, before *chain) (*chain, error) {
	b := &builder{Config: c, outside: o, parts: parts{}, chain: &chain{config: c, loaded: time.Now(), sum: sum(c), ended: make(chan struct{})}}
	if before != nil {
		b.before = before.parts
	}
	b.chain.parts = b.parts
	b.plan, b.apiKey = c.APIKeys.Lookup()
	if err := b.build(); err != nil {
		b.parts.release()
		return nil, err
	}
	for _, do := range b.commit {
		if err := do(); err != nil { // a fault of this program: all was judged before
			o.log.Error("a part of the new configuration was refused, and stays as it was", "error", err)
		}
	}
	return b.chain, nil
}

// sum is short, and tells configurations apart that say different things.
func sum(c *config.Config) string {
	h := sha256.Sum256([]byte(config.Identity(*c)))
	return hex.EncodeToString(h[:6])
}

func (b *builder) build() (err error) {
	c := b.chain
	if c.resolver, err = clientip.New(prefixes(b.Trust), b.ClientIP.Options()); err != nil {
		return err
	}
	var faults []error
	if c.cert, err = b.certificate(); err != nil {
		faults = append(faults, err)
	}
	if c.store, err = b.quotas(); err != nil {
		return config.Join(append(faults, err)...) // limits cannot be built without
	}
	if c.audit, err = b.records(); err != nil {
		faults = append(faults, err)
	}
	if b.global, err = b.slots(&b.InFlight, "in_flight"); err != nil {
		faults = append(faults, err)
	}
	if c.bandwidth, err = b.pace(); err != nil {
		faults = append(faults, err)
	}
	c.mux = http.NewServeMux()
	bodiless := map[string]bool{} // by pattern
	for i := range b.Routes {
		r, err := b.route(&b.Routes[i], fmt.Sprintf("routes[%d]", i))
		if err != nil {
			faults = append(faults, err)
			continue
		}
		c.routes = append(c.routes, r)
		c.mux.Handle(r.config.Path.Text, r)
		bodiless[r.config.Path.Text] = !r.config.Capture
	}
	if err := config.Join(faults...); err != nil {
		return err
	}
	h := capture.Middleware(c.audit.queue, b.captureOptions(bodiless))(noteCut(refuseOdd(c.mux)))
	if b.inspector != nil {
		h = b.inspector.Middleware(h)
	}
	stall := time.Duration(b.Timeouts.Stall)
	c.Handler = lingering(c.resolver.Middleware(match(c.mux, h)), stall)
	return nil
}

func (b *builder) certificate() (*tls.Certificate, error) {
	if b.TLS.Cert == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(b.TLS.Cert, b.TLS.Key)
	if err != nil {
		return nil, b.At(b.TLS.Pos, "tls", err)
	}
	return &cert, nil
}

func prefixes(trust []config.Prefix) []netip.Prefix {
	ps := make([]netip.Prefix, len(trust))
	for i, p := range trust {
		ps[i] = p.Prefix
	}
	return ps
}

// retire says that no further request will enter. The parts are released when
// those that run have ended.
func (c *chain) retire() {
	c.retired.Store(true)
	if c.requests.Load() == 0 {
		c.release()
	}
}

func (c *chain) leave() {
	if c.requests.Add(-1) == 0 && c.retired.Load() {
		c.release()
	}
}

func (c *chain) release() {
	c.end.Do(func() {
		go func() {
			defer close(c.ended)
			c.flush()
			c.parts.release()
		}()
	})
}

// flush lets Redis know of the slots that were given back last, while there is
// still a connection to it. What it does not get to know ends with its lease.
func (c *chain) flush() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, a := range c.inFlight {
		if shared, ok := a.(*redislimiter.InFlight); ok {
			_ = shared.Flush(ctx)
		}
	}
}

// proxies returns all proxies of the chain.
func (c *chain) proxies() []*proxy.Proxy {
	var ps []*proxy.Proxy
	for _, r := range c.routes {
		ps = append(ps, r.proxies...)
	}
	return ps
}

// readSmall reads a file that is to be held in memory.
func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFallback+1))
	if len(data) > maxFallback {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxFallback)
	}
	return data, err
}

// maxFallback bounds the file of a fallback.
const maxFallback = 4 << 20
