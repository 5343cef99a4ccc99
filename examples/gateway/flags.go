package main

import (
	"cmp"
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

// A command is what the command line asks for.
type command struct {
	source  source
	config  *config.Config
	stamp   fileStamp // of the file, when it was read
	builtIn bool      // the configuration is the one that is built in
	check   bool      // only say whether it is well, and what it does with the request of args
	print   bool      // only print it
	traffic bool      // send some
	args    []string
}

// A source is where the configuration comes from: a file, or else what the
// command line says; and what the command line says instead of it.
type source struct {
	file     string
	upstream config.URL
	listen   config.Address
	audit    string
	redis    string
}

// read returns the configuration as it is now. The error is about what stands in
// the file, or an *fs.PathError.
func (s source) read() (*config.Config, error) {
	switch {
	case s.file != "":
		return readConfig(s.file, s.override)
	case s.upstream != "":
		return config.Parse("-upstream", fmt.Appendf(nil, "routes: [{path: /, upstreams: [%q]}]", s.upstream), s.override)
	default:
		return config.Parse("gateway.yaml", builtIn, s.override)
	}
}

// override puts what the command line says in place of what the file does.
func (s source) override(c *config.Config) {
	c.Listen = cmp.Or(s.listen, c.Listen)
	c.Audit.File = cmp.Or(s.audit, c.Audit.File)
	if s.redis != "" {
		c.Redis.URL, c.Redis.Pos = s.redis, config.Pos{}
	}
}

// load turns the command line into what to do. It prints what -h asks for to
// stderr, and returns flag.ErrHelp.
func load(args []string, stderr io.Writer) (*command, error) {
	var cmd command
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // errors are printed once, by run
	flags.StringVar(&cmd.source.file, "config", "", "read the configuration from `FILE`")
	flags.StringVar(&cmd.source.audit, "audit", "", "record exchanges in `FILE`; - is standard output")
	flags.StringVar(&cmd.source.redis, "redis", "", "share limits through the Redis server at `URL`; \"embedded\" is one inside, for trying out")
	flags.BoolVar(&cmd.check, "check", false, "say whether the configuration is well, and what handles a request: -check [METHOD] PATH [ADDRESS]")
	flags.BoolVar(&cmd.traffic, "traffic", false, "send gentle traffic through the configuration that is built in, a misbehaving client among it")
	flags.BoolVar(&cmd.print, "print-config", false, "print the configuration with all defaults and without secrets")
	flags.Func("listen", "listen on `ADDR`, such as 127.0.0.1:8080; port 0 takes any that is free", func(s string) error {
		return cmd.source.listen.UnmarshalText([]byte(s))
	})
	flags.Func("upstream", "forward everything to `URL`, recorded and without limits", func(s string) error {
		return cmd.source.upstream.UnmarshalText([]byte(s))
	})
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(stderr)
			fmt.Fprintln(stderr, "usage: gateway [flags]\n\nWith neither -config nor -upstream it serves a demo.")
			flags.PrintDefaults()
			return nil, err
		}
		return nil, usageError{err}
	}
	var faults []error
	if cmd.args = flags.Args(); len(cmd.args) > 0 && !cmd.check {
		faults = append(faults, fmt.Errorf("unexpected argument %q", cmd.args[0]))
	}
	if cmd.source.file != "" && cmd.source.upstream != "" {
		faults = append(faults, errors.New("-config and -upstream exclude each other: a configuration names its upstreams"))
	}
	if cmd.traffic && (cmd.source.file != "" || cmd.source.upstream != "") {
		faults = append(faults, errors.New("-traffic is for the configuration that is built in: leave out -config and -upstream"))
	}
	cmd.stamp = cmd.source.stamp()
	var err error
	if cmd.config, err = cmd.source.read(); err != nil {
		faults = append(faults, err)
	}
	if len(faults) > 0 {
		err := errors.Join(faults...)
		if _, unreadable := errors.AsType[*fs.PathError](err); unreadable && len(faults) == 1 {
			return nil, err
		}
		return nil, usageError{err}
	}
	cmd.builtIn = cmd.source.file == "" && cmd.source.upstream == ""
	return &cmd, nil
}

// readConfig reads no more of a file than [config.Parse] takes.
func readConfig(name string, set func(*config.Config)) (*config.Config, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, config.MaxBytes+1))
	if err != nil {
		return nil, err
	}
	return config.Parse(name, data, set)
}
