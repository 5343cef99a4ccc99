package proxy

import (
	"net/http"

	"github.com/goweir/weir/internal/diagnose"
)

// warnRecovery warns if Gin's Recovery is around, which takes the panic of an
// answer that is broken off for an end like any other. This proxy, and what
// weirgin has mounted, break the connection by themselves; other handlers do not.
func warnRecovery(r *http.Request) {
	if diagnose.GinRecovery.Told() || !diagnose.Below("github.com/gin-gonic/gin.CustomRecoveryWithWriter") ||
		diagnose.Below("github.com/goweir/weir/adapters/weirgin.") {
		return
	}
	diagnose.GinRecovery.Tell(r.Context(), "proxy: gin.Recovery hides from net/http that answers are broken off; this one's connection was broken nevertheless, "+
		"but half an answer of another handler that panics with http.ErrAbortHandler looks whole: mount such handlers with weirgin.Handler")
}
