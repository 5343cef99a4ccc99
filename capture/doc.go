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
// ranges and multipart are not; [Body.Skipped] says why.
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
// Outside a compressor and inside it the record shows the same text. Outside an
// [http.TimeoutHandler] the record has what the client got, inside what the
// handler did. Inside capture, or any other middleware that wraps the writer, a
// handler's [http.MaxBytesReader] refuses a body that is too large as ever, but
// cannot tell the server to close the connection (golang/go#73754), which
// net/http then does only if more than 256 KiB are left unread. [MaxBytesReader]
// can.
//
// # Compressed bodies
//
// Compression stays on: the client gets what it asked for, the handler notices
// nothing, and what was captured is decoded where the sink runs, by [Async]'s
// goroutine if there is one. gzip (x-gzip) and deflate, as zlib or raw, are
// decoded here, br and zstd by the package decoders, up to three codings of one
// body; bodies in others are [SkipEncoded]. A stream that was cut yields what it
// began with.
//
// A body decodes to no more than its cap, and no more than 100 times what was
// captured of it or 4 KiB, whichever is more. The result counts against the
// Budget. While it is made it is in memory of its own: of the size of two caps
// and of the decoder's window (44 KiB for gzip and deflate), for each record
// that is being finished at the moment. Behind Async that is one.
//
// Middleware outside of this one may name a coding before it has compressed
// anything. Bytes that are text as they stand, UTF-8 without control characters,
// are therefore taken as such, whichever of these codings the header names.
//
// # Secrets
//
// Values are masked by name before any sink sees the record: headers and query
// before it leaves the middleware, bodies after they were decoded. Until then an
// [Exchange] shows nothing of its bodies, not even to Options.Keep. What cannot
// be searched for secrets is dropped, with [SkipRedaction].
//
// Secret are all names that contain token, secret, password, credential,
// signature, cookie, authorization, apikey and the like, and some that are short,
// such as auth, pin, session and sig. Only letters and digits count, in any case:
// accessToken, access_token and Access-Token are one. Options.Redact adds names,
// Options.RedactPaths places in JSON documents, and Options.AllowOnly masks
// everything else instead. Masked are:
//
//   - header fields, and in the values of others, as in Location and Referer, the
//     query, the fragment and the password of URLs;
//   - parameters of queries and forms (application/x-www-form-urlencoded), also of
//     URLs and JSON within them; here code and key are secret, too;
//   - in JSON, NDJSON and JSON sequences the values of members, of any type and at
//     any depth, whole; and strings that mention a secret name followed by = or :,
//     as URLs, JSON within JSON, and GraphQL do. The mask is a JSON string, so the
//     document stays valid. What is no JSON is dropped;
//   - in other text, after a secret name and = or :, what is in quotes or else the
//     rest of the line; and the content of XML elements.
//
// Text has no fields, so that is an attempt: a token that stands alone in a line,
// and a secret of several lines, are not recognised. Nor are secrets in a path or
// in an attribute, and those whose name is itself a value, as in
// {"name":"password","value":"x"}. Where that may not be, switch the capture of bodies off with
// Options.RequestCap and Options.ResponseCap below 0, for some requests with
// Options.RequestBody and Options.ResponseBody, or from the handler with
// [Live.Skip]. Request bodies answered with 401 or 403 are never kept unless
// Options.UnauthorizedBodies says so.
package capture
