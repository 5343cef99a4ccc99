// Package proxy sends requests on to upstream servers and streams the answers
// back.
//
// It is built on [httputil.ReverseProxy], with Rewrite and a transport made for
// the purpose, and closes what ReverseProxy leaves to its user:
//
//   - A front door: targets that hide from guards, CONNECT, upgrades other than
//     WebSocket and paths that leave the upstream's base are refused before any
//     upstream hears of them.
//   - An answer that breaks off is an error to the client, on HTTP/1 and HTTP/2,
//     even if middleware recovers the panic.
//   - Each phase has a time limit that fits streams: what moves may last for
//     ever, what has stopped is ended.
//   - WebSockets are told when the server goes down (Shutdown), bounded in number,
//     and ended when nobody speaks any more.
//   - Forwarding fields (X-Forwarded-For and the like) are written from what
//     clientip has judged, never copied from a client; so is the request's id,
//     which the log has as well. Via is added to, and Forwarded (RFC 7239) is
//     written if wanted.
//   - Errors are answered as application/problem+json (RFC 9457) that tells the
//     client nothing of the inside; the log has the reason.
//
// # What a client gets when something fails
//
//	status  when
//	400     the target, an upgrade, or the framing of the body is not acceptable
//	404     the path does not begin with StripPrefix
//	405     the method is CONNECT
//	408     the body of the request stopped arriving (Timeouts.ClientIdle)
//	413     an [http.MaxBytesReader] in front found the body too large
//	499     the client left; nobody gets it, but middleware records it
//	500     the upstream agreed to an upgrade, but a ResponseWriter in front has no Hijack
//	502     the upstream cannot be reached, or its answer is not valid HTTP,
//	        too large in its header, or changes the protocol unasked
//	503     no upstream can be used, its breaker is open, or the bound on
//	        requests in flight is reached; and an upgrade, while there are
//	        MaxTunnels or after Shutdown. Retry-After says when to come again
//	504     a time limit of dialing, TLS, the header, the request's body or the whole
//	        passed
//
// After the header was sent there is no status to give: the answer is broken
// off, by closing the connection or resetting the HTTP/2 stream. To a client of
// HTTP/1.0 a close is the end of an answer without a Content-Length; its
// connection is reset. Where an upstream ends a body by closing the connection,
// the proxy cannot tell whether that was all of it.
//
// An answer that comes before the request's body was read to its end is sent at
// once, and closes an HTTP/1 connection.
//
// # Several upstreams
//
// Config.Balance says how one is chosen. What keeps requests from those that
// cannot serve them is off until it is asked for:
//
//   - Config.Ejection judges by the requests themselves. It reacts within a few
//     requests, and never leaves nobody.
//   - Config.HealthCheck and [Proxy.CheckHealth] ask. They see what fails before
//     any request does, and that it is well again.
//   - Config.InFlight keeps a slow upstream from collecting requests without end.
//   - Config.Breaker lets an upstream rest of which too many requests fail.
//   - Config.Retries send a request that failed to another upstream, if that
//     cannot execute anything twice, and within a budget; and, by Hedge, a read
//     that is slow.
//
// [Proxy.SetUpstreams] replaces the list while requests are under way, and
// [Proxy.Upstreams] shows what is known of each.
//
// # When no upstream can serve
//
// Config.Fallback is a handler that answers in their place, as long as nothing
// was sent, and learns why from [CauseFrom]. [FixedAnswer] is one, a [Stale] with
// the last good answers another, and so is a second Proxy, which takes over what
// cannot be executed twice. [Proxy.ForceFallback] switches to it by hand, and
// back.
//
// # How answers are copied
//
// Event streams are flushed after every part. Other answers without a
// Content-Length are sent in parts as they come: what comes after a pause at
// once, and what comes in a rush together, at most 10 ms later. Answers with a
// Content-Length are not flushed before their end, as by ReverseProxy.
//
// A stream that is idle holds a buffer of 4 KiB, a WebSocket two of 1 KiB, and a
// download up to 128 KiB, of which a Proxy has no more than 32 at a time; the
// others have 32 KiB each. While much of an answer is waiting, 64 KiB are read
// from the upstream at once, for no more than 16 connections at a time.
//
// # What it tells
//
// Config.Observer is told how each request and each attempt has ended, with the
// upstream, whose fault it was, and in which phase; and what happens to upstreams,
// breakers and tunnels. [Proxy.Upstreams] and [Proxy.Tunnels] are for gauges, and
// Config.WrapTransport is where a tracer sees an attempt begin. Config.ErrorLog
// has what went wrong, in the same words.
//
// # Where it stands
//
// The proxy comes last in a chain, and what stands before it must stream as
// well. The request's body is bounded by [http.MaxBytesReader] in front, if at
// all. Informational (1xx) responses go past wrappers of the ResponseWriter
// that this module does not know, because most take them for the final ones.
package proxy

import (
	"errors"
	"io"
	"log"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A Proxy is an [http.Handler] that forwards requests. It is safe for
// concurrent use by multiple goroutines and must be made by [New].
//
// Its connections to upstreams are kept for reuse and closed when they have
// been idle for Timeouts.IdleConn; there is nothing that must be closed. A
// server that ends in an orderly way calls Shutdown for the WebSockets.
type Proxy struct {
	cfg    Config // with defaults filled in
	strip  prefix
	fields fieldNames

	pool      atomic.Pointer[pool]
	replacing sync.Mutex // of pool
	forced    atomic.Bool
	budget    budget // of retries
	ejecting  sync.Mutex
	checking  sync.Mutex

	base      *connections
	transport http.RoundTripper // base, as WrapTransport returned it
	judges    bool              // outcomes of attempts are of interest
	buffers   buffers
	alarms    sync.Pool // of *alarm
	born      time.Time
	tunnels   tunnels
	discard   *log.Logger
}

// New returns a Proxy for cfg. It does no I/O. The error joins all faults of
// cfg ([errors.Join]), each with the prefix "proxy: " and what is allowed.
func New(cfg Config) (*Proxy, error) {
	strip, faults := cfg.resolve()
	p := &Proxy{
		cfg:     cfg,
		strip:   strip,
		fields:  newFieldNames(&cfg),
		discard: log.New(io.Discard, "", 0),
		born:    time.Now(),
	}
	p.buffers.init()
	p.tunnels.buffers, p.tunnels.max = &p.buffers, p.cfg.MaxTunnels
	if faults != nil {
		p.cfg.InFlight, p.cfg.Breaker = InFlight{}, Breaker{} // they may be what is wrong
	}
	pool, wrong := p.newPool(cfg.Upstreams, nil)
	faults = append(wrong, faults...)
	p.pool.Store(pool)
	p.cfg.Upstreams = nil // they change
	p.base = newConnections(&p.cfg, &p.buffers)
	p.transport = p.base
	p.judges = cfg.Ejection.Failures > 0 || cfg.Breaker.FailureRatio > 0
	if cfg.WrapTransport != nil {
		if p.transport = cfg.WrapTransport(p.base); p.transport == nil {
			faults = append(faults, errNilTransport)
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return p, nil
}

// ServeHTTP forwards r to an upstream and copies the answer to w. It panics
// with [http.ErrAbortHandler] if the answer breaks off after its header was
// sent, as the client can be told in no other way.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := p.observedAt()
	path, refused := p.check(r)
	if refused != nil {
		refused.write(w, r)
		p.observeRefusal(r, start, verdict{side: SideClient, status: refused.status})
		return
	}
	if cause, ok := r.Context().Value(causeKey{}).(*Cause); ok && !mayRepeat(r, cause) {
		cause.write(w)
		p.observeRefusal(r, start, verdict{side: SideServer, status: cause.Status, reason: cause.Reason, err: cause.Err})
		return
	}
	if p.forced.Load() {
		p.serveForced(w, r, start)
		return
	}
	var t *tunnel
	if wantsUpgrade(r) {
		if refused := p.tunnels.admit(); refused != nil {
			refused.write(w, r)
			p.observeRefusal(r, start, verdict{side: SideServer, status: refused.status})
			return
		}
		t = &tunnel{registry: &p.tunnels, idle: p.cfg.Timeouts.TunnelIdle}
	}
	x := &exchange{proxy: p, in: r, path: path, tunnel: t, start: start, route: r.Pattern}
	x.serve(w)
}

// CloseIdleConnections closes the connections to upstreams that no request
// uses. Call it when the Proxy is no longer needed, for instance after its
// configuration was replaced; requests under way are not disturbed.
func (p *Proxy) CloseIdleConnections() { p.base.CloseIdleConnections() }
