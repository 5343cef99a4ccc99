package capture

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"syscall"
)

// An Outcome says how an exchange ended.
type Outcome string

const (
	OutcomeOK       Outcome = "ok"       // the handler answered and returned
	OutcomeImplicit Outcome = "implicit" // it returned without answering: net/http sends an empty 200
	OutcomePanic    Outcome = "panic"    // it panicked
	OutcomeHijacked Outcome = "hijacked" // it took over the connection

	// OutcomeAbort: the handler broke its answer off. It panicked with
	// http.ErrAbortHandler, ended its goroutine, or set a write deadline in the
	// past before all was written, as package proxy does when an upstream breaks
	// off. What that does to the context is not taken for the client's leaving.
	OutcomeAbort Outcome = "abort"

	// OutcomeWriteError: a write of the response failed and the client is not
	// known to have left. A write deadline that passes looks like this, and more
	// bytes than the Content-Length promised.
	OutcomeWriteError Outcome = "write_error"

	// OutcomeClientGone: the client left before it had everything. Told from
	// the request's context, cancelled other than by a deadline while the
	// handler ran, or from a request body that ended too early. A response that
	// was begun before and whose Content-Length was written in full is not
	// counted here.
	OutcomeClientGone Outcome = "client_gone"
)

// A Side is where an exchange ended that did not end well.
type Side string

const (
	// SideClient: the client left, or the connection to it failed.
	SideClient Side = "client"

	// SideServer: the handler panicked or aborted, as a proxy does whose upstream
	// broke off; it wrote what it may not, or a deadline of this server passed.
	SideServer Side = "server"
)

// A Phase is how far an exchange had come.
type Phase string

const (
	PhaseRequest  Phase = "request"  // the request's body was not read to its end
	PhaseWaiting  Phase = "waiting"  // for the final header of the response
	PhaseResponse Phase = "response" // that was decided; its body was under way
)

// ending is what an Outcome is told from.
type ending struct {
	returned, hijacked, implicit bool
	cause                        any   // what the handler panicked with
	cancelled                    bool  // the request's context, and not by a deadline
	left                         bool  // it was so before the final header
	cut                          bool  // the handler broke the answer off before the context ended
	readErr, writeErr            error // the first of each
	full                         bool  // all of the response's Content-Length was written
}

func (e ending) outcome() Outcome {
	gone := e.clientGone()
	switch {
	case !e.returned && e.cause != nil && e.cause != http.ErrAbortHandler:
		return OutcomePanic
	case e.hijacked:
		return OutcomeHijacked
	case gone: // before abort, which often is the answer to it
		return OutcomeClientGone
	case e.writeErr != nil && !(e.cut && errors.Is(e.writeErr, os.ErrDeadlineExceeded)): // which comes of the cut
		return OutcomeWriteError
	case !e.returned, e.cut && !e.full:
		return OutcomeAbort
	case e.implicit:
		return OutcomeImplicit
	}
	return OutcomeOK
}

// side returns where an exchange ended that did so with o, if not well.
func (e ending) side(o Outcome) Side {
	switch o {
	case OutcomeClientGone:
		return SideClient
	case OutcomePanic, OutcomeAbort:
		return SideServer
	case OutcomeWriteError:
		if ours(e.writeErr) {
			return SideServer
		}
		return SideClient
	}
	return ""
}

// clientGone tells the client's departure from other failures. net/http cancels
// the context when the connection ends, but also when a write failed for any
// reason, such as a deadline; and it does not watch the connection before the
// request's body was read.
func (e ending) clientGone() bool {
	switch {
	case ours(e.readErr): // a missed read deadline cancels it as well, over HTTP/1
		return false
	case e.left:
		return true
	case e.writeErr != nil:
		return e.cancelled && !ours(e.writeErr)
	case e.cancelled && !e.full && !e.cut:
		return true
	}
	return lost(e.readErr)
}

// lost reports whether reading the request failed because the client left.
func lost(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

// ours reports whether a failed read or write was failed on this side.
func ours(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, http.ErrContentLength) ||
		errors.Is(err, http.ErrHandlerTimeout)
}

// cancelled reports whether ctx ended other than by a deadline.
func cancelled(ctx context.Context) bool {
	return ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded)
}
