package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// After SIGTERM during hundreds of event streams each is cut so that its client
// sees it, the audit has every one, and the exit code is 0.
func TestDrainOfManyStreams(t *testing.T) {
	streams := 500
	if testing.Short() {
		streams = 100
	}
	g := start(t, `
admin: {listen: 127.0.0.1:0}
timeouts: {shutdown: 3s, read_header: 1m, upstream: {dial: 1m, header: 1m}}
routes: [{path: /, upstreams: [demo]}]
`)
	admin := g.admin(t)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var (
		wg           sync.WaitGroup
		clean, ended atomic.Int32
		open         = make(chan struct{}, streams)
	)
	for i := range streams {
		wg.Go(func() {
			res, err := client.Get(fmt.Sprintf("%s/clock?n=%d", g.URL, i))
			if err != nil {
				t.Errorf("stream %d: %v", i, err)
				open <- struct{}{}
				return
			}
			defer res.Body.Close()
			body := bufio.NewReader(res.Body)
			if line, err := body.ReadString('\n'); err != nil || line != "event: tick\n" {
				t.Errorf("stream %d begins with %q, %v", i, line, err)
			}
			open <- struct{}{}
			if _, err := io.Copy(io.Discard, body); err == nil {
				clean.Add(1)
			}
			ended.Add(1)
		})
	}
	for range streams {
		<-open
	}
	if got := scrape(t, g).total("weir_gateway_requests_in_flight"); got != float64(streams) {
		t.Errorf("%v requests are in flight, want %d", got, streams)
	}
	began := time.Now()
	g.cmd.Process.Signal(syscall.SIGTERM)
	g.awaitLog(t, "not ready any more", func() {})
	if res, _ := get(t, admin+"/readyz"); res.StatusCode != 503 {
		t.Errorf("/readyz answers %s while it drains, want 503", res.Status)
	}
	code := g.wait(t)
	took := time.Since(began)
	wg.Wait()
	t.Logf("%d streams were cut and recorded within %v of SIGTERM; timeouts.shutdown is 3 s", ended.Load(), took)
	if code != 0 || took > 20*time.Second {
		t.Errorf("it ended with code %d after %v, want 0 soon after 3 s", code, took)
	}
	if n := clean.Load(); n > 0 {
		t.Errorf("%d streams that were cut have a clean end", n)
	}
	seen := map[string]bool{}
	for _, r := range readAudit(t, g.Audit) {
		if r.Path != "/clock" || r.Status != 200 || r.Outcome == "ok" || r.Attributes["cut_by"] != "shutdown" {
			t.Errorf("a stream is recorded as %s", r.line)
		}
		seen[r.Query] = true
	}
	if len(seen) != streams {
		t.Errorf("%d of %d streams are in the audit", len(seen), streams)
	}
}

// lateness returns by how much the machine was late at most, until done is
// closed, for somebody who only sleeps.
func lateness(done <-chan struct{}) (most time.Duration) {
	const nap = 20 * time.Millisecond
	for {
		began := time.Now()
		select {
		case <-done:
			return most
		case <-time.After(nap):
			most = max(most, time.Since(began)-nap)
		}
	}
}

// Two thousand clients that never end their headers are all let go in time, and
// one that is honest does not notice them.
func TestSlowloris(t *testing.T) {
	slow, limit := 2000, 2*time.Second
	if testing.Short() {
		slow = 300
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur < uint64(slow+200) {
		if os.Getenv("CI") == "true" {
			t.Fatalf("only %d files may be open (%v)", files.Cur, err)
		}
		t.Skipf("only %d files may be open (%v)", files.Cur, err)
	}
	g := start(t, fmt.Sprintf(`
admin: {listen: 127.0.0.1:0}
timeouts: {read_header: %v}
routes: [{path: /, upstreams: [demo]}]
`, limit))
	latency := func(n int) (took []time.Duration) {
		for range n {
			began := time.Now()
			if res, _ := get(t, g.URL+"/echo"); res.StatusCode != 200 {
				t.Errorf("an honest client gets %s", res.Status)
			}
			took = append(took, time.Since(began))
			time.Sleep(5 * time.Millisecond)
		}
		slices.Sort(took)
		return took
	}
	alone := latency(100)

	addr := strings.TrimPrefix(g.URL, "http://")
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		lasted   []time.Duration // from the first byte sent to the end
		answered atomic.Int32
	)
	dialing := make(chan struct{}, 50)
	for range slow {
		wg.Go(func() {
			dialing <- struct{}{}
			c, err := net.Dial("tcp", addr)
			<-dialing
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			began := time.Now()
			c.SetDeadline(began.Add(30 * time.Second))
			io.WriteString(c, "GET /echo HTTP/1.1\r\nHost: a\r\n")
			stop := make(chan struct{})
			go func() { // a byte now and then, so that it is not just idle
				for {
					select {
					case <-stop:
						return
					case <-time.After(300 * time.Millisecond):
						io.WriteString(c, "X")
					}
				}
			}()
			buf := make([]byte, 512)
			n, err := c.Read(buf)
			close(stop)
			if e, ok := err.(net.Error); ok && e.Timeout() {
				t.Error("a slow client is not let go")
			}
			if n > 0 && strings.HasPrefix(string(buf[:n]), "HTTP/1.1 200") {
				answered.Add(1)
			}
			mu.Lock()
			defer mu.Unlock()
			lasted = append(lasted, time.Since(began))
		})
	}
	ended := make(chan struct{})
	lag := make(chan time.Duration, 1)
	go func() { lag <- lateness(ended) }()
	crowded := latency(150) // while they come and stay
	wg.Wait()
	close(ended)
	busy := <-lag
	slices.Sort(lasted)
	if len(lasted) != slow || answered.Load() > 0 {
		t.Fatalf("%d of %d slow clients were let go, and %d got an answer", len(lasted), slow, answered.Load())
	}
	late := 0
	for _, d := range lasted {
		if d > limit+time.Second+busy {
			late++
		}
	}
	p99 := func(d []time.Duration) time.Duration { return d[len(d)*99/100] }
	t.Logf("%d slow clients were let go after %v to %v (limit %v, %d later than 1 s and %v after it); an honest client's p99 is %v, and %v without them, its median %v and %v",
		slow, lasted[0].Round(time.Millisecond), lasted[slow-1].Round(time.Millisecond), limit, late, busy.Round(time.Millisecond), p99(crowded), p99(alone), crowded[len(crowded)/2], alone[len(alone)/2])
	// A machine that is busy with other tests may be late for a few, and later
	// than by the second by as much as it is for anybody.
	if late > slow/20 {
		t.Errorf("%d of %d were let go later than a second after the limit, and the %v by which everything is late here", late, slow, busy)
	}
	if half, most := crowded[len(crowded)/2], max(50*time.Millisecond, busy, 20*alone[len(alone)/2]); half > most {
		t.Errorf("half of an honest client's requests take %v and more, want at most %v", half, most)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		http.DefaultClient.CloseIdleConnections()
		open := scrape(t, g).total("weir_gateway_open_connections")
		if open == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v connections are still open", open)
		}
	}
}
