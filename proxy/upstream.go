package proxy

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// An upstream is a checked Upstream.
type upstream struct {
	name   string // for the log: scheme, host and base path
	scheme string
	host   string
	base   string // escaped, no slash at the end; "" or begins with one
}

// parseUpstream returns u, or every reason why it is none.
func parseUpstream(u Upstream) (up *upstream, faults []error) {
	target, err := url.Parse(u.URL)
	if err != nil {
		// The text may hold a password, and url.Error quotes it.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, []error{fmt.Errorf("is not a URL: %w", err)}
	}
	fault := func(why string) { faults = append(faults, fmt.Errorf("%q %s", target.Redacted(), why)) }
	if target.Scheme != "http" && target.Scheme != "https" {
		fault("has no scheme that is allowed: http or https")
	}
	if target.Hostname() == "" {
		fault("has no host")
	}
	if port := target.Port(); port != "" || strings.HasSuffix(target.Host, ":") {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			fault("has a port that is not allowed: 1 to 65535, or none")
		}
	}
	if target.User != nil {
		fault("holds user information, which is never sent: use WrapTransport to add credentials")
	}
	if target.RawQuery != "" || target.ForceQuery {
		fault("has a query: only a base path is allowed")
	}
	if target.Fragment != "" || strings.Contains(u.URL, "#") {
		fault("has a fragment: only a base path is allowed")
	}
	if hasDotSegment(target.Path) {
		fault("has a dot segment in its path")
	}
	if faults != nil {
		return nil, faults
	}
	up = &upstream{scheme: target.Scheme, host: target.Host, base: strings.TrimSuffix(target.EscapedPath(), "/")}
	up.name = up.scheme + "://" + up.host + up.base
	return up, nil
}

// route points u, which is the proxy's own copy, at path under the upstream's
// base. Everything but the query is replaced, so that nothing a client hid in
// an unusual part of its target gets through. path is escaped and begins with a
// slash.
func (up *upstream) route(u *url.URL, path string) error {
	escaped := up.base + path
	plain, err := url.PathUnescape(escaped)
	if err != nil {
		return err
	}
	*u = url.URL{
		Scheme:     up.scheme,
		Host:       up.host,
		Path:       plain,
		RawPath:    escaped, // always, so that nothing is escaped anew
		RawQuery:   u.RawQuery,
		ForceQuery: u.ForceQuery,
	}
	return nil
}
