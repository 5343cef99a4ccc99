package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/goweir/weir/examples/gateway/internal/config"
)

// maxHeaderBytes bounds a request's header; net/http allows 1 MiB, most of which
// no honest client needs.
const maxHeaderBytes = 32 << 10

// A server serves one handler and ends in an orderly way.
//
// It sets no WriteTimeout and no ReadTimeout: they bound a whole exchange and so
// cut downloads, uploads and event streams that are well. What bounds a body
// that does not move is the proxy's ClientIdle, and lingering for the answers
// that the proxy has no part in.
type server struct {
	http     *http.Server
	gateway  *gateway
	leave    time.Duration
	shutdown time.Duration
	health   *health
	metrics  *metrics
	log      *slog.Logger

	cut      context.CancelCauseFunc // cancels every request
	inFlight sync.RWMutex            // held for reading by every request
}

// errShutdown is why requests are cancelled that did not end in time.
var errShutdown = errors.New("the gateway shuts down")

func newServer(g *gateway, t config.Timeouts, state *health, m *metrics, log *slog.Logger) *server {
	ctx, cut := context.WithCancelCause(context.Background())
	s := &server{
		gateway: g, leave: time.Duration(t.Leave), shutdown: time.Duration(t.Shutdown),
		health: state, metrics: m, log: log, cut: cut,
	}
	s.http = &http.Server{
		Handler:           s.counted(g),
		ReadHeaderTimeout: time.Duration(t.ReadHeader),
		IdleTimeout:       time.Duration(t.Idle),
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(serverLog(log), slog.LevelWarn),
		ConnState:         m.connection,
		TLSConfig:         &tls.Config{GetCertificate: g.certificate},
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	return s
}

// counted lets drain wait for requests. http.Server.Shutdown knows nothing of
// upgraded connections, and Close does not wait for handlers, but the audit
// must have the records of both. A request that begins after that waits for the
// end of the process.
func (s *server) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.inFlight.RLock()
		defer s.inFlight.RUnlock()
		s.metrics.inFlight.Inc()
		defer s.metrics.inFlight.Dec()
		next.ServeHTTP(w, r)
	})
}

// lingering bounds what happens when the handler has returned. Before it sends
// a short answer net/http reads what is left of the request's body, without a
// deadline: the client of a refused upload could hold the connection for ever
// by sending nothing. The answer is written after that, so it has longer.
func lingering(next http.Handler, limit time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		rc := http.NewResponseController(w)
		if r.Body != http.NoBody {
			rc.SetReadDeadline(time.Now().Add(limit))
		}
		rc.SetWriteDeadline(time.Now().Add(2 * limit))
	})
}

// serve returns when the first signal came and every request has ended. After
// the shutdown timeout, or a second signal, it cuts those that have not.
func (s *server) serve(ln net.Listener, signals <-chan os.Signal) error {
	failed := make(chan error, 1)
	go func() {
		if c, _ := s.gateway.chain(); c.cert != nil {
			failed <- s.http.ServeTLS(ln, "", "")
			return
		}
		failed <- s.http.Serve(ln)
	}()
	if err := s.untilSignal(failed, signals); err != nil {
		return err
	}
	s.takeLeave(signals)
	s.log.Info("no new connections: waiting for requests in flight", "at_most", s.shutdown)
	ctx, cancel := context.WithTimeout(context.Background(), s.shutdown)
	defer cancel()
	go func() {
		for {
			select {
			case sig := <-signals:
				if sig == syscall.SIGHUP {
					continue
				}
				cancel()
			case <-ctx.Done():
			}
			return
		}
	}()
	s.drain(ctx)
	return nil
}

// untilSignal returns when a signal says that the gateway is to end. SIGHUP says
// that it is to look at its files again.
func (s *server) untilSignal(failed <-chan error, signals <-chan os.Signal) error {
	for {
		select {
		case err := <-failed:
			return err
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				s.gateway.reopen()
				s.gateway.reload()
				continue
			}
			s.health.draining.Store(true)
			s.log.Info("not ready any more", "signal", sig.String())
			return nil
		}
	}
}

// takeLeave gives whoever asks /readyz the time to send new clients elsewhere.
// Those that are here are asked to open their next connection elsewhere, too.
func (s *server) takeLeave(signals <-chan os.Signal) {
	if s.leave == 0 {
		return
	}
	s.http.SetKeepAlivesEnabled(false)
	s.log.Info("new connections are taken for a while yet", "leave", s.leave)
	for over := time.After(s.leave); ; {
		select {
		case sig := <-signals: // whoever sends a third one wants it to end at once
			if sig == syscall.SIGHUP {
				continue
			}
		case <-over:
		}
		return
	}
}

// drain returns when no handler runs any more. When ctx ends it cancels the
// requests that do and closes their connections.
func (s *server) drain(ctx context.Context) {
	idle := make(chan struct{})
	for _, p := range s.gateway.proxies() {
		// Those that do not answer are left to cut, so that the audit says so.
		go p.Shutdown(context.WithoutCancel(ctx))
	}
	err := s.http.Shutdown(ctx)
	go func() {
		s.inFlight.Lock()
		close(idle)
	}()
	if err == nil {
		select {
		case <-idle:
			return
		case <-ctx.Done():
		}
	}
	s.log.Warn("cutting requests that are still in flight")
	s.cut(errShutdown)
	s.http.Close()
	select {
	case <-idle:
	case <-time.After(5 * time.Second):
		s.log.Error("requests do not end although they were cut")
	}
}
