package capture

import "context"

const (
	maxAttributes     = 32
	maxAttributeBytes = 1 << 10
)

// Live is the running record of an exchange, as the handler and the middleware
// inside capture reach it:
//
//	capture.From(r.Context()).Set("user", id)
//
// Its methods may be called on a nil Live, from any goroutine, and after the
// exchange has ended; then they do nothing.
type Live struct {
	recording *recording
}

// From returns the running record of the request with this context, and nil if
// it is not recorded.
func From(ctx context.Context) *Live {
	l, _ := ctx.Value(liveKey{}).(*Live)
	return l
}

type liveKey struct{}

// Set adds an attribute to the record, or replaces the value of one. The first
// 32 keys are kept, and the first KiB of key and value each. Attributes are
// recorded as given, so a secret has no place in one.
func (l *Live) Set(key, value string) {
	if l == nil {
		return
	}
	key, value = clip(key), clip(value)
	rec := l.recording
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.x == nil {
		return
	}
	for i := range rec.x.Attributes {
		if rec.x.Attributes[i].Name == key {
			rec.x.Attributes[i].Value = value
			return
		}
	}
	if len(rec.x.Attributes) < maxAttributes {
		rec.x.Attributes = append(rec.x.Attributes, Field{key, value})
	}
}

// Refused says that the request was refused, and by what: the name of a quota,
// for example. The record then has no bodies, and beyond
// Options.RefusalsPerSecond it is only counted, so that nobody can fill a disk by
// being refused. An answer that looks like a refusal, such as an upstream's own
// 429, is none unless somebody calls this.
func (l *Live) Refused(by string) {
	if l == nil {
		return
	}
	by = clip(by)
	rec := l.recording
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.x != nil {
		rec.x.RefusedBy, rec.x.record.refused = by, true
		rec.dropBodiesLocked(SkipStatus)
	}
}

// Skip leaves the bodies of the exchange out of the record, with what was
// captured of them so far. They are still measured, and the record is still
// made; Options.Keep can do without it.
func (l *Live) Skip() {
	if l == nil {
		return
	}
	rec := l.recording
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.x != nil {
		rec.dropBodiesLocked(SkipSampledOut)
	}
}

// clip cuts s to the length of an attribute, on a character boundary.
func clip(s string) string {
	if len(s) > maxAttributeBytes {
		s = s[:maxAttributeBytes]
		s = s[:len(s)-partialRune(s)]
	}
	return s
}
