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

	"github.com/goweir/weir/examples/gateway/internal/config"
	"github.com/goweir/weir/examples/gateway/internal/demo"
)

// What run returns, and the process with it.
const (
	exitOK     = 0
	exitFailed = 1 // something outside is not as it must be: a port, a file
	exitUsage  = 2 // flags or configuration: nothing was started
)

// lookEvery is how often the configuration file is looked at.
const lookEvery = 500 * time.Millisecond

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	os.Exit(run(signals, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program. SIGHUP has it read its configuration again, the first
// other signal ends it gently, the second at once.
func run(signals <-chan os.Signal, args []string, stdout, stderr io.Writer) int {
	cmd, err := load(args, stderr)
	if err == nil {
		switch {
		case cmd.print:
			_, err = io.WriteString(stdout, config.Text(*cmd.config))
		case cmd.check:
			err = check(cmd, stdout)
		default:
			err = serve(cmd, signals, stdout, stderr)
		}
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
func serve(cmd *command, signals <-chan os.Signal, stdout, stderr io.Writer) (err error) {
	c := cmd.config
	log := newLog(c.Log, stderr)
	state, counts := newHealth(), newMetrics()
	ln, err := net.Listen("tcp", string(c.Listen))
	if err != nil {
		return err
	}
	defer ln.Close()
	var (
		upstream demoServer
		g        *gateway
	)
	defer upstream.Close()
	admin, err := openAdmin(c.Admin, newLookout(state, counts, log), func() int64 { return g.lost() }, log)
	if err != nil {
		return err
	}
	defer admin.Close()
	if g, err = newGateway(c, cmd.source, watched(outside{stdout: stdout, log: log}, admin, state, counts, c.Log.Requests), &upstream); err != nil {
		return usage(err)
	}
	defer func() { err = errors.Join(err, g.end()) }()
	defer watchHeap(c, counts, log)()
	if c.Audit.File == "-" {
		stdout = stderr // leave stdout to the records
	}
	first, _ := g.chain()
	base := "http://" + ln.Addr().String()
	if first.cert != nil {
		base = "https://" + ln.Addr().String()
	}
	fmt.Fprintf(stdout, "weir gateway listening on %s\n", base)
	describe(stdout, c)
	first.store.describe(stdout)
	admin.describe(stdout)
	admin.start()
	if cmd.builtIn {
		tour(stdout, base, c.Audit.File)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	announce(c, first.sum, state.build, log)
	if cmd.traffic {
		go demo.Traffic(ctx, base)
	}
	go g.watch(ctx, lookEvery, cmd.stamp)
	return newServer(g, c.Timeouts, state, counts, log).serve(g.conns.listen(ln), signals)
}

// usage tells faults of the configuration from what is wrong outside of it.
func usage(err error) error {
	if _, ok := errors.AsType[config.Faults](err); ok {
		return usageError{err}
	}
	return err
}
