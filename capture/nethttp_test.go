package capture_test

import (
	"testing"

	"github.com/goweir/weir/internal/stdtest"
)

// TestNetHTTP runs Go's own net/http tests with capture around every handler.
func TestNetHTTP(t *testing.T) {
	stdtest.NetHTTP(t, stdtest.Variant{Name: "capture", Source: `package shim

import (
	"io"
	"net/http"

	"github.com/goweir/weir/capture"
)

var record = capture.Middleware(capture.JSONL(io.Discard), nil)

func Wrap(h http.Handler) http.Handler { return record(h) }
`})
}
