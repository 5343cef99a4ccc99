package redislimiter

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/internal/diagnose"
)

// check returns every fault of the options and of the client's, joined.
func (o *Options) check(client redis.UniversalClient) error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("redislimiter: New: "+format, args...))
	}
	if !plain(o.Prefix) {
		fault("Prefix is %q; allowed: printable ASCII without spaces and braces", o.Prefix)
	}
	if !plain(o.Slot) {
		fault("Slot is %q; allowed: printable ASCII without spaces and braces", o.Slot)
	}
	if o.DenyTime < 0 {
		fault("DenyTime is %v; allowed: 0 (%v) or more", o.DenyTime, DefaultDenyTime)
	}
	if !o.DangerouslyAllowRetries {
		for _, f := range unfit(client) {
			fault("%s, or DangerouslyAllowRetries", f)
		}
	}
	if _, ok := client.(*redis.Ring); ok && o.Slot == "" {
		fault("a *redis.Ring spreads keys over servers that know nothing of each other; set Slot")
	}
	return errors.Join(faults...)
}

// unfit returns what a client should not be like.
func unfit(client redis.UniversalClient) (faults []string) {
	var retries int
	var deadlines bool
	switch c := client.(type) {
	case *redis.Client:
		retries, deadlines = c.Options().MaxRetries, c.Options().ContextTimeoutEnabled
	case *redis.ClusterClient:
		retries, deadlines = c.Options().MaxRetries, c.Options().ContextTimeoutEnabled
	case *redis.Ring:
		retries, deadlines = c.Options().MaxRetries, c.Options().ContextTimeoutEnabled
	default:
		return []string{fmt.Sprintf("the client is a %T, whose settings cannot be seen; allowed: *redis.Client, *redis.ClusterClient, *redis.Ring with Slot", client)}
	}
	if retries > 0 { // go-redis itself turns -1 into 0
		faults = append(faults, fmt.Sprintf("the client has MaxRetries %d; allowed: -1 (a charge must not be taken twice)", retries))
	}
	if !deadlines {
		faults = append(faults, "the client has no ContextTimeoutEnabled, so it would ignore deadlines; set it")
	}
	return faults
}

// warnUnfit is for clients that New would refuse without DangerouslyAllowRetries.
func warnUnfit(client redis.UniversalClient) {
	for _, f := range unfit(client) {
		diagnose.RedisRetries.Tell(context.Background(), "redislimiter: New: "+f)
	}
}
