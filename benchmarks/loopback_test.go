package main_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"testing"

	"github.com/goweir/weir/benchmarks/floor"
	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/benchmarks/peer"
	"github.com/goweir/weir/limiter"
)

// TestLoopback compares requests per second of a real server, with wrk on the
// same machine: client, kernel and server share its cores, so differences are
// smaller here than those of the middlewares alone. Without -measure one request
// of a Go client stands in for wrk.
func TestLoopback(t *testing.T) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	links := []link{
		floorLink("floor, three fields", peer.Plenty, floor.Fields),
		weirLink("weir, key by header", peer.Plenty, byHeader, limiter.Draft10),
		weirLink("weir, no header fields", peer.Plenty, byHeader, limiter.NoHeaders),
		floorLink("floor, no header fields", peer.Plenty, floor.Decide),
		{"bare", func(h http.Handler) http.Handler { return h }},
	}
	var urls []string
	for _, l := range links {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: l.wrap(answer)}
		go srv.Serve(ln)
		t.Cleanup(func() { srv.Close() })
		urls = append(urls, "http://"+ln.Addr().String()+"/")
	}
	if !*measuring {
		for i, url := range urls {
			r, err := http.Get(url)
			if err != nil {
				t.Fatal(err)
			}
			r.Body.Close()
			// The request has no key: weir refuses it by default.
			if r.StatusCode != http.StatusOK && r.StatusCode != http.StatusBadRequest {
				t.Errorf("%s: %s", links[i].name, r.Status)
			}
		}
		return
	}

	rates := make([][]float64, len(links))
	for round := range *rounds {
		for k := range links {
			i := (k + round) % len(links)
			rates[i] = append(rates[i], wrk(t, urls[i]))
		}
	}
	for i, l := range links {
		fmt.Fprintf(t.Output(), "%-26s %7.0f requests/s, %v of the first\n", l.name,
			pace.Median(rates[i]).Median, pace.Ratio(rates[i], rates[0]))
	}
}

var perSecond = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)

func wrk(t *testing.T, url string) float64 {
	out, err := exec.Command("wrk", "-t1", "-c32", "-d2s", "-H", field+": ann", url).CombinedOutput()
	if err != nil {
		t.Fatalf("wrk: %v\n%s", err, out)
	}
	m := perSecond.FindSubmatch(out)
	if m == nil {
		t.Fatalf("wrk printed no rate:\n%s", out)
	}
	rate, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return rate
}
