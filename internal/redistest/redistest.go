//go:build unix

// Package redistest starts real redis-server processes for tests, on free ports
// of 127.0.0.1, and breaks them on demand. It needs Redis 7.0 or later.
//
// Processes end with the test that started them, and on Linux also when the
// test binary dies in a way that runs no cleanup. Where redis-server is not
// installed the test is skipped, and fails if the variable CI is true.
package redistest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long something may take that takes milliseconds on an idle
// machine, or the few seconds that Redis' own timers ask for.
const patience = 30 * time.Second

// A Server is one redis-server. Its methods are safe for concurrent use; those
// that return no error fail the test instead.
type Server struct {
	t    testing.TB
	port int
	held net.PacketConn // see freePort
	dir  string
	args []string

	mu      sync.Mutex // held while a process is started or ended
	proc    *process
	stopped bool
}

// Start starts a redis-server that keeps nothing on disk and ends with the test.
// The arguments are further options as on its command line, such as
// "--maxmemory", "10mb". It takes about 15 ms.
//
// A running server has a goroutine here that waits for its end; a test that
// counts goroutines starts servers first.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	return start(t, append([]string{"--save", "", "--appendonly", "no", "--enable-debug-command", "yes"}, args...))
}

// start is Start without the options that a sentinel refuses.
func start(t testing.TB, args []string) *Server {
	t.Helper()
	need(t)
	s := &Server{t: t, dir: t.TempDir(), args: args}
	t.Cleanup(func() {
		s.Kill()
		if s.held != nil {
			s.held.Close()
		}
		if t.Failed() {
			t.Logf("redis-server at %s logged:\n%s", s.Addr(), s.log())
		}
	})
	for range 20 {
		var held net.PacketConn
		s.port, held = freePort()
		s.mu.Lock()
		err := s.runLocked()
		s.mu.Unlock()
		if err == nil {
			s.held = held
			return s
		}
		held.Close()
		if !errors.Is(err, errTaken) {
			t.Fatal(err)
		}
	}
	t.Fatal("redistest: no free port found")
	return nil
}

// need ends the test where there is no redis-server.
func need(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		const message = "this test needs redis-server on PATH"
		if os.Getenv("CI") == "true" {
			t.Fatal(message)
		}
		t.Skip(message)
	}
}

// Addr returns the host and port.
func (s *Server) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// URL returns the address of database 0, as clients take it.
func (s *Server) URL() string { return "redis://" + s.Addr() + "/0" }

// PID returns the number of the process that was started last.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc.cmd.Process.Pid
}

// Kill ends the process as a crash does, and returns when the port refuses.
// A server that is not running stays so.
func (s *Server) Kill() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.killLocked()
}

func (s *Server) killLocked() {
	s.t.Helper()
	if !s.runningLocked() {
		return
	}
	s.proc.cmd.Process.Kill()
	<-s.proc.ended
	await(s.t, "a killed server refuses connections", func() bool {
		c, err := net.Dial("tcp", s.Addr())
		if err == nil {
			c.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

// Stop halts the process: connections are still accepted, by the kernel, and
// nothing is answered until Cont.
func (s *Server) Stop() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signalLocked(syscall.SIGSTOP)
	s.stopped = true
	// The signal is on its way when kill(2) returns.
	stat := fmt.Sprintf("/proc/%d/stat", s.proc.cmd.Process.Pid)
	await(s.t, "a server stops", func() bool {
		data, err := os.ReadFile(stat)
		_, after, ok := bytes.Cut(data, []byte(") "))
		return err != nil || !ok || after[0] == 'T'
	})
}

// Cont lets a stopped process go on. It finds all that was sent to it.
func (s *Server) Cont() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signalLocked(syscall.SIGCONT)
	s.stopped = false
}

func (s *Server) signalLocked(sig syscall.Signal) {
	s.t.Helper()
	if err := s.proc.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("redistest: %v to %s: %v", sig, s.Addr(), err)
	}
}

// Restart starts the server again on the same port with the same arguments,
// without data, scripts and what was set at run time. A running one is killed
// first. A node of a cluster remains that node.
func (s *Server) Restart() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.killLocked()
	os.Remove(filepath.Join(s.dir, "dump.rdb")) // replicas leave one
	var err error
	await(s.t, "a port is free again", func() bool {
		err = s.runLocked()
		return !errors.Is(err, errTaken)
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// Running says whether there is a process, stopped or not.
func (s *Server) Running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runningLocked()
}

// answers is Running without the stopped.
func (s *Server) answers() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runningLocked() && !s.stopped
}

func (s *Server) runningLocked() bool {
	if s.proc == nil {
		return false
	}
	select {
	case <-s.proc.ended:
		return false
	default:
		return true
	}
}

// Do runs a command and returns its reply as redis-cli prints it into a pipe:
// nil is empty, and an array has its elements in lines. An error reply fails the
// test.
//
// It runs as a user of its own that may do everything, whatever the test does
// to others, on a connection of its own: AUTH shows up in the statistics.
func (s *Server) Do(args ...string) string {
	s.t.Helper()
	reply, err := s.TryDo(args...)
	if err != nil {
		s.t.Fatalf("redistest: %s at %s: %v", strings.Join(args, " "), s.Addr(), err)
	}
	return reply
}

// TryDo is Do for commands that may fail. The text of an error reply is the
// error's.
func (s *Server) TryDo(args ...string) (string, error) {
	return do(s.Addr(), patience, args...)
}

// Info returns a section of INFO, or all if section is empty.
func (s *Server) Info(section string) map[string]string {
	s.t.Helper()
	args := []string{"INFO"}
	if section != "" {
		args = append(args, section)
	}
	return parseInfo(s.Do(args...))
}

func parseInfo(text string) map[string]string {
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info
}

// CommandStats returns how often each command was called, scripts' calls
// included, since the start or ResetStats; this package's own count too. Names
// are as in "evalsha" and "config|get".
func (s *Server) CommandStats() map[string]int64 {
	s.t.Helper()
	calls := map[string]int64{}
	for name, value := range s.Info("commandstats") {
		n, _, _ := strings.Cut(strings.TrimPrefix(value, "calls="), ",")
		var err error
		if calls[strings.TrimPrefix(name, "cmdstat_")], err = strconv.ParseInt(n, 10, 64); err != nil {
			s.t.Fatalf("redistest: %s:%s: %v", name, value, err)
		}
	}
	return calls
}

// ResetStats sets the counts of CommandStats, and other statistics of INFO, to
// zero.
func (s *Server) ResetStats() {
	s.t.Helper()
	s.Do("CONFIG", "RESETSTAT")
}

// AwaitReplicas waits until all replicas have what was written before. WAIT does
// not: it looks at what its own connection has written.
func (s *Server) AwaitReplicas() {
	s.t.Helper()
	info := s.Info("replication")
	want := offset(info["master_repl_offset"])
	if info["connected_slaves"] == "0" {
		s.t.Fatalf("redistest: %s has no replicas", s.Addr())
	}
	for name, value := range info {
		// slave0:ip=127.0.0.1,port=10001,state=online,offset=14,lag=0
		var port int
		if n, _ := fmt.Sscanf(value, "ip=127.0.0.1,port=%d,", &port); n == 0 {
			continue
		}
		await(s.t, name+" has the data", func() bool {
			text, err := do(fmt.Sprintf("127.0.0.1:%d", port), patience, "INFO", "replication")
			return err == nil && offset(parseInfo(text)["slave_repl_offset"]) >= want
		})
	}
}

// offset returns -1 for what is none.
func offset(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// await waits for what has no event to wait for.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("redistest: not within %v: %s", patience, what)
		}
	}
}
