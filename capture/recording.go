package capture

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/goweir/weir/internal/respwriter"
)

const maxInformational = 16

// A recording is the state of an exchange while its handler runs. It is the
// context of the handler's request, the hooks of its response writer and the
// owner of its body at once, because each would be an allocation otherwise.
//
// Handlers keep all three and use them after they returned, so a recording is
// never reused, and lets go of the record when it is closed.
type recording struct {
	context.Context
	respwriter.NoHooks // for those not implemented below
	m                  *middleware
	inner              http.ResponseWriter
	writer             respwriter.Writer
	body               requestBody
	live               Live

	r        *http.Request // the server's, which is not ours to change
	r2       *http.Request // the handler's
	returned bool
	implicit bool // and sent no header

	mu                sync.Mutex // guards what follows; never held while calling anything of others
	x                 *Exchange  // nil once closed
	request, response tap
	sniffing          bool // the response has no Content-Type and is too short to guess one
	complete          bool // the request's body was read to its end
	readErr, writeErr error
	left, cut         bool       // the client, before the header; the answer, by the handler
	phase             Phase      // when something went wrong first; empty if nothing did
	noBodies          SkipReason // set when bodies are out whatever comes
}

var _ respwriter.Hooks = (*recording)(nil)

func (rec *recording) Value(key any) any {
	if key == (liveKey{}) {
		return &rec.live
	}
	return rec.Context.Value(key)
}

// String keeps fmt from printing all of the above with a context.
func (rec *recording) String() string { return "capture.From context" }

// read is told what the handler read of the request's body.
func (rec *recording) read(p []byte, err error) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.x == nil {
		return
	}
	rec.request.count(p, int64(len(p)))
	if err == nil {
		return
	}
	if rec.readErr == nil {
		rec.readErr = err
		if lost(err) {
			rec.failedLocked(PhaseRequest)
		}
	}
	// net/http puts trailers that were not announced into its own request, if
	// that had none; the handler looks into ours.
	if rec.r2.Trailer == nil && rec.r.Trailer != nil {
		rec.r2.Trailer = rec.r.Trailer
	}
}

// failedLocked notes when something went wrong first.
func (rec *recording) failedLocked(phase Phase) {
	if rec.phase == "" {
		rec.phase = phase
	}
}

// phaseLocked returns how far the exchange has come.
func (rec *recording) phaseLocked() Phase {
	switch declared := rec.x.Request.Body.Declared; {
	case rec.x.Status != 0:
		return PhaseResponse
	case rec.complete || rec.readErr == io.EOF || declared >= 0 && rec.request.size >= declared:
		return PhaseWaiting
	}
	return PhaseRequest
}

// Header decides about the response's body.
func (rec *recording) Header(status int, h http.Header) {
	now := time.Now()
	skip, sniff := decideResponse(rec.r.Method, status, h, rec.m.decoders)
	if hook := rec.m.ResponseBody; hook != nil && skip.negotiable() {
		if skip = hook(rec.r2, status, h, skip); skip != "" {
			sniff = false
		}
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	x := rec.x
	if x == nil {
		return
	}
	if cancelled(rec.Context) { // an answer to nobody
		rec.left = true
		rec.failedLocked(rec.phaseLocked())
	}
	x.Status, x.FirstByte = status, now.Sub(x.Start)
	// Now, because trailers and handlers write to this map later.
	x.Response.Header = rec.m.redact.appendHeader(rec.roomLocked(), h, http.TrailerPrefix)
	x.Response.Body.Declared = declaredLength(h)
	x.Response.Body.Type = rec.m.redact.text(h.Get("Content-Type"))
	x.record.response.codings = codings(h)
	rec.response.start(rec.m.ResponseCap, skip)
	if rec.sniffing = sniff && rec.response.skip == ""; rec.sniffing {
		rec.response.limit = max(rec.response.limit, sniffLen)
	}
	if (status == http.StatusUnauthorized || status == http.StatusForbidden) && !rec.m.UnauthorizedBodies {
		rec.request.drop(SkipStatus)
	}
	if rec.noBodies != "" {
		rec.dropBodiesLocked(rec.noBodies)
	}
}

// roomLocked returns what the request's header left of the record's fields.
func (rec *recording) roomLocked() Header {
	fields := rec.x.record.fields[:]
	if used := len(rec.x.Request.Header); used < len(fields) {
		return fields[used:used:len(fields)]
	}
	return nil
}

func (rec *recording) Informational(status int, _ http.Header) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.x != nil && len(rec.x.Informational) < maxInformational {
		rec.x.Informational = append(rec.x.Informational, status)
	}
}

// Want asks for the beginning that is captured, and nothing of the rest.
func (rec *recording) Want() int {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.x == nil {
		return 0
	}
	if rec.sniffing {
		return sniffLen - rec.response.data.len()
	}
	return rec.response.room()
}

// Body is told what the response writer accepted.
func (rec *recording) Body(p []byte, n int64, err error) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.x == nil {
		return
	}
	if err != nil && err != http.ErrBodyNotAllowed && rec.writeErr == nil {
		rec.writeErr = err
		rec.failedLocked(PhaseResponse)
	}
	if rec.r.Method == http.MethodHead {
		return // accepted, but sent by nobody
	}
	if rec.sniffing && n > 0 {
		held := rec.response.data.len()
		if held == 0 && len(p) >= sniffLen {
			rec.sniffLocked(p[:sniffLen])
		} else {
			first := p[:min(len(p), sniffLen-held)]
			rec.response.count(first, int64(len(first)))
			if p, n = p[len(first):], n-int64(len(first)); n == 0 && held+len(first) < sniffLen {
				return
			}
			rec.sniffLocked(rec.response.data.peek())
		}
	}
	rec.response.count(p, n)
}

// Flushing ends the guessing: what was written so far is what net/http guesses
// the Content-Type from.
func (rec *recording) Flushing() {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.x != nil && rec.sniffing {
		rec.sniffLocked(rec.response.data.peek())
	}
}

// WriteDeadline notes that the handler breaks the answer off. It is the last moment to
// tell that from the client's leaving: over HTTP/2 both cancel the context.
func (rec *recording) WriteDeadline(t time.Time) {
	if t.IsZero() || t.After(time.Now()) || cancelled(rec.Context) {
		return
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.x != nil && rec.writeErr == nil {
		rec.cut = true
		rec.failedLocked(rec.phaseLocked())
	}
}

// sniffLocked decides by the first bytes of a response without a Content-Type.
func (rec *recording) sniffLocked(first []byte) {
	rec.sniffing = false
	if rec.response.skip != "" {
		return
	}
	if len(first) == 0 {
		rec.response.skip = SkipContentType // what comes will not get one
		return
	}
	media := http.DetectContentType(first)
	rec.x.Response.Body.Type = media
	if skip := decideType(media, nil, nil); skip != "" {
		rec.response.drop(skip)
		return
	}
	rec.response.lower(rec.m.ResponseCap)
}

// dropBodiesLocked leaves both bodies out, now and later.
func (rec *recording) dropBodiesLocked(reason SkipReason) {
	rec.noBodies = reason
	rec.request.drop(reason)
	if rec.x.Status != 0 {
		rec.response.drop(reason)
		rec.sniffing = false
	}
}

// end is deferred around the handler. It recovers only to tell an abort from
// other panics, and panics again before it returns: the stack that a server or a
// tracer prints then still begins where the handler panicked.
func (rec *recording) end() {
	var cause any
	if !rec.returned {
		if cause = recover(); cause != nil {
			defer panic(cause)
		}
	}
	rec.finish(cause)
}

// settle decides the implicit header of a handler that returned without one.
func (rec *recording) settle() {
	rec.implicit = rec.writer.Status() == 0
	rec.mu.Lock()
	rec.failedLocked(rec.phaseLocked())
	rec.mu.Unlock()
	rec.writer.Finish(true)
}

// close ends the recording and returns its record.
func (rec *recording) close(cause any) *Exchange {
	hijacked := rec.writer.Hijacked()
	rec.mu.Lock()
	rec.failedLocked(rec.phaseLocked())
	rec.mu.Unlock()
	rec.writer.Finish(false) // if settle has not
	if rec.r.Pattern != rec.r2.Pattern {
		rec.r.Pattern = rec.r2.Pattern
	}
	if rec.r2.MultipartForm != nil {
		rec.r.MultipartForm = rec.r2.MultipartForm // the server removes its files
	}

	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.sniffing {
		rec.sniffLocked(rec.response.data.peek())
	}
	x := rec.x
	rec.x = nil
	x.Duration = time.Since(x.Start)
	x.Route = rec.r2.Pattern
	if x.Status = rec.writer.Status(); x.Status == 0 {
		x.FirstByte, x.Response.Header = 0, nil // an attempt that failed
	}
	rec.request.report(&x.Request.Body)
	rec.response.report(&x.Response.Body)
	rec.request, rec.response = tap{}, tap{} // which lead to the record
	req, resp := &x.Request, &x.Response
	req.Body.Complete = rec.complete || rec.readErr == io.EOF ||
		req.Body.Declared >= 0 && req.Body.Size >= req.Body.Declared
	req.Trailer = rec.m.redact.appendHeader(nil, rec.r2.Trailer, "")
	if rec.returned && !hijacked {
		resp.Trailer = rec.m.redact.trailer(rec.inner.Header())
	}
	if resp.Body.Size == 0 && resp.Body.Type == "" && resp.Body.Skipped == SkipContentType {
		resp.Body.Skipped = SkipNoBody
	}
	x.Empty = x.Status/100 == 2 && resp.Body.Size == 0 && resp.Body.Skipped == ""
	how := ending{
		returned: rec.returned, hijacked: hijacked, implicit: rec.implicit,
		cause: cause, cancelled: cancelled(rec.Context),
		left: rec.left, cut: rec.cut, readErr: rec.readErr, writeErr: rec.writeErr,
		full: resp.Body.Size == resp.Body.Declared,
	}
	x.Outcome = how.outcome()
	if x.Side = how.side(x.Outcome); x.Side != "" {
		x.Phase = rec.phase
	}
	return x
}
