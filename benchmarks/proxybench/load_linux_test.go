package proxybench

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/benchmarks/pace"
)

// proxies starts one upstream and the proxies in front of it.
func proxies(t *testing.T, r role, names ...string) (upstream *child, fronts []*child) {
	t.Helper()
	upstream = start(t, role{SndBuf: r.SndBuf})
	for _, name := range names {
		r.Proxy, r.Upstream = name, upstream.URL
		fronts = append(fronts, start(t, r))
	}
	return upstream, fronts
}

// turns calls f for each front, in another order each round.
func turns(fronts []*child, f func(i int)) {
	n := 1
	if *measuring {
		n = *rounds
	}
	for round := range n {
		order := make([]int, len(fronts))
		for i := range order {
			order[i] = (i + round) % len(fronts)
		}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, i := range order {
			f(i)
		}
	}
}

// TestRequests compares requests per second for 1 KiB, and the proxy's CPU time
// for each, under wrk.
func TestRequests(t *testing.T) {
	names := []string{"weir", "weir, all off", "ReverseProxy", "ReverseProxy, tuned", "Echo v5 Proxy"}
	upstream, fronts := proxies(t, role{}, names...)
	if *measuring {
		names, fronts = withPrograms(t, upstream, names, fronts)
	}
	if !*measuring {
		for i, f := range fronts {
			res, err := http.Get(f.URL + "/small")
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, res.Body); n != 1024 || err != nil || res.StatusCode != 200 {
				t.Errorf("%s: %d, %d bytes, %v", names[i], res.StatusCode, n, err)
			}
			res.Body.Close()
		}
		return
	}
	rates, cpu := make([][]float64, len(fronts)), make([][]float64, len(fronts))
	turns(fronts, func(i int) {
		before := fronts[i].cpu(t)
		rate, n := wrk(t, fronts[i].URL+"/small")
		rates[i] = append(rates[i], rate)
		cpu[i] = append(cpu[i], float64(fronts[i].cpu(t)-before)/n)
	})
	for i, name := range names {
		t.Logf("%-20s %7.0f requests/s, %5.1f us of CPU time; weir: %v times the requests/s, %v of the CPU time; all off: %v, %v", name,
			pace.Median(rates[i]).Median, pace.Median(cpu[i]).Median/1e3, pace.Ratio(rates[0], rates[i]), pace.Ratio(cpu[0], cpu[i]),
			pace.Ratio(rates[1], rates[i]), pace.Ratio(cpu[1], cpu[i]))
	}
}

var (
	perSecond = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	inAll     = regexp.MustCompile(`([0-9]+) requests in `)
)

func wrk(t *testing.T, url string) (rate, n float64) {
	t.Helper()
	out, err := exec.Command("wrk", "-t1", "-c32", fmt.Sprintf("-d%ds", max(1, int(slice.Seconds()))), url).CombinedOutput()
	if err != nil {
		t.Fatalf("wrk: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "Non-2xx") || strings.Contains(string(out), "Socket errors") {
		t.Errorf("wrk:\n%s", out)
	}
	r, m := perSecond.FindSubmatch(out), inAll.FindSubmatch(out)
	if r == nil || m == nil {
		t.Fatalf("wrk printed no rate:\n%s", out)
	}
	rate, _ = strconv.ParseFloat(string(r[1]), 64)
	n, _ = strconv.ParseFloat(string(m[1]), 64)
	return rate, n
}

// TestBulk compares downloads, of known length and chunked, by the rate and by
// the proxy's CPU time a byte. Upstream and client do as little as they can.
func TestBulk(t *testing.T) {
	names := []string{"weir", "ReverseProxy", "ReverseProxy, tuned", "Echo v5 Proxy"}
	upstream, fronts := proxies(t, role{}, names...)
	if *measuring {
		names, fronts = withPrograms(t, upstream, names, fronts)
	}
	each := size(int64(256<<20), 1<<20)
	for _, chunk := range []int{0, 32 << 10, 4 << 10} {
		rates, cpu := make([][]float64, len(fronts)), make([][]float64, len(fronts))
		turns(fronts, func(i int) {
			before, begun := fronts[i].cpu(t), time.Now()
			download(t, fronts[i], 2, each, chunk)
			rates[i] = append(rates[i], 2*float64(each)/time.Since(begun).Seconds())
			cpu[i] = append(cpu[i], float64(fronts[i].cpu(t)-before)/float64(2*each))
		})
		if !*measuring {
			continue
		}
		kind := "known length"
		if chunk > 0 {
			kind = fmt.Sprintf("chunks of %d", chunk)
		}
		for i, name := range names {
			t.Logf("%s, %s: %.0f MiB/s, %.2f CPU s/GiB; weir: %v times the rate, %v of the CPU time", name, kind,
				pace.Median(rates[i]).Median/(1<<20), pace.Median(cpu[i]).Median*(1<<30)/1e9, pace.Ratio(rates[0], rates[i]), pace.Ratio(cpu[0], cpu[i]))
		}
	}
}

// download has so many clients at once download n bytes each.
func download(t *testing.T, from *child, clients int, n int64, chunk int) {
	t.Helper()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			if err := downloadOne(from.addr(), n, chunk); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func downloadOne(addr string, n int64, chunk int) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Fprintf(c, "GET /bytes?size=%d&chunk=%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", n, chunk)
	var got int64
	var head, tail []byte
	for p := make([]byte, 256<<10); ; {
		m, err := c.Read(p)
		if len(head) == 0 {
			head = append(head, p[:min(m, 12)]...)
		}
		got += int64(m)
		if m > 0 {
			tail = append(tail, p[max(0, m-5):m]...)
			tail = tail[max(0, len(tail)-5):]
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if string(head) != "HTTP/1.1 200" || got < n || chunk > 0 && string(tail) != "0\r\n\r\n" {
		return fmt.Errorf("%q, %d bytes of %d, ending with %q", head, got, n, tail)
	}
	return nil
}

// TestMessages compares WebSocket messages per second, 64 sockets with one
// message under way each.
func TestMessages(t *testing.T) {
	names := []string{"weir", "ReverseProxy"}
	_, fronts := proxies(t, role{}, names...)
	sockets := make([][]net.Conn, len(fronts))
	for i, f := range fronts {
		for range size(64, 2) {
			sockets[i] = append(sockets[i], openSocket(t, f.addr()))
		}
	}
	rates, cpu := make([][]float64, len(fronts)), make([][]float64, len(fronts))
	d := *slice
	if !*measuring {
		d = 20 * time.Millisecond
	}
	turns(fronts, func(i int) {
		var n atomic.Int64
		var wg sync.WaitGroup
		before, begun := fronts[i].cpu(t), time.Now()
		for _, c := range sockets[i] {
			wg.Go(func() {
				for in := make([]byte, len(reply)); time.Since(begun) < d; n.Add(1) {
					if err := ping(c, in); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		rates[i] = append(rates[i], float64(n.Load())/time.Since(begun).Seconds())
		cpu[i] = append(cpu[i], float64(fronts[i].cpu(t)-before)/float64(n.Load()))
	})
	t.Logf("%.0f messages/s, ReverseProxy %.0f: %v times as many, with %v of the CPU time", pace.Median(rates[0]).Median,
		pace.Median(rates[1]).Median, pace.Ratio(rates[0], rates[1]), pace.Ratio(cpu[0], cpu[1]))
}
