package capture

import (
	"context"
	"slices"
	"sync"
)

// finish decodes and redacts the bodies of x, once, and lets them be seen.
// Before, Body shows nothing of them. It is called where the sink runs: by a
// [Queue] just before it delivers, or by the middleware before it calls any
// other sink.
func (x *Exchange) finish(ctx context.Context) {
	r := x.record
	if r == nil || r.finished {
		return
	}
	r.finished = true
	b := benches.Get().(*bench)
	defer func() {
		if b.json.rd = nil; b.size() <= largestBuffer {
			benches.Put(b)
		}
	}()
	request, response := r.Request.Body.Skipped, r.Response.Body.Skipped
	b.finish(r.m, &r.Request.Body, &r.request, r.m.RequestCap, r.Request.Body.Complete)
	b.finish(r.m, &r.Response.Body, &r.response, r.m.ResponseCap, r.Outcome == OutcomeOK)
	if r.m.Observer == nil {
		return
	}
	if r.Request.Body.Skipped != request {
		r.m.observeBody(ctx, x, PartRequest, &r.Request.Body)
	}
	if r.Response.Body.Skipped != response {
		r.m.observeBody(ctx, x, PartResponse, &r.Response.Body)
	}
}

// A bench has the memory for finishing one record.
type bench struct {
	raw, text []byte
	list      []string // of codings
	json      jsonScan
}

var benches = sync.Pool{New: func() any { return new(bench) }}

// finish makes of the bytes in d what may be seen of them, and says in body what
// that is. complete tells that the body ended as it should; one that did not may
// end anywhere.
func (b *bench) finish(m *middleware, body *Body, d *data, limit int, complete bool) {
	defer d.show()
	if d.len() == 0 {
		return
	}
	done := false
	defer func() {
		// A panic, of a Decoder for example, is no reason to show anything.
		if !done {
			recover()
			d.free()
			body.Skipped, body.Truncated, body.Encoding = SkipRedaction, false, ""
		}
	}()
	cut := body.Truncated || !complete
	b.raw = d.appendRaw(slices.Grow(b.raw[:0], d.len()))
	text, changed := b.raw, false
	b.list = appendCodings(b.list[:0], d.codings)
	// Inside a compressor the header may name a coding that is yet to come.
	if n := len(b.list); n > 0 && !(isBinary(b.list[n-1]) && isPlain(text, cut)) {
		text, changed = b.decode(m, body, limit), true
		if len(text) == 0 {
			done, body.Truncated = true, false
			d.free()
			return
		}
		body.Encoding = d.codings
	}
	b.json.rd = m.redact
	spans, with, ok := b.json.scanBody(body.Type, text, body.Truncated || !complete)
	if !ok {
		return
	}
	if changed || len(spans) > 0 {
		if !d.rewrite(text, spans, with) {
			body.Truncated, body.Skipped = true, SkipBudget
		}
	}
	done = true
}

// decode returns what the captured bytes decode to, and says in body what is
// missing.
func (b *bench) decode(m *middleware, body *Body, limit int) []byte {
	text, more, err := decode(b.text[:0], b.raw, m.decoders, b.list, limit)
	b.text = text
	switch {
	case more:
		body.Truncated, body.Skipped = true, SkipCap
	case err != nil && (!body.Truncated || len(text) == 0):
		body.Truncated, body.Skipped = len(text) > 0, SkipEncoded
	}
	return text
}

func (b *bench) size() int {
	j := &b.json
	return cap(b.raw) + cap(b.text) + cap(j.text) + cap(j.plain) + cap(j.open) +
		16*cap(j.spans) + 8*cap(j.trail.stack) + 8*cap(j.trail.counts)
}
