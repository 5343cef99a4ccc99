package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/goweir/weir/examples/gateway/internal/config"
)

// A lookout is the listener for those who look after the gateway.
type lookout struct {
	url  string // empty: there is none
	http http.Server
}

// startLookout listens where the configuration says, if it does. It serves until
// the process ends, so that it can be asked how the draining goes.
func startLookout(c config.Admin, h http.Handler, log *slog.Logger) (*lookout, error) {
	l := new(lookout)
	if c.Listen == "" {
		return l, nil
	}
	ln, err := net.Listen("tcp", string(c.Listen))
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	l.url = "http://" + ln.Addr().String()
	l.http.Handler = h
	l.http.ReadHeaderTimeout = 5 * time.Second
	l.http.IdleTimeout = time.Minute
	l.http.MaxHeaderBytes = maxHeaderBytes
	l.http.ErrorLog = slog.NewLogLogger(serverLog(log), slog.LevelWarn)
	go l.http.Serve(ln)
	return l, nil
}

// Close ends it at once.
func (l *lookout) Close() { l.http.Close() }

func (l *lookout) describe(w io.Writer) {
	if l.url != "" {
		fmt.Fprintf(w, "  health, metrics and profiles: %s\n", l.url)
	}
}
