package capture

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// A Field is a header field or an attribute.
type Field struct {
	Name, Value string
}

// A Header is the fields of a header or trailer, sorted by name and with
// secrets masked. Names are canonical, as [textproto.CanonicalMIMEHeaderKey]
// writes them; a field sent with several lines stands there several times, in
// the order of the lines.
type Header []Field

// Get returns the first value of the named field, in any case, or "".
func (h Header) Get(name string) string {
	name = textproto.CanonicalMIMEHeaderKey(name)
	for _, f := range h {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// Values returns all values of the named field, in any case.
func (h Header) Values(name string) []string {
	name = textproto.CanonicalMIMEHeaderKey(name)
	var values []string
	for _, f := range h {
		if f.Name == name {
			values = append(values, f.Value)
		}
	}
	return values
}

// appendHeader appends the fields of h to dst, masked, without those whose name
// begins with except, if that is not empty.
func (rd *redactor) appendHeader(dst Header, h http.Header, except string) Header {
	for name, values := range h {
		if except != "" && strings.HasPrefix(name, except) {
			continue
		}
		secret := rd.headerIsSecret(name)
		for _, v := range values {
			if secret {
				v = mask
			} else {
				v = rd.text(v)
			}
			dst = append(dst, Field{name, v})
		}
	}
	slices.SortStableFunc(dst, byName)
	return dst
}

// trailer returns the trailers in a response's header map, masked: those
// that the Trailer field announced, and those with net/http's prefix.
func (rd *redactor) trailer(h http.Header) Header {
	var trailer Header
	for _, names := range h["Trailer"] {
		for name := range strings.SplitSeq(names, ",") {
			name = http.CanonicalHeaderKey(textproto.TrimString(name))
			trailer = rd.appendHeader(trailer, http.Header{name: h[name]}, "")
		}
	}
	for name, values := range h {
		if name, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			trailer = rd.appendHeader(trailer, http.Header{name: values}, "")
		}
	}
	return trailer
}

func byName(a, b Field) int { return strings.Compare(a.Name, b.Name) }
