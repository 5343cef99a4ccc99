package capture

import "io"

// A Body says what is known of a request's or response's body, and holds what
// was captured of it: a prefix, without its codings and with its secrets masked,
// and else byte for byte as it was read or written. Copies of a Body share the
// captured bytes.
type Body struct {
	// Size is the number of bytes that the handler read from the request, or
	// that the response writer accepted. A body that is never sent, as in the
	// answer to HEAD, counts 0.
	Size int64

	// Declared is the Content-Length; -1 if there was none.
	Declared int64

	// Type is the Content-Type. Of a response without one it is what net/http
	// makes of the first bytes.
	Type string

	// Complete reports, for requests, that the handler read the body to its
	// end. If not, the size of the rest is unknown.
	Complete bool

	// Truncated reports that the captured bytes are only a beginning of what
	// was read or written; Skipped then is [SkipCap] or [SkipBudget], or
	// [SkipEncoded] if the rest cannot be decoded.
	Truncated bool

	// Encoding is the Content-Encoding that the captured bytes were in before
	// they were decoded. It is empty if they are as they were read or written.
	Encoding string

	// Skipped says why the body, or its rest, was not captured; empty if it was.
	Skipped SkipReason

	data *data
}

// Len returns the number of captured bytes.
func (b Body) Len() int { return b.data.seen() }

// AppendTo appends the captured bytes to p and returns the result. What it
// appends is the caller's own and stays valid. It is safe for concurrent use.
func (b Body) AppendTo(p []byte) []byte { return b.data.appendTo(p) }

// Bytes returns a copy of the captured bytes. A sink that reuses a buffer should
// use [Body.AppendTo].
func (b Body) Bytes() []byte { return b.AppendTo(make([]byte, 0, b.Len())) }

func (d *data) clone() *data {
	n := d.seen()
	if n == 0 {
		return nil
	}
	c := &chunk{buf: d.appendTo(make([]byte, 0, n))}
	return &data{head: c, tail: c, n: len(c.buf), shown: true}
}

// A tap measures one body and captures its beginning.
type tap struct {
	data      *data
	limit     int
	size      int64
	skip      SkipReason
	truncated bool
}

// start sets what becomes of the body; a cap of 0 or less skips it.
func (t *tap) start(limit int, skip SkipReason) {
	t.data.free()
	t.limit, t.skip, t.truncated = limit, skip, false
	if skip == "" && limit <= 0 {
		t.skip = SkipCap
	}
}

// count adds n bytes that passed, of which p was seen.
func (t *tap) count(p []byte, n int64) {
	t.size += n
	if t.skip != "" || n == 0 {
		return
	}
	fits := p[:min(len(p), t.room())]
	switch took := t.data.write(fits); {
	case took < len(fits):
		t.skip, t.truncated = SkipBudget, t.data.len() > 0
	case int64(took) < n:
		t.skip, t.truncated = SkipCap, true
	}
}

// room returns how many more bytes would be captured.
func (t *tap) room() int {
	if t.skip != "" {
		return 0
	}
	return max(0, t.limit-t.data.len())
}

// drop gives back what was captured. The reason stands unless there was one that
// concerned the body as a whole.
func (t *tap) drop(reason SkipReason) {
	t.data.free()
	if t.skip == "" || t.truncated {
		t.skip, t.truncated = reason, false
	}
}

// lower sets a smaller limit than what was captured under.
func (t *tap) lower(limit int) {
	t.limit = limit
	if t.data.len() > limit {
		t.data.cut(limit)
		t.skip, t.truncated = SkipCap, true
	}
}

func (t *tap) report(b *Body) {
	b.Size, b.Skipped, b.Truncated = t.size, t.skip, t.truncated
}

// requestBody is the request's Body as the handler sees it. The handler's
// transport may read it, and close it, after the handler returned: it passes
// everything on for ever, and tells the recording, which stops listening.
type requestBody struct {
	io.ReadCloser
	recording *recording
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.recording.read(p[:max(0, min(n, len(p)))], err)
	return n, err
}
