package capture

import (
	"encoding/base64"
	"unicode/utf8"
)

// asText returns captured bytes as text, and false if they are not UTF-8. A cut
// body may end within a character, which is left out then, as OpenTelemetry asks
// for http.request.body.content.
func asText(p []byte, truncated bool) ([]byte, bool) {
	if truncated {
		p = p[:len(p)-partialRune(p)]
	}
	return p, utf8.Valid(p)
}

func appendBase64(b, p []byte) []byte { return base64.StdEncoding.AppendEncode(b, p) }

// partialRune returns how many bytes at the end of s begin a character of which
// more bytes would follow.
func partialRune[T string | []byte](s T) int {
	for n := 1; n < utf8.UTFMax && n <= len(s); n++ {
		c := s[len(s)-n]
		if utf8.RuneStart(c) {
			if utf8.FullRune([]byte(s[len(s)-n:])) {
				return 0
			}
			return n
		}
	}
	return 0
}
