package crosstest

import (
	"io"
	"strings"
	"testing"

	"github.com/goweir/weir/internal/diagnose/diagnosetest"
)

// TestGinRecovery breaks an answer off below each framework's middleware that
// recovers: only Gin's takes it for a good end, and that is told, but not of a handler that
// is mounted by weirgin.
func TestGinRecovery(t *testing.T) {
	p := newProxy(t, scripted(t, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"))
	for name, h := range frameworks(p) {
		for proto, s := range fronts(t, h) {
			log := diagnosetest.Record(t)
			for range 2 {
				res, err := s.Client().Get(s.URL + "/x")
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				if err == nil {
					t.Errorf("%s, %s: half an answer looks whole", name, proto)
				}
			}
			if got := strings.Count(log.Codes(), "gin-recovery"); (got == 1) != (name == "Gin") || got > 1 {
				t.Errorf("%s, %s: told %q", name, proto, log.Codes())
			}
		}
	}
}
