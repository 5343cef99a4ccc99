package proxy

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/goweir/weir/internal/problem"
)

// A refusal is an answer given before any upstream hears of the request.
type refusal struct {
	status int
	detail string
	// final closes an HTTP/1 connection after the answer: what follows on it
	// may be meant for the tunnel or the message that was refused, and must not
	// be read as the next request (RFC 9931).
	final bool
}

var (
	refusedConnect  = &refusal{http.StatusMethodNotAllowed, "CONNECT is not supported.", true}
	refusedTarget   = &refusal{http.StatusBadRequest, "The request target must be a path, or an http or https URL of the requested host.", true}
	refusedDots     = &refusal{http.StatusBadRequest, "The path has dot segments.", true}
	refusedPath     = &refusal{http.StatusBadRequest, "The path begins with an empty segment.", true}
	refusedSlash    = &refusal{http.StatusBadRequest, "The path has an escaped slash or backslash.", false}
	refusedQuery    = &refusal{http.StatusBadRequest, "The query has a semicolon, a number sign, an incomplete escape, or too many parameters.", false}
	refusedUpgrade  = &refusal{http.StatusBadRequest, "The only upgrade supported is one GET request over HTTP/1.1 to websocket, without a body.", true}
	refusedUnrouted = &refusal{http.StatusNotFound, "Nothing is served under this path.", false}
)

// retryAfter is what a client is told that was refused because of what others
// do: long enough to spare the server, and not worth an option.
const retryAfter = 10 * time.Second

// setRetryAfter tells a client when to come again, in seconds: RFC 9110 section
// 10.2.3.
func setRetryAfter(h http.Header, after time.Duration) {
	h.Set("Retry-After", strconv.FormatInt(int64((after+time.Second-1)/time.Second), 10))
}

// check decides whether r may be sent to an upstream, and under which escaped
// path.
func (p *Proxy) check(r *http.Request) (path string, refused *refusal) {
	if r.Method == http.MethodConnect {
		// A body of an HTTP/2 CONNECT would be sent without framing on a pooled
		// HTTP/1 connection, where the upstream takes it for requests.
		return "", refusedConnect
	}
	u := r.URL
	switch {
	case u.Opaque != "":
		// "GET http:http://other/" leaves the path empty, so that guards see
		// nothing, and would be sent to the upstream as it is.
		return "", refusedTarget
	case u.User != nil, u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https":
		return "", refusedTarget
	case u.Host != "" && !strings.EqualFold(u.Host, r.Host):
		// net/http takes Host from an absolute target, as RFC 9112 section
		// 3.2.2 demands. Where something in front has changed one of them,
		// nobody can say which host was meant.
		return "", refusedTarget
	case u.Path != "" && u.Path[0] != '/': // such as "*"
		return "", refusedTarget
	case hasDotSegment(u.Path):
		return "", refusedDots
	}
	if refused := checkUpgrade(r); refused != nil {
		return "", refused
	}
	path = u.EscapedPath()
	if path == "" {
		path = "/" // RFC 9112 section 3.2.1
	}
	if p.cfg.RefuseEscapedSlashes && hasEscapedSlash(path) {
		return "", refusedSlash
	}
	if p.cfg.Query == QueryRefuse && ambiguous(u.RawQuery) {
		return "", refusedQuery
	}
	if len(p.strip) > 0 {
		rest, ok := p.strip.strip(path)
		if !ok {
			return "", refusedUnrouted
		}
		if strings.HasPrefix(rest, "//") {
			// /api//other/x would become //other/x, which reads as a host and a
			// path to whoever resolves it as a reference.
			return "", refusedPath
		}
		path = rest
	}
	return path, nil
}

func (f *refusal) write(w http.ResponseWriter, r *http.Request) {
	if f.status == http.StatusMethodNotAllowed {
		// Required by RFC 9110 section 15.5.6. What the upstream allows is not
		// known here; these are what the proxy lets through.
		w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	}
	if f.status == http.StatusServiceUnavailable {
		setRetryAfter(w.Header(), retryAfter)
	}
	if f.final && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	problem.Write(w, problem.Details{Status: f.status, Detail: f.detail})
}
