package proxy

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strings"
)

const defaultRequestID = "X-Request-Id"

// maxRequestID is the length up to which an id is kept.
const maxRequestID = 128

// requestID returns the id in values if it is one to keep.
func requestID(values []string) (id string, ok bool) {
	if len(values) != 1 || values[0] == "" || len(values[0]) > maxRequestID {
		return "", false
	}
	id = values[0]
	for i := range len(id) {
		if c := id[i]; !isAlphanumeric(c) && strings.IndexByte("-._~+/=:@", c) < 0 {
			return "", false
		}
	}
	return id, true
}

// newRequestID returns 128 random bits.
func newRequestID() string {
	var raw [16]byte
	rand.Read(raw[:])
	var text [2 * len(raw)]byte
	hex.Encode(text[:], raw[:])
	return string(text[:])
}

// isRequestIDHeader reports whether name may be Config.RequestIDHeader: it has
// no twin, and nothing else depends on it.
func isRequestIDHeader(name string) bool {
	for i := range len(name) {
		if c := name[i]; !isAlphanumeric(c) && c != '-' {
			return false
		}
	}
	canonical := http.CanonicalHeaderKey(name)
	for _, taken := range hopByHop {
		if canonical == taken {
			return false
		}
	}
	switch canonical {
	case "", "Host", "Content-Length", "Via", "Expect":
		return false
	}
	return forwardingName(name) == foreign
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// isToken reports whether s is a token, RFC 9110 section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlphanumeric(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}
