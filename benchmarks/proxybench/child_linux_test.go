package proxybench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var (
	measuring = flag.Bool("measure", false, "measure; without it the tests only see that everything runs")
	rounds    = flag.Int("rounds", 10, "turns of each proxy, with -measure")
	slice     = flag.Duration("slice", time.Second, "length of a turn under load, with -measure")
)

// size returns n when measuring, and few else.
func size[N int | int64 | time.Duration](n, few N) N {
	if *measuring {
		return n
	}
	return few
}

// A child is a server in a process of its own, so that its memory and its CPU
// time are known.
type child struct {
	URL    string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	out    *bufio.Reader
	stderr bytes.Buffer
}

// A role is what a child is; it is given in the environment.
type role struct {
	Proxy    string // name of a Peer, or "" for the upstream
	Upstream string
	SndBuf   int // of accepted connections; 0: the system's
}

// A report is what a child says of itself.
type report struct {
	CPU         time.Duration
	RSS         int64
	Heap, Stack int64 // in use
	PeakHeap    int64 // since the last report
	Goroutines  int
	Accepted    int64 // connections
}

const childEnv = "WEIR_PROXY_CHILD"

func start(t *testing.T, r role) *child {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	return run(t, cmd)
}

// run starts a command that prints the URL it serves.
func run(t *testing.T, cmd *exec.Cmd) *child {
	t.Helper()
	c := &child{cmd: cmd}
	cmd.Stderr = &c.stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdin, c.out = stdin, bufio.NewReader(stdout)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Process.Kill(); cmd.Wait() })
	if c.URL, err = c.out.ReadString('\n'); err != nil {
		t.Fatalf("the child did not start: %v\n%s", err, c.stderr.Bytes())
	}
	c.URL = strings.TrimSpace(c.URL)
	return c
}

func (c *child) addr() string { return strings.TrimPrefix(c.URL, "http://") }

// report asks the child, after a garbage collection.
func (c *child) report(t *testing.T) (r report) {
	t.Helper()
	io.WriteString(c.stdin, "report\n")
	line, err := c.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err != nil {
		t.Fatalf("report: %v\n%s", err, c.stderr.Bytes())
	}
	return r
}

// cpu is what the child has used so far, and the processes that it started. It
// reads /proc, so that it works with every program; the clock there ticks every
// 10 ms.
func (c *child) cpu(t *testing.T) (used time.Duration) {
	t.Helper()
	pid := c.cmd.Process.Pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil && !os.IsNotExist(err) { // not every kernel tells
		t.Fatal(err)
	}
	for _, pid := range append(strings.Fields(string(children)), fmt.Sprint(pid)) {
		text, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		var user, system int64
		fmt.Sscan(fields[11], &user)
		fmt.Sscan(fields[12], &system)
		used += time.Duration(user+system) * 10 * time.Millisecond
	}
	return used
}

// TestChild is the child.
func TestChild(t *testing.T) {
	text, ok := os.LookupEnv(childEnv)
	if !ok {
		t.Skip("runs as a child of other tests")
	}
	var r role
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	h := upstreamHandler()
	for _, p := range Peers {
		if p.Name == r.Proxy {
			h = p.New(r.Upstream)
		}
	}
	ln, err := (&net.ListenConfig{Control: sendBuffer(r.SndBuf)}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepted, peak atomic.Int64
	srv := &http.Server{Handler: h, ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			accepted.Add(1)
		}
	}}
	go srv.Serve(ln)
	go func() {
		for range time.Tick(5 * time.Millisecond) {
			peak.Store(max(peak.Load(), heapInUse()))
		}
	}()
	fmt.Printf("http://%s\n", ln.Addr())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		peaked := peak.Swap(0)
		runtime.GC()
		debug.FreeOSMemory() // a second collection, which empties pools
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		line, err := json.Marshal(report{
			RSS: rss(t), Heap: int64(m.HeapAlloc), Stack: int64(m.StackInuse), PeakHeap: peaked,
			Goroutines: runtime.NumGoroutine(), Accepted: accepted.Load(),
		})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%s\n", line)
	}
}

func sendBuffer(n int) func(string, string, syscall.RawConn) error {
	if n == 0 {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, n) }); e != nil {
			return e
		}
		return err
	}
}

func heapInUse() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64() + s[1].Value.Uint64())
}

func rss(t *testing.T) int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	return 0
}
