// Package websocket has gorilla/websocket's own files beside this one when its
// tests run, put there by an overlay.
package websocket

import (
	"log/slog"
	"net/http"
	"net/http/httptest"

	"github.com/goweir/weir/proxy"
)

// newFront stands for httptest.NewServer: the server that is returned is a proxy
// in front of one with handler h.
func newFront(h http.Handler) *httptest.Server {
	return httptest.NewServer(inFrontOf(h))
}

func newTLSFront(h http.Handler) *httptest.Server {
	return httptest.NewTLSServer(inFrontOf(h))
}

func newUnstartedFront(h http.Handler) *httptest.Server {
	return httptest.NewUnstartedServer(inFrontOf(h))
}

// inFrontOf leaves the server behind open: the process ends with the tests.
func inFrontOf(h http.Handler) http.Handler {
	p, err := proxy.New(proxy.Config{
		Upstreams:    []proxy.Upstream{{URL: httptest.NewServer(h).URL}},
		PreserveHost: true, // the tests compare Origin with Host
		ErrorLog:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	return p
}
