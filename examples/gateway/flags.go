package main

import (
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/goweir/weir/examples/gateway/internal/config"
)

//go:embed gateway.yaml
var builtIn []byte

// A usageError is a fault of the flags or of the configuration: nothing may be
// started.
type usageError struct{ error }

// A try says what there is to try out.
type try struct {
	tour    bool // the configuration is the one built in
	traffic bool // send some
}

// load turns the command line into the configuration to run. It prints what -h
// asks for to stderr, and returns flag.ErrHelp.
func load(args []string, stderr io.Writer) (c *config.Config, t try, err error) {
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // errors are printed once, by run
	var (
		listen   config.Address
		upstream config.Upstream
		file     = flags.String("config", "", "read the configuration from `FILE`")
		audit    = flags.String("audit", "", "record exchanges in `FILE`; - is standard output")
		redis    = flags.String("redis", "", "share limits through the Redis server at `URL`; \"embedded\" is one inside, for trying out")
		traffic  = flags.Bool("traffic", false, "send gentle traffic through the configuration that is built in, a misbehaving client among it")
	)
	flags.Func("listen", "listen on `ADDR`, such as 127.0.0.1:8080; port 0 takes any that is free", func(s string) error {
		return listen.UnmarshalText([]byte(s))
	})
	flags.Func("upstream", "forward everything to `URL`, recorded and without limits", func(s string) error {
		return upstream.UnmarshalText([]byte(s))
	})
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(stderr)
			fmt.Fprintln(stderr, "usage: gateway [flags]\n\nWith neither -config nor -upstream it serves a demo.")
			flags.PrintDefaults()
			return nil, t, err
		}
		return nil, t, usageError{err}
	}
	var faults []error
	if flags.NArg() > 0 {
		faults = append(faults, fmt.Errorf("unexpected argument %q", flags.Arg(0)))
	}
	if *file != "" && upstream != "" {
		faults = append(faults, errors.New("-config and -upstream exclude each other: a configuration names its upstreams"))
	}
	t = try{tour: *file == "" && upstream == "", traffic: *traffic}
	if t.traffic && !t.tour {
		faults = append(faults, errors.New("-traffic is for the configuration that is built in: leave out -config and -upstream"))
	}
	c, err = choose(*file, upstream)
	if err != nil {
		faults = append(faults, err)
	}
	if len(faults) > 0 {
		err := errors.Join(faults...)
		if _, unreadable := errors.AsType[*fs.PathError](err); unreadable && len(faults) == 1 {
			return nil, t, err
		}
		return nil, t, usageError{err}
	}
	if listen != "" {
		c.Listen = listen
	}
	if *audit != "" {
		c.Audit.File = *audit
	}
	if *redis != "" {
		c.Redis.URL = *redis
	}
	return c, t, nil
}

// choose returns the configuration of the file, or one that forwards everything
// to upstream, or the one built in.
func choose(file string, upstream config.Upstream) (*config.Config, error) {
	switch {
	case file != "":
		return readConfig(file)
	case upstream != "":
		c := config.Default()
		c.Routes = []config.Route{{
			Path: config.Pattern{Text: "/"}, Upstreams: []config.Upstream{upstream}, Capture: true,
		}}
		return c, nil
	default:
		return config.Parse("gateway.yaml", builtIn)
	}
}

// readConfig reads no more of a file than [config.Parse] takes.
func readConfig(name string) (*config.Config, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, config.MaxBytes+1))
	if err != nil {
		return nil, err
	}
	return config.Parse(name, data)
}
