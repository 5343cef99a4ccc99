package capture

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// mentions reports whether v contains a secret name followed by = or :.
func (rd *redactor) mentions(v []byte) bool {
	for i, c := range v {
		if (c == '=' || c == ':') && rd.endsInSecret(v[:i]) {
			return true
		}
	}
	return false
}

// endsInSecret reports whether the name that text ends in is secret, be it that
// of a URL's parameter or of a field.
func (rd *redactor) endsInSecret(text []byte) bool {
	name := lastName(text)
	where := inBody
	if i := len(text) - len(name) - 1; i >= 0 && (text[i] == '?' || text[i] == '&') {
		where = inHead
	}
	return isSecretIn(rd.names, name, where)
}

// scanText appends what is masked in free text, which has no fields: after a
// secret name and = or : what is in quotes, or else the rest of the line; and
// the content of XML elements with such a name.
func (rd *redactor) scanText(spans []span, p []byte) []span {
	var content span // of the element at hand
	for i := 0; i < len(p); i++ {
		var value span
		switch {
		case content.to > i && content.from <= i:
			value = span{i, content.to}
		case p[i] == '=' || p[i] == ':':
			if !rd.endsInSecret(p[:i]) {
				continue
			}
			value = valueAfter(p, i+1)
		case p[i] == '<' && content.to <= i:
			name := elementName(p[i+1:])
			local := name[bytes.LastIndexByte(name, ':')+1:]
			if isSecretIn(rd.names, local, inBody) {
				content = contentOf(p, i+1+len(name), name)
			}
			continue
		default:
			continue
		}
		if value.from < value.to {
			spans = append(spans, value)
		}
		i = max(i, value.to-1)
	}
	return spans
}

// valueAfter returns where the value stands whose name ended before i.
func valueAfter(p []byte, i int) span {
	// The second half of := and =>, the signs for a block in YAML, and line
	// ends: a value may begin on the next line.
	for i < len(p) && strings.IndexByte(" \t\r\n=:>|+-", p[i]) >= 0 {
		i++
	}
	if i == len(p) {
		return span{i, i}
	}
	if quote := p[i]; quote == '"' || quote == '\'' || quote == '`' {
		i++
		for end := i; end < len(p); end++ {
			switch p[end] {
			case '\\':
				end++
			case quote:
				return span{i, end}
			}
		}
		return span{i, len(p)}
	}
	if n := bytes.IndexAny(p[i:], "\r\n"); n >= 0 {
		return span{i, i + n}
	}
	return span{i, len(p)}
}

// elementName returns the name that p begins with, with its prefix.
func elementName(p []byte) []byte {
	n := 0
	for n < len(p) && n < 128 && (isNameByte(p[n]) || p[n] == ':') {
		n++
	}
	return p[:n]
}

// contentOf returns where the content stands of the element whose name ends at
// i, with the elements of that name within it. Its attributes are searched like
// other text.
func contentOf(p []byte, i int, name []byte) span {
	n := bytes.IndexByte(p[i:], '>')
	if n < 0 {
		return span{i, len(p)}
	}
	if n > 0 && p[i+n-1] == '/' {
		return span{i, i}
	}
	from := i + n + 1
	for to, open := from, 1; ; to++ {
		n := bytes.IndexByte(p[to:], '<')
		if n < 0 {
			return span{from, len(p)}
		}
		to += n
		tag := p[to+1:]
		switch {
		case bytes.HasPrefix(tag, []byte("/")):
			if bytes.Equal(elementName(tag[1:]), name) {
				if open--; open == 0 {
					return span{from, to}
				}
			}
		case bytes.Equal(elementName(tag), name):
			end := bytes.IndexByte(tag, '>')
			if end < 0 {
				return span{from, len(p)}
			}
			if tag[end-1] != '/' {
				open++
			}
			to += end
		}
	}
}

// scanForm appends what is masked in an urlencoded form.
func (rd *redactor) scanForm(spans []span, form string) []span {
	for start := 0; start < len(form); {
		end := len(form)
		if i := strings.IndexByte(form[start:], '&'); i >= 0 {
			end = start + i
		}
		if keep := rd.keepOfParam(form[start:end]); start+keep < end {
			spans = append(spans, span{start + keep, end})
		}
		start = end + 1
	}
	return spans
}

// A bodyKind is how a body is searched for secrets.
type bodyKind uint8

const (
	kindText    bodyKind = iota
	kindUnknown          // text, if it looks like it
	kindJSON
	kindForm
	kindParts // multipart, whose parts are not searched
)

func kindOf(contentType string) bodyKind {
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	switch {
	case strings.Contains(media, "json"):
		return kindJSON
	case media == "application/x-www-form-urlencoded":
		return kindForm
	case strings.HasPrefix(media, "multipart/"):
		return kindParts
	case strings.HasPrefix(media, "text/"):
		return kindText
	}
	return kindUnknown
}

// scanBody finds what is masked in a body, and with what; cut says that it may
// be a beginning only. It reports false for a body that cannot be searched, of
// which nothing may be shown.
func (s *jsonScan) scanBody(contentType string, p []byte, cut bool) (spans []span, with string, ok bool) {
	switch kind := kindOf(contentType); {
	case s.rd.off:
		return nil, "", true
	case kind == kindJSON:
		ok = s.scan(p, cut)
		return s.spans, maskedJSON, ok
	case kind == kindForm:
		s.spans = s.rd.scanForm(s.spans[:0], string(p))
		return s.spans, mask, true
	case kind == kindParts || bytes.IndexByte(p, 0) >= 0 || // UTF-16, say
		kind == kindUnknown && !isPlain(p, cut):
		return nil, "", false
	}
	// Without a Content-Type of its own JSON is text for net/http.
	if looksLikeJSON(p) {
		ok = s.scan(p, cut)
		return s.spans, maskedJSON, ok
	}
	if s.rd.allow != nil {
		return nil, "", false
	}
	s.spans = s.rd.scanText(s.spans[:0], p)
	return s.spans, mask, true
}

func looksLikeJSON(p []byte) bool {
	p = bytes.TrimLeft(bytes.TrimPrefix(p, byteOrderMark), " \t\r\n")
	if len(p) > 0 && p[0] == '[' { // which lines of a log begin with, too
		p = bytes.TrimLeft(p[1:], " \t\r\n[")
		return len(p) > 0 && (p[0] == '{' || p[0] == '"')
	}
	return len(p) > 0 && p[0] == '{'
}

// isPlain reports whether p is text as it stands: UTF-8 without control
// characters other than those of lines.
func isPlain(p []byte, cut bool) bool {
	for _, c := range p {
		if c < ' ' && c != '\n' && c != '\r' && c != '\t' && c != '\f' && c != recordSeparator {
			return false
		}
	}
	if cut {
		p = p[:len(p)-partialRune(p)]
	}
	return utf8.Valid(p)
}
