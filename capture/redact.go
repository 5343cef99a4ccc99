package capture

import (
	"bytes"
	"net/url"
	"strings"
)

const (
	// mask stands for a secret value. It is valid in a header, a query and JSON.
	mask = "REDACTED"

	// longestText is how much of a URL is searched for secrets. What is longer is
	// masked from there on, because searching costs more than sending.
	longestText = 16 << 10
)

// Names are compared in lower case and without punctuation, so that X-Api-Key,
// x_api_key and apiKey are one.
var (
	// secretParts make a name secret wherever they occur in it.
	secretParts = []string{
		"accesskey", "apikey", "assertion", "authkey", "authorization", "bearer", "cookie",
		"credential", "functionskey", "hmac", "jwt", "passcode", "passphrase", "passwd",
		"password", "privatekey", "samlresponse", "secret", "sessionid", "signature",
		"subscriptionkey", "token",
	}
	// secretNames are too short or too common to be looked for inside a name.
	secretNames = []string{"auth", "code", "dpop", "key", "otp", "pass", "pin", "pwd", "session", "sid", "sig"}

	// commonHeaders are judged once, because judging costs more than copying.
	commonHeaders = []string{
		"Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language", "Accept-Ranges",
		"Access-Control-Allow-Origin", "Age", "Allow", "Authorization", "Cache-Control",
		"Connection", "Content-Disposition", "Content-Encoding", "Content-Language",
		"Content-Length", "Content-Range", "Content-Security-Policy", "Content-Type", "Cookie",
		"Date", "Dnt", "Etag", "Expect", "Expires", "Forwarded", "If-Match",
		"If-Modified-Since", "If-None-Match", "Last-Modified", "Link", "Location", "Origin",
		"Pragma", "Priority", "Ratelimit", "Ratelimit-Policy", "Range", "Referer",
		"Referrer-Policy", "Retry-After", "Sec-Ch-Ua", "Sec-Ch-Ua-Mobile",
		"Sec-Ch-Ua-Platform", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site",
		"Sec-Fetch-User", "Server", "Set-Cookie", "Strict-Transport-Security", "Te",
		"Traceparent", "Tracestate", "Trailer", "Transfer-Encoding", "Upgrade",
		"Upgrade-Insecure-Requests", "User-Agent", "Vary", "Via", "Www-Authenticate",
		"X-Api-Key", "X-Content-Type-Options", "X-Forwarded-For", "X-Forwarded-Host",
		"X-Forwarded-Proto", "X-Frame-Options", "X-Real-Ip", "X-Request-Id",
	}
)

// A redactor masks by name. It does not change after newRedactor.
type redactor struct {
	parts  [][]byte
	names  map[string]bool
	common map[string]bool // verdicts on commonHeaders
}

// newRedactor returns a redactor that also masks names that contain one of more.
func newRedactor(more []string) *redactor {
	rd := &redactor{
		names:  make(map[string]bool, len(secretNames)),
		common: make(map[string]bool, len(commonHeaders)),
	}
	for _, name := range append(more, secretParts...) {
		if part := appendPlain(nil, name); len(part) > 0 {
			rd.parts = append(rd.parts, part)
		}
	}
	for _, name := range secretNames {
		rd.names[name] = true
	}
	for _, name := range commonHeaders {
		rd.common[name] = rd.isSecret(name)
	}
	return rd
}

func (rd *redactor) headerIsSecret(name string) bool {
	if secret, ok := rd.common[name]; ok {
		return secret
	}
	return rd.isSecret(name)
}

func (rd *redactor) isSecret(name string) bool {
	var room [64]byte
	plain := appendPlain(room[:0], name)
	if rd.names[string(plain)] {
		return true
	}
	for _, part := range rd.parts {
		if bytes.Contains(plain, part) {
			return true
		}
	}
	return false
}

// appendPlain appends the letters and digits of name in lower case.
func appendPlain(dst []byte, name string) []byte {
	for i := range len(name) {
		switch c := name[i]; {
		case 'A' <= c && c <= 'Z':
			dst = append(dst, c+'a'-'A')
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c >= 0x80:
			dst = append(dst, c)
		}
	}
	return dst
}

// query returns a raw query with the values of secret parameters masked. What
// it cannot read it masks.
func (rd *redactor) query(q string) string {
	if len(q) > longestText {
		q = q[:longestText]
		return rd.query(q[:strings.LastIndexByte(q, '&')+1]) + mask
	}
	var b strings.Builder
	done := 0 // q[:done] is in b
	for start := 0; start < len(q); {
		end := len(q)
		if i := strings.IndexByte(q[start:], '&'); i >= 0 {
			end = start + i
		}
		if keep := rd.keepOfParam(q[start:end]); start+keep < end {
			b.WriteString(q[done : start+keep])
			b.WriteString(mask)
			done = end
		}
		start = end + 1
	}
	if done == 0 {
		return q
	}
	b.WriteString(q[done:])
	return b.String()
}

// keepOfParam returns how much of a parameter may be shown: all of it, or what
// precedes the value. Some servers end parameters with a semicolon, so a name
// may follow one, but a secret does not end there.
func (rd *redactor) keepOfParam(param string) int {
	for at := 0; at < len(param); {
		end := len(param)
		if i := strings.IndexByte(param[at:], ';'); i >= 0 {
			end = at + i
		}
		if i := strings.IndexByte(param[at:end], '='); i >= 0 {
			value := at + i + 1
			name, err := url.QueryUnescape(param[at : value-1])
			if err != nil || rd.isSecret(name) || rd.hides(param[value:end]) {
				return value
			}
		}
		at = end + 1
	}
	return len(param)
}

// hides reports whether a value contains something like secret=x or "secret":x,
// as the URL or the JSON that a parameter carries may, percent-encoded once more
// or not.
func (rd *redactor) hides(value string) bool {
	for range 3 {
		for i := range len(value) {
			if c := value[i]; (c == '=' || c == ':') && rd.isSecret(lastName(value[:i])) {
				return true
			}
		}
		if !strings.Contains(value, "%") {
			return false
		}
		plain, err := url.QueryUnescape(value)
		if err != nil {
			return true
		}
		value = plain
	}
	return strings.Contains(value, "%") // nobody encodes that often without a reason to hide
}

// lastName returns the name that s ends with, without quotes and brackets around
// it and no longer than any name we know of.
func lastName(s string) string {
	s = strings.TrimRight(s, "\"'] \t")
	start := len(s)
	for start > 0 && len(s)-start < 128 && isNameByte(s[start-1]) {
		start--
	}
	return s[start:]
}

func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '_' || c == '-' || c == '.' || c >= 0x80
}

// text masks what a header value shows of URLs: the password before a host and
// the secrets of query and fragment. Location and Referer carry them.
func (rd *redactor) text(v string) string {
	if strings.IndexByte(v, '?') < 0 && strings.IndexByte(v, '#') < 0 && strings.IndexByte(v, '@') < 0 {
		return v // as nearly all values
	}
	if len(v) > longestText {
		return rd.text(v[:longestText/2]) + mask
	}
	if i := strings.Index(v, "://"); i >= 0 {
		start := i + len("://")
		end := len(v)
		if j := strings.IndexAny(v[start:], "/?#"); j >= 0 {
			end = start + j
		}
		if j := strings.LastIndexByte(v[start:end], '@'); j >= 0 {
			v = v[:start] + mask + v[start+j:]
		}
	}
	if i := strings.IndexAny(v, "?#"); i >= 0 {
		if q := rd.query(v[i+1:]); q != v[i+1:] {
			return v[:i+1] + q
		}
	}
	return v
}

// path masks the parameters of path segments, such as ;jsessionid=.
func (rd *redactor) path(p string) string {
	if len(p) > longestText {
		p = p[:longestText]
		return rd.path(p[:strings.LastIndexByte(p, '/')+1]) + mask
	}
	if !strings.Contains(p, ";") {
		return p
	}
	segments := strings.Split(p, "/")
	for i, segment := range segments {
		if name, params, ok := strings.Cut(segment, ";"); ok && rd.hides(params) {
			segments[i] = name + ";" + mask
		}
	}
	return strings.Join(segments, "/")
}
