// Package capture records what passes an HTTP server, within bounds: the heads
// of requests and responses, and the beginning of those bodies that are JSON or
// text. The handler, the client and the server notice nothing of it.
//
// [Middleware] makes an [Exchange] of each request and hands it to a [Sink].
// Most callers should put a queue between: Async(JSONL(file), nil). Other sinks
// are [Slog], [OpenHAR] for HTTP Archives, and [NewRing] for a live page; any
// function can be one, with [SinkFunc].
//
// # Memory
//
// A body is captured up to a cap of 64 KiB, and all bodies together up to a
// [Budget] of 64 MiB, which they take as they grow and give back when the sink
// is done with the record. What does not fit is measured, and the record says
// so. Nothing is held back, read ahead or waited for: a download of any size
// costs what was captured of it.
//
// # What is captured
//
// The decision falls with the final header, by what the handler set, or by the
// first bytes if it set no Content-Type. Captured are application/json, types
// that end in +json, and text/*. Downloads, event streams, upgrades, gRPC,
// ranges, multipart and compressed bodies are not; [Body.Skipped] says why.
// Options has hooks for deciding otherwise, and [From] reaches the running
// record from a handler.
//
// # What is counted
//
// Records can be lost: in a queue that is full, on a disk that is full, by a sink
// that fails. None is lost silently. Behind Async, delivered + dropped = offered,
// by [QueueStats] and by the events for an [Observer], which also tell of what was
// not offered, and of bodies that were not captured. Records of requests that
// were refused ([Live.Refused]) have no bodies, and of more than 100 a second the
// rest is only counted, so that nobody can fill a disk by being refused.
//
// # Order
//
// Outside a compressor a body is [SkipEncoded], inside it is text. Outside an
// [http.TimeoutHandler] the record has what the client got, inside what the
// handler did. Inside capture, or any other middleware that wraps the writer, a
// handler's [http.MaxBytesReader] refuses a body that is too large as ever, but
// cannot tell the server to close the connection (golang/go#73754), which
// net/http then does only if more than 256 KiB are left unread. [MaxBytesReader]
// can.
//
// # Secrets
//
// Values are masked before a record leaves the middleware: of the header fields
// and query parameters Authorization, Proxy-Authorization, Cookie, Set-Cookie,
// X-Api-Key and all whose name contains token, secret, password, credential,
// signature and the like; also in the query, the fragment and the password of
// URLs in header values, as in Location and Referer. Options.Redact adds names.
//
// Bodies are recorded as they were sent: a password in a JSON document is in the
// record. Where that may not be, switch the capture of bodies off with
// Options.RequestCap and Options.ResponseCap below 0, for some requests with
// Options.RequestBody and Options.ResponseBody, or from the handler with
// [Live.Skip]. Request bodies answered with 401 or 403 are never kept unless
// Options.UnauthorizedBodies says so. Secrets in a path or in an attribute are
// not recognised.
package capture
