package redislimiter

import (
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
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
	settings := func(retries int, timeouts bool) {
		if o.DangerouslyAllowRetries {
			return
		}
		// go-redis itself turns -1 into 0.
		if retries > 0 {
			fault("the client has MaxRetries %d; allowed: -1 (a charge must not be taken twice), or DangerouslyAllowRetries", retries)
		}
		if !timeouts {
			fault("the client has no ContextTimeoutEnabled, so it would ignore deadlines; set it, or DangerouslyAllowRetries")
		}
	}
	switch c := client.(type) {
	case *redis.Client:
		settings(c.Options().MaxRetries, c.Options().ContextTimeoutEnabled)
	case *redis.ClusterClient:
		settings(c.Options().MaxRetries, c.Options().ContextTimeoutEnabled)
	case *redis.Ring:
		settings(c.Options().MaxRetries, c.Options().ContextTimeoutEnabled)
		if o.Slot == "" {
			fault("a *redis.Ring spreads keys over servers that know nothing of each other; set Slot")
		}
	default:
		if !o.DangerouslyAllowRetries {
			fault("the client is a %T, whose settings cannot be seen; allowed: *redis.Client, *redis.ClusterClient, *redis.Ring with Slot, or DangerouslyAllowRetries", client)
		}
	}
	return errors.Join(faults...)
}
