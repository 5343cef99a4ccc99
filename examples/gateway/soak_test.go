package main_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/examples/gateway/internal/demo"
)

// Eight clients download at once, with capture on: every byte arrives, and the
// gateway, with the demo upstream in the same process, stays below 100 MiB.
//
// It is 1 GiB in all, 128 MiB with -short, and 8 GiB if WEIR_SOAK is set.
func TestDownloadsInConstantMemory(t *testing.T) {
	const clients, maxRSS = 8, 100 << 20
	size := int64(128 << 20)
	switch {
	case os.Getenv("WEIR_SOAK") != "":
		size = 1 << 30
	case testing.Short():
		size = 16 << 20
	}
	want := sha256.New()
	io.Copy(want, demo.NewBytes(size))

	g := start(t, "routes: [{path: /, upstreams: [demo], limits: [{name: client, key: ip, rate: 1000/s}]}]")
	began := time.Now()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			res, err := http.DefaultClient.Do(request(t, "GET", fmt.Sprintf("%s/download?size=%d", g.URL, size), ""))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			sum := sha256.New()
			if n, err := io.Copy(sum, res.Body); err != nil || n != size {
				t.Errorf("%d bytes, %v; want %d", n, err, size)
			}
			if !bytes.Equal(sum.Sum(nil), want.Sum(nil)) {
				t.Error("the SHA-256 of a download is wrong")
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	peak := peakRSS(t, g.cmd.Process.Pid)
	t.Logf("%d downloads of %d MiB: %.1f s, %.0f MiB/s, peak RSS of the gateway %.1f MiB", clients, size>>20,
		took.Seconds(), float64(clients*size>>20)/took.Seconds(), float64(peak)/(1<<20))
	if peak > maxRSS {
		t.Errorf("peak RSS is %d MiB, want less than %d", peak>>20, maxRSS>>20)
	}
	records := g.stop(t)
	if len(records) != clients {
		t.Errorf("%d records, want %d", len(records), clients)
	}
	for _, r := range records {
		if r.Response.Size != size || r.Response.Skipped != "attachment" || r.Response.Body != "" || r.Outcome != "ok" {
			t.Errorf("a download is recorded as %s", r.line)
		}
	}
}

// peakRSS reads the high-water mark of a process's resident memory, in bytes.
func peakRSS(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	t.Fatal("no VmHWM in /proc/PID/status")
	return 0
}
