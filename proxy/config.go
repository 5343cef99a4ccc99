package proxy

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/goweir/weir/clientip"
)

// Config says where a [Proxy] sends requests and what it allows on the way.
// Only Upstreams is required. New copies what it needs, so a Config may be
// changed and used again.
type Config struct {
	_ [0]func() // keyed literals only: fields will be added

	// Upstreams are the servers to choose from. At least one, and none twice.
	// [Proxy.SetUpstreams] replaces them.
	Upstreams []Upstream

	// Balance is how one of them is chosen for each request. The zero value is
	// RoundRobin.
	Balance Balance

	// Key returns what ByKey chooses by: the name of a tenant, the value of a
	// cookie. It is called on the request's goroutine and must be safe for
	// concurrent use. Required for ByKey, and a fault otherwise.
	Key func(*http.Request) string

	// InFlight bounds the requests under way to each upstream. The zero value
	// sets no bound.
	InFlight InFlight

	// Ejection takes upstreams out of the choice whose requests fail. The zero
	// value takes out none.
	Ejection Ejection

	// Breaker stops sending requests to an upstream of which too many fail. The
	// zero value is none.
	Breaker Breaker

	// Retries send requests again where that cannot hurt. The zero value does not.
	Retries Retries

	// Fallback answers in place of an upstream that is not asked, cannot be
	// reached, gives no valid answer or none in time, or answers with 500, 502,
	// 503 or 504, as long as nothing was sent to the client. It finds out why by
	// [CauseFrom]. Errors of the client's are never its business. If an upstream
	// has read from the body of the request, the fallback cannot any more.
	//
	// [FixedAnswer] and [Stale] are made for it, and so is another Proxy, which
	// takes no request that might be executed twice and answers like [Problem]
	// then. These keep to Timeouts.ClientIdle; a handler of your own sees to its
	// deadlines itself. Nil: Problem answers, and an upstream's own answers are passed on
	// whatever their status.
	Fallback http.Handler

	// HealthCheck is for [Proxy.CheckHealth], which whoever wants it must call.
	HealthCheck HealthCheck

	// StripPrefix is removed from the path before it is joined to the
	// upstream's. It matches whole segments: /api is removed from /api and
	// /api/x, while /apix is answered with 404. It is written escaped, as in a
	// URL, begins with a slash and has no empty and no dot segments; one slash
	// at the end means nothing. Segments are compared decoded, so /%61pi/x
	// matches as well, but a slash sent as %2F is never a separator. What
	// remains is sent as the client escaped it. Empty: nothing is removed.
	StripPrefix string

	// RefuseEscapedSlashes answers paths with %2F or %5C with 400. Servers
	// disagree on whether these separate segments, so that a guard may see one
	// path and the upstream another. False sends them on as they are, because
	// many applications put whole names into one segment.
	RefuseEscapedSlashes bool

	// Query says what becomes of queries that parsers read differently. The zero
	// value is QueryClean.
	Query QueryPolicy

	// PreserveHost sends the client's Host to the upstream. False sends the
	// host of the upstream's URL, which is what name-based upstreams need; the
	// client's is in X-Forwarded-Host either way.
	PreserveHost bool

	// Trust decides whether the peer is a proxy whose X-Forwarded-Host,
	// X-Forwarded-Proto and similar fields are passed on, and finds the client
	// behind it for X-Forwarded-For. Most callers should pass the Resolver whose
	// Middleware stands in front. Nil trusts nobody: such fields are dropped,
	// and the client is the one [clientip.From] names.
	Trust *clientip.Resolver

	// Forwarded writes a Forwarded field (RFC 7239), too, with "for", "host" and
	// "proto". If a peer that Trust trusts sent one, an element with the peer's
	// own address is appended to it; else the element says what the X-Forwarded
	// fields say. An address that is not known is "unknown". False writes none,
	// and passes on what a trusted peer sent.
	Forwarded bool

	// Via is the name under which the proxy adds itself to the Via field of
	// requests (RFC 9110 section 7.6.3): a pseudonym, or a host with or without a
	// port. Empty means "weir"; "-" leaves Via as it is, which some upstreams
	// need that do not compress for proxies.
	Via string

	// RequestIDHeader is the field with the request's id, for the upstream and
	// the log. It is the one that middleware in front has set in the header of
	// the response, else the one that came from a peer that Trust trusts, else
	// 128 new random bits in hexadecimal. Kept are ids of up to 128 letters,
	// digits and characters of "-._~+/=:@"; those of others are replaced, as they
	// could be made to look like another request's. Letters, digits and hyphens
	// are allowed, and no name that has a meaning of its own. Empty means
	// X-Request-Id; "-" sends no id and passes on what came.
	RequestIDHeader string

	// TLS configures connections to https upstreams: certificate authorities,
	// client certificates. It is cloned. Nil is the default of crypto/tls.
	TLS *tls.Config

	// Timeouts bound how long each phase may take without progress. The zero
	// value is right for most.
	Timeouts Timeouts

	// FullDuplex sends parts of an answer over HTTP/1 while parts of the request
	// are still to come ([http.ResponseController.EnableFullDuplex]), as is always
	// so over HTTP/2. False leaves net/http to take the request's body away when
	// the answer begins, or its connection: some clients read no answer before
	// they have sent all, and both sides would wait. Where the ResponseWriter
	// supports it only.
	FullDuplex bool

	// MaxIdleConns is how many idle HTTP/1 connections are kept to each
	// upstream. 0 means 64; negative is a fault. The 2 of http.Transport make
	// a busy proxy open a connection for nearly every request.
	MaxIdleConns int

	// MaxResponseHeaderBytes bounds the header of an upstream's answer, and of
	// each informational response before it; a larger one is answered with
	// 502. 0 means 65,536; negative is a fault.
	MaxResponseHeaderBytes int64

	// MaxInformational is how many informational (1xx) responses an upstream
	// may send before its answer; one more is answered with 502. 0 means 8;
	// negative is a fault.
	MaxInformational int

	// MaxTunnels is how many upgraded connections (WebSockets) may be open, those
	// included whose upstream has yet to agree; one more is answered with 503
	// and Retry-After. Each takes two descriptors. 0 means 10,000; negative is a
	// fault.
	MaxTunnels int

	// WrapTransport is called once, by New, with the transport that New built,
	// and returns the one to use: to trace each attempt, to add credentials.
	// What it returns must be safe for concurrent use, must not buffer bodies,
	// and must return the body of a 101 response unwrapped or with its Write
	// method. A nil result is a fault. A request that is sent again passes it again
	// ([AttemptFrom]). Nil: the transport is used as built.
	WrapTransport func(http.RoundTripper) http.RoundTripper

	// Observer is told how requests and attempts end, and what happens to
	// upstreams, for metrics and traces. Nil: nobody is.
	Observer Observer

	// ErrorLog gets what clients are not told: why an answer was 502, where a
	// body broke off, on which Side and in which Phase. Faults of the upstream are logged at level Error, those
	// of the client at Debug. Nil means [slog.Default] as it is at that time; a
	// logger over [slog.DiscardHandler] silences it.
	ErrorLog *slog.Logger
}

// An Upstream is a server that requests are sent to.
type Upstream struct {
	_ [0]func() // keyed literals only: fields will be added

	// URL is where the server is: http or https, a host, a port unless it is
	// the scheme's, and a base path under which all requests are sent. User
	// information, a query, a fragment and dot segments are faults.
	URL string

	// Weight is the share of requests that the server gets in proportion to the
	// others, from 1 to 1,000. 0 means 1.
	Weight int
}

// InFlight bounds how many requests are under way to one upstream at the same
// time, for each upstream by itself. A request is under way until its answer has
// ended, an upgraded connection until it is closed. Another upstream that has
// room is taken first; where none has, the request waits in the order of arrival
// for the one whose turn it was. What cannot wait, or has waited in vain, is
// answered with 503.
//
// It costs a lock a request, and two allocations for one that waits.
type InFlight struct {
	_ [0]func() // keyed literals only: fields will be added

	// Max is how many requests are under way at most. 0: no bound; negative is a
	// fault.
	Max int

	// Queue is how many may wait. 0: none; negative is a fault.
	Queue int

	// Wait is how long at most. 0 means 1 s; negative is a fault.
	Wait time.Duration
}

func (f *InFlight) resolve(fault func(string, ...any)) {
	if f.Max < 0 {
		fault("InFlight.Max is %d: 0 (meaning no bound) and more are allowed", f.Max)
	}
	if f.Queue < 0 {
		fault("InFlight.Queue is %d: 0 (meaning that none waits) and more are allowed", f.Queue)
	}
	if f.Wait < 0 {
		fault("InFlight.Wait is %s: 0 (meaning 1s) and more are allowed", f.Wait)
	}
	f.Wait = cmp.Or(f.Wait, time.Second)
}

// Timeouts bound the phases of an exchange. Each but Total is for one step, not
// for the whole: an exchange that moves may last for ever. For every field, 0 means the
// default stated there and a negative value means none.
type Timeouts struct {
	_ [0]func() // keyed literals only: fields will be added

	// Dial bounds looking up the name and connecting. Default 2 s; the answer
	// is 504.
	Dial time.Duration

	// TLSHandshake bounds the handshake with an https upstream. Default 5 s;
	// the answer is 504.
	TLSHandshake time.Duration

	// ResponseHeader bounds the wait for the header of the answer, from when
	// the request was sent wholly. Default 30 s; the answer is 504.
	ResponseHeader time.Duration

	// ExpectContinue is how long the body of a request with "Expect:
	// 100-continue" is held back for the upstream's consent. Default 1 s;
	// negative sends it at once.
	ExpectContinue time.Duration

	// UpstreamIdle bounds how long the upstream may leave a body unmoved:
	// sending no part of the answer's, or taking no part of the request's.
	// Default 60 s. If no header was sent yet the answer is 504, else it is
	// broken off so that the client sees an error. Streams that fall silent for
	// longer need heartbeats, as event streams have anyway, or a larger value.
	UpstreamIdle time.Duration

	// ClientIdle is the same for the client: sending no part of the request's
	// body (408), or not taking one write of the answer's, which is at most
	// 128 KiB, and 32 KiB once it was slow. Default 60 s. Where the ResponseWriter
	// supports deadlines only.
	//
	// It takes the place of http.Server's WriteTimeout, which bounds the whole
	// answer and so cannot be used with streams: the deadline is set anew when
	// an answer ends.
	ClientIdle time.Duration

	// Total bounds a whole exchange, however well it moves: from when it is first
	// sent to an upstream until its answer has ended. If no header was sent yet
	// the answer is 504, else it is broken off. It says nothing of the upstream to
	// Ejection and Breaker, as it may be the client who is slow. It bounds neither
	// the Fallback, which may have to answer because it has passed, nor a
	// connection from its upgrade on. Default none: most streams, and downloads
	// of slow clients, may take as long as they like.
	Total time.Duration

	// TunnelIdle bounds how long nothing at all is sent through a tunnel (an
	// upgraded connection), in either direction. Then both ends of the WebSocket
	// get a Close frame with status 1001, and a second later both connections
	// are closed. Default 1 h: most clients, or what is between, ping far more
	// often. No other limit applies to tunnels.
	TunnelIdle time.Duration

	// IdleConn is how long an unused connection to an upstream is kept.
	// Default 90 s. It should be less than the upstream's own.
	IdleConn time.Duration

	// ConnAge is for how long connections are made, kept and used before new
	// requests are sent on new ones only; what is under way is not disturbed. It
	// is what makes a busy proxy follow a change in DNS. Default 10 min.
	ConnAge time.Duration
}

// longest is a time limit that is as good as none, and leaves room to add to.
const longest = 100 * 365 * 24 * time.Hour

// resolved returns t with defaults for zero and zero for none.
func (t Timeouts) resolved() Timeouts {
	for _, f := range []struct {
		d         *time.Duration
		byDefault time.Duration
	}{
		{&t.Dial, 2 * time.Second},
		{&t.TLSHandshake, 5 * time.Second},
		{&t.ResponseHeader, 30 * time.Second},
		{&t.ExpectContinue, time.Second},
		{&t.UpstreamIdle, 60 * time.Second},
		{&t.ClientIdle, 60 * time.Second},
		{&t.Total, 0},
		{&t.TunnelIdle, time.Hour},
		{&t.IdleConn, 90 * time.Second},
		{&t.ConnAge, 10 * time.Minute},
	} {
		if *f.d == 0 {
			*f.d = f.byDefault
		}
		*f.d = min(max(*f.d, 0), longest)
	}
	return t
}

// resolve checks cfg, but for the upstreams, and fills in the defaults. All
// faults are returned.
func (cfg *Config) resolve() (strip prefix, faults []error) {
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("proxy: "+format, args...))
	}
	if cfg.Balance > ByKey {
		fault("Balance is %d: RoundRobin, LeastInFlight and ByKey are allowed", cfg.Balance)
	}
	if (cfg.Key != nil) != (cfg.Balance == ByKey) {
		fault("Key and Balance do not agree: Key is needed for ByKey, and only for it")
	}
	cfg.InFlight.resolve(fault)
	cfg.Ejection.resolve(fault)
	cfg.HealthCheck.resolve(fault)
	cfg.Breaker.resolve(fault)
	cfg.Retries.resolve(fault)
	strip, err := parsePrefix(cfg.StripPrefix)
	if err != nil {
		fault("StripPrefix %q: %w", cfg.StripPrefix, err)
	}
	if cfg.Query > QueryRaw {
		fault("Query is %d: QueryClean, QueryRefuse and QueryRaw are allowed", cfg.Query)
	}
	cfg.Via = cmp.Or(cfg.Via, defaultVia)
	if !isToken(strings.NewReplacer(":", "", "[", "", "]", "").Replace(cfg.Via)) {
		fault("Via is %q: a token, a host, or a host and a port are allowed, and %q", cfg.Via, none)
	}
	cfg.RequestIDHeader = cmp.Or(cfg.RequestIDHeader, defaultRequestID)
	if cfg.RequestIDHeader != none && !isRequestIDHeader(cfg.RequestIDHeader) {
		fault("RequestIDHeader is %q: letters, digits and hyphens are allowed, no field with a meaning of its own, and %q", cfg.RequestIDHeader, none)
	}
	if cfg.MaxIdleConns < 0 {
		fault("MaxIdleConns is %d: 0 (meaning %d) and more are allowed", cfg.MaxIdleConns, defaultIdleConns)
	}
	if cfg.MaxResponseHeaderBytes < 0 {
		fault("MaxResponseHeaderBytes is %d: 0 (meaning %d) and more are allowed", cfg.MaxResponseHeaderBytes, defaultHeaderBytes)
	}
	if cfg.MaxInformational < 0 {
		fault("MaxInformational is %d: 0 (meaning %d) and more are allowed", cfg.MaxInformational, defaultInformational)
	}
	if cfg.MaxTunnels < 0 {
		fault("MaxTunnels is %d: 0 (meaning %d) and more are allowed", cfg.MaxTunnels, defaultTunnels)
	}
	if cfg.MaxIdleConns == 0 {
		cfg.MaxIdleConns = defaultIdleConns
	}
	if cfg.MaxResponseHeaderBytes == 0 {
		cfg.MaxResponseHeaderBytes = defaultHeaderBytes
	}
	if cfg.MaxInformational == 0 {
		cfg.MaxInformational = defaultInformational
	}
	if cfg.MaxTunnels == 0 {
		cfg.MaxTunnels = defaultTunnels
	}
	cfg.Timeouts = cfg.Timeouts.resolved()
	return strip, faults
}

const (
	defaultIdleConns     = 64
	defaultHeaderBytes   = 64 << 10
	defaultInformational = 8
	defaultTunnels       = 10_000
	defaultVia           = "weir"
)

var errNilTransport = errors.New("proxy: WrapTransport returned nil: a RoundTripper is needed")
