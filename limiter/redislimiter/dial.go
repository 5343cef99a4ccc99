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

// What [Dial] sets unless the URL says otherwise. A limiter that has to be waited
// for is worse than none: all of them are short.
const (
	dialTimeout = time.Second
	callTimeout = 500 * time.Millisecond // to write, to read, and to get a connection
	poolSize    = 32                     // connections to each server
	idle        = 2                      // of them ready
)

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
// write_timeout, pool_timeout, pool_size and so on. Retries are not allowed.
//
// A new connection may take 1 s, and a call 500 ms to write and as long to read,
// or less if its context says so; there are up to 32 connections to a server.
//
// Errors say what is allowed, and never contain a password. That of a server
// which does not answer as it should matches one of this package's, such as
// [ErrUnreachable] or [ErrAuth].
func Dial(ctx context.Context, rawURL string) (redis.UniversalClient, error) {
	client, err := connect(rawURL)
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

// connect makes the client, without any I/O but what go-redis does in the
// background.
func connect(rawURL string) (redis.UniversalClient, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// The error would quote the URL.
		return nil, errors.New("redislimiter: Dial: this is no URL; allowed: " + schemes)
	}
	fail := func(err error) (redis.UniversalClient, error) {
		return nil, fmt.Errorf("redislimiter: Dial: %s", censor(err.Error(), u))
	}
	base, mode, _ := strings.Cut(u.Scheme, "+")
	switch {
	case base != "redis" && base != "rediss" && !(base == "unix" && mode == ""):
		return nil, fmt.Errorf("redislimiter: Dial: the scheme is %q; allowed: %s", u.Scheme, schemes)
	case u.Query().Has("max_retries") && u.Query().Get("max_retries") != "-1":
		return nil, errors.New("redislimiter: Dial: max_retries is set; allowed: -1, because a charge must not be taken twice")
	}
	plainURL := *u
	plainURL.Scheme = base
	switch mode {
	case "":
		o, err := redis.ParseURL(plainURL.String())
		if err != nil {
			return fail(err)
		}
		tune(&o.MaxRetries, &o.ContextTimeoutEnabled, &o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout, &o.PoolTimeout,
			&o.DialerRetries, &o.PoolSize, &o.MinIdleConns, &o.DisableIdentity)
		return redis.NewClient(o), nil
	case "cluster":
		o, err := redis.ParseClusterURL(plainURL.String())
		if err != nil {
			return fail(err)
		}
		tune(&o.MaxRetries, &o.ContextTimeoutEnabled, &o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout, &o.PoolTimeout,
			&o.DialerRetries, &o.PoolSize, &o.MinIdleConns, &o.DisableIdentity)
		return redis.NewClusterClient(o), nil
	case "sentinel":
		o, err := redis.ParseFailoverURL(plainURL.String())
		if err != nil {
			return fail(err)
		}
		if o.MasterName == "" {
			return nil, errors.New("redislimiter: Dial: master_name is empty; a URL of sentinels needs one")
		}
		tune(&o.MaxRetries, &o.ContextTimeoutEnabled, &o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout, &o.PoolTimeout,
			&o.DialerRetries, &o.PoolSize, &o.MinIdleConns, &o.DisableIdentity)
		return redis.NewFailoverClient(o), nil
	}
	return nil, fmt.Errorf("redislimiter: Dial: the scheme is %q; allowed: %s", u.Scheme, schemes)
}

// tune fills in what the URL has left open, and what it may not say.
func tune(retries *int, deadlines *bool, dial, read, write, pool *time.Duration, dials, size, ready *int, anonymous *bool) {
	*retries, *deadlines = -1, true
	*dial = cmp.Or(*dial, dialTimeout)
	*read, *write, *pool = cmp.Or(*read, callTimeout), cmp.Or(*write, callTimeout), cmp.Or(*pool, callTimeout)
	*dials = cmp.Or(*dials, 1)
	*size, *ready = cmp.Or(*size, poolSize), cmp.Or(*ready, idle)
	*anonymous = true // or the user needs another permission
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
