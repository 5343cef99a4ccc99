package weirecho4

import (
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/labstack/echo/v4"
)

// TestWarning: once per process, and only where strangers are believed.
func TestWarning(t *testing.T) {
	_, mine, _ := net.ParseCIDR("203.0.113.0/24")
	tests := []struct {
		name    string
		extract echo.IPExtractor
		warns   bool
	}{
		{"none, which is everybody in Echo v4", nil, true},
		{"direct", echo.ExtractIPDirect(), false},
		{"X-Forwarded-For of private networks", echo.ExtractIPFromXFFHeader(), false},
		{"X-Forwarded-For of one network", echo.ExtractIPFromXFFHeader(echo.TrustPrivateNet(false), echo.TrustIPRange(mine)), false},
		{"X-Real-IP of private networks", echo.ExtractIPFromRealIPHeader(), false},
		{"by hand", func(r *http.Request) string {
			first, _, _ := strings.Cut(r.Header.Get("X-Forwarded-For"), ",")
			return first
		}, true},
		{"a field of a CDN", func(r *http.Request) string { return r.Header.Get("Cf-Connecting-Ip") }, true},
		{"a private address of anybody", func(r *http.Request) string {
			if ip := net.ParseIP(r.Header.Get("X-Real-Ip")); ip != nil && ip.IsPrivate() {
				return ip.String()
			}
			return r.RemoteAddr
		}, true},
		{"one that needs a server", func(r *http.Request) string {
			return r.Context().Value(http.LocalAddrContextKey).(net.Addr).String()
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			warned = sync.Once{}
			var log bytes.Buffer
			defer slog.SetDefault(slog.Default())
			slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
			for range 2 { // two applications, two middlewares each
				e := echo.New()
				e.IPExtractor = tt.extract
				for range 2 {
					e.Use(Wrap(func(next http.Handler) http.Handler { return next }))
				}
				for range 2 {
					e.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
				}
			}
			want := 0
			if tt.warns {
				want = 1
			}
			if got := strings.Count(log.String(), "code=echo-trusts-any-peer"); got != want {
				t.Errorf("%d warnings, want %d: %s", got, want, log.String())
			}
		})
	}
}
