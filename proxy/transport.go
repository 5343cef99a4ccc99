package proxy

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// connections is the transport of one Proxy: an http.Transport, and from time to
// time a new one, because an http.Transport uses a connection for as long as it
// is busy, and so keeps talking to where the name once pointed (golang/go#23427).
type connections struct {
	cfg     *Config
	buffers *buffers
	current atomic.Pointer[generation]
}

type generation struct {
	*http.Transport
	born time.Time
}

func newConnections(cfg *Config, b *buffers) *connections {
	c := &connections{cfg: cfg, buffers: b}
	c.current.Store(&generation{newTransport(cfg, b), time.Now()})
	return c
}

func (c *connections) RoundTrip(r *http.Request) (*http.Response, error) {
	g := c.current.Load()
	if age := c.cfg.Timeouts.ConnAge; age > 0 && time.Since(g.born) >= age {
		g = c.replace(g)
	}
	return g.RoundTrip(r)
}

// replace puts a new transport in the place of old, unless that was done, and
// returns the one that is there.
func (c *connections) replace(old *generation) *generation {
	g := &generation{newTransport(c.cfg, c.buffers), time.Now()}
	if !c.current.CompareAndSwap(old, g) {
		return c.current.Load()
	}
	// It closes those that become idle later, too, until the transport is used
	// again, and then what is left ends by itself (IdleConn).
	old.CloseIdleConnections()
	return g
}

func (c *connections) renew() { c.replace(c.current.Load()) }

// CloseIdleConnections is what http.Client looks for.
func (c *connections) CloseIdleConnections() { c.current.Load().CloseIdleConnections() }

// newTransport returns the transport of one Proxy. Transports are not shared:
// their limits are those of one configuration.
func newTransport(cfg *Config, b *buffers) *http.Transport {
	dialer := &net.Dialer{Timeout: cfg.Timeouts.Dial}
	t := &http.Transport{
		// Upstreams are named by the configuration; a proxy named by the
		// environment of the process has no part in it.
		Proxy: nil,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return b.readAhead(c), nil
		},
		ForceAttemptHTTP2:      true, // DialContext would switch it off
		TLSHandshakeTimeout:    cfg.Timeouts.TLSHandshake,
		ResponseHeaderTimeout:  cfg.Timeouts.ResponseHeader,
		ExpectContinueTimeout:  cfg.Timeouts.ExpectContinue,
		IdleConnTimeout:        cfg.Timeouts.IdleConn,
		MaxIdleConnsPerHost:    cfg.MaxIdleConns,
		MaxResponseHeaderBytes: cfg.MaxResponseHeaderBytes,
		// Without it, a client that accepts no gzip gets a body that was gzip
		// under way: without its length, with the ETag of the compressed one.
		DisableCompression: true,
		// An HTTP/2 connection to a host that has gone would otherwise be used
		// until the kernel gives it up, a quarter of an hour later.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}
	if cfg.TLS != nil {
		t.TLSClientConfig = cfg.TLS.Clone()
	}
	return t
}
