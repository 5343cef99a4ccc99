package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	runtimemetrics "runtime/metrics"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/goweir/weir/examples/gateway/internal/config"
)

// memoryLook is how often the gateway looks at how much memory it takes. A
// spike is over before anybody else looks.
const memoryLook = 250 * time.Millisecond

// A heapWatch writes one heap profile when the process takes more memory than it
// is meant to, and no second one: the first shows what grew.
type heapWatch struct {
	above   int64
	dir     string
	log     *slog.Logger
	written func(at time.Time)
}

// run returns when it has written the profile, or when ctx ends.
func (h *heapWatch) run(ctx context.Context) {
	ticker := time.NewTicker(memoryLook)
	defer ticker.Stop()
	for {
		if taken := resident(); taken >= h.above {
			h.write(taken)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (h *heapWatch) write(taken int64) {
	now := time.Now()
	name := filepath.Join(h.dir, fmt.Sprintf("gateway-heap-%s-%d.pprof", now.UTC().Format("20060102T150405"), os.Getpid()))
	// Strings of strangers are not in a profile, but nor is it for strangers.
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		// As of the latest garbage collection. Another one would be more exact,
		// and take time when there is none to lose.
		err = pprof.Lookup("heap").WriteTo(f, 0)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		h.log.Error("memory is above admin.profile_above, and the heap profile could not be written", "bytes", taken, "error", err)
		return
	}
	h.written(now)
	h.log.Warn("memory is above admin.profile_above: a heap profile is written, once", "bytes", taken, "above", h.above, "file", name)
}

// resident is the memory that the process takes: what Linux says is resident,
// elsewhere what the Go runtime has from the system.
func resident() int64 {
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(statm)); len(fields) > 1 {
			if pages, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				return pages * int64(os.Getpagesize())
			}
		}
	}
	sample := []runtimemetrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	runtimemetrics.Read(sample)
	return int64(sample[0].Value.Uint64() - sample[1].Value.Uint64())
}

// watchHeap starts a heapWatch if the configuration wants one, and returns what
// ends it. Profiles are put beside the audit file.
func watchHeap(c *config.Config, m *metrics, log *slog.Logger) (stop func()) {
	if c.Admin.ProfileAbove == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &heapWatch{
		above: int64(c.Admin.ProfileAbove), dir: filepath.Dir(c.Audit.File), log: log, // "-" is in "."
		written: func(at time.Time) { m.profiled.Set(float64(at.Unix())) },
	}
	go h.run(ctx)
	return cancel
}
