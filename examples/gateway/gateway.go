package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/goweir/weir/examples/gateway/internal/config"
	"github.com/goweir/weir/proxy"
)

// A gateway is the chain of the latest configuration that was well. It is safe
// for concurrent use.
type gateway struct {
	source source
	out    outside
	demo   *demoServer
	conns  *connLimit

	reloading sync.Mutex
	mu        sync.RWMutex
	current   *chain
	live      map[*chain]bool // current, and those with requests under way
	audits    map[*audit]bool
	failed    error     // of the latest attempt to load a configuration
	looked    fileStamp // of the file, just before that attempt
}

// newGateway builds the first chain.
func newGateway(c *config.Config, s source, out outside, demo *demoServer) (*gateway, error) {
	g := &gateway{source: s, out: out, demo: demo, conns: newConnLimit(), live: map[*chain]bool{}, audits: map[*audit]bool{}}
	first, err := g.build(c)
	if err != nil {
		return nil, err
	}
	g.swap(first)
	return g, nil
}

func (g *gateway) build(c *config.Config) (*chain, error) {
	if err := g.demo.start(c.Routes, g.out.log); err != nil {
		return nil, err
	}
	g.out.demo = g.demo.URL
	return build(c, g.out, g.current)
}

// swap has a chain answer all requests that come from now on.
func (g *gateway) swap(c *chain) {
	g.conns.set(c.config.Server, prefixes(c.config.Trust))
	g.mu.Lock()
	before := g.current
	if before != nil && c.cert == nil {
		c.cert = before.cert // whether there is TLS waits for the next start
	}
	g.current, g.failed = c, nil
	g.live[c], g.audits[c.audit] = true, true
	for old := range g.live {
		select {
		case <-old.ended:
			delete(g.live, old)
		default:
		}
	}
	g.mu.Unlock()
	if g.out.swapped != nil {
		g.out.swapped(c)
	}
	if before != nil {
		before.retire()
	}
}

// ServeHTTP hands a request to the chain there is at the moment, which sees it
// to its end.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.RLock()
	c := g.current
	c.requests.Add(1)
	g.mu.RUnlock()
	defer c.leave()
	c.ServeHTTP(w, r)
}

// chain returns the current one, and why the configuration that was to follow
// it was refused, if it was.
func (g *gateway) chain() (*chain, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.current, g.failed
}

// proxies returns those of all chains that may have tunnels.
func (g *gateway) proxies() []*proxy.Proxy {
	g.mu.RLock()
	defer g.mu.RUnlock()
	seen := map[*proxy.Proxy]bool{}
	var ps []*proxy.Proxy
	for c := range g.live {
		for _, p := range c.proxies() {
			if !seen[p] {
				seen[p] = true
				ps = append(ps, p)
			}
		}
	}
	return ps
}

// certificate is for [tls.Config].
func (g *gateway) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c, _ := g.chain()
	return c.cert, nil
}

// reload reads the configuration anew. One that is not well changes nothing.
func (g *gateway) reload() error {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	g.saw(g.source.stamp())
	c, err := g.source.read()
	var next *chain
	if err == nil {
		next, err = g.build(c)
	}
	if err != nil {
		g.mu.Lock()
		g.failed = err
		g.mu.Unlock()
		if g.out.refused != nil {
			g.out.refused(err)
		}
		for fault := range strings.SplitSeq(err.Error(), "\n") {
			g.out.log.Error("configuration refused, that of before stays", "fault", fault)
		}
		return err
	}
	before := g.current.config
	g.swap(next)
	g.out.log.Info("configuration loaded", "file", c.File, "hash", next.sum)
	for _, field := range needRestart(before, c) {
		g.out.log.Warn("takes effect with the next start only", "field", field)
	}
	return nil
}

// needRestart names the fields that have changed and that nothing can be done
// about while the gateway runs.
func needRestart(before, now *config.Config) []string {
	var fields []string
	for _, f := range []struct {
		name    string
		changed bool
	}{
		{"listen", before.Listen != now.Listen},
		{"tls, whether there is any", (before.TLS.Cert == "") != (now.TLS.Cert == "")},
		{"timeouts.read_header", before.Timeouts.ReadHeader != now.Timeouts.ReadHeader},
		{"timeouts.idle", before.Timeouts.Idle != now.Timeouts.Idle},
		{"timeouts.leave", before.Timeouts.Leave != now.Timeouts.Leave},
		{"timeouts.shutdown", before.Timeouts.Shutdown != now.Timeouts.Shutdown},
		{"admin", config.Identity(before.Admin) != config.Identity(now.Admin)}, // wherever it stands
		{"log", before.Log != now.Log},
	} {
		if f.changed {
			fields = append(fields, f.name)
		}
	}
	return fields
}

// reopen opens the audit file anew, when somebody has moved it away.
func (g *gateway) reopen() {
	c, _ := g.chain()
	c.audit.reopen()
}

// watch reloads when the configuration file has changed, and has then stayed as
// it is for one look, so that no half of a file is read. It returns when ctx
// ends. first is what the file was when it was read first.
func (g *gateway) watch(ctx context.Context, every time.Duration, first fileStamp) {
	if g.source.file == "" {
		return
	}
	g.saw(first)
	last := first
	for tick := time.Tick(every); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		now := g.source.stamp()
		g.mu.RLock()
		looked := g.looked
		g.mu.RUnlock()
		if now != looked && now == last && now != (fileStamp{}) {
			g.reload()
		}
		last = now
	}
}

// saw notes what the file was when it was read last.
func (g *gateway) saw(stamp fileStamp) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.looked = stamp
}

// A fileStamp tells whether a file was written.
type fileStamp struct{ size, modified int64 }

func (s source) stamp() (stamp fileStamp) {
	if info, err := os.Stat(s.file); err == nil {
		stamp = fileStamp{info.Size(), info.ModTime().UnixNano()}
	}
	return stamp
}

// end releases all parts and returns what went wrong with the audit. No request
// may be under way but those that do not end.
func (g *gateway) end() error {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	g.mu.RLock()
	defer g.mu.RUnlock()
	for c := range g.live {
		c.retire()
	}
	patience := time.After(time.Second)
	for c := range g.live {
		select {
		case <-c.ended:
		case <-patience:
			c.release()
			<-c.ended
		}
	}
	var errs []error
	for a := range g.audits {
		errs = append(errs, a.result())
	}
	return errors.Join(errs...)
}
