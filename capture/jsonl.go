package capture

import (
	"context"
	"io"
	"net/netip"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// JSONL returns a sink that writes each record to w as one JSON object on one
// line, with one call of Write. It may be used concurrently, but writes one
// record at a time. WARNING: a lock is held while w writes, so a slow w belongs
// behind [Async].
//
// A captured body is the string "body", so a JSON document comes out byte for
// byte as it was sent, except for its codings and what is masked, once the string
// is decoded. "decoded" names the codings it was in. A body that is not UTF-8 is in
// base64 (RFC 4648, section 4), with "body_encoding":"base64"; one that was cut
// in the middle of a character ends before it. In all other strings what is not
// UTF-8 becomes U+FFFD. Durations are in milliseconds, sizes in bytes; what does
// not apply is left out.
//
// w may be a [File], which can be rotated, or anything else that takes a line
// with each Write. Record returns the error of w, and [io.ErrShortWrite] for a
// short write without one. The line after one that was cut begins on a new line.
//
// JSONL panics if w is nil.
func JSONL(w io.Writer) Sink {
	if w == nil {
		panic("capture: JSONL with a nil io.Writer")
	}
	return &jsonLines{w: w}
}

type jsonLines struct {
	mu    sync.Mutex
	w     io.Writer
	lines lineWriter
}

// buffers are for lines, and for bodies that are held in chunks. Those larger
// than largestBuffer are left to the garbage collector.
var buffers = sync.Pool{New: func() any { return new(make([]byte, 0, 4<<10)) }}

const largestBuffer = 512 << 10

func (j *jsonLines) Record(_ context.Context, x *Exchange) error {
	buf := buffers.Get().(*[]byte)
	// The first byte is for ending a line that was cut.
	line := append((*buf)[:0], '\n')
	line = appendExchange(line, x)
	line = append(line, '\n')
	err := j.write(line)
	if cap(line) <= largestBuffer {
		*buf = line
		buffers.Put(buf)
	}
	return err
}

func (j *jsonLines) write(line []byte) error {
	if f, ok := j.w.(*File); ok {
		return f.writeLine(line) // it knows when a file begins
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines.write(j.w, line)
}

func appendExchange(b []byte, x *Exchange) []byte {
	b = append(b, `{"time":"`...)
	b = x.Start.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","duration_ms":`...)
	b = appendMillis(b, x.Duration)
	if x.FirstByte > 0 {
		b = append(b, `,"first_byte_ms":`...)
		b = appendMillis(b, x.FirstByte)
	}
	if x.Client != (netip.Addr{}) {
		b = append(b, `,"client":"`...)
		b = x.Client.WithZone("").AppendTo(b) // a zone may be any text
		b = append(b, '"')
	}
	b = appendText(b, "proto", x.Proto)
	b = appendText(b, "method", x.Method)
	b = appendText(b, "scheme", x.Scheme)
	b = appendText(b, "host", x.Host)
	b = appendText(b, "path", x.Path)
	b = appendText(b, "query", x.Query)
	b = appendText(b, "route", x.Route)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(x.Status), 10)
	b = appendInformational(b, "informational", x.Informational)
	b = appendText(b, "outcome", string(x.Outcome))
	b = appendText(b, "side", string(x.Side))
	b = appendText(b, "phase", string(x.Phase))
	b = appendFlag(b, "empty", x.Empty)
	b = appendText(b, "refused_by", x.RefusedBy)
	b = appendAttributes(b, "attributes", x.Attributes)
	b = append(b, `,"request":{`...)
	b = appendMessage(b, &x.Request)
	b = appendFlag(b, "complete", x.Request.Body.Complete)
	b = append(b, `},"response":{`...)
	b = appendMessage(b, &x.Response)
	return append(b, '}', '}')
}

func appendInformational(b []byte, key string, statuses []int) []byte {
	if len(statuses) == 0 {
		return b
	}
	b = appendKey(b, key)
	for i, status := range statuses {
		b = append(b, "[,"[min(i, 1)])
		b = strconv.AppendInt(b, int64(status), 10)
	}
	return append(b, ']')
}

func appendAttributes(b []byte, key string, attributes []Field) []byte {
	if len(attributes) == 0 {
		return b
	}
	b = appendKey(b, key)
	for i, a := range attributes {
		b = append(b, "{,"[min(i, 1)])
		b = appendString(b, a.Name)
		b = append(b, ':')
		b = appendString(b, a.Value)
	}
	return append(b, '}')
}

func appendMessage(b []byte, m *Message) []byte {
	b = append(b, `"size":`...)
	b = strconv.AppendInt(b, m.Body.Size, 10)
	if m.Body.Declared >= 0 {
		b = append(b, `,"content_length":`...)
		b = strconv.AppendInt(b, m.Body.Declared, 10)
	}
	b = appendText(b, "content_type", m.Body.Type)
	b = appendText(b, "decoded", m.Body.Encoding)
	b = appendText(b, "skipped", string(m.Body.Skipped))
	b = appendFlag(b, "truncated", m.Body.Truncated)
	b = appendHeader(b, "header", m.Header)
	b = appendHeader(b, "trailer", m.Trailer)
	if n := m.Body.Len(); n > 0 {
		b = append(b, `,"captured":`...)
		b = strconv.AppendInt(b, int64(n), 10)
		b = appendCaptured(b, m.Body, "body", "body_encoding")
	}
	return b
}

// appendHeader writes fields as an object of arrays.
func appendHeader(b []byte, key string, h Header) []byte {
	if len(h) == 0 {
		return b
	}
	b = appendKey(b, key)
	b = append(b, '{')
	for i, f := range h {
		switch {
		case i > 0 && h[i-1].Name == f.Name: // sorted, so they are neighbours
			b = append(b, ',')
		case i > 0:
			b = append(b, ']', ',')
			fallthrough
		default:
			b = appendString(b, f.Name)
			b = append(b, ':', '[')
		}
		b = appendString(b, f.Value)
	}
	return append(b, ']', '}')
}

// appendCaptured appends what was captured of a body as the member key, and a
// second one that says so if it had to be encoded.
func appendCaptured(b []byte, body Body, key, encoding string) []byte {
	buf := buffers.Get().(*[]byte)
	p := body.AppendTo((*buf)[:0])
	b = appendKey(b, key)
	if text, ok := asText(p, body.Truncated); ok {
		b = appendString(b, text)
	} else {
		b = append(b, '"')
		b = appendBase64(b, p)
		b = append(b, '"')
		b = appendText(b, encoding, "base64")
	}
	if cap(p) <= largestBuffer {
		*buf = p
		buffers.Put(buf)
	}
	return b
}

func appendMillis(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, float64(d.Microseconds())/1e3, 'f', -1, 64)
}

// appendText appends a member that is left out if it is empty.
func appendText(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	return appendString(appendKey(b, key), value)
}

func appendFlag(b []byte, key string, value bool) []byte {
	if !value {
		return b
	}
	return append(appendKey(b, key), "true"...)
}

func appendKey(b []byte, key string) []byte {
	b = append(b, ',', '"')
	b = append(b, key...)
	return append(b, '"', ':')
}

const hex = "0123456789abcdef"

// appendString appends s as a JSON string (RFC 8259, section 7). The line
// separators of Unicode are escaped too, for readers that split lines at them.
func appendString[T string | []byte](b []byte, s T) []byte {
	b = append(b, '"')
	plain := 0 // s[plain:i] needs no escape
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		size := 1
		var escape string
		switch {
		case c == '"':
			escape = `\"`
		case c == '\\':
			escape = `\\`
		case c == '\n':
			escape = `\n`
		case c == '\r':
			escape = `\r`
		case c == '\t':
			escape = `\t`
		case c < ' ':
			b = append(b, s[plain:i]...)
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			i++
			plain = i
			continue
		default:
			var r rune
			r, size = utf8.DecodeRune([]byte(s[i:min(i+utf8.UTFMax, len(s))]))
			switch {
			case r == utf8.RuneError && size == 1:
				escape = `\ufffd`
			case r == '\u0085':
				escape = `\u0085`
			case r == '\u2028':
				escape = `\u2028`
			case r == '\u2029':
				escape = `\u2029`
			default:
				i += size
				continue
			}
		}
		b = append(b, s[plain:i]...)
		b = append(b, escape...)
		i += size
		plain = i
	}
	b = append(b, s[plain:]...)
	return append(b, '"')
}
