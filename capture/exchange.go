package capture

import (
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// An Exchange is the record of a request and its response. It holds copies of
// plain data only, redacted; nothing in it leads to the request, the response
// writer or an unmasked value.
//
// A sink may read it until its Record method returns, from any number of
// goroutines, and must not change it. Later its bodies are empty; see
// [Exchange.Clone].
type Exchange struct {
	Start    time.Time
	Duration time.Duration // until the handler had ended

	// FirstByte is the time from Start to the final response header, which may
	// still be in net/http's buffer then. 0 if there was none.
	FirstByte time.Duration

	// Client is the client's address as clientip resolved it. Invalid if the
	// request had none, as in some tests.
	Client netip.Addr

	Proto  string // "HTTP/1.1"
	Method string
	Scheme string // "https" if the connection to this server is TLS, else "http"
	Host   string
	Path   string // as sent, percent-encoded
	Query  string // as sent, without "?", secrets masked
	Route  string // the ServeMux pattern that matched, or empty

	// Status is the final status of the response; 101 if the connection was
	// hijacked before any, and 0 if nothing was sent.
	Status int

	// Informational lists the first 16 responses of 1xx that preceded it.
	Informational []int

	// Outcome says how the exchange ended; Side and Phase, if it did not end
	// well, on whose side that was and how far it had come.
	Outcome Outcome
	Side    Side
	Phase   Phase

	// Empty reports a 2xx of a type that is captured, but without a body. A
	// handler that forgot to write looks like this.
	Empty bool

	// RefusedBy names what refused the request, as told by [Live.Refused].
	RefusedBy string

	// Attributes are those of [Live.Set], in the order they were first set.
	Attributes []Field

	Request, Response Message

	record *record
}

// A Message is one direction of an exchange.
type Message struct {
	// Header is, for requests, as it arrived, and for responses as it was when
	// the final header was sent, without what net/http adds after that (Date,
	// for example). Secrets are masked.
	Header Header

	// Trailer holds the trailer fields, masked like Header. Those of a request
	// are known only once its body was read to the end.
	Trailer Header

	Body Body
}

// Clone returns a copy of x that may be kept. Its bodies are in memory of their
// own, which counts against no budget.
func (x *Exchange) Clone() *Exchange {
	c := *x
	c.record = nil
	c.Informational = slices.Clone(x.Informational)
	c.Attributes = slices.Clone(x.Attributes)
	for _, m := range []*Message{&c.Request, &c.Response} {
		m.Header = slices.Clone(m.Header)
		m.Trailer = slices.Clone(m.Trailer)
		m.Body.data = m.Body.data.clone()
	}
	return &c
}

// disown copies the strings that are parts of the request line over HTTP/1. They
// would keep all of it in memory, which is more than size counts where they are
// masked or cut.
func (x *Exchange) disown() {
	for _, s := range []*string{&x.Proto, &x.Method, &x.Host, &x.Path, &x.Query} {
		*s = strings.Clone(*s)
	}
}

// size estimates the memory of x, for bounding a queue: captured bytes, strings
// and a fixed part.
func (x *Exchange) size() int64 {
	const (
		fixed    = 2 << 10
		perField = 48 // two strings, and what an allocation is rounded up by
	)
	n := fixed + len(x.Method) + len(x.Host) + len(x.Path) + len(x.Query) + len(x.Route) + len(x.RefusedBy)
	for _, fields := range [][]Field{
		x.Attributes,
		x.Request.Header, x.Request.Trailer,
		x.Response.Header, x.Response.Trailer,
	} {
		for _, f := range fields {
			n += perField + len(f.Name) + len(f.Value)
		}
	}
	return int64(n + x.Request.Body.data.len() + x.Response.Body.data.len())
}

// A record is an Exchange with what it needs, in one allocation. It is never
// reused: only the chunks of its bodies are.
type record struct {
	Exchange
	request, response data
	m                 *middleware
	finished          bool
	holders           atomic.Int32
	refused           bool
	ctx               detached  // for the sink
	fields            [24]Field // room for the headers of most exchanges
}

func newRecord(m *middleware) *Exchange {
	r := &record{m: m}
	r.record = r
	r.request.budget, r.response.budget = m.Budget, m.Budget
	r.Request.Body.data, r.Response.Body.data = &r.request, &r.response
	r.holders.Store(1)
	return &r.Exchange
}

// hold keeps the bodies of x until one more call of release. It does nothing
// for a clone, which nobody has to release.
func (x *Exchange) hold() {
	if x.record != nil {
		x.record.holders.Add(1)
	}
}

func (x *Exchange) release() {
	if x.record != nil && x.record.holders.Add(-1) == 0 {
		x.record.request.free()
		x.record.response.free()
	}
}
