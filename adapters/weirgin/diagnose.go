package weirgin

import (
	"log/slog"
	"net/http"
	"sync"

	"github.com/gin-gonic/gin"
)

// What is worth a warning is worth one a process.
var trustOnce, abortOnce sync.Once

// page has a section for each code.
const page = "https://github.com/goweir/weir/blob/main/docs/diagnostics.md#"

// diagnoseTrust looks once for each use of the package: a process may have
// several engines.
func diagnoseTrust(looked *sync.Once, c *gin.Context) {
	looked.Do(func() {
		if trustsEverybody(c) {
			trustOnce.Do(func() {
				const code = "gin-trusts-any-peer"
				slog.Warn("weirgin: Gin believes every client about its address: c.ClientIP() is what X-Forwarded-For says. "+
					"Call Engine.SetTrustedProxies with your proxies, or with nil", "code", code, "docs", page+code)
			})
		}
	})
}

// trustsEverybody asks the engine, which does not tell its settings, what it
// would make of requests from addresses that are nobody's (RFC 5737, RFC 3849).
func trustsEverybody(c *gin.Context) bool {
	const claimed = "203.0.113.1"
	asked := c.Copy()
	for _, peer := range []string{"192.0.2.1:1", "[2001:db8::1]:1"} {
		asked.Request = &http.Request{RemoteAddr: peer, Header: http.Header{"X-Forwarded-For": {claimed}, "X-Real-Ip": {claimed}}}
		if asked.ClientIP() == claimed {
			return true
		}
	}
	return false
}

func diagnoseAbort(err error) {
	abortOnce.Do(func() {
		const code = "gin-abort-lost"
		slog.Warn("weirgin: an answer was aborted, and the connection could not be broken: below gin.Recovery the client may take half of it for the whole. "+
			"A writer outside needs an Unwrap method", "code", code, "docs", page+code, "error", err)
	})
}
