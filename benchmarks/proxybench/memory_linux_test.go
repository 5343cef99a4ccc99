package proxybench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestConnections counts what 32 workers that send a hundred requests each make
// a proxy open.
func TestConnections(t *testing.T) {
	const workers = 32
	each := size(100, 10)
	for _, name := range []string{"weir", "ReverseProxy"} {
		upstream, fronts := proxies(t, role{}, name)
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				c := &http.Client{Transport: &http.Transport{}}
				defer c.CloseIdleConnections()
				for range each {
					res, err := c.Get(fronts[0].URL + "/small")
					if err != nil {
						t.Error(err)
						return
					}
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			})
		}
		wg.Wait()
		opened := upstream.report(t).Accepted
		t.Logf("%s: %d connections to the upstream for %d requests by %d workers", name, opened, workers*each, workers)
		// Some more, because http.Transport dials while a connection is about to
		// become idle.
		if name == "weir" && opened > 2*workers {
			t.Errorf("weir opened %d connections for %d workers", opened, workers)
		}
	}
}

// added is what n of something cost a child, each.
type added struct{ heap, stack, rss, goroutines float64 }

func perEach(before, after report, n int) added {
	f := func(a, b int64) float64 { return float64(b-a) / float64(n) }
	return added{f(before.Heap, after.Heap), f(before.Stack, after.Stack), f(before.RSS, after.RSS), f(int64(before.Goroutines), int64(after.Goroutines))}
}

func (a added) String() string {
	return fmt.Sprintf("%.1f KiB of heap, %.1f of stacks, %.1f of RSS, %.1f goroutines", a.heap/1024, a.stack/1024, a.rss/1024, a.goroutines)
}

// TestIdleEvents measures streams of events in which nothing happens.
func TestIdleEvents(t *testing.T) {
	n := size(1000, 20)
	costs := map[string]added{}
	for _, name := range []string{"weir", "ReverseProxy"} {
		_, fronts := proxies(t, role{}, name)
		open := func(n int) {
			for range n {
				c, err := net.Dial("tcp", fronts[0].addr())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				c.SetDeadline(time.Now().Add(time.Minute))
				io.WriteString(c, "GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
				for br := bufio.NewReaderSize(c, 512); ; {
					line, err := br.ReadString('\n')
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					if strings.HasPrefix(line, "data:") {
						break
					}
				}
			}
		}
		open(10)
		before := fronts[0].report(t)
		open(n)
		costs[name] = perEach(before, fronts[0].report(t), n)
		t.Logf("%s: an idle stream of events has %v", name, costs[name])
	}
	ratio := costs["weir"].heap / costs["ReverseProxy"].heap
	t.Logf("heap: %.2f of ReverseProxy's", ratio)
	if *measuring && ratio > 0.65 {
		t.Errorf("the heap of an idle stream is %.2f of ReverseProxy's, want at most 0.65", ratio)
	}
}

// TestIdleTunnels measures WebSockets that have carried a message.
func TestIdleTunnels(t *testing.T) {
	n := size(1000, 20)
	costs := map[string]added{}
	for _, name := range []string{"weir", "ReverseProxy"} {
		_, fronts := proxies(t, role{}, name)
		open := func(n int) {
			for range n {
				openSocket(t, fronts[0].addr())
			}
		}
		open(10)
		before := fronts[0].report(t)
		open(n)
		costs[name] = perEach(before, fronts[0].report(t), n)
		t.Logf("%s: an idle tunnel has %v", name, costs[name])
	}
	w, r := costs["weir"], costs["ReverseProxy"]
	ratio := (w.heap + w.stack) / (r.heap + r.stack)
	t.Logf("heap and stacks: %.2f of ReverseProxy's, heap %.2f, RSS %.2f", ratio, w.heap/r.heap, w.rss/r.rss)
	if *measuring && ratio > 0.5 {
		t.Errorf("an idle tunnel has %.2f of the heap and stacks of ReverseProxy's, want at most 0.5", ratio)
	}
}

// TestDownloads has 20 clients download 1 GiB each at once.
func TestDownloads(t *testing.T) {
	const clients = 20
	each := size(int64(1<<30), 8<<20)
	for _, chunk := range []int{0, 32 << 10} {
		_, fronts := proxies(t, role{}, "weir")
		fronts[0].report(t)
		begun := time.Now()
		download(t, fronts[0], clients, each, chunk)
		peak := fronts[0].report(t).PeakHeap
		t.Logf("%d x %d MiB in chunks of %d in %v: peak heap %.1f MiB", clients, each>>20, chunk, time.Since(begun).Round(time.Millisecond), float64(peak)/(1<<20))
		if peak > 16<<20+clients*100<<10 {
			t.Errorf("peak heap %d, want at most 16 MiB and 100 KiB a stream", peak)
		}
	}
}

// TestSlowReaders has clients that do not read what they have asked for.
func TestSlowReaders(t *testing.T) {
	n := size(4000, 50)
	used := map[string]int64{}
	for _, name := range []string{"weir", "ReverseProxy"} {
		// Small buffers in the kernel, so that it is the proxy that waits.
		_, fronts := proxies(t, role{SndBuf: 16 << 10}, name)
		dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10) })
		}}
		var conns []net.Conn
		for i := range n {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			c, err := dialer.DialContext(ctx, "tcp", fronts[0].addr())
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
			t.Cleanup(func() { c.Close() })
			fmt.Fprintf(c, "GET /bytes?size=8388608&chunk=%d HTTP/1.1\r\nHost: a\r\n\r\n", i%2*32<<10)
			if _, err := io.ReadFull(c, make([]byte, 12)); err != nil { // it has begun
				t.Fatal(err)
			}
		}
		time.Sleep(size(2*time.Second, 100*time.Millisecond)) // until everything is full
		r := fronts[0].report(t)
		used[name] = r.RSS
		t.Logf("%s: %d slow readers: RSS %.1f MiB, heap %.1f, stacks %.1f, %d goroutines", name, n, float64(r.RSS)/(1<<20),
			float64(r.Heap)/(1<<20), float64(r.Stack)/(1<<20), r.Goroutines)
		for _, c := range conns {
			c.Close()
		}
	}
	ratio := float64(used["weir"]) / float64(used["ReverseProxy"])
	t.Logf("RSS: %.2f of ReverseProxy's", ratio)
	if *measuring && ratio > 1.1 {
		t.Errorf("RSS is %.2f of ReverseProxy's, want at most 1.1", ratio)
	}
}
