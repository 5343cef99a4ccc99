package capture

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// maskedJSON stands for a value of any type in a JSON document.
const maskedJSON = `"` + mask + `"`

// A span is a part of a body that is masked.
type span struct{ from, to int }

// A jsonScan finds what has to be masked in JSON texts (RFC 8259): one, or
// several as in NDJSON and JSON sequences (RFC 7464). It goes over the bytes
// once, keeps one byte for each open bracket and never calls itself, so that no
// document can exhaust the stack.
//
// It is as strict as [encoding/json.Valid], because what it overlooked, a more
// lenient reader might take for a field.
type jsonScan struct {
	rd    *redactor
	spans []span
	open  []byte // for each bracket: isObject, isShown
	trail trail
	text  []byte // a name or string without its escapes
	plain []byte // and that in letters and digits only
}

const (
	isObject = 1 << iota
	isShown  // elements of the array are on the allow-list
)

type jsonState uint8

const (
	wantText         jsonState = iota // a JSON text, or the end
	wantFirstElement                  // or the end of the array
	wantElement
	wantFirstName // or the end of the object
	wantName
	wantColon
	wantMember
	wantMore // a comma, or the end of the array or object
)

const recordSeparator = 0x1E // before each text of a JSON sequence

var byteOrderMark = []byte("\xEF\xBB\xBF") // before a text, though RFC 8259, section 8.1, forbids it

// scan sets s.spans. It reports false for what is not JSON, of which nothing may
// be shown then; with cut the beginning of a text will do.
func (s *jsonScan) scan(p []byte, cut bool) bool {
	s.spans, s.open = s.spans[:0], s.open[:0]
	s.trail.reset(s.rd.paths)
	var (
		state = wantText
		i     = 0
		hide  bool        // the next value is masked whole
		shown bool        // the next value is on the allow-list
		muted = -1        // how many brackets were open where such a value began; below 0 outside of one
		from  = 0         // where that was
		name  []byte      // of the member at hand, with escapes
		flags stringFlags // what was seen in it
	)
	if bytes.HasPrefix(p, byteOrderMark) {
		i = len(byteOrderMark)
	} else if cut && bytes.HasPrefix(byteOrderMark, p) {
		return true
	}
scan:
	for {
		for i < len(p) && isJSONSpace(p[i]) {
			i++
		}
		if i == len(p) {
			break
		}
		c := p[i]

		switch state {
		case wantFirstName, wantName:
			if c == '"' {
				var end int
				if end, flags = scanString(p, i+1); end < 0 {
					return false
				} else if flags&isCut != 0 {
					i = len(p)
					break scan
				}
				name, i, state = p[i+1:end], end+1, wantColon
				continue
			}
			if c != '}' || state == wantName {
				return false
			}
		case wantColon:
			if c != ':' {
				return false
			}
			if muted < 0 {
				hide, shown = s.member(name, flags)
			}
			i, state = i+1, wantMember
			continue
		case wantMore:
			switch {
			case c == ',' && s.open[len(s.open)-1]&isObject != 0:
				i, state = i+1, wantName
				continue
			case c == ',':
				i, state = i+1, wantElement
				continue
			case c != '}' && c != ']':
				return false
			}
		case wantFirstElement, wantElement:
			if muted < 0 && c != ']' {
				hide = s.trail.element()
			}
			if c == ']' && state == wantElement {
				return false
			}
		case wantText:
			if c == recordSeparator {
				i++
				continue
			}
			hide, shown = s.trail.text(), s.rd.allow == nil
		}

		start := i
		if hide {
			muted, from, hide = len(s.open), i, false
		}
		switch c {
		case '{', '[':
			var open byte
			state = wantFirstElement
			if c == '{' {
				open, state = isObject, wantFirstName
			}
			if shown {
				open |= isShown
			}
			s.open = append(s.open, open)
			if muted < 0 {
				s.trail.enter()
			}
			i++
			continue
		case '}', ']':
			n := len(s.open) - 1
			if n < 0 || (s.open[n]&isObject != 0) != (c == '}') || state == wantMember {
				return false
			}
			s.open = s.open[:n]
			if muted < 0 {
				s.trail.leave()
			}
			i++
		case '"':
			end, f := scanString(p, i+1)
			if end < 0 {
				return false
			}
			i = min(end+1, len(p))
			if muted < 0 && (!shown || f&hasMark != 0 && s.mentions(p[start+1:end], f)) {
				s.spans = append(s.spans, span{start, i})
			}
			if f&isCut != 0 {
				state = wantMember // of which there is no end
				break scan
			}
		default:
			end, whole := scanScalar(p, i)
			if end < 0 {
				return false
			}
			i = end
			if muted < 0 && !shown {
				s.spans = append(s.spans, span{start, i})
			}
			if !whole {
				state = wantMember
				break scan
			}
		}

		// A value has ended.
		if muted == len(s.open) {
			s.spans = append(s.spans, span{from, i})
			muted = -1
		}
		state = wantText
		if n := len(s.open); n > 0 {
			state = wantMore
			shown = s.open[n-1]&isShown != 0
		}
	}
	if muted >= 0 {
		s.spans = append(s.spans, span{from, len(p)})
	}
	return cut || state == wantText
}

// member says whether the value of a member is masked whole, and if not, whether
// it may be shown if it has no members of its own.
func (s *jsonScan) member(name []byte, f stringFlags) (hide, shown bool) {
	if f&hasEscape != 0 {
		s.text = appendUnescaped(s.text[:0], name)
		name = s.text
	}
	hide = isSecretIn(s.rd.names, name, inBody)
	shown = true
	if s.rd.allow != nil || s.rd.paths != nil {
		s.plain = appendPlain(s.plain[:0], name)
		shown = s.rd.allow == nil || s.rd.allow[string(s.plain)]
		hide = s.trail.member(s.plain) || hide
	}
	return hide, shown
}

// mentions reports whether a string contains something like secret=x: JSON, a
// URL or a query of GraphQL within JSON do.
func (s *jsonScan) mentions(v []byte, f stringFlags) bool {
	if f&hasEscape != 0 {
		s.text = appendUnescaped(s.text[:0], v)
		v = s.text
	}
	for range 3 { // as often as in a query
		if s.rd.mentions(v) {
			return true
		}
		if bytes.IndexByte(v, '%') < 0 {
			return false
		}
		s.plain = appendDecoded(s.plain[:0], v)
		if len(s.plain) == len(v) {
			return false
		}
		s.text = append(s.text[:0], s.plain...)
		v = s.text
	}
	return s.rd.mentions(v)
}

// appendDecoded appends v without its percent-encoding. What is none stays.
func appendDecoded(dst, v []byte) []byte {
	for i := 0; i < len(v); i++ {
		c := v[i]
		if c == '%' && i+2 < len(v) && isHex(v[i+1]) && isHex(v[i+2]) {
			c = unhex(v[i+1])<<4 | unhex(v[i+2])
			i += 2
		}
		dst = append(dst, c)
	}
	return dst
}

type stringFlags uint8

// What a string contains; those from stops on need a closer look.
const (
	hasMark   stringFlags = 1 << iota // = or : or %, or an escape that may be one
	hasEscape                         // a backslash
	isCut                             // the end of input instead of its own
	stops
)

const (
	isQuote   = stops
	isEscape  = stops << 1
	isControl = stops << 2
)

var stringClass = func() (class [256]stringFlags) {
	for c := range ' ' {
		class[c] = isControl
	}
	class['"'], class['\\'] = isQuote, isEscape
	class['='], class[':'], class['%'] = hasMark, hasMark, hasMark
	return class
}()

// scanString returns where the quote stands that ends the string beginning at i,
// len(p) if there is none, or below 0 if it is no string.
func scanString(p []byte, i int) (end int, f stringFlags) {
	for i < len(p) {
		c := stringClass[p[i]]
		if c < stops {
			f |= c
			i++
			continue
		}
		switch c {
		case isQuote:
			return i, f
		case isControl:
			return -1, f
		}
		f |= hasEscape
		if i++; i == len(p) {
			break
		}
		switch p[i] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			i++
		case 'u':
			i++
			f |= hasMark
			for end := i + 4; i < end && i < len(p); i++ {
				if !isHex(p[i]) {
					return -1, f
				}
			}
		default:
			return -1, f
		}
	}
	return len(p), f | isCut
}

// scanScalar returns where the number or literal ends that begins at i, below 0
// if it is neither, and whether it is whole.
func scanScalar(p []byte, i int) (end int, whole bool) {
	switch p[i] {
	case 't':
		return scanLiteral(p, i, "true")
	case 'f':
		return scanLiteral(p, i, "false")
	case 'n':
		return scanLiteral(p, i, "null")
	case '-':
		i++
	}
	digits := func() bool {
		start := i
		for i < len(p) && isDigit(p[i]) {
			i++
		}
		return i > start
	}
	if i < len(p) && p[i] == '0' {
		i++
	} else if !digits() {
		return endOr(p, i), false
	}
	if i < len(p) && p[i] == '.' {
		if i++; !digits() {
			return endOr(p, i), false
		}
	}
	if i < len(p) && p[i]|0x20 == 'e' {
		if i++; i < len(p) && (p[i] == '+' || p[i] == '-') {
			i++
		}
		if !digits() {
			return endOr(p, i), false
		}
	}
	return i, true
}

func scanLiteral(p []byte, i int, literal string) (end int, whole bool) {
	n := min(len(literal), len(p)-i)
	if string(p[i:i+n]) != literal[:n] {
		return -1, false
	}
	return i + n, n == len(literal)
}

// endOr returns i if that is the end of p, so that p may go on well, else -1.
func endOr(p []byte, i int) int {
	if i == len(p) {
		return i
	}
	return -1
}

// appendUnescaped appends the text of a valid string, or of its beginning.
func appendUnescaped(dst, s []byte) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			dst = append(dst, s[i])
			continue
		}
		if i++; i == len(s) {
			break
		}
		switch c := s[i]; c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r := hexRune(s[i+1:])
			i += 4
			if utf16.IsSurrogate(r) && i+2 < len(s) && s[i+1] == '\\' && s[i+2] == 'u' {
				if pair := utf16.DecodeRune(r, hexRune(s[i+3:])); pair != utf8.RuneError {
					r = pair
					i += 6
				}
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// hexRune returns the character whose four digits s begins with.
func hexRune(s []byte) (r rune) {
	for _, c := range s[:min(4, len(s))] {
		r = r<<4 | rune(unhex(c))
	}
	return r
}

func isJSONSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isHex(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	if isDigit(c) {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}
