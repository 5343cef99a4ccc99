package proxy

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// newTransport returns the transport of one Proxy. Transports are not shared:
// their limits are those of one configuration.
func newTransport(cfg *Config) *http.Transport {
	t := &http.Transport{
		// Upstreams are named by the configuration; a proxy named by the
		// environment of the process has no part in it.
		Proxy:                  nil,
		DialContext:            (&net.Dialer{Timeout: cfg.Timeouts.Dial}).DialContext,
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

const bufferSize = 32 << 10

// A bufferPool implements httputil.BufferPool. It holds arrays, because a slice
// put into a sync.Pool costs an allocation for its header.
type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[bufferSize]byte); ok {
		return b[:]
	}
	return new([bufferSize]byte)[:]
}

func (p *bufferPool) Put(b []byte) { p.pool.Put((*[bufferSize]byte)(b)) }
