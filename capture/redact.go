package capture

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
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
	// bodyNames of them are no secrets in documents, where most often they are
	// those of an error and of an entry.
	bodyNames = []string{"code", "key"}

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
	names  *names
	common map[string]bool // verdicts on commonHeaders
	allow  map[string]bool // the names that are shown, if not nil
	paths  *pathSet        // nil if there are none
	off    bool
}

// newRedactor returns the redactor that o asks for, or what is wrong with o.
func newRedactor(o *Options) (*redactor, error) {
	rd := &redactor{
		names:  newNames(append(slices.Clone(o.Redact), secretParts...), secretNames, bodyNames),
		common: make(map[string]bool, len(commonHeaders)),
		off:    o.DangerouslyKeepSecrets,
	}
	var errs []error
	for _, name := range o.Redact {
		if len(appendPlain(nil, name)) == 0 {
			errs = append(errs, fmt.Errorf("capture: Redact: %q has neither a letter nor a digit", name))
		}
	}
	if o.AllowOnly != nil {
		rd.allow = make(map[string]bool, len(o.AllowOnly))
		for _, name := range o.AllowOnly {
			rd.allow[string(appendPlain(nil, name))] = true
		}
	}
	paths, faults := parsePaths(o.RedactPaths)
	rd.paths = paths
	for _, name := range commonHeaders {
		rd.common[name] = rd.hidesValueOf(name)
	}
	return rd, errors.Join(append(errs, faults...)...)
}

// headerIsSecret reports whether the values of a header field are masked.
func (rd *redactor) headerIsSecret(name string) bool {
	if rd.off {
		return false
	}
	if secret, ok := rd.common[name]; ok {
		return secret
	}
	return rd.hidesValueOf(name)
}

// hidesValueOf reports whether the value of a header field or parameter is
// masked for its name.
func (rd *redactor) hidesValueOf(name string) bool {
	if isSecretIn(rd.names, name, inHead) {
		return true
	}
	if rd.allow == nil {
		return false
	}
	var room [64]byte
	return !rd.allow[string(appendPlain(room[:0], name))]
}

// query returns a raw query with the values of secret parameters masked. What
// it cannot read it masks.
func (rd *redactor) query(q string) string {
	if rd.off {
		return q
	}
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
			if err != nil || rd.hidesValueOf(name) || rd.hidesWithin(name) || rd.hides(param[value:end]) {
				return value
			}
		} else if rd.allow != nil && at < end {
			return at // a value without a name
		}
		at = end + 1
	}
	return len(param)
}

// hidesWithin reports whether one of the names in a name such as user[pin][0] is
// secret.
func (rd *redactor) hidesWithin(name string) bool {
	_, inner, _ := strings.Cut(name, "[")
	for inner != "" {
		var part string
		part, inner, _ = strings.Cut(inner, "[")
		if isSecretIn(rd.names, part, inHead) {
			return true
		}
	}
	return false
}

// hides reports whether a value contains something like secret=x or "secret":x,
// as the URL or the JSON that a parameter carries may, percent-encoded once more
// or not.
func (rd *redactor) hides(value string) bool {
	for range 3 {
		for i := range len(value) {
			if c := value[i]; (c == '=' || c == ':') && isSecretIn(rd.names, lastName(value[:i]), inHead) {
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
func lastName[T string | []byte](s T) T {
	end := len(s)
	for end > 0 && strings.IndexByte("\"'\\] \t", s[end-1]) >= 0 {
		end--
	}
	start := end
	for start > 0 && end-start < 128 && isNameByte(s[start-1]) {
		start--
	}
	return s[start:end]
}

func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '_' || c == '-' || c == '.' || c >= 0x80
}

// text masks what a header value shows of URLs: the password before a host and
// the secrets of query and fragment. Location and Referer carry them.
func (rd *redactor) text(v string) string {
	if rd.off {
		return v
	}
	if strings.IndexByte(v, '?') < 0 && strings.IndexByte(v, '#') < 0 && strings.IndexByte(v, '@') < 0 {
		return v // as nearly all values
	}
	if len(v) > longestText {
		return rd.text(v[:longestText/2]) + mask
	}
	v = withoutPasswords(v)
	if i := strings.IndexAny(v, "?#"); i >= 0 {
		if q := rd.query(v[i+1:]); q != v[i+1:] {
			return v[:i+1] + q
		}
	}
	return v
}

// withoutPasswords masks what stands before the hosts of the URLs in v.
func withoutPasswords(v string) string {
	var b strings.Builder
	done := 0 // v[:done] is in b
	for start := 0; ; {
		i := strings.Index(v[start:], "://")
		if i < 0 {
			break
		}
		start += i + len("://")
		end := len(v)
		if j := strings.IndexAny(v[start:], "/?#"); j >= 0 {
			end = start + j
		}
		if j := strings.LastIndexByte(v[start:end], '@'); j >= 0 {
			b.WriteString(v[done:start])
			b.WriteString(mask)
			done = start + j
		}
	}
	if done == 0 {
		return v
	}
	b.WriteString(v[done:])
	return b.String()
}

// path masks the parameters of path segments, such as ;jsessionid=.
func (rd *redactor) path(p string) string {
	if rd.off {
		return p
	}
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
