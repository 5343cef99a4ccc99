package proxy

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/internal/fifo"
)

// An upstream is a checked Upstream.
type upstream struct {
	name   string // for the log: scheme, host and base path
	scheme string
	host   string
	base   string // escaped, no slash at the end; "" or begins with one
	id     uint64 // hash of name

	inFlight atomic.Int64
	line     *fifo.Line // nil: no bound
	breaker  *breaker   // nil: none
	health   health
}

// maxWeight keeps sums of weights far from what an int can hold.
const maxWeight = 1000

// newPool checks list, and takes the upstreams that old has too from there. All
// faults are returned.
func (p *Proxy) newPool(list []Upstream, old *pool) (next *pool, faults []error) {
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("proxy: "+format, args...))
	}
	if len(list) == 0 {
		fault("Upstreams is empty: at least one is needed")
	}
	next = &pool{credits: make([]int, len(list))}
	byName := map[string]*upstream{}
	if old != nil {
		for _, up := range old.upstreams {
			byName[up.name] = up
		}
	}
	listed := map[string]bool{}
	for i, u := range list {
		if u.Weight < 0 || u.Weight > maxWeight {
			fault("Upstreams[%d].Weight is %d: 0 (meaning 1) to %d are allowed", i, u.Weight, maxWeight)
		}
		up, wrong := parseUpstream(u)
		for _, err := range wrong {
			fault("Upstreams[%d].URL %w", i, err)
		}
		if up == nil {
			continue
		}
		if listed[up.name] {
			fault("Upstreams[%d].URL %q is there twice: Weight gives it a larger share", i, up.name)
		}
		listed[up.name] = true
		if kept := byName[up.name]; kept != nil {
			up = kept
		} else {
			if p.cfg.InFlight.Max > 0 {
				up.line = fifo.New(fifo.Size{Slots: p.cfg.InFlight.Max, Length: p.cfg.InFlight.Queue}, 1)
			}
			if p.cfg.Breaker.FailureRatio > 0 {
				up.breaker = newBreaker(&p.cfg.Breaker, p.logBreaker(up))
			}
		}
		next.upstreams = append(next.upstreams, up)
		next.weights = append(next.weights, max(u.Weight, 1))
	}
	return next, faults
}

// SetUpstreams replaces the upstreams. Requests under way to one that is not in
// list end as if nothing had happened; one that stays keeps what is known of it,
// and may have another weight. The error joins all faults of list, and then
// nothing is changed. SetUpstreams is safe for concurrent use with requests.
func (p *Proxy) SetUpstreams(list []Upstream) error {
	p.replacing.Lock()
	defer p.replacing.Unlock()
	old := p.pool.Load()
	next, faults := p.newPool(list, old)
	if err := errors.Join(faults...); err != nil {
		return err
	}
	p.pool.Store(next)
	for _, up := range old.upstreams {
		if !slices.Contains(next.upstreams, up) {
			p.base.renew() // connections to it would stay open, unused
			break
		}
	}
	return nil
}

// An UpstreamState is what is known of an upstream at one moment.
type UpstreamState struct {
	_ [0]func() // keyed literals only: fields will be added

	Name       string        // its URL, normalized
	Weight     int           // 1 or more
	InFlight   int           // requests under way, upgraded connections among them
	Waiting    int           // requests that wait for it (Config.InFlight)
	Down       bool          // by CheckHealth
	EjectedFor time.Duration // what is left of an ejection; 0: not ejected
	Breaker    BreakerState
}

// Upstreams returns the state of all upstreams, in the order of the list. It is
// meant for status pages and metrics.
func (p *Proxy) Upstreams() []UpstreamState {
	pool := p.pool.Load()
	now := time.Now()
	states := make([]UpstreamState, len(pool.upstreams))
	for i, up := range pool.upstreams {
		s := &states[i]
		s.Name, s.Weight = up.name, pool.weights[i]
		s.InFlight = int(up.inFlight.Load())
		if up.line != nil {
			s.Waiting = up.line.Stats().Waiting
		}
		s.Down = up.health.down.Load()
		s.EjectedFor = up.health.ejectedFor(now)
		s.Breaker = up.breaker.public()
	}
	return states
}

// parseUpstream returns u, or every reason why it is none.
func parseUpstream(u Upstream) (up *upstream, faults []error) {
	target, err := url.Parse(u.URL)
	if err != nil {
		// The text may hold a password, and url.Error quotes it.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, []error{fmt.Errorf("is not a URL: %w", err)}
	}
	fault := func(why string) { faults = append(faults, fmt.Errorf("%q %s", target.Redacted(), why)) }
	if target.Scheme != "http" && target.Scheme != "https" {
		fault("has no scheme that is allowed: http or https")
	}
	if target.Hostname() == "" {
		fault("has no host")
	}
	if port := target.Port(); port != "" || strings.HasSuffix(target.Host, ":") {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			fault("has a port that is not allowed: 1 to 65535, or none")
		}
	}
	if target.User != nil {
		fault("holds user information, which is never sent: use WrapTransport to add credentials")
	}
	if target.RawQuery != "" || target.ForceQuery {
		fault("has a query: only a base path is allowed")
	}
	if target.Fragment != "" || strings.Contains(u.URL, "#") {
		fault("has a fragment: only a base path is allowed")
	}
	if hasDotSegment(target.Path) {
		fault("has a dot segment in its path")
	}
	if faults != nil {
		return nil, faults
	}
	up = &upstream{scheme: target.Scheme, host: target.Host, base: strings.TrimSuffix(target.EscapedPath(), "/")}
	up.name = up.scheme + "://" + up.host + up.base
	up.id = hash(up.name)
	return up, nil
}

// route points u, which is the proxy's own copy, at path under the upstream's
// base. Everything but the query is replaced, so that nothing a client hid in
// an unusual part of its target gets through. path is escaped and begins with a
// slash.
func (up *upstream) route(u *url.URL, path string) error {
	escaped := up.base + path
	plain, err := url.PathUnescape(escaped)
	if err != nil {
		return err
	}
	*u = url.URL{
		Scheme:     up.scheme,
		Host:       up.host,
		Path:       plain,
		RawPath:    escaped, // always, so that nothing is escaped anew
		RawQuery:   u.RawQuery,
		ForceQuery: u.ForceQuery,
	}
	return nil
}
