package suite

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/limiter/redislimiter"
)

// The kinds of server.
const (
	own      = "own"      // a redis-server started for this run
	embedded = "embedded" // in this process
	given    = "given"    // by its address
)

// A server is the Redis that a run asks.
type server struct {
	kind, about string
	url, addr   string // addr is empty where it takes more than that to reach it
	client      redis.UniversalClient
	commands    func() int // of the embedded one
}

// openServer finds or starts the server of a run.
func openServer(s *stage, address string) (*server, error) {
	srv := &server{kind: given, url: address}
	switch {
	case address != "":
	case haveRedis():
		srv.kind = own
		if err := try(func() { srv.url = startRedis(s) }); err != nil {
			return nil, err
		}
	default:
		srv.kind = embedded
		m, err := miniredis.Run()
		if err != nil {
			return nil, err
		}
		s.Cleanup(m.Close)
		srv.url, srv.commands = "redis://"+m.Addr()+"/0", m.CommandCount
	}
	u, err := url.Parse(srv.url)
	if err != nil {
		return nil, err // does not repeat the password
	}
	if srv.client, err = redislimiter.Open(srv.url); err != nil {
		return nil, err
	}
	s.Cleanup(func() { srv.client.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := srv.client.Ping(ctx).Err(); err != nil {
		return nil, fmt.Errorf("no answer from Redis at %s: %w", u.Redacted(), err)
	}
	db := strings.Trim(u.Path, "/")
	if _, single := srv.client.(*redis.Client); single && u.Scheme == "redis" && u.User == nil && (db == "" || db == "0") && u.RawQuery == "" {
		srv.addr = u.Host
		if u.Port() == "" {
			srv.addr += ":6379"
		}
	}
	switch srv.kind {
	case own:
		srv.about = "redis-server " + srv.info("server")["redis_version"] + ", started for this run on this machine, nothing on disk"
	case embedded:
		srv.about = "the embedded one (miniredis), in this process, since redis-server is not installed: " +
			"its speed says nothing about that of a server, and its CPU time is this process's"
	default:
		srv.about = "redis-server " + srv.info("server")["redis_version"] + " at " + u.Redacted() +
			", which others may use too: its counts and its CPU time are theirs as well"
	}
	return srv, nil
}

// info returns a section of INFO. What is not answered is missing.
func (s *server) info(section string) map[string]string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return info(ctx, s.client, section)
}

func info(ctx context.Context, c redis.UniversalClient, section string) map[string]string {
	text, _ := c.Info(ctx, section).Result()
	fields := make(map[string]string)
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[k] = v
		}
	}
	return fields
}

// used returns what reads the server's counters, or nil where there are none.
func (s *server) used() func() pace.Usage {
	if s.kind == embedded {
		return func() pace.Usage { return pace.Usage{Commands: float64(s.commands())} }
	}
	return usedBy(s.client)
}

// usedBy sums up the counters of servers.
func usedBy(clients ...redis.UniversalClient) func() pace.Usage {
	return func() (u pace.Usage) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		for _, c := range clients {
			for k, v := range info(ctx, c, "commandstats") {
				if strings.HasPrefix(k, "cmdstat_") {
					calls, _, _ := strings.Cut(strings.TrimPrefix(v, "calls="), ",")
					u.Commands += number(calls)
				}
			}
			u.Reads += number(info(ctx, c, "stats")["total_reads_processed"])
			cpu := info(ctx, c, "cpu")
			u.CPU += time.Duration((number(cpu["used_cpu_user"]) + number(cpu["used_cpu_sys"])) * float64(time.Second))
		}
		return u
	}
}

func (s *server) memory() float64 { return number(s.info("memory")["used_memory"]) }

func number(text string) float64 {
	n, _ := strconv.ParseFloat(text, 64)
	return n
}

// forget deletes what a run has left on a server that outlives it: every key
// with the run's name in it.
func (s *server) forget(run string) {
	if s.kind != given {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	remove := func(ctx context.Context, c redis.UniversalClient) error {
		keys := c.Scan(ctx, 0, "*"+run+"*", 1000).Iterator()
		for keys.Next(ctx) {
			c.Unlink(ctx, keys.Val())
		}
		return keys.Err()
	}
	if cluster, ok := s.client.(*redis.ClusterClient); ok {
		cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return remove(ctx, c) })
		return
	}
	remove(ctx, s.client)
}
