package redislimiter

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/internal/diagnose"
	"github.com/goweir/weir/limiter"
)

// maxSkew is how far the clocks of the server and of this process may be apart.
const maxSkew = time.Second

// Diagnose asks the server, or every master of a cluster, whether quotas are safe
// there, and returns all findings, joined; nil means none. It is for start-up and
// for the command line: it makes some twenty calls. It takes one unit of a quota
// that nobody uses, and gives it back.
//
// It finds: a server that is not reached, or not in the right role; a version
// below 5.0; a maxmemory-policy that may evict quotas, which makes them whole
// early; clocks more than a second apart, which matters with Options.ClientClock
// and where windows begin; a cluster that is not ok; a Redis Cluster asked by a
// client for one server; and commands that the ACL forbids. That quotas may be
// evicted is also logged, once a process, by slog's default logger. What the server does
// not let itself be asked (INFO, CONFIG) is no finding.
//
// This ACL suffices, where weir is the prefix:
//
//	ACL SETUSER limits on >PASSWORD resetkeys ~weir:* -@all +evalsha +eval
//	  +time +get +set +pttl +del +zadd +zscore +zrange +zrangebyscore
//	  +zremrangebyscore +zrem +zincrby +pexpire +ping
//
// The client needs +hello beside it, or it falls back to an older protocol; on a
// cluster +cluster|slots and +asking, and with ReadOnly +readonly, +command,
// +evalsha_ro and +eval_ro; and Diagnose +info, +config|get and +cluster|info for
// what it asks beyond that.
func (l *Limiter) Diagnose(ctx context.Context) error {
	var mu sync.Mutex
	var findings []error
	find := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		findings = append(findings, err)
	}
	server := func(ctx context.Context, c *redis.Client) error {
		for _, err := range diagnoseServer(ctx, c) {
			find(fmt.Errorf("redislimiter: Diagnose: %s: %w", c.Options().Addr, err))
		}
		return nil
	}
	switch c := l.client.(type) {
	case *redis.ClusterClient:
		if err := c.ForEachMaster(ctx, server); err != nil {
			find(fmt.Errorf("redislimiter: Diagnose: %w", explain(err, false)))
		}
	case *redis.Ring:
		if err := c.ForEachShard(ctx, server); err != nil {
			find(fmt.Errorf("redislimiter: Diagnose: %w", explain(err, false)))
		}
	case *redis.Client:
		server(ctx, c)
		if info, err := c.Info(ctx, "cluster").Result(); err == nil && field(info, "cluster_enabled") == "1" {
			find(fmt.Errorf("redislimiter: Diagnose: %s is a node of a Redis Cluster; make a client for clusters", c.Options().Addr))
		}
	}
	for _, err := range l.tryAll(ctx) {
		find(fmt.Errorf("redislimiter: Diagnose: %w", err))
	}
	return errors.Join(findings...)
}

// diagnoseServer asks one server about itself.
func diagnoseServer(ctx context.Context, c *redis.Client) (findings []error) {
	find := func(format string, args ...any) { findings = append(findings, fmt.Errorf(format, args...)) }
	before := time.Now()
	if now, err := c.Time(ctx).Result(); err == nil {
		after := time.Now()
		switch {
		case now.Before(before.Add(-maxSkew)):
			find("its clock is %v behind this one; allowed: %v", before.Sub(now).Round(time.Millisecond), maxSkew)
		case now.After(after.Add(maxSkew)):
			find("its clock is %v ahead of this one; allowed: %v", now.Sub(after).Round(time.Millisecond), maxSkew)
		}
	} else if m := meaning(err, true); m != ErrPermission {
		if m == ErrUnknown {
			m = ErrUnreachable
		}
		return append(findings, fmt.Errorf("%w: %w", m, err))
	} else {
		find("%w: %w", m, err)
	}
	if info, err := c.Info(ctx, "server", "replication").Result(); err == nil {
		if v := field(info, "redis_version"); v != "" {
			if major, err := strconv.Atoi(strings.SplitN(v, ".", 2)[0]); err == nil && major < 5 {
				find("it is Redis %s; needed: 5.0 or later", v)
			}
		}
		if role := field(info, "role"); role != "" && role != "master" {
			find("%w: its role is %s", ErrReadOnly, role)
		}
	}
	if policy, err := c.ConfigGet(ctx, "maxmemory-policy").Result(); err == nil {
		if p := policy["maxmemory-policy"]; p != "" && p != "noeviction" {
			find("maxmemory-policy is %s, so quotas may be evicted, which makes them whole early; use noeviction, or a server of its own", p)
			diagnose.RedisEvicts.Tell(ctx, "redislimiter: the server may evict quotas, which makes them whole early; use maxmemory-policy noeviction, or a server of its own",
				slog.String("server", c.Options().Addr), slog.String("maxmemory-policy", p))
		}
	}
	if info, err := c.ClusterInfo(ctx).Result(); err == nil {
		if state := field(info, "cluster_state"); state != "" && state != "ok" {
			find("%w: cluster_state is %s", ErrCluster, state)
		}
	}
	return findings
}

// field returns the value of a line "name:value".
func field(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// tryAll makes every command that the scripts use run once.
func (l *Limiter) tryAll(ctx context.Context) (findings []error) {
	key := "diagnose " + rand.Text()
	seen := map[string]bool{}
	for a := limiter.TokenBucket; a <= limiter.SlidingLog; a++ {
		c := limiter.Charge{Policy: limiter.Policy{Name: "diagnose", Algorithm: a, Limit: 3, Window: time.Minute}, Key: key, Cost: 2}
		try := func() error {
			r, err := l.Take(ctx, c)
			if err != nil {
				return err
			}
			if !r.Allowed {
				return fmt.Errorf("%v: a new quota refuses: %+v", a, r)
			}
			if _, err := l.Take(ctx, c); err != nil { // refused: asks for the time to live
				return err
			}
			if err := l.Refund(ctx, c, &r); err != nil {
				return err
			}
			return l.Reset(ctx, c)
		}
		if err := try(); err != nil && !seen[err.Error()] {
			seen[err.Error()] = true
			findings = append(findings, err)
		}
	}
	// An event that has left is removed by the next charge, if there are others:
	// that is so when some of those that were taken remain. The third charge finds
	// it so, or a later one if calls take long.
	c := limiter.Charge{Policy: limiter.Policy{Name: "diagnose", Algorithm: limiter.SlidingLog, Limit: 100, Window: 60 * time.Millisecond}, Key: key, Cost: 1}
	events := 0 // since there were none
	for range 50 {
		r, err := l.Take(ctx, c)
		if err != nil {
			if !seen[err.Error()] {
				findings = append(findings, err)
			}
			return findings
		}
		events++
		if there := r.Limit - r.Remaining; there == 1 {
			events = 1
		} else if there < events {
			return findings
		}
		t := time.NewTimer(40 * time.Millisecond)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return findings
		}
	}
	return findings
}
