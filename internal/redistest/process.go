//go:build unix

package redistest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// A process is a redis-server from its start to its end.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed once it is reaped
}

var errTaken = errors.New("redistest: the port is taken")

// runLocked starts a process for s and waits until it answers.
func (s *Server) runLocked() error {
	file := filepath.Join(s.dir, "redis.log")
	log, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	before, err := log.Stat()
	if err != nil {
		return err
	}
	cmd := exec.Command("redis-server", s.args...)
	cmd.Args = append(cmd.Args,
		"--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--protected-mode", "no",
		"--user", user, "on", "nopass", "~*", "&*", "+@all",
	)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	cmd.SysProcAttr = dieWithParent()
	p := &process{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel takes the thread that forked for the parent, and Go ends
		// threads as it likes; so this one waits for the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.proc, s.stopped = p, false
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		// Somebody else's server may answer while ours finds the port taken.
		info, _ := do(s.Addr(), time.Second, "INFO", "server")
		if parseInfo(info)["process_id"] == strconv.Itoa(cmd.Process.Pid) {
			return nil
		}
		select {
		case <-p.ended:
			all, _ := os.ReadFile(file)
			text := string(all[min(int(before.Size()), len(all)):])
			if strings.Contains(text, "Address already in use") {
				return errTaken
			}
			return fmt.Errorf("redistest: redis-server %s: %v:\n%s", strings.Join(cmd.Args[1:], " "), cmd.ProcessState, text)
		default:
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			<-p.ended
			return fmt.Errorf("redistest: redis-server at %s does not answer:\n%s", s.Addr(), s.log())
		}
	}
}

// log returns the end of what all processes of s logged.
func (s *Server) log() string {
	const end = 8 << 10
	text, err := os.ReadFile(filepath.Join(s.dir, "redis.log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-end):])
}

// freePort returns a port that is free, with 10,000 more, which is the cluster
// bus's. Both are below those that kernels give to clients (Linux: 32,768 and
// up), and the one of UDP with the same number is held: nobody gets the port of a
// killed server by chance, another process of tests no more than a client, and no
// client that dials it connects to itself.
func freePort() (port int, held net.PacketConn) {
	for {
		port := 10_000 + rand.IntN(10_000)
		held, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		if free(port) && free(port+10_000) {
			return port, held
		}
		held.Close()
	}
}

func free(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}
