package limiter

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

// A HeaderForm is a way of telling clients about quotas. Every form sends
// Retry-After with a refusal.
type HeaderForm uint8

const (
	// Draft10 sends RateLimit and RateLimit-Policy as
	// draft-ietf-httpapi-ratelimit-headers-10 describes them, one member for
	// every quota that the request was charged to:
	//
	//	RateLimit-Policy: "client";q=10;w=1;weir-burst=20
	//	RateLimit: "client";r=19;t=1
	//
	// q is the Limit, w the Window if it is whole seconds, weir-burst the
	// Burst if it is above the Limit; r what remains, t the seconds until
	// there is more, absent when the quota is whole. The lines are appended to
	// those that are there, so several middlewares, and the handler, can
	// describe their quotas. The draft may still change, and this name with it.
	Draft10 HeaderForm = iota

	// XRateLimit sends X-RateLimit-Limit, X-RateLimit-Remaining and
	// X-RateLimit-Reset (seconds until the quota is whole), which no
	// specification describes. They speak of one quota: the first that
	// refused, or else the one with the least remaining; of several
	// middlewares, the one with the least remaining.
	XRateLimit

	// NoHeaders sends neither.
	NoHeaders
)

// The names are in the canonical form of http.Header, so that Get finds them.
const (
	fieldRateLimit  = "Ratelimit"
	fieldPolicy     = "Ratelimit-Policy"
	fieldXLimit     = "X-Ratelimit-Limit"
	fieldXRemaining = "X-Ratelimit-Remaining"
	fieldXReset     = "X-Ratelimit-Reset"
	fieldRetryAfter = "Retry-After"
)

// SetHeader adds to h what describes the decision: the RateLimit fields in the
// form of the Options ([Draft10] after [Check]), and Retry-After if the request
// was refused and may succeed later. Call it once.
func (d Decision) SetHeader(h http.Header) {
	var f fields
	f.build(&d)
	f.add(h)
}

func seconds(d time.Duration) int64 {
	s := int64(d / time.Second)
	if d%time.Second > 0 {
		s++
	}
	return s
}

// fields are the values of up to four header fields. They are a field of the
// per-request struct, and the header map gets slices of them, so that setting
// the header allocates one string.
type fields struct {
	form   HeaderForm
	values [4]string // two or three of the form, then Retry-After; empty if there is nothing to say
	built  bool
	added  bool
}

func (f *fields) build(d *Decision) {
	f.form, f.built = d.form, true
	var array [256]byte
	var ends [len(f.values)]int
	b := array[:0]
	switch d.form {
	case Draft10:
		b = d.appendQuotas(b)
		ends[0] = len(b)
		b = d.appendPolicies(b)
		ends[1], ends[2] = len(b), len(b)
	case XRateLimit:
		if i := d.tightest(); i >= 0 {
			r := &d.Results[i]
			for k, n := range [...]int64{int64(r.Limit), int64(r.Remaining), seconds(r.ResetAfter)} {
				b = strconv.AppendInt(b, n, 10)
				ends[k] = len(b)
			}
		}
	}
	// In whole seconds (RFC 9110 section 10.2.3), rounded up and so at least 1:
	// who waits that long is admitted.
	if after := d.retryAfter(); after > 0 && after != Never {
		b = strconv.AppendInt(b, seconds(after), 10)
	}
	ends[3] = len(b)
	s, start := string(b), 0
	for i, end := range ends {
		f.values[i], start = s[start:end], end
	}
}

// buildDraft10 is build for one rule whose parts that never change are known.
func (f *fields) buildDraft10(quota, policy string, p *Policy, r *Result) {
	f.form, f.built = Draft10, true
	var array [96]byte
	b, end := array[:0], 0
	if r.Remaining >= 0 {
		b = strconv.AppendInt(append(b, quota...), min(int64(r.Remaining), maxInteger), 10)
		if t := untilMore(p, r); t > 0 {
			b = appendParam(b, ";t=", seconds(t))
		}
		f.values[1], end = policy, len(b)
	}
	if !r.Allowed && r.RetryAfter > 0 && r.RetryAfter != Never {
		b = strconv.AppendInt(b, seconds(r.RetryAfter), 10)
	}
	s := string(b)
	f.values[0], f.values[3] = s[:end], s[end:]
}

func (d *Decision) appendQuotas(b []byte) []byte {
	if d.busy != nil && d.busy.Limit > 0 {
		return append(appendString(b, d.busy.Name), ";r=0"...)
	}
	start := len(b)
	for i := range d.Results {
		if d.told(i) {
			b = appendQuota(comma(b, start), &d.Charges[i].Policy, &d.Results[i])
		}
	}
	return b
}

func (d *Decision) appendPolicies(b []byte) []byte {
	if d.busy != nil && d.busy.Limit > 0 {
		b = appendParam(appendString(b, d.busy.Name), ";q=", int64(d.busy.Limit))
		return append(b, `;qu="concurrent-requests"`...)
	}
	start := len(b)
	for i := range d.Results {
		if d.told(i) {
			b = appendPolicy(comma(b, start), &d.Charges[i].Policy)
		}
	}
	return b
}

// told reports whether clients hear of charge i: not if nobody counted.
func (d *Decision) told(i int) bool { return d.Results[i].Remaining >= 0 && !d.shadow(i) }

func comma(b []byte, start int) []byte {
	if len(b) > start {
		b = append(b, ", "...)
	}
	return b
}

// tightest returns the charge that X-RateLimit speaks of, or -1.
func (d *Decision) tightest() int {
	best := -1
	for i := range d.Results {
		if !d.told(i) {
			continue
		}
		if !d.Allowed && d.which[i] == d.Rule {
			return i
		}
		if best < 0 || d.Results[i].Remaining < d.Results[best].Remaining {
			best = i
		}
	}
	return best
}

// add adds the fields to h. It is called again when a first attempt to send the
// header failed, and then adds only what has been lost since.
func (f *fields) add(h http.Header) {
	if f.values[3] != "" && len(h[fieldRetryAfter]) == 0 {
		h[fieldRetryAfter] = f.values[3:4:4]
	}
	switch {
	case f.values[0] == "":
	case f.form == Draft10:
		f.append(h, fieldRateLimit, 0)
		f.append(h, fieldPolicy, 1)
		f.added = true
	case f.tighter(h[fieldXRemaining]):
		h[fieldXLimit], h[fieldXRemaining], h[fieldXReset] = f.values[0:1:1], f.values[1:2:2], f.values[2:3:3]
	}
}

func (f *fields) append(h http.Header, name string, i int) {
	old := h[name]
	switch {
	case len(old) == 0:
		h[name] = f.values[i : i+1 : i+1]
	case !f.added || !slices.Contains(old, f.values[i]):
		h[name] = append(old, f.values[i])
	}
}

// tighter reports whether less remains here than another middleware has said.
func (f *fields) tighter(others []string) bool {
	if len(others) == 0 {
		return true
	}
	theirs, err := strconv.Atoi(others[0])
	mine, _ := strconv.Atoi(f.values[1])
	return err != nil || mine < theirs
}

// appendPolicy appends a member of RateLimit-Policy.
func appendPolicy(b []byte, p *Policy) []byte {
	b = appendString(b, p.Name)
	b = appendParam(b, ";q=", int64(p.Limit))
	if p.Window%time.Second == 0 {
		b = appendParam(b, ";w=", int64(p.Window/time.Second))
	}
	if p.Burst > p.Limit {
		b = appendParam(b, ";weir-burst=", int64(p.Burst))
	}
	return b
}

// appendQuota appends a member of RateLimit.
func appendQuota(b []byte, p *Policy, r *Result) []byte {
	b = appendString(b, p.Name)
	b = appendParam(b, ";r=", int64(r.Remaining))
	if t := untilMore(p, r); t > 0 {
		b = appendParam(b, ";t=", seconds(t))
	}
	return b
}

// untilMore returns the time until Remaining grows, or 0 if it does not: the
// quota is whole, or denies everything. It is not later than RetryAfter, as the
// draft wants it.
func untilMore(p *Policy, r *Result) time.Duration {
	if p.Limit <= 0 || r.ResetAfter <= 0 {
		return 0
	}
	more := r.ResetAfter
	if r.MoreAfter > 0 {
		more = min(more, r.MoreAfter)
	} else if p.Algorithm == TokenBucket || p.Algorithm == LeakyBucket {
		q := quotaOf(p)
		if price, ok := q.price(r.Remaining + 1); ok {
			more = min(more, r.ResetAfter-time.Duration(max(0, q.capacity-price)))
		}
	}
	if !r.Allowed {
		more = min(more, r.RetryAfter)
	}
	return max(more, 1)
}

// appendString appends s as a String of RFC 9651 section 3.3.3. Bytes that it
// cannot hold, which a validated Name does not have, are percent-encoded.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20 || c > 0x7e:
			b = append(b, '%', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// maxInteger is the largest Integer of RFC 9651 section 3.3.1.
const maxInteger = 999_999_999_999_999

func appendParam(b []byte, name string, n int64) []byte {
	return strconv.AppendInt(append(b, name...), min(n, maxInteger), 10)
}
