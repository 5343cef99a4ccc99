package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
)

// A verdict says how a request ended: for the log, and for the Observer.
type verdict struct {
	result Outcome
	side   Side
	phase  Phase
	status int    // what the client was sent
	reason Reason // why it is not an upstream's answer
	err    error
}

// event returns e with what v says.
func (v *verdict) event(e Event) Event {
	e.Result, e.Side, e.Phase, e.Status, e.Reason, e.Err = v.result, v.side, v.phase, v.status, v.reason, v.err
	return e
}

// conclude says how the request has ended, when all is done. It ended by
// returning (done), or by a panic with cause; gone is what its context said
// before an answer was cut off.
func (x *exchange) conclude(done bool, cause any, gone error) {
	if x.verdict == nil && done && !x.tunneled() && (x.body.src == nil || x.body.ended) {
		// Most requests end like this, and it is not kept.
		if x.proxy.cfg.Observer != nil {
			x.observeEnd(&verdict{result: OutcomeOK, status: int(x.answered)})
		}
		return
	}
	if x.verdict == nil {
		x.verdict = new(verdict)
	}
	v := x.verdict
	switch {
	case v.result == OutcomeFallback: // whose answer it is to log
		if !done {
			v.result, v.side, v.phase = OutcomeAborted, SideServer, PhaseResponse
		}
	case v.result != "": // there was no answer, and fail has logged it
	case x.tunneled(): // and tunnel.finish has said why it ended
		v.result, v.status = OutcomeOK, http.StatusSwitchingProtocols
		if v.err != nil {
			v.result, v.side, v.phase = OutcomeAborted, SideServer, PhaseTunnel
		}
	case cause == nil || cause == http.ErrAbortHandler:
		x.concludeCut(gone)
	}
	if cause != nil && cause != http.ErrAbortHandler {
		v.phase = PhaseWaiting
		switch {
		case x.fellBack:
			v.phase = PhaseResponse
		case x.body.begun:
			v.phase, v.status = PhaseResponse, int(x.answered)
		default:
			v.status = 0
		}
		v.result, v.side = OutcomePanic, SideServer
		v.err = fmt.Errorf("panic: %v", cause)
		x.log(http.StatusInternalServerError, "proxy: panic", v.err)
	}
	if x.proxy.cfg.Observer != nil {
		x.observeEnd(v)
	}
}

// concludeCut is conclude for an answer that did not come to its end.
func (x *exchange) concludeCut(gone error) {
	v := x.verdict
	v.phase, v.err = PhaseWaiting, errors.Join(x.idle, x.body.err)
	if x.body.begun {
		v.phase, v.status = PhaseResponse, int(x.answered)
	}
	switch {
	case x.idle == errTotal, errors.Is(gone, context.DeadlineExceeded): // the latter set by middleware
		v.result, v.side = OutcomeAborted, SideServer
		x.log(http.StatusGatewayTimeout, "proxy: answer broken off", v.err)
	case x.idle == errClientIdle:
		v.result, v.side = OutcomeAborted, SideClient
		x.log(statusClientClosed, "proxy: client left an answer", v.err)
	case gone != nil:
		v.result, v.side = OutcomeLeft, SideClient
		x.log(statusClientClosed, "proxy: client left an answer", v.err)
	case x.body.err != nil:
		v.result, v.side = OutcomeAborted, SideUpstream
		x.log(http.StatusBadGateway, "proxy: answer broken off", v.err)
	case x.body.begun:
		v.result, v.side = OutcomeLeft, SideClient
		x.log(statusClientClosed, "proxy: answer could not be written", nil)
	default: // by a transport
		v.result, v.side = OutcomeAborted, SideServer
		x.log(http.StatusInternalServerError, "proxy: aborted", nil)
	}
}

// tunneled reports whether the request has become a tunnel.
func (x *exchange) tunneled() bool {
	return x.tunnel != nil && x.tunnel.backend != nil && x.tunnel.writer.Hijacked()
}

// side says whose fault it is that there is no answer but status.
func (x *exchange) side(status int, err error) Side {
	if _, answered := errors.AsType[*badStatus](err); answered {
		return SideUpstream
	}
	if u, ok := errors.AsType[*unavailable](err); ok && u.reason == Busy || errors.Is(err, errShutdown) || errors.Is(err, errTotal) {
		return SideServer
	}
	switch status {
	case http.StatusInternalServerError:
		return SideServer
	case http.StatusGatewayTimeout:
		if x.in.Context().Err() != nil {
			return SideServer // a deadline of middleware's
		}
	case http.StatusBadGateway, http.StatusServiceUnavailable:
	default:
		return SideClient
	}
	return SideUpstream
}

// phase says how far a request had come to which there is no answer.
func (x *exchange) phase(err error) Phase {
	_, answered := errors.AsType[*badStatus](err)
	switch {
	case x.tunnel != nil && x.tunnel.writer.Hijacked():
		return PhaseTunnel
	case x.upstream == nil:
		return PhaseChoose
	case answered:
	case isDialError(err) || isHandshakeError(err):
		return PhaseConnect
	case x.upload.unfinished():
		return PhaseRequest
	}
	return PhaseWaiting
}

// isHandshakeError reports whether a TLS handshake failed.
func isHandshakeError(err error) bool {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return true
	}
	// net/http has no public type for it.
	timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && timeout.Error() == "net/http: TLS handshake timeout"
}
