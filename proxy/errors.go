package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"

	"github.com/goweir/weir/internal/problem"
)

// statusClientClosed is recorded when the client left before the answer began.
// It is not registered; nginx made it common. Nobody receives it, but what
// stands outside the proxy sees how the request ended.
const statusClientClosed = 499

// details say to the client what its status means. What went wrong in
// particular is for the log.
var details = map[int]problem.Details{
	http.StatusBadRequest: {
		Detail: "The body of the request is malformed.",
	},
	http.StatusRequestTimeout: {
		Detail: "The body of the request stopped arriving.",
	},
	http.StatusRequestEntityTooLarge: {
		Detail: "The body of the request is larger than allowed.",
	},
	statusClientClosed: {
		Title: "Client Closed Request",
	},
	http.StatusInternalServerError: {
		Detail: "The connection cannot be upgraded here.",
	},
	http.StatusBadGateway: {
		Detail: "The upstream server could not be reached or gave no valid answer.",
	},
	http.StatusServiceUnavailable: {
		Detail: "No upstream server can take the request at the moment.",
	},
	http.StatusGatewayTimeout: {
		Detail: "The upstream server did not answer in time.",
	},
}

// status maps what RoundTrip or ReverseProxy returned to the answer. The
// client's own faults come first, because they are what made the upstream's
// side fail.
func (x *exchange) status(err error) int {
	if x.upload != nil && !errors.Is(err, errUpstreamIdle) && !errors.Is(err, errTotal) {
		if failure := x.upload.err.Load(); failure != nil {
			return x.uploadStatus(*failure)
		}
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge
	}
	if _, ok := errors.AsType[*unavailable](err); ok {
		return http.StatusServiceUnavailable
	}
	if answer, ok := errors.AsType[*badStatus](err); ok {
		return answer.status
	}
	switch {
	case errors.Is(err, errClientIdle):
		return http.StatusRequestTimeout
	case errors.Is(err, errUpstreamIdle), errors.Is(err, errTotal):
		return http.StatusGatewayTimeout
	case errors.Is(err, errShutdown):
		return http.StatusServiceUnavailable
	}
	switch gone := x.in.Context().Err(); {
	case errors.Is(gone, context.DeadlineExceeded):
		// Set by middleware: the server cancels, it sets no deadline.
		return http.StatusGatewayTimeout
	case gone != nil:
		return statusClientClosed
	}
	if x.tunnel != nil && x.tunnel.backend != nil {
		return http.StatusInternalServerError // 101 was accepted, Hijack failed
	}
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

// uploadStatus maps what reading the request's body returned.
func (x *exchange) uploadStatus(err error) int {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return http.StatusRequestTimeout
	}
	_, network := errors.AsType[net.Error](err)
	if network || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.Canceled) || x.in.ProtoMajor > 1 {
		return statusClientClosed // over HTTP/2 there is no framing to get wrong
	}
	return http.StatusBadRequest
}

// fail answers in place of an upstream. No final header was sent yet, unless the
// connection was hijacked.
func (x *exchange) fail(w http.ResponseWriter, err error) {
	if x.tunnel != nil && x.tunnel.writer.Hijacked() {
		x.verdict = &verdict{result: OutcomeLeft, side: SideClient, phase: PhaseTunnel, err: err}
		x.log(statusClientClosed, "proxy: tunnel not opened", err)
		return
	}
	status := x.status(err)
	cause := x.cause(status, err)
	v := &verdict{OutcomeFailed, x.side(status, err), x.phase(err), status, cause.Reason, err}
	x.verdict = v
	if status == statusClientClosed {
		v.result = OutcomeLeft
	}
	x.log(status, "proxy: request failed", err)
	if status == http.StatusRequestTimeout && x.in.ProtoMajor == 1 {
		w.Header().Set("Connection", "close") // RFC 9110 section 15.5.9
	}
	if cause.Reason == 0 || x.proxy.cfg.Fallback == nil {
		cause.write(w)
		return
	}
	x.watch.stop()
	x.fellBack, v.result = true, OutcomeFallback
	r := x.in
	if x.upload != nil {
		if x.upload.untouched() && x.upload.replay.empty() {
			x.upload = nil // the fallback's now
		} else {
			r = r.WithContext(r.Context())
			r.Body = usedBody{}
		}
	}
	x.proxy.fallBack(w, r, cause, &v.status)
}

// upstreamName is empty if the request was sent to none.
func (x *exchange) upstreamName() string {
	if x.upstream == nil {
		return ""
	}
	return x.upstream.name
}

// log leaves out the query, where secrets are.
func (x *exchange) log(status int, msg string, err error, more ...slog.Attr) {
	level := slog.LevelDebug
	if status >= 500 && status != http.StatusServiceUnavailable { // these come in floods
		level = slog.LevelError
	}
	logger := x.proxy.cfg.ErrorLog
	if logger == nil {
		logger = slog.Default()
	}
	ctx := x.in.Context()
	if !logger.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("method", x.in.Method),
		slog.String("path", x.in.URL.Path),
		slog.String("upstream", x.upstreamName()),
		slog.Int("status", status),
	}
	if v := x.verdict; v != nil && v.side != "" {
		attrs = append(attrs, slog.String("side", string(v.side)), slog.String("phase", string(v.phase)))
	}
	if id := x.forwarded.id[0]; id != "" {
		attrs = append(attrs, slog.String("request_id", id))
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	logger.LogAttrs(ctx, level, msg, append(attrs, more...)...)
}
