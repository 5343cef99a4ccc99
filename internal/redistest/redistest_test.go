//go:build unix

package redistest_test

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goweir/weir/internal/redistest"
)

func TestStart(t *testing.T) {
	s := redistest.Start(t, "--maxmemory", "10mb", "--maxmemory-policy", "allkeys-lru")
	for _, tt := range []struct {
		command string
		want    string
	}{
		{"PING", "PONG"},
		{"SET k v", "OK"},
		{"GET k", "v"},
		{"GET none", ""},
		{"INCR n", "1"},
		{"RPUSH l a b", "2"},
		{"LRANGE l 0 -1", "a\nb"},
		{"CONFIG GET maxmemory", "maxmemory\n10485760"},
		{"CONFIG GET maxmemory-policy", "maxmemory-policy\nallkeys-lru"},
		{"CONFIG GET save", "save\n"},
		{"CONFIG GET appendonly", "appendonly\nno"},
	} {
		if got := s.Do(strings.Fields(tt.command)...); got != tt.want {
			t.Errorf("%s = %q, want %q", tt.command, got, tt.want)
		}
	}
	if got, want := s.URL(), "redis://"+s.Addr()+"/0"; got != want {
		t.Errorf("URL = %s, want %s", got, want)
	}
	if _, err := s.TryDo("INCR", "k"); err == nil || !strings.HasPrefix(err.Error(), "ERR value is not an integer") {
		t.Errorf("INCR of a word = %v, want the server's error", err)
	}
}

func TestKill(t *testing.T) {
	s := redistest.Start(t)
	pid := s.PID()
	s.Kill()
	if c, err := net.Dial("tcp", s.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialing a killed server: %v, %v, want a refusal", c, err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("signalling a killed server: %v, want none of that number", err)
	}
	if s.Running() {
		t.Error("a killed server counts as running")
	}
	s.Kill() // is nothing
}

func TestRestart(t *testing.T) {
	s := redistest.Start(t)
	addr := s.Addr()
	for _, how := range []string{"killed", "stopped", "running"} {
		s.Do("SET", "k", "v")
		sha := s.Do("SCRIPT", "LOAD", "return 1")
		pid := s.PID()
		switch how {
		case "killed":
			s.Kill()
		case "stopped":
			s.Stop()
		}
		s.Restart()
		if s.Addr() != addr || s.PID() == pid || !s.Running() {
			t.Errorf("%s: is %d at %s now, was %d at %s", how, s.PID(), s.Addr(), pid, addr)
		}
		if got := s.Do("DBSIZE"); got != "0" {
			t.Errorf("%s: has %s keys after the restart, want none", how, got)
		}
		if _, err := s.TryDo("EVALSHA", sha, "0"); err == nil || !strings.HasPrefix(err.Error(), "NOSCRIPT") {
			t.Errorf("%s: EVALSHA after the restart = %v, want NOSCRIPT", how, err)
		}
	}
}

// A stopped server accepts, says nothing, and has lost nothing when it goes on.
func TestStop(t *testing.T) {
	s := redistest.Start(t)
	s.Stop()
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "PING\r\n"); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, len("+PONG\r\n"))
	c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := c.Read(reply); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a stopped server: %q, %v, want a timeout", reply[:n], err)
	}
	s.Cont()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(c, reply); err != nil || string(reply) != "+PONG\r\n" {
		t.Errorf("after Cont: %q, %v, want the answer to the old PING", reply, err)
	}
}

func TestStatistics(t *testing.T) {
	s := redistest.Start(t)
	if got, want := s.Info("server")["tcp_port"], s.Addr()[strings.LastIndex(s.Addr(), ":")+1:]; got != want {
		t.Errorf("tcp_port = %q, want %s", got, want)
	}
	s.Do("EVAL", "return redis.call('INCR', KEYS[1])", "1", "k")
	s.Do("INCR", "k")
	if got := s.CommandStats(); got["eval"] != 1 || got["incr"] != 2 {
		t.Errorf("statistics = %v, want 1 eval and 2 incr", got)
	}
	s.ResetStats()
	if got := s.CommandStats(); got["eval"] != 0 || got["incr"] != 0 || got["config|resetstat"] == 0 {
		t.Errorf("statistics = %v, want only what came after the reset", got)
	}
}
