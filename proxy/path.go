package proxy

import (
	"errors"
	"net/url"
	"strings"
)

// A prefix is a StripPrefix: its decoded segments.
type prefix []string

func parsePrefix(s string) (prefix, error) {
	if s == "" || s == "/" {
		return nil, nil
	}
	if s[0] != '/' {
		return nil, errors.New("does not begin with a slash")
	}
	if strings.ContainsAny(s, "?#") {
		return nil, errors.New("has a query or a fragment: only a path is allowed")
	}
	plain, err := url.PathUnescape(s)
	if err != nil {
		return nil, err
	}
	if hasDotSegment(plain) {
		return nil, errors.New("has a dot segment")
	}
	var p prefix
	for segment := range strings.SplitSeq(strings.TrimSuffix(s[1:], "/"), "/") {
		if segment == "" {
			return nil, errors.New("has an empty segment")
		}
		plain, _ := url.PathUnescape(segment) // as part of a valid whole
		p = append(p, plain)
	}
	return p, nil
}

// strip returns what follows p in an escaped path, at least a slash. It is not
// ok if the path does not begin with all of p's segments.
func (p prefix) strip(path string) (rest string, ok bool) {
	rest = path
	for _, want := range p {
		if rest == "" || rest[0] != '/' {
			return "", false
		}
		segment := rest[1:]
		if i := strings.IndexByte(segment, '/'); i >= 0 {
			segment = segment[:i]
		}
		// Decoded one by one: a %2F within a segment stays within it.
		if plain, err := url.PathUnescape(segment); err != nil || plain != want {
			return "", false
		}
		rest = rest[1+len(segment):]
	}
	if rest == "" {
		rest = "/"
	}
	return rest, true
}

// hasDotSegment reports whether a decoded path has a segment that some server
// reads as "here" or "up". Upstreams differ: a slash sent as %2F, which is one
// in a decoded path, is a separator to some, a backslash to others, and the
// parameters of RFC 3986 section 3.3 (";x") are cut off by servlet containers
// before the dots are looked at. What any of them might follow out of the base
// path is refused for all.
func hasDotSegment(path string) bool {
	for dot := strings.IndexByte(path, '.'); dot >= 0; {
		if dot == 0 || isSeparator(path[dot-1]) {
			end := path[dot+1:]
			end = strings.TrimPrefix(end, ".")
			if end == "" || isSeparator(end[0]) || end[0] == ';' {
				return true
			}
		}
		next := strings.IndexByte(path[dot+1:], '.')
		if next < 0 {
			break
		}
		dot += 1 + next
	}
	return false
}

func isSeparator(c byte) bool { return c == '/' || c == '\\' }
