// Gateway is a complete API gateway made of weir's rooms: it finds out who is
// calling, records what passes, limits how much may pass, and sends it on.
//
// With no flag it brings an upstream of its own to try it against:
//
//	go run ./examples/gateway
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/examples/gateway/internal/config"
	"github.com/goweir/weir/examples/gateway/internal/demo"
)

// What run returns, and the process with it.
const (
	exitOK     = 0
	exitFailed = 1 // something outside is not as it must be: a port, a file
	exitUsage  = 2 // flags or configuration: nothing was started
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(run(signals, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program. The first signal ends it gently, the second at once.
func run(signals <-chan os.Signal, args []string, stdout, stderr io.Writer) int {
	c, try, err := load(args, stderr)
	if err == nil {
		err = serve(c, try, signals, stdout, stderr)
	}
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if faults, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(stderr, "weir gateway: nothing was started\n%v\n", faults)
		return exitUsage
	}
	fmt.Fprintf(stderr, "weir gateway: %v\n", err)
	return exitFailed
}

// serve runs the gateway until a signal ends it.
func serve(c *config.Config, try try, signals <-chan os.Signal, stdout, stderr io.Writer) (err error) {
	log := newLog(c.Log, stderr)
	state, counts := newHealth(), newMetrics()
	ln, err := net.Listen("tcp", string(c.Listen))
	if err != nil {
		return err
	}
	defer ln.Close()
	upstream, err := startDemo(c.Routes, log)
	if err != nil {
		return err
	}
	defer upstream.Close()
	quotas, err := openStore(c.Redis, counts, log)
	if err != nil {
		return err
	}
	defer quotas.Close()
	var audit *audit
	admin, err := openAdmin(c.Admin, newLookout(state, counts, log), func() int64 { return audit.queue.Stats().Dropped() }, log)
	if err != nil {
		return err
	}
	defer admin.Close()
	if audit, err = openAudit(c.Audit, stdout, admin.sink(), counts.Capture(), log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, audit.close()) }()
	budget := capture.NewBudget(int64(c.Audit.Budget))
	gateway, proxies, err := newGateway(c, upstream.URL, quotas, audit.queue, budget, audit.failed, admin.inspector, counts, log)
	if err != nil {
		return usageError{err}
	}
	checks, pieces := lookInto(c, quotas, audit, budget, proxies)
	if err := counts.show(pieces...); err != nil {
		return err
	}
	now := time.Now()
	state.configured(c.Hash, now, checks)
	counts.configured(c.Hash, now)
	defer watchHeap(c, counts, log)()
	if c.Audit.File == "-" {
		stdout = stderr // leave stdout to the records
	}
	base := "http://" + ln.Addr().String()
	fmt.Fprintf(stdout, "weir gateway listening on %s\n", base)
	describe(stdout, c)
	quotas.describe(stdout)
	admin.describe(stdout)
	admin.start()
	if try.tour {
		tour(stdout, base, c.Audit.File)
	}
	announce(c, state.build, log)
	if try.traffic {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go demo.Traffic(ctx, base)
	}
	return newServer(gateway, proxies, c.Timeouts, state, counts, log).serve(ln, signals)
}
