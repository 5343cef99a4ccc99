// Package redisbench puts rate limiters that keep their quotas in Redis behind one
// function, each through its public API, to be measured in one run. It stands
// apart from package peer because some of them bring goroutines and signal
// handlers with them, which would be in the way of other measurements.
package redisbench

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/rueidis"
	"github.com/throttled/throttled/v2"
	throttledredis "github.com/throttled/throttled/v2/store/goredisstore.v9"
	ulule "github.com/ulule/limiter/v3"
	ululeredis "github.com/ulule/limiter/v3/drivers/store/redis"
	"github.com/zeromicro/go-zero/core/limit"
	"github.com/zeromicro/go-zero/core/logx"
	"github.com/zeromicro/go-zero/core/stat"
	gozeroredis "github.com/zeromicro/go-zero/core/stores/redis"
)

// A Quota is what every decider is made with: Plenty is never used up, Few is
// used up by the first request, Ten is 10 an hour.
type Quota int

const (
	Plenty Quota = iota
	Few
	Ten
)

// A Decider takes one unit of key's quota, which is in the Redis server at addr,
// and reports whether there was one. Each call of New makes clients of its own, as
// another process would.
type Decider struct {
	Name string
	New  func(addr string, q Quota) (take func(key string) (bool, error), closer func())
}

// RedisRate is the name of the peer that figures are relative to.
const RedisRate = "redis_rate v10"

// Peers are others' deciders, each by the client it is made for, with that
// client's defaults.
var Peers = []Decider{
	{RedisRate, func(addr string, q Quota) (func(string) (bool, error), func()) {
		c := redis.NewClient(&redis.Options{Addr: addr})
		return q.redisRate(redis_rate.NewLimiter(c), ""), func() { c.Close() }
	}},
	{"redis_rate v10, AutoPipeline", func(addr string, q Quota) (func(string) (bool, error), func()) {
		c := redis.NewClient(&redis.Options{Addr: addr})
		p := must(c.AutoPipeline())
		return q.redisRate(redis_rate.NewLimiter(p), "auto:"), func() { p.Close(); c.Close() }
	}},
	{"ulule/limiter v3", func(addr string, q Quota) (func(string) (bool, error), func()) {
		c, ctx := redis.NewClient(&redis.Options{Addr: addr}), context.Background()
		n, window := q.window()
		l := ulule.New(must(ululeredis.NewStore(c)), ulule.Rate{Period: window, Limit: int64(n)})
		return func(key string) (bool, error) {
			r, err := l.Get(ctx, key)
			return !r.Reached, err
		}, func() { c.Close() }
	}},
	{"throttled v2", func(addr string, q Quota) (func(string) (bool, error), func()) {
		c, ctx := redis.NewClient(&redis.Options{Addr: addr}), context.Background()
		store := must(throttledredis.NewCtx(c, "throttled:"))
		l := must(throttled.NewGCRARateLimiterCtx(store, q.maxRate()))
		return func(key string) (bool, error) {
			limited, _, err := l.RateLimitCtx(ctx, key, 1)
			return !limited && err == nil, err
		}, func() { c.Close() }
	}},
	{"go-zero PeriodLimit", func(addr string, q Quota) (func(string) (bool, error), func()) {
		n, window := q.window()
		l, ctx := limit.NewPeriodLimit(int(window/time.Second), n, goZero(addr), "period:"), context.Background()
		return func(key string) (bool, error) {
			code, err := l.TakeCtx(ctx, key)
			return code == limit.Allowed || code == limit.HitQuota, err
		}, nothing
	}},
	// It has one limiter a key, and units that come back each second. It reports
	// no errors.
	{"go-zero TokenLimiter", func(addr string, q Quota) (func(string) (bool, error), func()) {
		var limiters sync.Map
		store, ctx := goZero(addr), context.Background()
		_, _, burst := q.Bucket()
		return func(key string) (bool, error) {
			l, ok := limiters.Load(key)
			if !ok {
				l, _ = limiters.LoadOrStore(key, limit.NewTokenLimiter(1, burst, store, "token:"+key))
			}
			return l.(*limit.TokenLimiter).AllowCtx(ctx), nil
		}, nothing
	}},
	// Its limiter is not on the module proxy under a version that can be
	// required, so these are the commands that it sends: GET and INCRBY in one
	// script, which rueidis pipelines by itself.
	{"rueidis, its limiter's commands", func(addr string, q Quota) (func(string) (bool, error), func()) {
		c, ctx := must(rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}})), context.Background()
		n, window := q.window()
		args := []string{"1", strconv.Itoa(n), strconv.FormatInt(window.Milliseconds(), 10)}
		return func(key string) (bool, error) {
			allowed, err := getIncrBy.Exec(ctx, c, []string{"rueidis:{" + key + "}"}, args).AsInt64()
			return allowed == 1, err
		}, c.Close
	}},
}

// getIncrBy counts units in a window that begins with the first of them.
var getIncrBy = rueidis.NewLuaScript(`
local used, cost = tonumber(redis.call('GET', KEYS[1]) or 0), tonumber(ARGV[1])
if used + cost > tonumber(ARGV[2]) then
	return 0
end
if redis.call('INCRBY', KEYS[1], cost) == cost then
	redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1`)

// window is for those that count in windows.
func (q Quota) window() (int, time.Duration) {
	switch q {
	case Few:
		return 1, 24 * time.Hour
	case Ten:
		return 10, time.Hour
	}
	return 1 << 40, 24 * time.Hour
}

// Bucket is for those that know a burst. One unit of Plenty comes back a minute,
// so that no key is whole again, and forgotten, while others have their turn.
func (q Quota) Bucket() (limit int, window time.Duration, burst int) {
	switch q {
	case Few:
		return 1, 24 * time.Hour, 1
	case Ten:
		return 10, time.Hour, 10
	}
	return 1, time.Minute, 1 << 26
}

func (q Quota) redisRate(l *redis_rate.Limiter, prefix string) func(string) (bool, error) {
	ctx := context.Background()
	n, window, burst := q.Bucket()
	limit := redis_rate.Limit{Rate: n, Period: window, Burst: burst}
	return func(key string) (bool, error) {
		r, err := l.Allow(ctx, prefix+key, limit)
		return err == nil && r.Allowed > 0, err
	}
}

func (q Quota) maxRate() throttled.RateQuota {
	switch n, _, burst := q.Bucket(); q {
	case Few:
		return throttled.RateQuota{MaxRate: throttled.PerDay(n), MaxBurst: burst - 1}
	case Ten:
		return throttled.RateQuota{MaxRate: throttled.PerHour(n), MaxBurst: burst - 1}
	default:
		return throttled.RateQuota{MaxRate: throttled.PerMin(n), MaxBurst: burst - 1}
	}
}

var quiet sync.Once

// Quiet keeps go-zero's log and its statistics out of the tables, and what its
// clients say, which nobody can close, when a server ends.
func Quiet() {
	quiet.Do(func() {
		logx.Disable()
		stat.DisableLog()
		logging.Disable()
	})
}

func goZero(addr string) *gozeroredis.Redis {
	Quiet()
	return gozeroredis.MustNewRedis(gozeroredis.RedisConf{Host: addr, Type: gozeroredis.NodeType})
}

func nothing() {}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
