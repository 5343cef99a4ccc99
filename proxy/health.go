package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Ejection takes an upstream out of the choice for a while when requests to it
// fail one after the other: when it cannot be reached, times out, breaks an
// answer off, or answers with 500, 502, 503 or 504. That the client left is no
// failure. The zero value ejects nobody.
//
// It is decided by requests alone and costs a lock a request. It never leaves
// nobody: if all others are out, ejected upstreams are used. Clients that can
// make an upstream answer with 500 can have it ejected; Share bounds that.
type Ejection struct {
	_ [0]func() // keyed literals only: fields will be added

	// Failures is how many in a row eject an upstream. 0: none does; negative is
	// a fault.
	Failures int

	// For is how long the first time. It doubles each time that the first
	// request afterwards fails too, up to Max. 0 means 5 s; negative is a fault.
	For time.Duration

	// Max is the longest time. 0 means 5 min; less than For is a fault.
	Max time.Duration

	// Share is how many of all upstreams may be out at the same time, be it by
	// ejection or by a health check; one more is not ejected. At least one always
	// stays. 0 means 0.5; below 0 and above 1 are faults.
	Share float64
}

func (e *Ejection) resolve(fault func(string, ...any)) {
	if e.Failures < 0 {
		fault("Ejection.Failures is %d: 0 (meaning no ejection) and more are allowed", e.Failures)
	}
	if e.For < 0 {
		fault("Ejection.For is %s: 0 (meaning 5s) and more are allowed", e.For)
	}
	e.For = cmp.Or(e.For, 5*time.Second)
	if e.Max != 0 && e.Max < e.For {
		fault("Ejection.Max is %s: 0 (meaning 5m0s), and not less than For (%s) are allowed", e.Max, e.For)
	}
	e.Max = max(cmp.Or(e.Max, 5*time.Minute), e.For)
	if !(e.Share >= 0 && e.Share <= 1) {
		fault("Ejection.Share is %v: 0 (meaning 0.5) to 1 are allowed", e.Share)
	}
	e.Share = cmp.Or(e.Share, 0.5)
}

// HealthCheck is what [Proxy.CheckHealth] asks upstreams. It does nothing
// without that being called.
type HealthCheck struct {
	_ [0]func() // keyed literals only: fields will be added

	// Path is requested with GET below the upstream's base path. An answer with
	// a status from 200 to 299 is a good one. It is written escaped and begins
	// with a slash. Empty: nothing can be checked.
	Path string

	// Interval is the time from one check to the next. 0 means 5 s; negative is a
	// fault.
	Interval time.Duration

	// Timeout bounds a check, body included. 0 means 2 s; negative is a fault.
	Timeout time.Duration

	// Down is after how many bad answers in a row an upstream is not used any
	// more, and Up after how many good ones it is again. 0 means 3 and 2;
	// negative is a fault.
	Down, Up int
}

func (h *HealthCheck) resolve(fault func(string, ...any)) {
	if h.Path != "" {
		if _, err := parsePrefix(h.Path); err != nil {
			fault("HealthCheck.Path %q: %w", h.Path, err)
		}
	}
	if h.Interval < 0 || h.Timeout < 0 {
		fault("HealthCheck has Interval %s and Timeout %s: 0 (meaning 5s and 2s) and more are allowed", h.Interval, h.Timeout)
	}
	if h.Down < 0 || h.Up < 0 {
		fault("HealthCheck has Down %d and Up %d: 0 (meaning 3 and 2) and more are allowed", h.Down, h.Up)
	}
	h.Interval, h.Timeout = cmp.Or(h.Interval, 5*time.Second), cmp.Or(h.Timeout, 2*time.Second)
	h.Down, h.Up = cmp.Or(h.Down, 3), cmp.Or(h.Up, 2)
}

// health is what is known of one upstream.
type health struct {
	down atomic.Bool // by CheckHealth

	until atomic.Int64 // ejected until then, in nanoseconds since 1970
	out   atomic.Bool  // ejected, which was told, and its return was not yet

	mu       sync.Mutex
	failures int // in a row
	times    int // ejected in a row

	good, bad int // checks in a row; of CheckHealth's goroutine
}

func (h *health) ejected(now time.Time) bool { return h.ejectedFor(now) > 0 }

func (h *health) ejectedFor(now time.Time) time.Duration {
	return max(0, time.Duration(h.until.Load()-now.UnixNano()))
}

// An outcome is what an attempt says about its upstream.
type outcome uint8

const (
	noSign outcome = iota // the client left, or is at fault
	success
	failure
)

// failed reports whether an answer with this status is a failure of the upstream.
func failed(status int) bool {
	switch status {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// note counts an outcome, and ejects the upstream if it was one failure too many.
func (p *Proxy) note(up *upstream, o outcome) {
	e := &p.cfg.Ejection
	if e.Failures == 0 || o == noSign {
		return
	}
	h := &up.health
	now := time.Now()
	h.mu.Lock()
	if o == success {
		h.failures = 0
		if !h.ejected(now) {
			h.times = 0
		}
		h.mu.Unlock()
		return
	}
	h.failures++
	due := h.failures >= e.Failures && !h.ejected(now)
	h.mu.Unlock()
	if !due {
		return
	}
	if d := p.eject(up, now); d > 0 {
		p.tell(slog.LevelWarn, "proxy: upstream ejected", up, slog.Duration("for", d))
		p.observe(Event{Kind: EventEjected, Upstream: up.name, Start: now, Duration: d})
		h.out.Store(true) // not before: its return must not be told first
	}
}

// noteReturn tells that a request is sent to an upstream that was ejected.
func (p *Proxy) noteReturn(up *upstream) {
	h := &up.health
	if !h.out.Load() {
		return
	}
	if now := time.Now(); !h.ejected(now) && h.out.CompareAndSwap(true, false) {
		p.tell(slog.LevelInfo, "proxy: upstream is tried again", up)
		p.observe(Event{Kind: EventReturned, Upstream: up.name, Start: now})
	}
}

// eject returns for how long it has ejected up; 0 if it has not.
func (p *Proxy) eject(up *upstream, now time.Time) time.Duration {
	p.ejecting.Lock() // so that two at once do not both take the last place
	defer p.ejecting.Unlock()
	all := p.pool.Load().upstreams
	out := 0
	for _, other := range all {
		if other != up && (other.health.down.Load() || other.health.ejected(now)) {
			out++
		}
	}
	if out++; out >= len(all) || float64(out) > p.cfg.Ejection.Share*float64(len(all)) {
		return 0
	}
	h := &up.health
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ejected(now) {
		return 0
	}
	d := p.cfg.Ejection.For
	for range h.times {
		if d = min(2*d, p.cfg.Ejection.Max); d == p.cfg.Ejection.Max {
			break
		}
	}
	h.times++
	h.until.Store(now.Add(d).UnixNano())
	return d
}

// tell logs what is not about one request.
func (p *Proxy) tell(level slog.Level, msg string, up *upstream, more ...slog.Attr) {
	logger := p.cfg.ErrorLog
	if logger == nil {
		logger = slog.Default()
	}
	logger.LogAttrs(context.Background(), level, msg, append([]slog.Attr{slog.String("upstream", up.name)}, more...)...)
}

// CheckHealth asks all upstreams for Config.HealthCheck's Path, at once and then
// at every Interval, until ctx ends, and returns why it ended. Upstreams that do
// not answer well are not used; if that is so of all of them, requests are
// answered with 503. Until its first checks, and when CheckHealth has returned,
// an upstream is taken for a good one.
//
// It runs on the caller's goroutine, and returns at once with an error if there
// is no Path or if it runs already. Checks are sent by the same transport as
// requests, within no limit on requests in flight, and are not counted.
func (p *Proxy) CheckHealth(ctx context.Context) error {
	if p.cfg.HealthCheck.Path == "" {
		return errors.New("proxy: CheckHealth needs Config.HealthCheck.Path")
	}
	if !p.checking.TryLock() {
		return errors.New("proxy: CheckHealth runs already")
	}
	defer p.checking.Unlock()
	defer func() {
		for _, up := range p.pool.Load().upstreams {
			if up.health.down.Swap(false) {
				p.observe(Event{Kind: EventUp, Upstream: up.name, Start: time.Now()})
			}
		}
	}()
	tick := time.NewTicker(p.cfg.HealthCheck.Interval)
	defer tick.Stop()
	for {
		var wg sync.WaitGroup
		for _, up := range p.pool.Load().upstreams {
			wg.Go(func() { p.askOne(ctx, up) })
		}
		wg.Wait()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (p *Proxy) askOne(ctx context.Context, up *upstream) {
	err := p.ask(ctx, up)
	if ctx.Err() != nil {
		return
	}
	h := &up.health
	if err == nil {
		h.good, h.bad = h.good+1, 0
		if h.good >= p.cfg.HealthCheck.Up && h.down.CompareAndSwap(true, false) {
			p.tell(slog.LevelInfo, "proxy: upstream is up", up)
			p.observe(Event{Kind: EventUp, Upstream: up.name, Start: time.Now()})
		}
		return
	}
	h.good, h.bad = 0, h.bad+1
	if h.bad >= p.cfg.HealthCheck.Down && h.down.CompareAndSwap(false, true) {
		p.tell(slog.LevelError, "proxy: upstream is down", up, slog.String("error", err.Error()))
		p.observe(Event{Kind: EventDown, Upstream: up.name, Start: time.Now(), Err: err})
	}
}

func (p *Proxy) ask(ctx context.Context, up *upstream) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.HealthCheck.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, up.name, nil)
	if err != nil {
		return err
	}
	if err := up.route(r.URL, p.cfg.HealthCheck.Path); err != nil {
		return err
	}
	r.Header.Set("User-Agent", "weir-health-check")
	res, err := p.transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusSwitchingProtocols { // what follows that has no end, and does not heed ctx
		// Read, so that the connection can be used again, but not without end.
		_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
	}
	if err == nil && (res.StatusCode < 200 || res.StatusCode > 299) {
		err = fmt.Errorf("health check was answered with status %d", res.StatusCode)
	}
	return err
}
