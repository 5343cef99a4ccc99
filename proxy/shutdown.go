package proxy

import (
	"context"
	"net/http"
	"sync"
)

// tunnels are the upgraded connections of one Proxy. http.Server forgets a
// connection when it is hijacked, so that somebody else must know them.
type tunnels struct {
	buffers *buffers
	max     int

	mu       sync.Mutex
	admitted int // tunnels, and requests that may become one
	live     map[*tunnel]struct{}
	draining bool
	empty    chan struct{} // closed when draining and nothing is live
}

var (
	refusedTunnels  = &refusal{http.StatusServiceUnavailable, "There are too many upgraded connections.", true}
	refusedShutdown = &refusal{http.StatusServiceUnavailable, "The server shuts down and makes no new upgraded connections.", true}
)

// admit makes room for one more, until leave.
func (r *tunnels) admit() *refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.draining:
		return refusedShutdown
	case r.admitted >= r.max:
		return refusedTunnels
	}
	r.admitted++
	return nil
}

// open says that t, which was admitted, has become a tunnel. It is false if that
// is too late.
func (r *tunnels) open(t *tunnel) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining {
		return false
	}
	if r.live == nil {
		r.live = map[*tunnel]struct{}{}
	}
	r.live[t] = struct{}{}
	return true
}

func (r *tunnels) leave(t *tunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.admitted--
	if _, ok := r.live[t]; !ok {
		return
	}
	delete(r.live, t)
	if r.draining && len(r.live) == 0 {
		close(r.empty)
	}
}

// drain lets no more in and returns what is live, and what is closed when
// nothing is any more.
func (r *tunnels) drain() (live []*tunnel, empty <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.draining {
		r.draining = true
		r.empty = make(chan struct{})
		if len(r.live) == 0 {
			close(r.empty)
		}
	}
	for t := range r.live {
		live = append(live, t)
	}
	return live, r.empty
}

// Tunnels returns how many upgraded connections are open, for status pages and
// metrics.
func (p *Proxy) Tunnels() int {
	p.tunnels.mu.Lock()
	defer p.tunnels.mu.Unlock()
	return len(p.tunnels.live)
}

// Shutdown ends the upgraded connections, of which [http.Server.Shutdown] knows
// nothing. Call both at the same time, with the same ctx:
//
//	go server.Shutdown(ctx)
//	err := p.Shutdown(ctx)
//
// New upgrades are refused with 503 from now on; other requests are served as
// before. Both ends of each WebSocket are sent a Close frame with status 1001,
// "going away" (RFC 6455 section 7.4.1), as soon as that does not cut into a
// frame, and nothing else after it. A tunnel ends when both ends have answered
// with a Close frame of their own, or have closed their connections.
//
// Shutdown returns nil when there is no tunnel left and its handlers are about
// to return. If ctx ends before that, the connections that are left are closed,
// and the error is ctx's. It may be called more than once and by several
// goroutines. A Proxy cannot be put back into service.
func (p *Proxy) Shutdown(ctx context.Context) error {
	live, empty := p.tunnels.drain()
	for _, t := range live {
		t.end(errShutdown)
	}
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
	}
	live, _ = p.tunnels.drain()
	if len(live) == 0 {
		return nil
	}
	for _, t := range live {
		t.cut()
	}
	return ctx.Err()
}
