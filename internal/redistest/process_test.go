//go:build unix

package redistest_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/goweir/weir/internal/redistest"
)

// childEnv makes TestChild of the same binary, run as a process of its own, do
// what its value says.
const childEnv = "WEIR_TEST_REDISTEST"

// TestChild is not a test by itself but what others run in a child process.
func TestChild(t *testing.T) {
	how := os.Getenv(childEnv)
	if how == "" {
		t.Skip("run by other tests in a process of its own")
	}
	s := redistest.Start(t)
	s.Restart()
	// Threads end, all that are idle: the server must not depend on any of them.
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			runtime.LockOSThread() // and never unlocked, which ends the thread
			time.Sleep(10 * time.Millisecond)
		})
	}
	wg.Wait()
	time.Sleep(10 * time.Millisecond)
	s.Do("PING")
	fmt.Printf("server: %s %d\n", s.Addr(), s.PID())
	switch how {
	case "end":
	case "fail":
		t.Error("failed on purpose")
	case "panic":
		// One that no test recovers, so that no cleanup runs.
		go func() { panic("on purpose") }()
		select {}
	case "exit":
		os.Exit(3)
	case "wait":
		select {}
	}
}

// No way in which a test binary ends leaves a server behind.
func TestServerDiesWithTheTest(t *testing.T) {
	redistest.Start(t) // skips where there is none
	if runtime.GOOS != "linux" {
		t.Skip("only Linux kills children of a process that is killed")
	}
	for _, how := range []string{"end", "fail", "panic", "exit", "wait"} {
		t.Run(how, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.v")
			cmd.Env = append(os.Environ(), childEnv+"="+how)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			var (
				text strings.Builder
				addr string
				pid  int
			)
			for lines := bufio.NewScanner(out); lines.Scan(); {
				fmt.Fprintln(&text, lines.Text())
				if n, _ := fmt.Sscanf(lines.Text(), "server: %s %d", &addr, &pid); n == 2 && how == "wait" {
					if c, err := net.Dial("tcp", addr); err != nil {
						t.Errorf("the server is not up: %v", err)
					} else {
						c.Close()
					}
					cmd.Process.Kill()
				}
			}
			cmd.Wait()
			if pid == 0 {
				t.Fatalf("no server was started:\n%s", &text)
			}
			if code, want := cmd.ProcessState.ExitCode(), map[string]int{"end": 0, "fail": 1, "panic": 2, "exit": 3, "wait": -1}[how]; code != want {
				t.Errorf("exit code %d, want %d", code, want)
			}
			if logged := strings.Contains(text.String(), "Ready to accept connections"); logged != (how == "fail") {
				t.Errorf("the server's log was shown: %t\n%s", logged, &text)
			}
			// The main thread may be gone with others still alive.
			for begin := time.Now(); ; time.Sleep(time.Millisecond) {
				c, err := net.Dial("tcp", addr)
				if errors.Is(err, syscall.ECONNREFUSED) {
					break
				}
				if err == nil {
					c.Close()
				}
				if time.Since(begin) > 10*time.Second {
					syscall.Kill(pid, syscall.SIGKILL)
					t.Fatalf("redis-server %d outlived the test: %v", pid, err)
				}
			}
		})
	}
}

// Without redis-server a test is skipped, but not in CI.
func TestNoServer(t *testing.T) {
	for _, tt := range []struct {
		ci, want string
	}{
		{"", "--- SKIP"},
		{"true", "--- FAIL"},
	} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.v")
		cmd.Env = []string{childEnv + "=end", "CI=" + tt.ci, "PATH=" + t.TempDir()}
		out, _ := cmd.CombinedOutput()
		if text := string(out); !strings.Contains(text, tt.want) || !strings.Contains(text, "needs redis-server on PATH") {
			t.Errorf("CI=%q: %s\nwant %s and the reason", tt.ci, text, tt.want)
		}
	}
}

// What is wrong with an option is said in the server's words.
func TestBadOption(t *testing.T) {
	redistest.Start(t)
	r := &recorder{TB: t}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		redistest.Start(r, "--maxmemory", "much")
	}()
	<-ended
	if !strings.Contains(r.fatal, "argument must be a memory value") {
		t.Errorf("failed with %q", r.fatal)
	}
}

// A recorder is a test that may fail.
type recorder struct {
	testing.TB
	fatal string
}

func (r *recorder) Fatal(args ...any) {
	r.fatal = fmt.Sprint(args...)
	runtime.Goexit()
}

func TestServersAtOnce(t *testing.T) {
	servers := make([]*redistest.Server, 10)
	var wg sync.WaitGroup
	for i := range servers {
		wg.Go(func() { servers[i] = redistest.Start(t) })
	}
	wg.Wait()
	for i, s := range servers {
		s.Do("SET", "i", strconv.Itoa(i))
	}
	for i, s := range servers {
		if got := s.Do("GET", "i"); got != strconv.Itoa(i) {
			t.Errorf("server %d has the data of %s", i, got)
		}
	}
}

// Restart waits for whoever took the port meanwhile.
func TestRestartOnTakenPort(t *testing.T) {
	s := redistest.Start(t)
	addr := s.Addr()
	s.Kill()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { l.Close() })
	s.Restart()
	if got := s.Do("PING"); got != "PONG" || s.Addr() != addr {
		t.Errorf("PING at %s = %s, want PONG at %s", s.Addr(), got, addr)
	}
}
