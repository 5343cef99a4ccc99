package proxy

import (
	"errors"
	"maps"
	"net/http"
	"net/textproto"
	"strings"
	"sync"

	"github.com/goweir/weir/internal/respwriter"
)

var errInformational = errors.New("upstream sent too many informational responses")

// informer relays informational responses, in place of ReverseProxy's own way,
// which sets no limit, sends hop-by-hop fields on (golang/go#81319), and clears
// what middleware has set in the response header (golang/go#81207).
type informer struct {
	mu      sync.Mutex
	attempt int32 // who may write
	relayed int32
	settled bool // the transport has returned: the writer is the handler's again
	muted   bool // two attempts run, and it is not known whose answer it will be
}

// settle returns when no informational response is being written, and lets
// none be written afterwards.
func (i *informer) settle() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.settled = true
}

// begin lets the next attempt write, and none before it.
func (i *informer) begin(attempt int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.attempt, i.settled, i.muted = int32(attempt), false, false
}

// mute lets nobody write until the next begin. It is false if that is too late.
func (i *informer) mute() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.muted = !i.settled && i.relayed == 0
	return i.muted
}

// got1xx is the httptrace hook. The transport calls it on a goroutine of its
// own while the handler's waits in RoundTrip, and may call it a last time after
// that.
func (x *exchange) got1xx(status int, fields textproto.MIMEHeader) error {
	return x.relay(0, status, fields)
}

func (x *exchange) relay(attempt, status int, fields textproto.MIMEHeader) error {
	x.informer.mu.Lock()
	defer x.informer.mu.Unlock()
	if x.informer.settled || int(x.informer.attempt) != attempt && !x.informer.muted {
		return nil
	}
	if x.informer.relayed++; int(x.informer.relayed) > x.proxy.cfg.MaxInformational {
		return errInformational
	}
	if x.informer.muted || !x.in.ProtoAtLeast(1, 1) {
		return nil // RFC 9110 section 15.2
	}
	w, passed := informationalWriter(x.w)
	h := w.Header()
	kept := maps.Clone(h)
	clear(h)
	maps.Copy(h, fields)
	dropHopByHop(h)
	// RFC 9110 section 8.6 forbids one here, and net/http sends none. What it is
	// for: where there is one, its HTTP/2 server sends a copy of h. The original
	// it may be reading when WriteHeader returns, because the stream is reset, and
	// to change a map that is read ends the process.
	h["Content-Length"] = nil
	x.watch.await(answerTrack, clientSide)
	w.WriteHeader(status)
	for _, w := range passed {
		respwriter.Informed(w, status)
	}
	x.watch.await(answerTrack, nobody)
	clear(h)
	maps.Copy(h, kept)
	return nil
}

// informationalWriter returns the outermost writer to which an informational
// status can be given safely, and those that are passed by and are to be told.
// Many wrappers take the first WriteHeader for the final one and then lose the
// final status (labstack/echo#3106) or drop the informational response
// (gin-gonic/gin#3289), so those are passed by. Weir's own are not unless they
// stand around one of them, and are told, because capture records what passes.
func informationalWriter(w http.ResponseWriter) (to http.ResponseWriter, passed []http.ResponseWriter) {
	to = w
	var above []http.ResponseWriter // weir's, from to on
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return to, passed
		}
		inner := u.Unwrap()
		if respwriter.Is(w) {
			above = append(above, w)
		} else {
			to, passed, above = inner, append(passed, above...), nil
		}
		w = inner
	}
}

// dropHopByHop removes the fields that RFC 9110 section 7.6.1 keeps from being
// forwarded.
func dropHopByHop(h http.Header) {
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			h.Del(textproto.TrimString(name))
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

var hopByHop = [...]string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}
