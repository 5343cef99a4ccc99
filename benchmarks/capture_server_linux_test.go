package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/goweir/weir/benchmarks/peer"
	"github.com/goweir/weir/capture"
)

// A server is a child process that sends and takes bodies of any size, behind a
// middleware that logs them, so that its memory can be measured and bounded.
type server struct {
	URL    string
	cmd    *exec.Cmd
	stdin  io.Closer
	out    *bufio.Reader
	stderr bytes.Buffer
}

// serverConfig is given to the child in its environment.
type serverConfig struct {
	Middleware string
	Limit      uint64 // of its private writable memory, in bytes; 0: none
	Budget     int64
}

// serverReport is what the child says of itself at its end.
type serverReport struct {
	RSS, Heap int64          // at the peak, in bytes
	Budget    int64          // in use at the peak
	Records   map[string]int // by what they say of the response's body
}

const serverEnv = "WEIR_CAPTURE_SERVER"

func startServer(t *testing.T, c serverConfig) *server {
	t.Helper()
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{cmd: exec.Command(os.Args[0], "-test.run=^TestCaptureServer$")}
	s.cmd.Env = append(os.Environ(), serverEnv+"="+string(config))
	s.cmd.Stderr = &s.stderr
	stdin, err := s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.stdin, s.out = stdin, bufio.NewReader(stdout)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cmd.Process.Kill(); s.cmd.Wait() })
	if s.URL, err = s.out.ReadString('\n'); err != nil {
		t.Fatalf("%s: the server did not start: %v\n%s", c.Middleware, err, s.stderr.Bytes())
	}
	s.URL = strings.TrimSpace(s.URL)
	return s
}

// stop ends the server and returns its report, or an error if it had died.
func (s *server) stop() (r serverReport, err error) {
	s.stdin.Close()
	line, _ := s.out.ReadBytes('\n')
	io.Copy(io.Discard, s.out)
	if err := s.cmd.Wait(); err != nil {
		return r, err
	}
	return r, json.Unmarshal(line, &r)
}

// TestCaptureServer is the child.
func TestCaptureServer(t *testing.T) {
	text, ok := os.LookupEnv(serverEnv)
	if !ok {
		t.Skip("runs as a child of other tests")
	}
	var c serverConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	if c.Limit > 0 {
		if err := syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: c.Limit, Max: c.Limit}); err != nil {
			t.Fatal(err)
		}
	}
	budget := capture.NewBudget(c.Budget)
	var mu sync.Mutex
	report := serverReport{Records: map[string]int{}}
	queue := capture.Async(capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		mu.Lock()
		defer mu.Unlock()
		b := x.Response.Body
		if x.Method == http.MethodPost {
			b = x.Request.Body
		}
		report.Records[fmt.Sprintf("%s, size=%d, %s", b.Skipped, b.Size, x.Outcome)]++
		return nil
	}), nil)
	wrap := func(h http.Handler) http.Handler { return h }
	if c.Middleware == "weir" {
		wrap = capture.Middleware(queue, &capture.Options{Budget: budget})
	}
	for _, l := range peer.BodyLoggers {
		if l.Name == c.Middleware {
			wrap = l.Wrap
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: wrap(http.HandlerFunc(serveBodies))}
	go srv.Serve(ln)
	var heapPeak, budgetPeak atomic.Int64
	stop, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				heapPeak.Store(max(heapPeak.Load(), heapInUse()))
				budgetPeak.Store(max(budgetPeak.Load(), budget.InUse()))
			}
		}
	}()
	fmt.Printf("http://%s\n", ln.Addr())
	io.Copy(io.Discard, os.Stdin) // until the parent has had enough
	srv.Shutdown(t.Context())
	queue.Close(t.Context())
	close(stop)
	<-watched
	report.RSS, report.Heap, report.Budget = peakRSS(t), heapPeak.Load(), budgetPeak.Load()
	line, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s\n", line)
}

// serveBodies takes what is sent, and answers with ?size= bytes of ?type=.
func serveBodies(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	size, _ := strconv.ParseInt(r.FormValue("size"), 10, 64)
	h := w.Header()
	h.Set("Content-Type", r.FormValue("type"))
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	if r.FormValue("type") == "application/octet-stream" {
		h.Set("Content-Disposition", `attachment; filename="big.bin"`)
	}
	io.Copy(w, io.LimitReader(zeros{}, size))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func heapInUse() int64 {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64() + samples[1].Value.Uint64())
}

// peakRSS returns the high-water mark of this process's resident memory.
func peakRSS(t *testing.T) int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	return 0
}

// transfers has n clients at once, each of which uploads and downloads so many
// bytes on a connection of its own. It returns how many were served well.
func (s *server) transfers(n int, contentType string, up, down int64) (whole int) {
	var wg sync.WaitGroup
	var good atomic.Int64
	for range n {
		wg.Go(func() {
			tr := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
			r, err := http.NewRequest(http.MethodGet, fmt.Sprintf("%s/?size=%d&type=%s", s.URL, down, contentType), nil)
			if err != nil {
				return
			}
			if up > 0 {
				r.Method, r.Body, r.ContentLength = http.MethodPost, io.NopCloser(io.LimitReader(zeros{}, up)), up
				r.Header.Set("Content-Type", contentType)
			}
			resp, err := tr.RoundTrip(r)
			if err != nil {
				return
			}
			defer resp.Body.Close()
			if got, err := io.Copy(io.Discard, resp.Body); err == nil && got == down && resp.StatusCode == http.StatusOK {
				good.Add(1)
			}
		})
	}
	wg.Wait()
	return int(good.Load())
}
