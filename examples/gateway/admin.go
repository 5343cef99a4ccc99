package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/examples/gateway/internal/config"
	"github.com/goweir/weir/examples/gateway/internal/inspect"
)

// An admin is the listener for those who look after the gateway. Clients of the
// gateway have no way to it.
type admin struct {
	ln        net.Listener       // nil: there is none
	inspector *inspect.Inspector // nil: there is none
	token     string
	http      http.Server
	log       *slog.Logger
}

// openAdmin listens where the configuration says, and takes no connection yet.
// lookout answers what programs ask; lost says how many records the audit has
// lost.
func openAdmin(c config.Admin, lookout http.Handler, lost func() int64, log *slog.Logger) (*admin, error) {
	a := &admin{token: c.Token, log: log}
	if c.Listen == "" {
		return a, nil
	}
	mux := http.NewServeMux()
	mux.Handle("/", lookout)
	if c.Inspector {
		if a.token == "" {
			a.token = rand.Text()
		}
		in, err := inspect.New(inspect.Options{Token: a.token, Actions: c.Actions, Lost: lost, Log: log})
		if err != nil {
			return nil, err
		}
		a.inspector = in
		mux.Handle("/inspector/", http.StripPrefix("/inspector", in))
	}
	ln, err := net.Listen("tcp", string(c.Listen))
	if err != nil {
		return nil, err
	}
	a.ln = ln
	a.http.Handler = mux
	a.http.ReadHeaderTimeout = 5 * time.Second
	a.http.ReadTimeout = 10 * time.Second // nothing large is sent here
	a.http.IdleTimeout = time.Minute
	a.http.MaxHeaderBytes = maxHeaderBytes
	a.http.ErrorLog = slog.NewLogLogger(serverLog(log), slog.LevelWarn)
	return a, nil
}

// start begins to serve.
func (a *admin) start() {
	if a.ln != nil {
		go a.http.Serve(a.ln)
	}
}

// sink returns where records are to go as well, nil if nowhere.
func (a *admin) sink() capture.Sink {
	if a.inspector == nil {
		return nil
	}
	return a.inspector.Sink()
}

// describe prints where health and the inspector are. The token is in the fragment, which
// browsers keep to themselves.
func (a *admin) describe(w io.Writer) {
	if a.ln != nil {
		fmt.Fprintf(w, "  health, metrics and profiles: http://%s\n", reachable(a.ln.Addr().(*net.TCPAddr).AddrPort()))
	}
	if a.inspector != nil {
		fmt.Fprintf(w, "  inspector: http://%s/inspector/#%s\n", reachable(a.ln.Addr().(*net.TCPAddr).AddrPort()), url.PathEscape(a.token))
	}
}

// reachable returns an address by which a browser on this machine gets to one
// that is listened on.
func reachable(a netip.AddrPort) string {
	if a.Addr().IsUnspecified() {
		return fmt.Sprintf("localhost:%d", a.Port())
	}
	return a.String()
}

// Close ends it at once: nobody's work is lost.
func (a *admin) Close() {
	if a.ln != nil {
		a.http.Close()
		a.ln.Close()
	}
}
