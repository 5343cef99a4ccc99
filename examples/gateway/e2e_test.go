package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is the gateway as a user runs it, built once by TestMain.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "weir-gateway-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "gateway")
		build := exec.Command("go", "build", "-o", binary)
		if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
			build.Args = append(build.Args, "-race") // as these tests were
		}
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// A gateway is a running child process.
type gateway struct {
	URL            string // without a slash at the end
	Audit          string // the file that it records in
	cmd            *exec.Cmd
	stdout, stderr *output
	ended          chan struct{}
}

// unhurried gives a busy machine all the time it may take for connecting, of
// which the defaults give it little.
const unhurried = "\ntimeouts: {read_header: 1m, upstream: {dial: 1m, header: 1m}}\n"

// start runs the gateway with a configuration that lacks only listen and audit,
// and returns when it accepts connections.
func start(t *testing.T, config string, args ...string) *gateway {
	t.Helper()
	dir := t.TempDir()
	audit := filepath.Join(dir, "audit.jsonl")
	if config != "" {
		file := filepath.Join(dir, "gateway.yaml")
		writeFile(t, file, config)
		args = append(args, "-config", file)
	}
	g := spawn(t, append([]string{"-listen", "127.0.0.1:0", "-audit", audit}, args...)...)
	g.Audit = audit
	g.awaitListening(t, g.stdout)
	return g
}

// spawn runs the gateway without waiting for anything.
func spawn(t *testing.T, args ...string) *gateway {
	t.Helper()
	g := &gateway{stdout: newOutput(), stderr: newOutput(), ended: make(chan struct{})}
	g.cmd = exec.Command(binary, args...)
	g.cmd.Dir = t.TempDir()
	g.cmd.Stdout, g.cmd.Stderr = g.stdout, g.stderr
	// The kernel ends it even if this process is killed.
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		g.cmd.Wait()
		close(g.ended)
	}()
	t.Cleanup(func() {
		g.cmd.Process.Kill()
		<-g.ended
		if t.Failed() {
			t.Logf("stderr of the gateway:\n%s", g.stderr)
		}
	})
	return g
}

func (g *gateway) awaitListening(t *testing.T, out *output) {
	t.Helper()
	select {
	case line := <-out.firstLine:
		url, ok := strings.CutPrefix(line, "weir gateway listening on ")
		if !ok {
			t.Fatalf("the first line is %q", line)
		}
		g.URL = url
	case <-g.ended:
		t.Fatalf("the gateway ended with code %d:\n%s", g.cmd.ProcessState.ExitCode(), g.stderr)
	case <-time.After(20 * time.Second):
		t.Fatal("the gateway does not listen")
	}
}

// wait returns the exit code.
func (g *gateway) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-g.ended:
		return g.cmd.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		t.Fatal("the gateway does not end")
		return 0
	}
}

// stop ends the gateway gently, checks that it says all is well, and returns
// what it has recorded.
func (g *gateway) stop(t *testing.T) []record {
	t.Helper()
	g.cmd.Process.Signal(syscall.SIGTERM)
	if code := g.wait(t); code != 0 {
		t.Errorf("the gateway ended with code %d, want 0", code)
	}
	return readAudit(t, g.Audit)
}

// A record is a line of the audit file.
type record struct {
	Method, Path, Query, Route string
	Status                     int
	Outcome                    string
	RefusedBy                  string `json:"refused_by"`
	Attributes                 map[string]string
	Request, Response          message
	line                       string
}

type message struct {
	Size     int64
	Skipped  string
	Captured int
	Body     string
	Header   map[string][]string
}

// readAudit checks that a file holds one JSON object a line.
func readAudit(t *testing.T, file string) []record {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return parseAudit(t, data)
}

func parseAudit(t *testing.T, data []byte) []record {
	t.Helper()
	if len(data) > 0 && data[len(data)-1] != '\n' {
		t.Errorf("the audit file ends in mid-line: %q", data[max(0, len(data)-80):])
	}
	var records []record
	for line := range bytes.Lines(data) {
		r := record{line: string(line)}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Errorf("%v in line %q", err, line)
			continue
		}
		records = append(records, r)
	}
	return records
}

// An output keeps what a child process writes.
type output struct {
	mu        sync.Mutex
	buf       bytes.Buffer
	firstLine chan string
	told      bool
}

func newOutput() *output { return &output{firstLine: make(chan string, 1)} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(p)
	if line, _, ok := bytes.Cut(o.buf.Bytes(), []byte("\n")); ok && !o.told {
		o.told = true
		o.firstLine <- string(line)
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// do sends a request and reads the whole answer.
func do(t *testing.T, req *http.Request) (*http.Response, []byte, error) {
	t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, body, err
}

func request(t *testing.T, method, url, body string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func get(t *testing.T, url string) (*http.Response, []byte) {
	t.Helper()
	res, body, err := do(t, request(t, "GET", url, ""))
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	return res, body
}
