package main

import (
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/goweir/weir/examples/gateway/internal/config"
	"github.com/goweir/weir/examples/gateway/internal/demo"
)

// A demoServer is the demo upstream, listening on a port of its own on the
// loopback interface.
type demoServer struct {
	URL  string
	http http.Server
}

// startDemo starts the demo upstream if a route needs it.
func startDemo(routes []config.Route, log *slog.Logger) (*demoServer, error) {
	s := new(demoServer)
	if !slices.ContainsFunc(routes, func(r config.Route) bool { return slices.Contains(r.Upstreams, config.Demo) }) {
		return s, nil
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.URL = "http://" + ln.Addr().String()
	s.http.Handler = demo.Handler()
	s.http.ReadHeaderTimeout = 5 * time.Second
	s.http.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	go s.http.Serve(ln)
	return s, nil
}

// Close ends the demo upstream at once.
func (s *demoServer) Close() { s.http.Close() }
