package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"

	"github.com/goweir/weir/examples/gateway/internal/config"
	"github.com/goweir/weir/limiter/failover"
)

// announce logs what the gateway does and, one line each, what of it is not safe.
// A URL loses its password, and of secrets there is only whether there is one.
func announce(c *config.Config, hash string, b buildInfo, log *slog.Logger) {
	limits := 0
	for _, r := range c.Routes {
		limits += len(r.Limits)
	}
	log.Info("started", "version", b.Version, "revision", b.Revision, "go", b.Go,
		"config", hash, "listen", string(c.Listen), "admin", string(c.Admin.Listen),
		"routes", len(c.Routes), "limits", limits, "trust", len(c.Trust),
		"redis", withoutPassword(c.Redis.URL), "when_down", failover.Mode(c.Redis.WhenDown).String(),
		"audit", c.Audit.File, "log_requests", c.Log.Requests)
	for _, why := range dangers(c) {
		log.Warn("unsafe: " + why)
	}
}

// dangers lists what may be right, but must be meant.
func dangers(c *config.Config) []string {
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	for _, p := range c.Trust {
		if p.Bits() < 8 {
			say("trust has %v: every client there can choose the address it is known by, and so escape limits by address", p)
		}
	}
	if a := c.Admin.Listen; a != "" && !isLoopback(string(a)) {
		say("admin.listen is %s: whoever reaches it sees metrics, by profiles what is in memory, and by reading the traffic the inspector's token", a)
	}
	if n := len(c.Admin.Token); c.Admin.Inspector && n > 0 && n < 16 {
		say("admin.token has %d characters: one that short can be found by trying; without it a random one is made", n)
	}
	if c.Admin.Actions {
		say("admin.actions: whoever has the inspector's token can change what is limited")
	}
	for _, r := range c.Routes {
		if len(r.Limits) == 0 && !isLoopback(string(c.Listen)) {
			say("route %q has no limits", r.Path.Text)
		}
	}
	if c.Audit.MaxSize == 0 && c.Audit.File != "-" {
		say("audit.max_size is 0: the file grows until the disk is full")
	}
	return append(found, redisDangers(c)...)
}

func redisDangers(c *config.Config) (found []string) {
	if c.Redis.URL == "" || c.Redis.URL == config.Embedded {
		return nil
	}
	u, err := url.Parse(c.Redis.URL)
	if err != nil {
		return nil // openStore has said so
	}
	if !strings.HasPrefix(u.Scheme, "rediss") && u.Scheme != "unix" && !isLoopback(u.Host) {
		found = append(found, "redis.url is not encrypted: use rediss:// outside of a network of your own")
	}
	if c.Redis.Secret == "" {
		found = append(found, "redis.secret is not set: who can read the server can find out by trying which addresses and keys are counted there")
	}
	if failover.Mode(c.Redis.WhenDown) == failover.Open {
		found = append(found, "redis.when_down is open: while Redis is away nothing is limited")
	}
	return found
}

// isLoopback reports whether only this machine reaches an address. One that
// cannot be read is not.
func isLoopback(hostport string) bool {
	u, err := url.Parse("//" + hostport)
	if err != nil {
		return false
	}
	if u.Hostname() == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return err == nil && addr.IsLoopback()
}

// withoutPassword returns a URL as it may be logged. What cannot be read is
// left out: who knows what is in it.
func withoutPassword(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "?"
	}
	u.RawQuery = ""
	return u.Redacted()
}
