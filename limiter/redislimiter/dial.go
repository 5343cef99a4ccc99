package redislimiter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// What [Open] adds to a URL that does not say otherwise. A limiter that has to be
// waited for is worse than none: all times are short.
var parameters = map[string]string{
	"max_retries":   "-1",
	"dial_timeout":  "1s",
	"read_timeout":  "500ms",
	"write_timeout": "500ms",
	"pool_timeout":  "500ms",
	"pool_size":     "32", // to each server
}

const schemes = "redis:// and rediss:// (a server), unix:// (a socket), " +
	"redis+cluster:// and rediss+cluster:// (more nodes by ?addr=host:port), " +
	"redis+sentinel:// and rediss+sentinel:// (?master_name=NAME, more sentinels by &addr=host:port)"

// Dial returns a client with the settings that [New] asks for, and short
// timeouts, after one PING under ctx. The caller closes it. The URL is one of
//
//	redis://user:password@host:6379/0
//	unix://user:password@/path/to/redis.sock?db=0
//	redis+cluster://user:password@host:6379?addr=host2:6379
//	redis+sentinel://host:26379/0?master_name=NAME&addr=host2:26379&username=U&password=P
//
// With rediss in place of redis the connection is by TLS 1.2 or later, to a
// server whose certificate is checked. The user and password of a URL of
// sentinels are those of the sentinels; the server's are parameters. More
// parameters are those of go-redis, in lower case: dial_timeout, read_timeout,
// write_timeout, pool_timeout, pool_size and so on; skip_verify=true trusts any
// certificate. Retries are not allowed.
//
// A new connection may take 1 s, and a call 500 ms to write and as long to read,
// or less if its context says so; there are up to 32 connections to a server.
//
// Errors say what is allowed, and never contain a password. That of a server
// which does not answer as it should matches one of this package's, such as
// [ErrUnreachable] or [ErrAuth].
func Dial(ctx context.Context, rawURL string) (redis.UniversalClient, error) {
	client, err := Open(rawURL)
	if err != nil {
		return nil, err
	}
	if err := client.Ping(ctx).Err(); err != nil {
		client.Close()
		m := meaning(err, true)
		if m == ErrUnknown {
			m = ErrUnreachable // a PING takes nothing
		}
		if ended := over(ctx); ended != nil && !errors.Is(err, ended) {
			err = fmt.Errorf("%w: %w", ended, err)
		}
		return nil, fmt.Errorf("redislimiter: Dial: %w: %w", m, err)
	}
	return client, nil
}

// over returns why ctx has ended. A connection with its deadline may say so a
// moment earlier.
func over(ctx context.Context) error {
	if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// Open returns the client that [Dial] returns, without asking the server: for
// programs that begin their work even if it is away, see package failover.
func Open(rawURL string) (redis.UniversalClient, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// The error would quote the URL.
		return nil, errors.New("redislimiter: Open: this is no URL; allowed: " + schemes)
	}
	fail := func(err error) (redis.UniversalClient, error) {
		return nil, fmt.Errorf("redislimiter: Open: %s", censor(err.Error(), u))
	}
	base, mode, _ := strings.Cut(u.Scheme, "+")
	switch {
	case base != "redis" && base != "rediss" && !(base == "unix" && mode == ""):
		return nil, fmt.Errorf("redislimiter: Open: the scheme is %q; allowed: %s", u.Scheme, schemes)
	case u.Query().Has("max_retries") && u.Query().Get("max_retries") != "-1":
		return nil, errors.New("redislimiter: Open: max_retries is set; allowed: -1, because a charge must not be taken twice")
	}
	plainURL := *u
	plainURL.Scheme = base
	query := u.Query()
	for name, value := range parameters {
		if !query.Has(name) {
			query.Set(name, value)
		}
	}
	plainURL.RawQuery = query.Encode()
	switch mode {
	case "":
		o, err := redis.ParseURL(plainURL.String())
		if err != nil {
			return fail(err)
		}
		o.ContextTimeoutEnabled, o.DialerRetries = true, cmp.Or(o.DialerRetries, 1)
		o.DisableIdentity = true // or the user needs another permission
		return redis.NewClient(o), nil
	case "cluster":
		o, err := redis.ParseClusterURL(plainURL.String())
		if err != nil {
			return fail(err)
		}
		o.ContextTimeoutEnabled, o.DialerRetries = true, cmp.Or(o.DialerRetries, 1)
		o.DisableIdentity = true // or the user needs another permission
		return redis.NewClusterClient(o), nil
	case "sentinel":
		o, err := redis.ParseFailoverURL(plainURL.String())
		if err != nil {
			return fail(err)
		}
		if o.MasterName == "" {
			return nil, errors.New("redislimiter: Open: master_name is empty; a URL of sentinels needs one")
		}
		o.ContextTimeoutEnabled, o.DialerRetries = true, cmp.Or(o.DialerRetries, 1)
		o.DisableIdentity = true // or the user needs another permission
		return redis.NewFailoverClient(o), nil
	}
	return nil, fmt.Errorf("redislimiter: Open: the scheme is %q; allowed: %s", u.Scheme, schemes)
}

// censor takes the secrets of u out of a message.
func censor(text string, u *url.URL) string {
	secrets := []string{u.Query().Get("password")}
	if p, ok := u.User.Password(); ok {
		secrets = append(secrets, p, url.QueryEscape(p), url.PathEscape(p))
	}
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "xxxxx")
		}
	}
	return text
}
