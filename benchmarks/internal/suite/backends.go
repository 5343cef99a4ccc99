package suite

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/benchmarks/redisbench"
	"github.com/goweir/weir/internal/faultnet"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
	"github.com/goweir/weir/limiter/redislimiter"
)

// The names of the backends, as every table has them.
const (
	inMemory   = "memory"
	oneByOne   = "Redis, one by one"
	coalesced  = "Redis, coalesced"
	denyCache  = "Redis, coalesced, deny cache"
	leased     = "Redis, coalesced, leases of 100"
	overPrefix = "failover: "
	farOne     = "Redis 1 ms away, one by one"
	farAll     = "Redis 1 ms away, coalesced"
	onCluster  = "Redis Cluster of 3, coalesced"
)

// lease is how many units a process takes at once, where it takes leases.
const lease = 100

// A backend is a way to keep quotas.
type backend struct {
	name  string
	local bool // no server
	far   bool // behind a delay
	quick bool // part of a quick run
	over  string
}

// backends are all, in the order of the tables.
var backends = []backend{
	{name: inMemory, local: true, quick: true},
	{name: oneByOne, quick: true},
	{name: coalesced, quick: true},
	{name: denyCache},
	{name: leased},
	{name: overPrefix + inMemory, over: inMemory, local: true},
	{name: overPrefix + oneByOne, over: oneByOne},
	{name: overPrefix + coalesced, over: coalesced},
	{name: overPrefix + denyCache, over: denyCache},
	{name: overPrefix + leased, over: leased},
	{name: farOne, far: true},
	{name: farAll, far: true},
	{name: onCluster},
}

// A place is where backends find their servers. It is plain data, so that other
// processes can be told.
type place struct {
	URL     string   // the server
	Far     string   // the same behind a delay, or empty
	Cluster []string // nodes, or empty
	Prefix  string   // of all keys
	Clock   bool     // whether the client's clock decides
}

// open returns the backend of that name. Each call makes clients of its own, as
// another process would.
func (p place) open(name string) (l limiter.Limiter, closer func(), err error) {
	if over, ok := strings.CutPrefix(name, overPrefix); ok {
		l, closer, err = p.open(over)
		if err != nil {
			return nil, nil, err
		}
		// The budget is wide, so that a machine that is busy opens no breaker.
		return failover.New(l, failover.Closed, &failover.Options{Budget: time.Second, Failures: 100}), closer, nil
	}
	opts := redislimiter.Options{Prefix: p.Prefix, ClientClock: p.Clock, DenyCache: -1}
	address := p.URL
	switch name {
	case inMemory:
		return limiter.NewMemory(&limiter.MemoryOptions{MaxBytes: 256 << 20, LogBytes: 96 << 20}), func() {}, nil
	case farOne, farAll:
		address = p.Far
	case denyCache:
		opts.DenyCache = 0
	case leased:
		opts.Lease = func(limiter.Policy) int { return lease }
	}
	// Backends do not share quotas.
	opts.Prefix += "-" + strings.Map(func(r rune) rune {
		if r == ' ' || r == ',' {
			return -1
		}
		return r
	}, name)
	var client redis.UniversalClient
	if name == onCluster {
		client = redis.NewClusterClient(&redis.ClusterOptions{Addrs: p.Cluster, MaxRetries: -1, ContextTimeoutEnabled: true})
	} else if client, err = redislimiter.Open(address); err != nil {
		return nil, nil, err
	}
	closer = func() { client.Close() }
	if name == oneByOne || name == farOne {
		l, err = newSingle(client, opts)
	} else {
		l, err = redislimiter.New(client, &opts)
	}
	if err != nil {
		client.Close()
		return nil, nil, err
	}
	return l, closer, nil
}

// single asks for each decision by itself: it has as many Limiters as there are
// callers, all on one client, and none of them has two decisions underway.
type single struct {
	limiter.Limiter // nil: only Take is asked for
	free            chan *redislimiter.Limiter
}

func newSingle(client redis.UniversalClient, opts redislimiter.Options) (*single, error) {
	const most = 256
	s := &single{free: make(chan *redislimiter.Limiter, most)}
	for range most {
		l, err := redislimiter.New(client, &opts)
		if err != nil {
			return nil, err
		}
		s.free <- l
	}
	return s, nil
}

func (s *single) Take(ctx context.Context, c limiter.Charge) (limiter.Result, error) {
	l := <-s.free
	defer func() { s.free <- l }()
	return l.Take(ctx, c)
}

// policyOf is a quota that is never used up, but for the sliding log's, which
// remembers every event.
func policyOf(a limiter.Algorithm) limiter.Policy {
	p := redisbench.Policy(redisbench.Plenty)
	p.Algorithm = a
	switch a {
	case limiter.FixedWindow, limiter.SlidingWindow:
		p.Limit, p.Window, p.Burst = 1<<36, 24*time.Hour, 0
	case limiter.SlidingLog:
		p.Limit, p.Window, p.Burst = 20, time.Second, 0
	}
	return p
}

// away returns the address of the server behind a network that takes so long for
// each way, and the network.
func (s *server) away(t *stage, latency time.Duration) (string, *faultnet.Proxy, error) {
	u, err := url.Parse(s.url)
	if err != nil {
		return "", nil, err
	}
	if s.addr == "" {
		return "", nil, fmt.Errorf("a delay needs an address of the form redis://HOST:PORT")
	}
	var net *faultnet.Proxy
	if err := try(func() { net = faultnet.New(t, s.addr) }); err != nil {
		return "", nil, err
	}
	net.Set(faultnet.Faults{Latency: latency})
	u.Host = net.Addr()
	return u.String(), net, nil
}
