package weirecho

import (
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/labstack/echo/v5"
)

// code names the warning, and keeps its name for ever.
const (
	code = "echo-trusts-any-peer"
	page = "https://github.com/goweir/weir/blob/main/docs/diagnostics.md#"
)

// warned is the whole of this package's state: the warning is for whoever set
// the application up, who needs it once.
var warned sync.Once

// warn warns if the application believes anybody who names a client.
func warn(c *echo.Context) {
	e := c.Echo()
	if e == nil || e.IPExtractor == nil || !believes(e.IPExtractor) {
		return
	}
	warned.Do(func() {
		slog.Warn("weirecho: Echo's IPExtractor takes the client's address from header fields that any peer can send; "+
			"trust the addresses of your own proxies only", "code", code, "docs", page+code)
	})
}

// believes reports whether extract takes an address from a header field though
// the peer is a stranger.
func believes(extract echo.IPExtractor) (yes bool) {
	defer func() {
		if recover() != nil { // a request without a server is more than it can take
			yes = false
		}
	}()
	// RFC 5737: addresses that nobody has, and so nobody trusts; and one of a
	// private network, which is often trusted wherever it stands.
	for _, claimed := range []string{"198.51.100.7", "10.11.12.13"} {
		r := &http.Request{
			Method: "GET", URL: &url.URL{Path: "/"}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Host: "example.com", RemoteAddr: "192.0.2.1:1234", Body: http.NoBody,
			Header: http.Header{
				"X-Forwarded-For": {claimed}, "X-Real-Ip": {claimed}, "Forwarded": {"for=" + claimed},
				"True-Client-Ip": {claimed}, "Cf-Connecting-Ip": {claimed},
			},
		}
		if strings.Contains(extract(r), claimed) {
			return true
		}
	}
	return false
}
