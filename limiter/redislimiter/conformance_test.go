package redislimiter_test

import (
	"context"
	"os"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/limitertest"
	"github.com/goweir/weir/limiter/redislimiter"
)

// quiet drops what go-redis logs about connections that tests break.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func TestMain(m *testing.M) {
	redis.SetLogger(quiet{})
	os.Exit(m.Run())
}

// warm is a client whose connections do not have to be made first.
func warm(t testing.TB, addr string) *redis.Client {
	t.Helper()
	o := safe(addr)
	o.MinIdleConns = 16
	c := redis.NewClient(o)
	t.Cleanup(func() { c.Close() })
	return c
}

// safe are the settings that New asks for.
func safe(addr string) *redis.Options {
	return &redis.Options{Addr: addr, MaxRetries: -1, ContextTimeoutEnabled: true, PoolSize: 64, DialerRetries: 1}
}

func client(t testing.TB, addr string) *redis.Client {
	t.Helper()
	c := redis.NewClient(safe(addr))
	t.Cleanup(func() { c.Close() })
	return c
}

const micro = 1000 // nanoseconds

var prefixes atomic.Int64

// fresh returns options with a prefix of their own, and without the cache of
// denials unless its size is given: mostly it is the server that is to answer.
func fresh(o redislimiter.Options) *redislimiter.Options {
	if o.DenyCache == 0 {
		o.DenyCache = -1
	}
	o.Prefix = "t" + strconv.FormatInt(prefixes.Add(1), 36)
	return &o
}

func open(t testing.TB, c redis.UniversalClient, o redislimiter.Options) *redislimiter.Limiter {
	t.Helper()
	l, err := redislimiter.New(c, fresh(o))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestConforms(t *testing.T) {
	t.Parallel() // most of it sleeps
	c := warm(t, redistest.Start(t).Addr())
	limitertest.Run(t, func(t *testing.T) limiter.Limiter {
		return open(t, c, redislimiter.Options{DenyCache: redislimiter.DefaultDenyCache})
	}, &limitertest.Options{RealTime: true, Rounding: micro, Tolerance: 20e6})
}

func TestConformsByClientClock(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as TestConforms, for another clock; not run with -short")
	}
	t.Parallel() // most of it sleeps
	c := warm(t, redistest.Start(t).Addr())
	limitertest.Run(t, func(t *testing.T) limiter.Limiter {
		return open(t, c, redislimiter.Options{ClientClock: true, Secret: []byte("s"), Slot: "one"})
	}, &limitertest.Options{RealTime: true, Rounding: micro, Tolerance: 20e6})
}

// The embedded server runs the same scripts by another Lua. It is no substitute
// for the real one, but needs nothing installed.
func TestConformsEmbedded(t *testing.T) {
	if testing.Short() {
		t.Skip("its Lua is slow under the race detector, and the checks are in real time; not run with -short")
	}
	t.Parallel() // most of it sleeps
	c := warm(t, miniredis.RunT(t).Addr())
	limitertest.Run(t, func(t *testing.T) limiter.Limiter {
		return open(t, c, redislimiter.Options{ClientClock: true})
	}, &limitertest.Options{RealTime: true, Rounding: micro, Tolerance: 20e6, Algorithms: []limiter.Algorithm{limiter.TokenBucket}})
}

func TestConformsOnCluster(t *testing.T) {
	t.Parallel() // most of it sleeps
	if testing.Short() {
		t.Skip("a cluster takes some seconds to start")
	}
	c := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: redistest.StartCluster(t, 0).Addrs(), MaxRetries: -1, ContextTimeoutEnabled: true, PoolSize: 64, MinIdleConns: 16,
	})
	t.Cleanup(func() { c.Close() })
	limitertest.Run(t, func(t *testing.T) limiter.Limiter {
		return open(t, c, redislimiter.Options{})
	}, &limitertest.Options{RealTime: true, Rounding: micro, Tolerance: 20e6, TakeAllInSteps: true})
}
