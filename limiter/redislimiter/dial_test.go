package redislimiter_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/internal/diagnose/diagnosetest"
	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter/redislimiter"
)

func TestDial(t *testing.T) {
	socket := filepath.Join(os.TempDir(), "weir-"+strings.ToLower(t.Name())+".sock")
	os.Remove(socket)
	t.Cleanup(func() { os.Remove(socket) })
	s := redistest.Start(t, "--unixsocket", socket)
	for _, url := range []string{s.URL(), "redis://" + s.Addr() + "/3?pool_size=3&read_timeout=1s", "unix://" + socket} {
		c, err := redislimiter.Dial(t.Context(), url)
		if err != nil {
			t.Fatalf("Dial(%q): %v", url, err)
		}
		defer c.Close()
		l, err := redislimiter.New(c, nil)
		if err != nil {
			t.Fatalf("New with the client of Dial(%q): %v", url, err)
		}
		remaining(t, l, charge(still("p", 5), "k", 0), 5)
		o := c.(*redis.Client).Options()
		if o.MaxRetries != 0 || !o.ContextTimeoutEnabled || o.DialTimeout > time.Second || o.ReadTimeout > time.Second || o.PoolSize > 32 {
			t.Errorf("Dial(%q) has options %+v", url, o)
		}
	}
}

// overTLS returns the address of a server that is reached by TLS of some versions,
// and its certificate, which nobody has signed.
func overTLS(t *testing.T, upstream string, versions *tls.Config) (addr string, cert *x509.Certificate) {
	t.Helper()
	web := httptest.NewTLSServer(nil)
	versions.Certificates, cert = web.TLS.Certificates, web.Certificate()
	web.Close()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", versions)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				s, err := net.Dial("tcp", upstream)
				if err != nil {
					return
				}
				defer s.Close()
				go io.Copy(s, c)
				io.Copy(c, s)
			}()
		}
	}()
	return ln.Addr().String(), cert
}

// By rediss the server must have a certificate that is known, and TLS 1.2 at least.
func TestDialTLS(t *testing.T) {
	s := redistest.Start(t)
	addr, cert := overTLS(t, s.Addr(), &tls.Config{})
	old, oldCert := overTLS(t, s.Addr(), &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	_, err := redislimiter.Dial(t.Context(), "rediss://"+addr)
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok || !errors.Is(err, redislimiter.ErrUnreachable) {
		t.Errorf("a certificate of nobody's: %v (%v)", err, unknown)
	}
	if _, err := redislimiter.Dial(t.Context(), "rediss://"+s.Addr()); !errors.Is(err, redislimiter.ErrUnreachable) {
		t.Errorf("a server without TLS: %v", err)
	}
	for _, tt := range []struct {
		addr string
		cert *x509.Certificate
		ok   bool
	}{{addr, cert, true}, {old, oldCert, false}} {
		c, err := redislimiter.Open("rediss://" + tt.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		roots := x509.NewCertPool()
		roots.AddCert(tt.cert)
		c.(*redis.Client).Options().TLSConfig.RootCAs = roots
		l := open(t, c, redislimiter.Options{})
		if r, err := l.Take(t.Context(), charge(still("p", 5), "k", 1)); tt.ok && (err != nil || !r.Allowed) || !tt.ok && !errors.Is(err, redislimiter.ErrUnreachable) {
			t.Errorf("by TLS: %+v, %v; want it to work: %v", r, err, tt.ok)
		}
	}
}

func TestDialSentinel(t *testing.T) {
	if testing.Short() {
		t.Skip("sentinels take some seconds to start")
	}
	s := redistest.StartSentinel(t)
	url := "redis+sentinel://" + s.Addrs()[0] + "/0?master_name=" + s.MasterName() + "&addr=" + s.Addrs()[1]
	c, err := redislimiter.Dial(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l := open(t, c, redislimiter.Options{})
	take(t, l, charge(still("p", 5), "k", 2))
	if err := l.Diagnose(t.Context()); err != nil {
		t.Errorf("Diagnose: %v", err)
	}
}

func TestDialRefuses(t *testing.T) {
	const secret = "s3cr3t"
	for _, tt := range []struct{ url, want string }{
		{"", "the scheme is"},
		{"127.0.0.1:6379", "allowed: redis://"},
		{"http://:" + secret + "@h", "allowed: redis://"},
		{"redis+ring://:" + secret + "@h", "allowed: redis://"},
		{"unix+cluster://:" + secret + "@/h", "allowed: redis://"},
		{"redis://:" + secret + "@h:port", "no URL"},
		{"redis://:" + secret + "%zz@h", "no URL"},
		{"redis://:" + secret + "@h/" + secret, "database"},
		{"redis://:" + secret + "@h?" + secret + "=1", "unexpected option"},
		{"redis://:" + secret + "@h?max_retries=2", "allowed: -1"},
		{"redis+sentinel://:" + secret + "@h:1", "master_name"},
		{"redis+sentinel://h:1?master_name=m&password=" + secret + "&addr=" + secret, "addr"},
		{"redis+cluster://:" + secret + "@h:1?addr=" + secret, "addr"},
	} {
		c, err := redislimiter.Dial(t.Context(), tt.url)
		if err == nil {
			c.Close()
			t.Errorf("Dial(%q) succeeded", tt.url)
			continue
		}
		if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("Dial(%q): %v; want it to say %q, and no password", tt.url, err, tt.want)
		}
	}
}

func TestDialReachesNobody(t *testing.T) {
	s := redistest.Start(t)
	s.Do("CONFIG", "SET", "requirepass", "right")
	if _, err := redislimiter.Dial(t.Context(), "redis://:wr0ng@"+s.Addr()); !errors.Is(err, redislimiter.ErrAuth) || strings.Contains(err.Error(), "wr0ng") {
		t.Errorf("with the wrong password: %v", err)
	}
	if _, err := redislimiter.Dial(t.Context(), s.URL()); !errors.Is(err, redislimiter.ErrAuth) {
		t.Errorf("without a password: %v", err)
	}
	s.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := redislimiter.Dial(ctx, "redis://:right@"+s.Addr()); !errors.Is(err, redislimiter.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("to a server that does not answer: %v", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	s.Cont()
	s.Kill()
	if _, err := redislimiter.Dial(t.Context(), s.URL()); !errors.Is(err, redislimiter.ErrUnreachable) {
		t.Errorf("to a server that is down: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	bad := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}, MaxRetries: 2})
	ring := redis.NewRing(&redis.RingOptions{MaxRetries: -1, ContextTimeoutEnabled: true})
	good := redis.NewClient(safe("127.0.0.1:1"))
	for _, c := range []redis.UniversalClient{bad, cluster, ring, good} {
		t.Cleanup(func() { c.Close() })
	}
	for _, tt := range []struct {
		client redis.UniversalClient
		opts   redislimiter.Options
		want   []string // none: it is allowed
	}{
		{bad, redislimiter.Options{}, []string{"MaxRetries", "ContextTimeoutEnabled"}},
		{cluster, redislimiter.Options{}, []string{"MaxRetries", "ContextTimeoutEnabled"}},
		{ring, redislimiter.Options{}, []string{"Slot"}},
		{good, redislimiter.Options{Prefix: "a{b", Slot: "c}d"}, []string{"Prefix", "Slot"}},
		{good, redislimiter.Options{Prefix: "a b"}, []string{"Prefix"}},
		{good, redislimiter.Options{Prefix: "ä"}, []string{"Prefix"}},
		{bad, redislimiter.Options{DangerouslyAllowRetries: true}, nil},
		{ring, redislimiter.Options{Slot: "s"}, nil},
		{good, redislimiter.Options{}, nil},
	} {
		log := diagnosetest.Record(t)
		_, err := redislimiter.New(tt.client, &tt.opts)
		if warned := log.Codes() == "redis-retries"; warned != tt.opts.DangerouslyAllowRetries || !warned && log.Codes() != "" {
			t.Errorf("New(%T, %+v) told %q", tt.client, tt.opts, log.Codes())
		}
		if (err == nil) != (tt.want == nil) {
			t.Errorf("New(%T, %+v) = %v", tt.client, tt.opts, err)
		}
		for _, word := range tt.want {
			if err == nil || !strings.Contains(err.Error(), word) || !strings.Contains(err.Error(), "allowed") && word != "ContextTimeoutEnabled" && word != "Slot" {
				t.Errorf("New(%T, %+v) = %v; want it to name %s, and what is allowed", tt.client, tt.opts, err, word)
			}
		}
	}
}

func TestDiagnose(t *testing.T) {
	s := redistest.Start(t)
	l := open(t, client(t, s.Addr()), redislimiter.Options{})
	if err := l.Diagnose(t.Context()); err != nil {
		t.Fatalf("a good server: %v", err)
	}
	s.Do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	s.Do("ACL", "SETUSER", "default", "-pttl", "-zadd")
	log := diagnosetest.Record(t)
	err := l.Diagnose(t.Context())
	if text := log.Text(); log.Codes() != "redis-evicts" || !strings.Contains(text, "allkeys-lru") {
		t.Errorf("a server that evicts: told %s", text)
	}
	if err == nil || !strings.Contains(err.Error(), "allkeys-lru") || !errors.Is(err, redislimiter.ErrPermission) {
		t.Errorf("a server that evicts and forbids: %v", err)
	}
	s.Do("ACL", "SETUSER", "default", "+@all")
	s.Do("CONFIG", "SET", "maxmemory-policy", "noeviction")
	s.Do("REPLICAOF", "127.0.0.1", "1")
	if err := l.Diagnose(t.Context()); !errors.Is(err, redislimiter.ErrReadOnly) {
		t.Errorf("a replica: %v", err)
	}
	s.Kill()
	if err := l.Diagnose(t.Context()); !errors.Is(err, redislimiter.ErrUnreachable) {
		t.Errorf("no server: %v", err)
	}
}

// The user of the documentation can do everything that a Limiter does, and
// nothing with other keys.
func TestACL(t *testing.T) {
	s := redistest.Start(t)
	line := documentedACL(t)
	s.Do(append(line, "+hello")...)
	s.Do("CONFIG", "SET", "maxmemory", "0")
	ctx := t.Context()
	c, err := redislimiter.Dial(ctx, "redis://limits:PASSWORD@"+s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := redislimiter.New(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Diagnose(ctx); err != nil {
		t.Errorf("Diagnose as the documented user: %v", err)
	}
	// Each of the commands is needed, or the line says too much.
	for _, permission := range line[2:] {
		command, ok := strings.CutPrefix(permission, "+")
		if !ok || command == "ping" || command == "eval" {
			continue
		}
		s.Do("ACL", "SETUSER", "limits", "-"+command)
		if err := l.Diagnose(ctx); !errors.Is(err, redislimiter.ErrPermission) {
			t.Errorf("Diagnose without %s: %v", permission, err)
		}
		s.Do("ACL", "SETUSER", "limits", "+"+command)
	}
	other, err := redislimiter.New(c, &redislimiter.Options{Prefix: "other"})
	if err != nil {
		t.Fatal(err)
	}
	fails(t, other, redislimiter.ErrPermission)
	if err := c.Get(ctx, "other:k").Err(); err == nil || errors.Is(err, redis.Nil) {
		t.Errorf("the documented user reads other keys: %v", err)
	}
	// Without +hello go-redis finds another way.
	s.Do("ACL", "SETUSER", "limits", "-hello")
	if c, err := redislimiter.Dial(ctx, "redis://limits:PASSWORD@"+s.Addr()); err != nil {
		t.Errorf("without HELLO: %v", err)
	} else {
		c.Close()
	}
}

// documentedACL returns the command in the comment of Diagnose.
func documentedACL(t *testing.T) []string {
	t.Helper()
	src, err := os.ReadFile("diagnose.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(src), "//\tACL SETUSER")
	text, _, ok2 := strings.Cut(rest, "//\n")
	if !ok || !ok2 {
		t.Fatal("no ACL line in diagnose.go")
	}
	return append([]string{"ACL", "SETUSER"}, strings.Fields(strings.ReplaceAll(text, "//", ""))...)
}
