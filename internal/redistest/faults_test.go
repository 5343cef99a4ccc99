//go:build unix

package redistest_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/internal/redistest"
)

func fails(t *testing.T, s *redistest.Server, prefix string, args ...string) {
	t.Helper()
	if reply, err := s.TryDo(args...); err == nil || !strings.HasPrefix(err.Error(), prefix) {
		t.Errorf("%s = %q, %v, want %s", strings.Join(args, " "), reply, err, prefix)
	}
}

func works(t *testing.T, s *redistest.Server, args ...string) {
	t.Helper()
	if _, err := s.TryDo(args...); err != nil {
		t.Errorf("%s: %v", strings.Join(args, " "), err)
	}
}

func TestBusy(t *testing.T) {
	s := redistest.Start(t)
	end := s.Busy()
	fails(t, s, "BUSY ", "GET", "k")
	fails(t, s, "BUSY ", "EVAL", "return 1", "0")
	end()
	works(t, s, "GET", "k")
}

func TestLoading(t *testing.T) {
	s := redistest.Start(t)
	s.Do("SET", "k", "v")
	end := s.Loading()
	fails(t, s, "LOADING ", "GET", "k")
	end()
	if got := s.Do("GET", "k"); got != "v" {
		t.Errorf("GET = %q after loading, want v", got)
	}
}

// These need no method of their own.
func TestFaultsByCommand(t *testing.T) {
	t.Run("out of memory", func(t *testing.T) {
		s := redistest.Start(t)
		s.Do("CONFIG", "SET", "maxmemory", "1")
		fails(t, s, "OOM ", "SET", "k", "v")
		works(t, s, "GET", "k")
		s.Do("CONFIG", "SET", "maxmemory", "0")
		works(t, s, "SET", "k", "v")
	})
	t.Run("scripts lost", func(t *testing.T) {
		s := redistest.Start(t)
		sha := s.Do("SCRIPT", "LOAD", "return 1")
		works(t, s, "EVALSHA", sha, "0")
		s.Do("SCRIPT", "FLUSH")
		fails(t, s, "NOSCRIPT ", "EVALSHA", sha, "0")
	})
	t.Run("wrong type", func(t *testing.T) {
		s := redistest.Start(t)
		s.Do("RPUSH", "k", "a")
		fails(t, s, "WRONGTYPE ", "GET", "k")
	})
	t.Run("asleep", func(t *testing.T) {
		s := redistest.Start(t)
		begin := time.Now()
		s.Do("DEBUG", "SLEEP", "0.1")
		if took := time.Since(begin); took < 100*time.Millisecond {
			t.Errorf("took %v, want 100 ms", took)
		}
	})
}

// Whatever the default user may, Do may everything.
func TestUsers(t *testing.T) {
	s := redistest.Start(t)
	c := dial(t, s)
	s.Do("ACL", "SETUSER", "default", "-get")
	c.ask(t, "GET k", "-NOPERM ")
	c.ask(t, "SET k v", "+OK")
	s.Do("ACL", "SETUSER", "limited", "on", ">secret", "~*", "+get")
	c.ask(t, "AUTH limited secret", "+OK")
	c.ask(t, "SET k v", "-NOPERM ")
	c.ask(t, "GET k", "$1")
	s.Do("CONFIG", "SET", "requirepass", "secret")
	dial(t, s).ask(t, "GET k", "-NOAUTH ")
	if got := s.Do("GET", "k"); got != "v" {
		t.Errorf("GET = %q, want v", got)
	}
	s.Restart()
	dial(t, s).ask(t, "GET k", "$-1")

	closed := redistest.Start(t, "--requirepass", "secret")
	dial(t, closed).ask(t, "PING", "-NOAUTH ")
	works(t, closed, "PING")
}

// A conn speaks to a server as a client that is nobody.
type conn struct {
	net.Conn
	br *bufio.Reader
}

func dial(t *testing.T, s *redistest.Server) *conn {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &conn{c, bufio.NewReader(c)}
}

// ask sends an inline command and checks the beginning of the reply. A bulk
// string must be the last that is asked.
func (c *conn) ask(t *testing.T, command, want string) {
	t.Helper()
	if _, err := io.WriteString(c, command+"\r\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := c.br.ReadString('\n'); err != nil || !strings.HasPrefix(got, want) {
		t.Errorf("%s: %q, %v, want %s", command, got, err, want)
	}
}
