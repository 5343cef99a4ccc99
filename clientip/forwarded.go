package clientip

import "strings"

// A Forwarded field has this syntax, RFC 7239 section 4:
//
//	Forwarded         = 1#forwarded-element
//	forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] )
//	forwarded-pair    = token "=" ( token / quoted-string )
//
// Commas and semicolons may stand within a quoted-string.

// lastComma returns the index of the last comma of s that is not within a
// quoted-string, or -1.
//
// It reads from the right, so that what a trusted proxy appended reads the same
// whatever the client sent before it. Read from the left, a client's unclosed
// quote would swallow the proxy's element. On a field without syntax errors
// both give the same: within a quoted-string every quote follows a backslash,
// and an opening quote follows "=". On one with errors the text to the right of
// the result may be anything; forParameter judges it.
func lastComma(s string) int {
	for i := len(s) - 1; i >= 0; i-- {
		switch s[i] {
		case ',':
			return i
		case '"':
			for i--; i >= 0 && (s[i] != '"' || i > 0 && s[i-1] == '\\'); i-- {
			}
		}
	}
	return -1
}

// forParameter returns the value of the "for" parameter of one
// forwarded-element, without quotes. It is not ok if the element is malformed,
// has no such parameter, or has it twice, which section 4 forbids.
//
// Quoted-pairs are not resolved: no character of an address needs one, and an
// address that contains a backslash is refused later.
func forParameter(element string) (value string, ok bool) {
	rest := element
	for {
		rest = trimLeft(rest)
		if rest == "" {
			return value, ok
		}
		if rest[0] != ';' {
			name, v, tail := cutPair(rest)
			if name == "" {
				return "", false
			}
			if strings.EqualFold(name, "for") {
				if ok {
					return "", false
				}
				value, ok = v, true
			}
			if rest = trimLeft(tail); rest == "" {
				return value, ok
			}
			if rest[0] != ';' {
				return "", false
			}
		}
		rest = rest[1:]
	}
}

// cutPair returns the forwarded-pair that s begins with and what follows it.
// The name is empty if s does not begin with one.
func cutPair(s string) (name, value, tail string) {
	n := tokenLen(s)
	if n == 0 || n == len(s) || s[n] != '=' {
		return "", "", ""
	}
	name, s = s[:n], s[n+1:]
	if strings.HasPrefix(s, `"`) {
		n := quotedLen(s)
		if n == 0 {
			return "", "", ""
		}
		return name, s[1 : n-1], s[n:]
	}
	if n = tokenLen(s); n == 0 {
		return "", "", ""
	}
	return name, s[:n], s[n:]
}

// tokenLen returns the length of the token, RFC 9110 section 5.6.2, that s
// begins with, or 0.
func tokenLen(s string) int {
	for i := range len(s) {
		if c := s[i]; !isAlphanumeric(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return i
		}
	}
	return len(s)
}

// quotedLen returns the length of the quoted-string, RFC 9110 section 5.6.4,
// that s begins with, quotes included, or 0.
func quotedLen(s string) int {
	for i := 1; i < len(s); i++ {
		c := s[i]
		if c == '"' {
			return i + 1
		}
		if c == '\\' {
			i++
			if i == len(s) {
				return 0
			}
			c = s[i]
		}
		if c < ' ' && c != '\t' || c == 0x7f {
			return 0
		}
	}
	return 0
}

// trimLeft removes optional white space, RFC 9110 section 5.6.3. It is a loop
// because strings.TrimLeft builds a set on each call, which a mebibyte of
// semicolons would pay for a million times.
func trimLeft(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	return s
}

func trim(s string) string {
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return trimLeft(s)
}
