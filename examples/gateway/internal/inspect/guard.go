package inspect

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// policy lets the page have its own files and nothing else: no inline script or
// style, no frame, no form, no other host.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// guard lets nobody at the data who has not got the token.
//
// The token travels in the Authorization field, never in a cookie or a query:
// cookies are shared by all ports of a host, so the upstreams behind a gateway
// on 127.0.0.1 would get it, and queries end up in logs. The address that is
// printed has it in the fragment, which browsers send nowhere. The page itself
// holds nothing, so it needs none.
func guard(token string, next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if !ownHost(r.Host) {
			refuse(w, http.StatusMisdirectedRequest, "the host must be an address or localhost")
			return
		}
		if !ownOrigin(r) {
			refuse(w, http.StatusForbidden, "another site may not ask")
			return
		}
		if strings.HasPrefix(r.URL.Path, "/api/") {
			scheme, got, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			sum := sha256.Sum256([]byte(got))
			if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(sum[:], want[:]) != 1 {
				h.Set("WWW-Authenticate", "Bearer")
				refuse(w, http.StatusUnauthorized, "the token is missing or wrong: the gateway prints it when it starts")
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// ownHost reports whether no foreign page can be where a request for host comes
// from. DNS rebinding needs a name that its owner can point here, which an
// address is not, nor localhost (RFC 6761, section 6.3).
func ownHost(host string) bool {
	u := url.URL{Host: host}
	name := u.Hostname()
	if strings.EqualFold(name, "localhost") {
		return true
	}
	_, err := netip.ParseAddr(name)
	return err == nil
}

// ownOrigin reports whether a request comes from the page or from no page.
func ownOrigin(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin":
	case "none": // an address that somebody typed
	case "same-site", "cross-site":
		// A link may lead here, but only to the page.
		return r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Method == http.MethodGet && !strings.HasPrefix(r.URL.Path, "/api/")
	default:
		return false
	}
	origins := r.Header.Values("Origin")
	if len(origins) == 0 {
		return true
	}
	u, err := url.Parse(origins[0])
	return err == nil && len(origins) == 1 && u.Host == r.Host
}
