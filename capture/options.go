package capture

import (
	"cmp"
	"net/http"
)

const defaultCap = 64 << 10

// Options tunes [Middleware]. The zero value is what most callers should use.
// The hooks are called on the goroutine of the handler, with no lock held, and
// must be safe for concurrent use.
type Options struct {
	// RequestCap and ResponseCap bound, in bytes, what is captured of one body.
	// 0 means 64 KiB; below 0 no such bodies are captured.
	RequestCap, ResponseCap int

	// Budget bounds the memory of all captured bodies together. nil means one
	// of 64 MiB that belongs to this middleware alone. Most callers should give
	// all their middlewares the same.
	Budget *Budget

	// Redact names further header fields, query parameters and fields of bodies
	// whose values are masked: those that contain one of these, regardless of
	// case, hyphens, underscores and dots. See the package documentation for
	// what is masked anyway.
	Redact []string

	// RedactPaths names values in JSON bodies that are masked by where they
	// stand: JSONPath expressions (RFC 9535) of names, indexes and wildcards,
	// such as $.user.email, $.cards[*].number, $..address and $['a b'][0].
	// Names are compared like those of Redact, but whole.
	RedactPaths []string

	// AllowOnly, if not nil, turns the rule round: shown are only the header
	// fields, query parameters and fields of bodies with one of these names,
	// compared like those of Redact, but whole, and of them only those that
	// would be shown without it. The elements of an array go by its name. A body
	// without fields, such as text, is dropped with [SkipRedaction].
	AllowOnly []string

	// DangerouslyKeepSecrets masks nothing: passwords and tokens end up in every
	// sink as they were sent. It is for tests, and for traffic without secrets.
	DangerouslyKeepSecrets bool

	// Decoders undo further content codings, by their names in Content-Encoding:
	// see the package decoders for br and zstd. gzip and deflate are there
	// anyway; one of that name replaces them. Bodies in other codings are not
	// captured.
	Decoders map[string]Decoder

	// UnauthorizedBodies keeps the request bodies of exchanges answered with 401
	// or 403. By default they are dropped: they are mostly passwords, and
	// whoever sends them could fill a disk with what else they hold.
	UnauthorizedBodies bool

	// Match says whether to record a request at all; nil records every one. A
	// request that is not recorded passes as if there were no middleware.
	Match func(r *http.Request) bool

	// RequestBody decides about a request's body before the handler runs. skip
	// is what the defaults say, empty if they capture it; the result is what
	// applies. It is not asked where there is no body or one in a coding that
	// cannot be undone.
	// It must not read the body.
	RequestBody func(r *http.Request, skip SkipReason) SkipReason

	// ResponseBody decides about a response's body, when its final header is
	// about to be sent. skip is what the defaults say, empty if they capture it
	// or, without a Content-Type, will judge by the first bytes; the result is
	// what applies. It is not asked about HEAD, 204, 304, upgrades and bodies in
	// a coding that cannot be undone. h is the handler's and must not be changed.
	ResponseBody func(r *http.Request, status int, h http.Header, skip SkipReason) SkipReason

	// Keep says, at the end, whether the record is offered to the sink: errors
	// only, say, or slow ones, or a sample. nil keeps every one. The rules for x
	// are those of a sink, except that its bodies show no bytes yet: they are
	// decoded and redacted later.
	Keep func(x *Exchange) bool

	// RefusalsPerSecond is how many records of refusals (see [Live.Refused]) are
	// offered to the sink in any one second; 0 means 100, and below 0 none are.
	// What is beyond that is counted by the Observer as [EventThinned], so that
	// nobody can fill a disk by being refused.
	RefusalsPerSecond int

	// Observer is told what becomes of each exchange; nil costs nothing.
	Observer Observer

	// OnError is told what the sink's Record returned; nil ignores it. The
	// exchange it concerns went well regardless.
	OnError func(err error)
}

// Validate returns everything that is wrong with o, joined: a path or name that
// cannot be read, or a nil Decoder. A nil o is right.
func (o *Options) Validate() error {
	m := &middleware{Options: o.withDefaults()}
	return m.compile()
}

func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	c.RequestCap = cmp.Or(c.RequestCap, defaultCap)
	c.ResponseCap = cmp.Or(c.ResponseCap, defaultCap)
	c.RefusalsPerSecond = cmp.Or(c.RefusalsPerSecond, defaultRefusals)
	if c.Budget == nil {
		c.Budget = NewBudget(defaultBudget)
	}
	return c
}
