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

// start starts the demo upstream if a route needs it and it does not run yet.
func (s *demoServer) start(routes []config.Route, log *slog.Logger) error {
	if s.URL != "" || !slices.ContainsFunc(routes, func(r config.Route) bool { return usesDemo(r.Upstreams) || usesDemo(r.Fallback.Upstreams) }) {
		return nil
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.URL = "http://" + ln.Addr().String()
	s.http.Handler = demo.Handler()
	s.http.ReadHeaderTimeout = 5 * time.Second
	s.http.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	go s.http.Serve(ln)
	return nil
}

func usesDemo(us []config.Upstream) bool {
	return slices.ContainsFunc(us, func(u config.Upstream) bool { return u.URL == config.Demo })
}

// Close ends the demo upstream at once.
func (s *demoServer) Close() { s.http.Close() }
